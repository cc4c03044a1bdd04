"""The tables, a module each: what is measured in it, and how."""
