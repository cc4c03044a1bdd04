"""The region manager: every rule of the file system, with no FUSE, no trio and no root.

Adapters use `RegionManager` (manager.py) and the value types that its methods take and
return; nothing else of this package is their business.
"""
