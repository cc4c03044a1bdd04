"""FUSE messages byte by byte, against rows of hex written from linux/fuse.h.

Little endian, as both architectures that the project serves.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.fuse import handshake, kernel, messages
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Attributes, Header


def rows(text: str) -> bytes:
    """The bytes of lines of hex; what follows a # names the field."""
    return b"".join(bytes.fromhex(line.partition("#")[0]) for line in text.splitlines())


def body(text: str, *more: bytes) -> memoryview:
    """A request's body, as the switchboard hands it to a handler."""
    return memoryview(rows(text) + b"".join(more))


IN_HEADER = rows("""
    48 00 00 00              # len = 72
    27 00 00 00              # opcode = 39, IOCTL
    02 00 00 00 00 00 00 80  # unique, with the bit of a resent request
    03 00 00 00 00 00 00 00  # nodeid
    e8 03 00 00              # uid = 1000
    e9 03 00 00              # gid = 1001
    d2 04 00 00              # pid = 1234
    00 00                    # total_extlen
    00 00                    # padding
""")

IOCTL_IN = """
    02 00 00 00 00 00 00 00  # fh
    00 00 00 00              # flags
    01 78 10 40              # cmd = 0x40107801, UNMAP
    00 10 00 00 ff 7f 00 00  # arg
    10 00 00 00              # in_size = 16
    00 00 00 00              # out_size
"""

SETATTR_IN = """
    0b 00 00 00              # valid = MODE | UID | SIZE
    00 00 00 00              # padding
    02 00 00 00 00 00 00 00  # fh
    00 00 20 00 00 00 00 00  # size = 2 MiB
    04 00 00 00 00 00 00 00  # lock_owner
    05 00 00 00 00 00 00 00  # atime
    ff ff ff ff ff ff ff ff  # mtime = -1
    07 00 00 00 00 00 00 00  # ctime
    08 00 00 00              # atimensec
    09 00 00 00              # mtimensec
    0a 00 00 00              # ctimensec
    a4 81 00 00              # mode = 0100644
    0c 00 00 00              # unused4
    e8 03 00 00              # uid = 1000
    e9 03 00 00              # gid = 1001
    0f 00 00 00              # unused5
"""

ATTRIBUTES = Attributes(
    ino=3,
    size=0x200000,
    blocks=24,
    atime_ns=5_000_000_006,
    mtime_ns=-1_500_000_000,
    ctime_ns=0,
    mode=0o100640,
    nlink=2,
    uid=1000,
    gid=1001,
    block_size=4096,
)
ATTR_ROWS = """
    03 00 00 00 00 00 00 00  # ino
    00 00 20 00 00 00 00 00  # size
    18 00 00 00 00 00 00 00  # blocks
    05 00 00 00 00 00 00 00  # atime
    fe ff ff ff ff ff ff ff  # mtime = -2, before 1970
    00 00 00 00 00 00 00 00  # ctime
    06 00 00 00              # atimensec
    00 65 cd 1d              # mtimensec = 500000000
    00 00 00 00              # ctimensec
    a0 81 00 00              # mode
    02 00 00 00              # nlink
    e8 03 00 00              # uid
    e9 03 00 00              # gid
    00 00 00 00              # rdev
    00 10 00 00              # blksize
    00 00 00 00              # flags
"""

INIT_IN = """
    07 00 00 00              # major
    2d 00 00 00              # minor = 45
    00 00 02 00              # max_readahead
    00 00 08 40              # flags = INIT_EXT | HANDLE_KILLPRIV
    b0 00 00 00              # flags2 = DIRECT_IO_ALLOW_MMAP | PASSTHROUGH | HAS_RESEND
"""

INIT_REPLY = rows("""
    50 00 00 00              # len = 80
    00 00 00 00              # error
    01 00 00 00 00 00 00 00  # unique
    07 00 00 00              # major
    26 00 00 00              # minor = 38
    00 00 02 00              # max_readahead
    01 20 00 00              # flags of libfuse's own
    0c 00                    # max_background
    09 00                    # congestion_threshold
    00 00 10 00              # max_write
    01 00 00 00              # time_gran
    00 01                    # max_pages
    00 00                    # map_alignment
    00 00 00 00              # flags2
    00 00 00 00              # max_stack_depth
    00 00                    # request_timeout
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # unused
""")


