"""Whatever a program passes to ioctl, the answer is an errno and the mount goes on answering.

Numbers, lengths and bits are tried at random; a found case belongs below as a named test.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers import mount, poke, raw
from tests.helpers.raw import HUGE, PAGE, ioctl_number, opened, refused
from tests.helpers.users import in_child

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")

SIZE = 4 * HUGE
KNOWN_NUMBERS = {raw.CREATE_MAPPING, raw.CREATE_MAPPING_X86_32, raw.UNMAP}
# One region serves all examples of a test; what an earlier example left does no harm.
REUSED = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A descriptor of a sized region, half of it mapped."""
    with raw.region(place, SIZE) as fd:
        raw.create_mapping(fd, 0, 2 * HUGE)
        yield fd


def errno_of(fd: int, number: int, payload: bytes) -> int:
    """The errno of an ioctl, 0 for success. The buffer is as long as the number says at least."""
    size = number >> 16 & 0x3FFF
    buffer = bytearray(payload.ljust(max(size, 1), b"\0"))
    try:
        fcntl.ioctl(fd, number, buffer)
    except OSError as error:
        return error.errno or 0
    return 0


def check_answers(mounted: mount.Mount, fd: int) -> None:
    """The mount answers, and the region still works."""
    assert mounted.status()["arena"]["size"] == 64 * raw.MIB
    raw.create_mapping(fd, HUGE, PAGE)
    assert raw.layout(fd)["size"] == SIZE


u64 = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, PAGE - 1, PAGE, HUGE, SIZE - PAGE, SIZE, 2**63, 2**64 - PAGE]),
    st.integers(0, 2 * SIZE // PAGE).map(lambda page: page * PAGE),
)
u32 = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 3, raw.ANONYMOUS, raw.ANONYMOUS | raw.MAP_HUGETLB, raw.FROM_FILE]),
    st.integers(0, 31).map(lambda bit: raw.ANONYMOUS | 1 << bit),
)


@REUSED
@given(fields=st.tuples(u64, u64, u64, u32, u32, u32), padding=st.binary(min_size=4, max_size=4))
def test_any_create_payload(
    mounted: mount.Mount,
    region: int,
    fields: tuple[int, int, int, int, int, int],
    padding: bytes,
) -> None:
    """A3, C1 to C19: any 40 bytes are answered by 0 or an errno of the table; the rest stays."""
    offset, size, _, prot, flags, _ = fields
    code = errno_of(region, raw.CREATE_MAPPING, struct.pack("=QQQIII", *fields) + padding)
    assert code in {
        0,
        errno.EINVAL,
        errno.EEXIST,
        errno.ENOMEM,
        errno.EBADF,
        # A number may happen to be a file that we have open.
        errno.ENODEV,
        errno.EACCES,
        errno.EPERM,
        errno.EOPNOTSUPP,
    }
    layout = raw.layout(region)
    if code == 0:
        assert offset % PAGE == 0
        assert size > 0
        assert offset + size <= SIZE
        assert flags & raw.FROM_FILE == raw.FROM_FILE
        covering = [m for m in layout["mappings"] if m["offset"] == offset]
        assert covering[0]["prot"] == f"{'-r'[prot & 1]}{'-w'[prot >> 1 & 1]}{'-x'[prot >> 2 & 1]}"
    assert layout["size"] == SIZE
    check_tidy(layout)


