"""Which data plane serves a mount: decided once, from what INIT offers and who we are."""

from __future__ import annotations

from dataclasses import replace

from msharefs.fuse import kernel
from msharefs.fuse.device import Device
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.planes.direct import ClaimablePlane, DirectPlane
from msharefs.fuse.planes.paged import Notify, PagedPlane
from msharefs.fuse.planes.passthrough import PassthroughPlane
from msharefs.fuse.planes.plane import DataPlane, PlaneError

CAPABILITIES = {
    "passthrough": kernel.FUSE_PASSTHROUGH,
    "direct_io_mmap": kernel.FUSE_DIRECT_IO_ALLOW_MMAP,
    "resend": kernel.FUSE_HAS_RESEND,
}
"""What a kernel may lack, by the names that x-msharefs.without= has for tests."""


def without(offer: InitOffer, names: tuple[str, ...]) -> InitOffer:
    """The offer of a kernel that lacks the named capabilities."""
    lacking = 0
    for name in names:
        lacking |= CAPABILITIES[name]
    return replace(offer, flags2=offer.flags2 & ~lacking)


def choose_plane(
    wanted: str, offer: InitOffer, *, device: Device, notify: Notify, privileged: bool
) -> DataPlane:
    """The plane for data=`wanted`. `notify` is for notices that may wait, `privileged` means CAP_SYS_ADMIN in the first user
    namespace. Raises PlaneError where passthrough is asked for and cannot be had."""
    if wanted == "direct":
        return DirectPlane(notify, "asked for", offer)
    if wanted == "paged":
        return PagedPlane(notify, "asked for", offer)
    obstacle = None
    if not privileged:
        obstacle = "passthrough needs root (CAP_SYS_ADMIN in the first user namespace)"
    elif not offer.flags2 & kernel.FUSE_PASSTHROUGH:
        obstacle = "this kernel offers no FUSE passthrough (Linux 6.9 and newer do)"
    if obstacle is None:
        return PassthroughPlane(device, "asked for" if wanted == "passthrough" else "it works here")
    if wanted == "passthrough":
        raise PlaneError(obstacle)
    if not offer.flags2 & kernel.FUSE_DIRECT_IO_ALLOW_MMAP:
        return PagedPlane(notify, obstacle, offer)
    return ClaimablePlane(notify, f"{obstacle}; direct for regions that are claimed", offer)
