"""Where the bytes live: POSIX shared-memory segments in an arena with an exact limit.

It knows offsets and sizes, not regions, mappings or FUSE.
"""