@REUSED
@given(offset=u64, size=u64)
def test_any_unmap_payload(region: int, offset: int, size: int) -> None:
    """A5, U1 to U5: any 16 bytes are answered by 0, exactly for a range inside, else EINVAL."""
    code = errno_of(region, raw.UNMAP, raw.unmap_payload(offset, size))
    inside = size > 0 and offset % PAGE == 0 and offset + size <= SIZE
    assert code == (0 if inside else errno.EINVAL)
    layout = raw.layout(region)
    check_tidy(layout)
    if inside:
        end = offset + -(-size // PAGE) * PAGE
        assert not any(
            m["offset"] < end and offset < m["offset"] + m["size"] for m in layout["mappings"]
        )


def check_tidy(layout: dict[str, object]) -> None:
    """The mappings are inside the region, in order, apart, and their sums are right."""
    mappings = layout["mappings"]
    assert isinstance(mappings, list)
    end = 0
    for mapping in mappings:
        assert mapping["offset"] >= end
        assert mapping["size"] > 0
        end = mapping["offset"] + mapping["size"]
    assert end <= SIZE
    assert sum(m["size"] for m in mappings) == layout["mapped"]
    assert sum(m["size"] for m in mappings if m["reserve"]) == layout["reserved"]
    assert len(mappings) == layout["mapping_count"]


@REUSED
@given(
    kind=st.sampled_from("xfTEXv\0\xff"),
    number=st.integers(0, 255),
    size=st.integers(0, 2**14 - 1),
    direction=st.integers(0, 3),
    payload=st.binary(max_size=64),
)
@example(kind="x", number=0, size=0, direction=0, payload=b"")
@example(kind="x", number=0, size=2**14 - 1, direction=1, payload=b"")
@example(kind="x", number=0, size=40, direction=2, payload=b"")
@example(kind="x", number=0, size=40, direction=3, payload=b"")
@example(kind="x", number=1, size=16, direction=3, payload=b"")
def test_unknown_numbers(
    region: int, kind: str, number: int, size: int, direction: int, payload: bytes
) -> None:
    """I2: every number of no meaning is ENOTTY, whatever its size, direction and payload."""
    command = ioctl_number(kind, number, size, direction)
    # The kernel answers some numbers of its own (linux/fs.h: FS_IOC_..., FIONREAD and the like).
    if command in KNOWN_NUMBERS or kind in "TfXv\0":
        return
    before = raw.layout(region)
    assert errno_of(region, command, payload) == errno.ENOTTY
    assert raw.layout(region) == before


@pytest.mark.parametrize("sized", [False, True], ids=["unsized", "sized"])
@pytest.mark.parametrize("size", [0, 1, 8, 15, 16, 17, 35, 36, 37, 39, 41, 48, 4096, 16383])
def test_known_numbers_with_another_size(place: Path, size: int, *, sized: bool) -> None:
    """I2: CREATE_MAPPING and UNMAP with any other payload size are ENOTTY, in any state."""
    with raw.region(place, SIZE if sized else None) as fd:
        for number in (0, 1):
            command = ioctl_number("x", number, size)
            if command not in KNOWN_NUMBERS:
                payload = raw.create_payload(0, PAGE)
                assert errno_of(fd, command, payload) == errno.ENOTTY
        assert raw.layout(fd)["mappings"] == []


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_unknown_numbers_come_before_rights(place: Path, region: int, flags: int) -> None:
    """I2, I3: an unknown number is ENOTTY on a read-only descriptor, too."""
    with opened(place, flags) as fd:
        assert errno_of(fd, ioctl_number("x", 7, 40), b"") == errno.ENOTTY


def test_terminal_requests(region: int) -> None:
    """I2: "is it a terminal", which every stdio asks, is answered no."""
    assert not os.isatty(region)


@pytest.mark.parametrize("number", sorted(KNOWN_NUMBERS))
def test_info_and_directories_have_no_ioctl(mounted: mount.Mount, place: Path, number: int) -> None:
    """I1: ENOTTY on mshare_info, on the root and on another directory."""
    place.mkdir()
    payload = raw.create_payload(0, PAGE)
    for path in (mounted.path / "mshare_info", mounted.path, place):
        with opened(path, os.O_RDONLY) as fd:
            assert errno_of(fd, number, payload) == errno.ENOTTY
    place.rmdir()


def test_32_bit_form(place: Path) -> None:
    """A4: the 36 bytes of a 32-bit x86 program mean the same, and are checked the same."""
    with raw.region(place, SIZE) as fd:
        payload = raw.create_payload(HUGE, PAGE + 1, prot=raw.PROT_READ)[:36]
        assert errno_of(fd, raw.CREATE_MAPPING_X86_32, payload) == 0
        (mapping,) = raw.layout(fd)["mappings"]
        assert (mapping["offset"], mapping["size"]) == (HUGE, 2 * PAGE)
        assert mapping["prot"] == "r--"
        beyond = raw.create_payload(SIZE, PAGE)[:36]
        assert errno_of(fd, raw.CREATE_MAPPING_X86_32, beyond) == errno.EINVAL


def test_numbers(place: Path) -> None:
    """A1, A2: the numbers are those of _IOW('x', 0, 40 bytes) and _IOW('x', 1, 16 bytes)."""
    assert ioctl_number("x", 0, 40) == raw.CREATE_MAPPING == 0x40287800
    assert ioctl_number("x", 1, 16) == raw.UNMAP == 0x40107801
    with raw.region(place, SIZE) as fd:
        assert errno_of(fd, 0x40287800, raw.create_payload(0, HUGE)) == 0
        assert errno_of(fd, 0x40107801, raw.unmap_payload(0, PAGE)) == 0
        assert raw.mapped_ranges(fd) == [(PAGE, HUGE)]


def test_padding_is_not_looked_at(place: Path) -> None:
    """A3: the last four of the 40 bytes may be anything."""
    with raw.region(place, SIZE) as fd:
        payload = raw.create_payload(0, PAGE)[:36] + b"\xff\xfe\xfd\xfc"
        assert errno_of(fd, raw.CREATE_MAPPING, payload) == 0
        assert raw.mapped_ranges(fd) == [(0, PAGE)]


def test_payload_that_cannot_be_read(place: Path, region: int, client: poke.Poke) -> None:
    """A3: a pointer to nothing, or a payload that ends in nothing, is EFAULT from the kernel."""
    fd = client.open(place)
    anonymous, private = raw.MAP_ANONYMOUS, raw.MAP_PRIVATE
    page = client.mmap(-1, 2 * PAGE, flags=anonymous | private)
    client.munmap(page + PAGE, PAGE)
    before = raw.layout(place)["mappings"]
    for address in (0, 8, page + PAGE - 8, page + PAGE - 39, page + PAGE):
        with refused(errno.EFAULT):
            client.call("ioctl", fd, raw.CREATE_MAPPING, address)
    with refused(errno.EFAULT):
        client.call("ioctl", fd, raw.UNMAP, page + PAGE - 15)
    assert raw.layout(place)["mappings"] == before
    client.put(page + PAGE - 16, raw.unmap_payload(0, PAGE))
    client.call("ioctl", fd, raw.UNMAP, page + PAGE - 16)
    assert raw.mapped_ranges(place) == [(PAGE, 2 * HUGE)]


@pytest.mark.parametrize("number", sorted({*KNOWN_NUMBERS, ioctl_number("x", 7, 40)}))
def test_an_argument_that_cannot_be_read_comes_before_all_else(
    mounted: mount.Mount, place: Path, client: poke.Poke, number: int
) -> None:
    """I5: EFAULT before the size is set, without rights, and where there is no ioctl at all."""
    with raw.region(place):
        paths = (place, mounted.path / "mshare_info", mounted.path)
        descriptors = [client.open(path, os.O_RDONLY) for path in paths]
        for fd in (*descriptors, client.open(place)):
            with refused(errno.EFAULT):
                client.call("ioctl", fd, number, 8)


def test_payload_inside_the_region_itself(place: Path, region: int, client: poke.Poke) -> None:
    """A3: the struct may lie in shared memory of the region that it speaks of."""
    fd = client.open(place)
    address = client.mmap(fd, SIZE)
    client.put(address + HUGE, raw.unmap_payload(0, HUGE))
    client.call("ioctl", fd, raw.UNMAP, address + HUGE)
    assert raw.mapped_ranges(place) == [(HUGE, 2 * HUGE)]


def test_descriptor_without_rights_to_the_data(place: Path, region: int) -> None:
    """I1: an O_PATH descriptor takes no ioctl at all: EBADF from the kernel."""
    with opened(place, os.O_PATH) as fd:
        assert errno_of(fd, raw.UNMAP, raw.unmap_payload(0, PAGE)) == errno.EBADF


def test_mount_answers_after_all_that(mounted: mount.Mount, place: Path, region: int) -> None:
    """A3: a storm of ten thousand random payloads leaves a working mount and one open handle."""

    def storm() -> None:
        with opened(place) as fd:
            for seed in range(10_000):
                noise = seed.to_bytes(4, "little") * 10
                errno_of(fd, sorted(KNOWN_NUMBERS)[seed % 3], noise)

    in_child(storm)
    check_answers(mounted, region)
