"""Which descriptors this process has open, for tests that nothing is leaked."""

import gc
import os


def open_descriptors() -> set[str]:
    """The numbers of all, after what earlier tests have left to the collector is gone.

    Without that a collection that happens to come between two looks is taken for a change.
    """
    gc.collect()
    return set(os.listdir("/proc/self/fd"))