# Requests


def test_header_of_a_request() -> None:
    """Each field from its place, the bit of a resent request kept in unique."""
    assert messages.decode_header(IN_HEADER) == Header(
        length=72,
        opcode=Opcode.IOCTL,
        unique=0x8000000000000002,
        nodeid=3,
        uid=1000,
        gid=1001,
        pid=1234,
        extensions=0,
        padding=0,
    )
    assert len(IN_HEADER) == messages.IN_HEADER_SIZE


@pytest.mark.parametrize("length", range(40))
def test_a_truncated_header_is_an_error(length: int) -> None:
    """Never a guess."""
    with pytest.raises(struct.error):
        messages.decode_header(IN_HEADER[:length])


def test_ioctl_request_and_its_payload() -> None:
    """As many bytes of payload as in_size says."""
    head, payload = messages.decode_ioctl(body(IOCTL_IN, b"P" * 16))
    assert head == (2, 0, 0x40107801, 0x7FFF00001000, 16, 0)
    assert (head.handle, head.flags, head.command) == (2, 0, 0x40107801)
    assert payload == b"P" * 16


def test_ioctl_payload_ends_where_in_size_says() -> None:
    """Trailing bytes are not part of it; missing ones are missing."""
    assert messages.decode_ioctl(body(IOCTL_IN, b"P" * 16, b"trailing"))[1] == b"P" * 16
    assert messages.decode_ioctl(body(IOCTL_IN, b"P" * 15))[1] == b"P" * 15
    assert messages.decode_ioctl(body(IOCTL_IN))[1] == b""


def test_open_request() -> None:
    """The flags of open(2)."""
    request = body("""
        02 82 00 00  # flags = O_RDWR | O_TRUNC | O_LARGEFILE
        01 00 00 00  # open_flags
    """)
    assert messages.decode_open(request) == 0x8202


def test_create_request() -> None:
    """Flags, mode, and the name behind them without its zero."""
    request = """
        c2 00 00 00  # flags = O_RDWR | O_CREAT | O_EXCL
        80 81 00 00  # mode = 0100600
        12 00 00 00  # umask = 022
        00 00 00 00  # open_flags
    """
    assert messages.decode_create(body(request, b"name\xff\0")) == (0xC2, 0o100600, b"name\xff")


def test_read_request() -> None:
    """Offset, size, and the flag that tells read(2) from a page fault."""
    request = messages.decode_read(
        body("""
        02 00 00 00 00 00 00 00  # fh
        00 10 00 00 00 00 00 00  # offset
        00 20 00 00              # size
        02 00 00 00              # read_flags = LOCKOWNER
        09 00 00 00 00 00 00 00  # lock_owner
        00 80 00 00              # flags
        00 00 00 00              # padding
    """)
    )
    assert request == (2, 0x1000, 0x2000, 2, 9, 0x8000, 0)
    assert request.read_flags & kernel.FUSE_READ_LOCKOWNER


def test_write_request_and_its_data() -> None:
    """As many bytes as size says, not copied."""
    head = """
        02 00 00 00 00 00 00 00  # fh
        00 10 00 00 00 00 00 00  # offset
        04 00 00 00              # size
        01 00 00 00              # write_flags = CACHE
        09 00 00 00 00 00 00 00  # lock_owner
        02 80 00 00              # flags
        00 00 00 00              # padding
    """
    request, data = messages.decode_write(body(head, b"datatrailing"))
    assert request == (2, 0x1000, 4, 1, 9, 0x8002, 0)
    assert request.write_flags & kernel.FUSE_WRITE_CACHE
    assert isinstance(data, memoryview)
    assert bytes(data) == b"data"


def test_fallocate_request() -> None:
    """Offset, length, mode."""
    request = messages.decode_fallocate(
        body("""
        02 00 00 00 00 00 00 00  # fh
        00 10 00 00 00 00 00 00  # offset
        00 00 20 00 00 00 00 00  # length
        03 00 00 00              # mode = KEEP_SIZE | PUNCH_HOLE
        00 00 00 00              # padding
    """)
    )
    assert request == (2, 0x1000, 0x200000, 3, 0)


