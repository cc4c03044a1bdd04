"""Talking to the kernel: /dev/fuse on one side, RegionManager on the other.

Adapters only: they decode, make one call on RegionManager and encode. Rules are core's.
"""
