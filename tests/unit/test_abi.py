"""The payloads of the ioctls, byte by byte, and the numbers of the contract."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs import abi
from msharefs.abi import CreateMapping, PayloadError, Unmap

# Little endian, as both architectures that the project serves.
CREATE_ROWS = (
    "00 00 20 00 00 00 00 00"  # region_offset = 0x200000
    "00 10 00 00 00 00 00 00"  # size          = 0x1000
    "88 77 66 55 44 33 22 11"  # offset        = 0x1122334455667788
    "03 00 00 00"  #             prot          = PROT_READ | PROT_WRITE
    "31 00 10 00"  #             flags         = SHARED | FIXED | ANONYMOUS | FIXED_NOREPLACE
    "ff ff ff ff"  #             fd            = -1
)
PADDING_ROW = "de ad be ef"  # never looked at, so it may hold anything
CREATE_VALUE = CreateMapping(
    region_offset=0x200000, size=0x1000, offset=0x1122334455667788, prot=3, flags=0x100031
)
UNMAP_ROWS = (
    "00 00 40 00 00 00 00 00"  # region_offset = 0x400000
    "ff ff ff ff ff ff ff ff"  # size          = 2^64 - 1
)
UNMAP_VALUE = Unmap(region_offset=0x400000, size=(1 << 64) - 1)

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)


def test_create_of_a_64_bit_program_is_decoded() -> None:
    """40 bytes: each field from its own place, the padding is not looked at."""
    assert CreateMapping.unpack(bytes.fromhex(CREATE_ROWS + PADDING_ROW)) == CREATE_VALUE


def test_create_of_a_32_bit_x86_program_is_decoded() -> None:
    """36 bytes, the same fields without padding."""
    assert CreateMapping.unpack(bytes.fromhex(CREATE_ROWS)) == CREATE_VALUE


def test_create_packs_to_40_bytes_with_zero_padding() -> None:
    """What a 64-bit program would pass, no byte left to chance."""
    assert CREATE_VALUE.pack() == bytes.fromhex(CREATE_ROWS) + bytes(4)


def test_unmap_is_decoded_and_packed() -> None:
    """16 bytes, both ways."""
    assert Unmap.unpack(bytes.fromhex(UNMAP_ROWS)) == UNMAP_VALUE
    assert UNMAP_VALUE.pack() == bytes.fromhex(UNMAP_ROWS)


def test_payloads_are_read_from_a_memoryview() -> None:
    """The switchboard hands out slices of its buffer."""
    buffer = memoryview(bytearray(bytes.fromhex(CREATE_ROWS + PADDING_ROW + UNMAP_ROWS)))
    assert CreateMapping.unpack(buffer[:40]) == CREATE_VALUE
    assert Unmap.unpack(buffer[40:]) == UNMAP_VALUE


@pytest.mark.parametrize("length", [n for n in range(41) if n not in (36, 40)])
def test_truncated_create_is_refused(length: int) -> None:
    """Any other length than 36 and 40 is a PayloadError, never a guess."""
    payload = bytes.fromhex(CREATE_ROWS + PADDING_ROW)[:length]
    with pytest.raises(PayloadError, match=f"not {length}"):
        CreateMapping.unpack(payload)


@pytest.mark.parametrize("length", range(16))
def test_truncated_unmap_is_refused(length: int) -> None:
    """Any length but 16 is a PayloadError."""
    with pytest.raises(PayloadError, match=f"not {length}"):
        Unmap.unpack(bytes.fromhex(UNMAP_ROWS)[:length])


@pytest.mark.parametrize("extra", [1, 4, 8, 16, 4096])
def test_trailing_bytes_are_refused(extra: int) -> None:
    """A payload longer than its number promises is a PayloadError."""
    with pytest.raises(PayloadError):
        CreateMapping.unpack(bytes.fromhex(CREATE_ROWS + PADDING_ROW) + bytes(extra))
    with pytest.raises(PayloadError):
        Unmap.unpack(bytes.fromhex(UNMAP_ROWS) + bytes(extra))


@given(u64, u64, u64, u32, u32, u32)
def test_create_survives_a_round_trip(
    region_offset: int, size: int, offset: int, prot: int, flags: int, fd: int
) -> None:
    """Whatever fits the fields comes back as it went, from both forms."""
    value = CreateMapping(region_offset, size, offset, prot, flags, fd)
    assert CreateMapping.unpack(value.pack()) == value
    assert CreateMapping.unpack(value.pack()[:36]) == value


@given(u64, u64)
def test_unmap_survives_a_round_trip(region_offset: int, size: int) -> None:
    """Whatever fits the fields comes back as it went."""
    value = Unmap(region_offset, size)
    assert Unmap.unpack(value.pack()) == value


@given(st.binary(max_size=64))
def test_random_payloads_give_a_value_or_a_payload_error(payload: bytes) -> None:
    """No bytes lead to anything else, and a value packs to the same bytes again."""
    try:
        value = CreateMapping.unpack(payload)
    except PayloadError:
        assert len(payload) not in (36, 40)
    else:
        assert value.pack()[:36] == payload[:36]
    try:
        removal = Unmap.unpack(payload)
    except PayloadError:
        assert len(payload) != 16
    else:
        assert removal.pack() == payload


def test_fd_minus_one_is_packed_as_no_fd() -> None:
    """A Python caller may write -1 as a C program does."""
    assert CreateMapping(0, 4096, fd=-1).pack()[32:36] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "value",
    [
        CreateMapping(-1, 4096),
        CreateMapping(0, 1 << 64),
        CreateMapping(0, 4096, prot=1 << 32),
        Unmap(0, -1),
        Unmap(1 << 64, 0),
    ],
)
def test_fields_beyond_their_width_are_not_packed(value: CreateMapping | Unmap) -> None:
    """struct.error instead of a number that is cut."""
    with pytest.raises(struct.error):
        value.pack()


def test_ioctl_numbers_are_the_kernels() -> None:
    """_IOW('x', 0, 40 and 36 bytes) and _IOW('x', 1, 16 bytes) of asm-generic/ioctl.h."""
    assert abi.CREATE_MAPPING == 0x40287800
    assert abi.CREATE_MAPPING_X86_32 == 0x40247800
    assert abi.UNMAP == 0x40107801


def test_flag_bits_are_the_kernels() -> None:
    """asm-generic/mman-common.h and mman.h, the same on both architectures."""
    assert (abi.PROT_READ, abi.PROT_WRITE, abi.PROT_EXEC, abi.PROT_ALL) == (1, 2, 4, 7)
    assert (abi.MAP_SHARED, abi.MAP_PRIVATE, abi.MAP_FIXED, abi.MAP_ANONYMOUS) == (1, 2, 16, 32)
    assert (abi.MAP_TYPE, abi.MAP_GROWSDOWN) == (15, 0x100)
    assert (abi.MAP_NORESERVE, abi.MAP_POPULATE) == (0x4000, 0x8000)
    assert (abi.MAP_HUGETLB, abi.MAP_FIXED_NOREPLACE) == (0x40000, 0x100000)
    assert (abi.MAP_HUGE_SHIFT, abi.MAP_HUGE_MASK, abi.MAP_HUGE_2MB) == (26, 63 << 26, 21 << 26)


def test_sizes_and_names_of_the_contract() -> None:
    """4 KiB pages, 2 MiB huge pages and default alignment, 512 GiB at most."""
    assert (abi.PAGE_SIZE, abi.HUGE_PAGE_SIZE, abi.DEFAULT_ALIGN) == (4096, 2097152, 2097152)
    assert abi.MAX_ALIGN == 549755813888
    assert abi.MAX_FILE_SIZE == 9223372036854775807
    assert abi.INFO_NAME == b"mshare_info"
    assert abi.LAYOUT_ATTRIBUTE == b"user.msharefs.layout"
    assert abi.STATUS_ATTRIBUTE == b"user.msharefs.status"