def test_setattr_request() -> None:
    """Each field; times are signed."""
    request = messages.decode_setattr(body(SETATTR_IN))
    assert request == (
        *(11, 0, 2, 0x200000, 4, 5, -1, 7),
        *(8, 9, 10, 0o100644, 12, 1000, 1001, 15),
    )
    wanted = kernel.FATTR_MODE | kernel.FATTR_UID | kernel.FATTR_SIZE
    assert request.valid == wanted
    assert (request.size, request.mtime, request.mode) == (0x200000, -1, 0o100644)
    assert (request.uid, request.gid) == (1000, 1001)


def test_bits_of_setattr() -> None:
    """FATTR_* of fuse.h."""
    names = ("MODE", "UID", "GID", "SIZE", "ATIME", "MTIME", "ATIME_NOW", "MTIME_NOW")
    values = [getattr(kernel, f"FATTR_{name}") for name in names]
    assert values == [1, 2, 4, 8, 16, 32, 128, 256]


def test_getxattr_request() -> None:
    """Room for the value, and the name."""
    request = """
        00 00 01 00  # size = 64 KiB
        00 00 00 00  # padding
    """
    assert messages.decode_getxattr(body(request, b"user.x\0")) == (65536, b"user.x")


@pytest.mark.parametrize(
    ("decode", "size"),
    [
        (messages.decode_open, 8),
        (messages.decode_create, 16),
        (messages.decode_read, 40),
        (messages.decode_write, 40),
        (messages.decode_fallocate, 32),
        (messages.decode_ioctl, 32),
        (messages.decode_setattr, 88),
        (messages.decode_getxattr, 8),
    ],
)
def test_a_truncated_body_is_an_error(decode: object, size: int) -> None:
    """At every length; exactly the struct is enough."""
    assert callable(decode)
    for length in range(size):
        with pytest.raises(struct.error):
            decode(memoryview(bytes(length)))
    decode(memoryview(bytes(size)))


def test_init_request() -> None:
    """Version, flags, and flags2 where the kernel says that there are some."""
    offer = InitOffer.decode(body(INIT_IN, bytes(44)))
    assert offer == InitOffer(major=7, minor=45, flags=0x40080000, flags2=0xB0)
    assert offer.flags & kernel.FUSE_HANDLE_KILLPRIV
    wanted = kernel.FUSE_DIRECT_IO_ALLOW_MMAP | kernel.FUSE_PASSTHROUGH | kernel.FUSE_HAS_RESEND
    assert offer.flags2 == wanted


def test_init_request_of_an_old_kernel() -> None:
    """Without INIT_EXT the bytes of flags2 mean nothing; a short request has none."""
    old = rows(INIT_IN)[:12] + bytes(4) + rows(INIT_IN)[16:]
    assert InitOffer.decode(old) == InitOffer(major=7, minor=45, flags=0, flags2=0)
    assert InitOffer.decode(rows(INIT_IN)[:16]).flags2 == 0
    assert InitOffer.decode(b"") == InitOffer(0, 0, 0, 0)


# Replies


def test_header_of_a_reply() -> None:
    """Length of all, error, unique; back again."""
    header = rows("""
        14 00 00 00              # len = 16 + 4
        00 00 00 00              # error
        02 00 00 00 00 00 00 80  # unique
    """)
    assert messages.encode_success(0x8000000000000002, 4) == header
    assert messages.decode_out_header(header + b"rest") == (20, 0, 0x8000000000000002)


def test_reply_with_an_error() -> None:
    """The errno, negative."""
    reply = rows("""
        10 00 00 00              # len
        f4 ff ff ff              # error = -ENOMEM
        07 00 00 00 00 00 00 00  # unique
    """)
    assert messages.encode_error(7, 12) == reply
    assert messages.decode_out_header(reply) == (16, -12, 7)


def test_attributes_in_a_reply() -> None:
    """struct fuse_attr_out, 104 bytes."""
    reply = rows(f"""
        00 ca 9a 3b 00 00 00 00  # attr_valid = 10^9 seconds
        00 00 00 00              # attr_valid_nsec
        00 00 00 00              # dummy
        {ATTR_ROWS}
    """)
    assert messages.encode_attr(ATTRIBUTES, 10**9) == reply
    assert len(reply) == 104


