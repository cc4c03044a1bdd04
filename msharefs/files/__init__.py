"""Files of callers: had and read by processes of their own, with the caller's rights.

A file of somebody else's may be anything, also one that never answers. So no process that serves
a mount touches one: helpers do, which broker.py starts, and which may hang and are then let go of.
"""
