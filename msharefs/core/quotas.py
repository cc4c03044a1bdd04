"""What each user has of the mount, and how much each may have: memory, names, mappings, files.

Owns the sums by owner and the limits on them, as the quotas of a disk: what belongs to a user counts
for him, whoever made or mapped it. Root has no limits; and who has more than a limit that
came later, or by a gift of root's, keeps it and gets no more. What a mount has in all is in the ledger.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from msharefs.core.errors import OverQuota

ROOT_UID = 0
UNLIMITED = sys.maxsize


class Share(NamedTuple):
    """Of a mount: bytes that are mapped or about to be, names (inodes and what further names they
    have), mappings, and those of them that are of files."""

    size: int = 0
    inodes: int = 0
    mappings: int = 0
    files: int = 0


NO_LIMITS = Share(UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)


class Quotas:
    """The shares of all users, by user ID."""

    def __init__(self, limits: Share) -> None:
        """`limits` hold for each user."""
        self.limits = limits
        self._shares: dict[int, Share] = {}

    def of(self, uid: int) -> Share:
        """What a user has."""
        return self._shares.get(uid, _NOTHING)

    def users(self) -> dict[int, Share]:
        """What each user has that has anything."""
        return dict(self._shares)

    def left(self, uid: int) -> Share:
        """How much more a user may have; nothing where it is too much already."""
        if uid == ROOT_UID:
            return NO_LIMITS
        pairs = zip(self.limits, self.of(uid), strict=True)
        return Share(*(max(0, limit - has) for limit, has in pairs))

    def check(self, uid: int, more: Share) -> None:
        """Whether a user may have so much more. Raises OverQuota. Nothing more of something is
        always allowed."""
        if self.limits is NO_LIMITS:
            return
        for name, wanted, left in zip(Share._fields, more, self.left(uid), strict=True):
            if wanted > left:
                raise OverQuota(f"user_{name}: {wanted} more for user {uid}, who may have {left}")

    def restore(self, owned: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Begin with what an earlier process left: of each inode the owner, the bytes that it has mapped, its
        names, its mappings, and those of them that are of files."""
        sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for uid, size, names, mappings, files in owned:
            share = sums[uid]
            share[0] += size
            share[1] += names
            share[2] += mappings
            share[3] += files
        self._shares = {uid: Share(*share) for uid, share in sums.items()}

    def add(self, uid: int, more: Share) -> None:
        """A user has so much more; less where it is negative."""
        if not any(more):
            return
        size, inodes, mappings, files = self._shares.get(uid, _NOTHING)
        share = Share(
            size + more.size, inodes + more.inodes, mappings + more.mappings, files + more.files
        )
        if any(share):
            self._shares[uid] = share
        else:
            self._shares.pop(uid, None)

    def take(self, uid: int, less: Share) -> None:
        """A user has so much less."""
        if any(less):
            self.add(uid, Share(-less.size, -less.inodes, -less.mappings, -less.files))


_NOTHING = Share()