def test_an_entry_in_a_reply() -> None:
    """struct fuse_entry_out, 128 bytes."""
    reply = rows(f"""
        03 00 00 00 00 00 00 00  # nodeid
        00 00 00 00 00 00 00 00  # generation
        0a 00 00 00 00 00 00 00  # entry_valid
        0b 00 00 00 00 00 00 00  # attr_valid
        00 00 00 00              # entry_valid_nsec
        00 00 00 00              # attr_valid_nsec
        {ATTR_ROWS}
    """)
    assert messages.encode_entry(ATTRIBUTES, 10, 11) == reply
    assert len(reply) == 128


def test_an_entry_that_is_not_there() -> None:
    """Node id 0, and how long that may be remembered."""
    reply = messages.encode_entry(None, 10, 11)
    assert reply == bytes(16) + (10).to_bytes(8, "little") + bytes(104)


def test_open_in_a_reply() -> None:
    """struct fuse_open_out."""
    reply = rows("""
        02 00 00 00 00 00 00 00  # fh
        81 00 00 00              # open_flags = DIRECT_IO | PASSTHROUGH
        05 00 00 00              # backing_id
    """)
    flags = kernel.FOPEN_DIRECT_IO | kernel.FOPEN_PASSTHROUGH
    assert messages.encode_open(2, flags, 5) == reply


def test_small_replies() -> None:
    """ioctl returns 0 and no data; write its size; getxattr the length of a value."""
    assert messages.encode_ioctl() == bytes(16)
    assert messages.encode_write(0x1000) == rows("00 10 00 00  00 00 00 00")
    assert messages.encode_xattr_size(0x102) == rows("02 01 00 00  00 00 00 00")


def test_notice_of_changed_attributes() -> None:
    """unique 0, code 2, and offset -1: no page is concerned, so no lock is taken."""
    assert messages.encode_attributes_changed(3) == rows("""
        28 00 00 00              # len = 40
        02 00 00 00              # error = FUSE_NOTIFY_INVAL_INODE
        00 00 00 00 00 00 00 00  # unique
        03 00 00 00 00 00 00 00  # ino
        ff ff ff ff ff ff ff ff  # off = -1
        00 00 00 00 00 00 00 00  # len
    """)


def test_notice_of_changed_pages() -> None:
    """The range in bytes."""
    assert messages.encode_pages_changed(3, 0x1000, 0x2000) == rows("""
        28 00 00 00              # len = 40
        02 00 00 00              # error = FUSE_NOTIFY_INVAL_INODE
        00 00 00 00 00 00 00 00  # unique
        03 00 00 00 00 00 00 00  # ino
        00 10 00 00 00 00 00 00  # off
        00 20 00 00 00 00 00 00  # len
    """)


def test_arguments_of_the_device_ioctls() -> None:
    """_IOW(229, 1, {s32 fd, u32 flags, u64 padding}) and _IOW(229, 2, u32)."""
    assert kernel.FUSE_DEV_IOC_BACKING_OPEN == 1 << 30 | 16 << 16 | 229 << 8 | 1
    assert kernel.FUSE_DEV_IOC_BACKING_CLOSE == 1 << 30 | 4 << 16 | 229 << 8 | 2
    assert messages.encode_backing_map(7) == rows("07 00 00 00  00 00 00 00") + bytes(8)
    assert messages.encode_backing_id(9) == rows("09 00 00 00")


# What is completed


def test_init_reply_is_completed() -> None:
    """Flags are added to libfuse's own, the rest stays to the byte."""
    completed = handshake.complete_init(
        INIT_REPLY, flags=kernel.FUSE_HANDLE_KILLPRIV, flags2=0xB0, stack_depth=1
    )
    expected = bytearray(INIT_REPLY)
    expected[28:32] = rows("01 20 08 40")  # flags | INIT_EXT | HANDLE_KILLPRIV
    expected[48:52] = rows("b0 00 00 00")  # flags2
    expected[52:56] = rows("01 00 00 00")  # max_stack_depth
    assert completed == bytes(expected)
    assert len(INIT_REPLY) == 16 + 64


