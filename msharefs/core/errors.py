"""Domain errors: one family, each with its errno and a sentence for the log.

Owns the map from "what rule refused it" to errno (semantics.md). Adapters send
`errno` to the kernel and log the text; they never choose an errno themselves.
"""

from __future__ import annotations

import errno
import os


class RefusedError(Exception):
    """A request that a rule refuses. Nothing has changed when it is raised."""

    errno: int = errno.EINVAL

    @property
    def code(self) -> str:
        """The symbolic name of the errno, such as "EINVAL"."""
        return errno.errorcode.get(self.errno, os.strerror(self.errno))


class InvalidArgument(RefusedError):
    """A value, alignment or combination that the interface does not allow."""


class SizeAlreadySet(RefusedError):
    """A region's size is set once and never again."""


class SizeNotSet(RefusedError):
    """Nothing can be mapped before the size is set."""


class NotPermitted(RefusedError):
    """The object belongs to the file system itself, or the kind of object is not offered."""

    errno = errno.EPERM


class AccessDenied(RefusedError):
    """The descriptor was not opened for what it is used for."""

    errno = errno.EACCES


class NotFound(RefusedError):
    """No such name or inode."""

    errno = errno.ENOENT


class AlreadyExists(RefusedError):
    """The name is taken, or MAP_FIXED_NOREPLACE met a mapping."""

    errno = errno.EEXIST


class NotADirectory(RefusedError):
    """What is not a directory was used as one."""

    errno = errno.ENOTDIR


class IsADirectory(RefusedError):
    """A directory cannot be used here."""

    errno = errno.EISDIR


class DirectoryNotEmpty(RefusedError):
    """A directory with names in it cannot go."""

    errno = errno.ENOTEMPTY


class NameTooLong(RefusedError):
    """A name has more than 255 bytes."""

    errno = errno.ENAMETOOLONG


class TooManyLinks(RefusedError):
    """The link count of an inode is at its limit."""

    errno = errno.EMLINK


class OutOfInodes(RefusedError):
    """The mount's nr_inodes is used up."""

    errno = errno.ENOSPC


class OutOfMappings(RefusedError):
    """The mount's max_mappings_total is used up."""

    errno = errno.ENOSPC


class OutOfFiles(RefusedError):
    """The mount's max_files is used up."""

    errno = errno.ENFILE


class OverQuota(RefusedError):
    """A user has as much of the mount as he may have."""

    errno = errno.EDQUOT


class Busy(RefusedError):
    """More is in use than a new limit allows."""

    errno = errno.EBUSY


class ReachedDirectly(RefusedError):
    """A region whose clients have the segment, which this one cannot be given."""

    errno = errno.ENODEV


class ReachedPlainly(RefusedError):
    """A region's bytes come by page faults, so that nobody can have its segment."""

    errno = errno.EBUSY


class Unsettled(RefusedError):
    """What was told before does not hold any more, or not yet; whoever asks again is told anew."""

    errno = errno.ESTALE


class NoRoom(RefusedError):
    """The file system that the journal is in is full."""

    errno = errno.ENOSPC


class OutOfMemory(RefusedError):
    """No memory, over the mount's size, or too many mappings."""

    errno = errno.ENOMEM


class NoSpace(OutOfMemory):
    """The same where the caller has asked for a size of a file and expects the words of files."""

    errno = errno.ENOSPC


class FileTooLarge(RefusedError):
    """A size beyond the mount's max_region."""

    errno = errno.EFBIG


class NotAnIoctl(RefusedError):
    """An ioctl number that is not ours, or an object that has none."""

    errno = errno.ENOTTY


class BadDescriptor(RefusedError):
    """mshare_create.fd is not open in the caller."""

    errno = errno.EBADF


class NotSupported(RefusedError):
    """The operation exists elsewhere, but not here."""

    errno = errno.EOPNOTSUPP


class NotMappable(RefusedError):
    """The descriptor is of something that has no bytes to be mapped."""

    errno = errno.ENODEV


class FileFailed(RefusedError):
    """A file of the caller cannot be had or read."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"the file: {cause}")
        self.errno = cause.errno or errno.EIO


class NoAttribute(RefusedError):
    """The inode has no extended attribute of this name."""

    errno = errno.ENODATA


class NoDescriptor(RefusedError):
    """The process that serves, or the machine, may open no more files. Not EMFILE, which would
    speak of the caller's own."""

    errno = errno.ENFILE


class StorageFailed(RefusedError):
    """The system refused memory for a reason of its own."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"the system said: {cause}")
        self.errno = cause.errno or errno.EIO


class ServersEnded(RefusedError):
    """The request was being served when servers ended, and is not served once more."""

    def __init__(self, count: int, *, for_memory: bool) -> None:
        why = " for want of memory" if for_memory else ""
        super().__init__(f"{count} servers ended{why} while it was being served")
        self.errno = errno.ENOMEM if for_memory else errno.EIO


class Interrupted(RefusedError):
    """Whoever asked is being killed, or has been told to stop."""

    errno = errno.EINTR


class NothingMapped(RefusedError):
    """A page that no mapping holds was touched: SIGBUS in the process."""

    errno = errno.EIO


class RangeTooSmall(RefusedError):
    """The caller's buffer is too small for the value."""

    errno = errno.ERANGE


class Unanswered(RefusedError):
    """The operation has nothing to do here; the kernel need not ask again."""

    errno = errno.ENOSYS
