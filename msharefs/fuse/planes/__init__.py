"""How mmap reaches the bytes of a region: one interface, and the planes that have it."""