def test_init_reply_with_a_request_timeout() -> None:
    """In its own 16 bits, behind the stack depth."""
    completed = handshake.complete_init(
        INIT_REPLY, flags=0, flags2=0x400, stack_depth=1, request_timeout=0xFFFE
    )
    assert completed[48:52] == rows("00 04 00 00")
    assert completed[52:60] == rows("01 00 00 00 fe ff 00 00")
    assert len(completed) == len(INIT_REPLY)


def test_init_reply_keeps_what_libfuse_asked_for() -> None:
    """A newer libfuse may set flags2 by itself."""
    reply = bytearray(INIT_REPLY)
    reply[48:52] = rows("01 00 00 00")
    completed = handshake.complete_init(bytes(reply), flags=0, flags2=0x10, stack_depth=0)
    assert completed[48:52] == rows("11 00 00 00")
    assert completed[28:32] == rows("01 20 00 40")


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        (b"a", "61 00 00 00 00 00 00 00"),
        (b"\xff" * 8, "ff ff ff ff ff ff ff ff"),
        (b"n" * 9, "6e 6e 6e 6e 6e 6e 6e 6e 6e 00 00 00 00 00 00 00"),
    ],
)
def test_listed_names(name: bytes, tail: str) -> None:
    """struct fuse_direntplus: the entry, then struct fuse_dirent, padded to eight bytes."""
    entry = messages.encode_entry(ATTRIBUTES, 5, 6)
    listed = messages.encode_listed(entry, 0x1122334455667788, 0o100644, 1 << 62 | 3, name)
    assert listed == entry + rows(
        "88 77 66 55 44 33 22 11"  # ino
        "03 00 00 00 00 00 00 40"  # off
        f"{len(name):02x} 00 00 00"  # namelen
        "08 00 00 00" + tail  # type = DT_REG
    )


@given(st.integers(-(1 << 60), 1 << 62))
def test_times_are_split_into_seconds_and_nanoseconds(time_ns: int) -> None:
    """Nanoseconds from 0 to 999999999, before 1970 too, as utimensat(2) has them."""
    reply = messages.encode_attr(ATTRIBUTES._replace(mtime_ns=time_ns), 0)
    seconds = int.from_bytes(reply[48:56], "little", signed=True)
    nanoseconds = int.from_bytes(reply[68:72], "little")
    assert 0 <= nanoseconds < 10**9
    assert seconds * 10**9 + nanoseconds == time_ns


def test_opcodes_are_the_kernels() -> None:
    """The numbers of enum fuse_opcode, as far as this project looks at them."""
    numbers = {
        "LOOKUP": 1,
        "FORGET": 2,
        "GETATTR": 3,
        "SETATTR": 4,
        "UNLINK": 10,
        "OPEN": 14,
        "READ": 15,
        "WRITE": 16,
        "RELEASE": 18,
        "GETXATTR": 22,
        "FLUSH": 25,
        "INIT": 26,
        "READDIR": 28,
        "CREATE": 35,
        "INTERRUPT": 36,
        "IOCTL": 39,
        "BATCH_FORGET": 42,
        "FALLOCATE": 43,
        "READDIRPLUS": 44,
        "COPY_FILE_RANGE": 47,
        "COPY_FILE_RANGE_64": 53,
    }
    assert {name: Opcode[name].value for name in numbers} == numbers
    assert {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT} == kernel.NO_REPLY


@pytest.mark.parametrize(("said", "there"), [(3, 2), (1, 0), ((1 << 32) - 1, 2)])
def test_a_batch_that_is_shorter_than_it_says(said: int, there: int) -> None:
    """It is no batch; a longer one has something behind it."""
    one = struct.pack("<QQ", 5, 1)
    with pytest.raises(messages.MalformedError, match=f"{said} inodes to forget"):
        messages.decode_batch_forget(memoryview(struct.pack("<II", said, 0) + there * one))
    whole = memoryview(struct.pack("<II", there, 0) + there * one + b"more")
    assert list(messages.decode_batch_forget(whole)) == [(5, 1)] * there


def test_a_write_with_less_data_than_it_says() -> None:
    """It must not look as if all had been written."""
    body = struct.pack("<QQIIQII", 2, 0, 10, 1, 0, 0, 0)
    with pytest.raises(messages.MalformedError, match="10 bytes to write"):
        messages.decode_write(memoryview(body + b"123456789"))
