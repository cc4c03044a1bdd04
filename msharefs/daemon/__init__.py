"""The processes of a mount: a supervisor that holds what must last, and its server."""
