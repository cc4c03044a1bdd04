"""include/msharefs.h and abi.py say the same, to the compiler's own knowledge.

C programs are compiled against the header and print what they see; nothing here
parses C.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from msharefs import abi

INCLUDE = Path(abi.__file__).parent / "include"
ROOT = Path(__file__).parents[2]

STRICT = ["-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}"]

C_DIALECTS = ["c89", "c99", "c11", "c17", "c2x"]
CXX_DIALECTS = ["c++98", "c++11", "c++14", "c++17", "c++20", "c++2b"]
C_COMPILERS = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]
CXX_COMPILERS = [compiler for compiler in ("g++", "clang++") if shutil.which(compiler)]
"""gcc always; clang where somebody has it."""

SNIPPET = """
#include <fcntl.h>
#include <msharefs.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void)
{
%s
	return 0;
}
"""
"""What is around the lines of a page that are no program of their own."""

# The value of each field is as wide as the field, so that an exchanged or cut one shows.
CREATE = abi.CreateMapping(
    region_offset=0x1122334455667788,
    size=0x99AABBCCDDEEFF01,
    offset=0x2233445566778899,
    prot=0xA1B2C3D4,
    flags=0xE5F60718,
    fd=0x293A4B5C,
)
UNMAP = abi.Unmap(region_offset=0x0123456789ABCDEF, size=0xFEDCBA9876543210)
ATTACH = abi.Attach(bytes(range(1, 17)), 0xC1D2E3F4, b"an-address")

REPORT = r"""
#include <msharefs.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define SHOW(name, value) printf("%s %lu\n", name, (unsigned long)(value))

static void show_bytes(const char *name, const void *object, size_t size)
{
	const unsigned char *byte = (const unsigned char *)object;
	size_t i;

	printf("%s ", name);
	for (i = 0; i < size; i++)
		printf("%02x", byte[i]);
	printf("\n");
}

static __u64 wide(unsigned long high, unsigned long low)
{
	return ((__u64)high << 32) | low;
}

int main(void)
{
	struct mshare_create create;
	struct mshare_unmap unmap;
	struct mshare_attach attach;
	int i;

	memset(&create, 0, sizeof create);
	create.region_offset = wide(0x11223344UL, 0x55667788UL);
	create.size = wide(0x99AABBCCUL, 0xDDEEFF01UL);
	create.offset = wide(0x22334455UL, 0x66778899UL);
	create.prot = 0xA1B2C3D4UL;
	create.flags = 0xE5F60718UL;
	create.fd = 0x293A4B5CUL;
	unmap.region_offset = wide(0x01234567UL, 0x89ABCDEFUL);
	unmap.size = wide(0xFEDCBA98UL, 0x76543210UL);

	memset(&attach, 0, sizeof attach);
	for (i = 0; i < 16; i++)
		attach.token[i] = (__u8)(i + 1);
	attach.uid = 0xC1D2E3F4UL;
	strcpy(attach.address, "an-address");

	SHOW("CREATE_MAPPING", MSHAREFS_CREATE_MAPPING);
	SHOW("UNMAP", MSHAREFS_UNMAP);
	SHOW("ATTACH", MSHAREFS_ATTACH);
	SHOW("CLAIM", MSHAREFS_CLAIM);
	SHOW("attach.sizeof", sizeof(struct mshare_attach));
	SHOW("create.sizeof", sizeof(struct mshare_create));
	SHOW("create.region_offset", offsetof(struct mshare_create, region_offset));
	SHOW("create.size", offsetof(struct mshare_create, size));
	SHOW("create.offset", offsetof(struct mshare_create, offset));
	SHOW("create.prot", offsetof(struct mshare_create, prot));
	SHOW("create.flags", offsetof(struct mshare_create, flags));
	SHOW("create.fd", offsetof(struct mshare_create, fd));
	SHOW("unmap.sizeof", sizeof(struct mshare_unmap));
	SHOW("unmap.region_offset", offsetof(struct mshare_unmap, region_offset));
	SHOW("unmap.size", offsetof(struct mshare_unmap, size));
	show_bytes("create.bytes", &create, sizeof create);
	show_bytes("unmap.bytes", &unmap, sizeof unmap);
	show_bytes("attach.bytes", &attach, sizeof attach);
	return 0;
}
"""

# Bits that abi.py repeats from the kernel's headers, so that core needs no C.
FLAG_NAMES = [
    "PROT_READ",
    "PROT_WRITE",
    "PROT_EXEC",
    "MAP_SHARED",
    "MAP_PRIVATE",
    "MAP_TYPE",
    "MAP_FIXED",
    "MAP_ANONYMOUS",
    "MAP_GROWSDOWN",
    "MAP_NORESERVE",
    "MAP_POPULATE",
    "MAP_HUGETLB",
    "MAP_FIXED_NOREPLACE",
    "MAP_HUGE_SHIFT",
    "MAP_HUGE_2MB",
]


def run(command: list[str | Path]) -> str:
    """The standard output of a command that must succeed; what it says on stderr fails the test."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def compiled(directory: Path, source: str, compiler: str, dialect: str, suffix: str) -> Path:
    """The program that `source` becomes with every warning an error."""
    path = directory / f"program{suffix}"
    path.write_text(source)
    program = directory / "program"
    run([compiler, f"-std={dialect}", *STRICT, path, "-o", program])
    return program


def expected_report() -> dict[str, str]:
    """What the C program must print, computed from abi.py alone."""
    numbers = {
        "CREATE_MAPPING": abi.CREATE_MAPPING,
        "UNMAP": abi.UNMAP,
        "ATTACH": abi.ATTACH,
        "CLAIM": abi.CLAIM,
        "attach.sizeof": abi.Attach.FORMAT.size,
        "create.sizeof": abi.CreateMapping.FORMAT.size,
        "unmap.sizeof": abi.Unmap.FORMAT.size,
    }
    for struct_name, fields in (
        ("create", ("region_offset", "size", "offset", "prot", "flags", "fd")),
        ("unmap", ("region_offset", "size")),
    ):
        for field in fields:
            numbers[f"{struct_name}.{field}"] = offset_in_abi(struct_name, field)
    report = {name: str(value) for name, value in numbers.items()}
    report["create.bytes"] = CREATE.pack().hex()
    report["unmap.bytes"] = UNMAP.pack().hex()
    report["attach.bytes"] = ATTACH.pack().hex()
    return report


def offset_in_abi(struct_name: str, field: str) -> int:
    """Where abi.py puts a field: the first byte that changes when only that field does."""
    zero = {"region_offset": 0, "size": 0}
    more = {"offset": 0, "prot": 0, "flags": 0, "fd": 0}
    if struct_name == "create":
        blank = abi.CreateMapping(**zero, **more).pack()
        set_one = abi.CreateMapping(**{**zero, **more, field: 0xFF}).pack()
    else:
        blank = abi.Unmap(**zero).pack()
        set_one = abi.Unmap(**{**zero, field: 0xFF}).pack()
    return next(i for i, pair in enumerate(zip(blank, set_one, strict=True)) if pair[0] != pair[1])


def parsed(report: str) -> dict[str, str]:
    """Lines of "name value" as a dictionary."""
    return dict(line.split(" ", 1) for line in report.splitlines())


@pytest.mark.parametrize("compiler", C_COMPILERS)
@pytest.mark.parametrize("dialect", C_DIALECTS)
def test_header_and_abi_agree_in_c(tmp_path: Path, dialect: str, compiler: str) -> None:
    """The header is clean C from C89 on, and every number, size, offset and byte is abi.py's."""
    program = compiled(tmp_path, REPORT, compiler, dialect, ".c")
    assert parsed(run([program])) == expected_report()


@pytest.mark.parametrize("compiler", CXX_COMPILERS)
@pytest.mark.parametrize("dialect", CXX_DIALECTS)
def test_header_and_abi_agree_in_cxx(tmp_path: Path, dialect: str, compiler: str) -> None:
    """The header is clean C++ from C++98 on, with the same numbers."""
    program = compiled(tmp_path, REPORT, compiler, dialect, ".cc")
    assert parsed(run([program])) == expected_report()


def programs_of_pages() -> list[str]:
    """The C of the page about it, as whole programs."""
    found = []
    for page in ("docs/api-c.md",):
        blocks = re.findall(
            r"^```c\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
        )
        assert blocks, page
        found += [block if "int main(" in block else SNIPPET % block for block in blocks]
    return found


@pytest.mark.parametrize("program", programs_of_pages())
def test_programs_of_the_pages_are_clean(tmp_path: Path, program: str) -> None:
    """In every dialect of C and C++ since 1989 and 2011, without a warning."""
    for compilers, dialects, suffix in (
        (C_COMPILERS, C_DIALECTS, ".c"),
        (CXX_COMPILERS, CXX_DIALECTS[1:], ".cc"),
    ):
        for compiler in compilers:
            for dialect in dialects:
                # MAP_ANONYMOUS is in no standard, so the page's programs are in GNU's dialects.
                compiled(tmp_path, program, compiler, dialect.replace("c", "gnu", 1), suffix)


def test_numbers_are_those_of_the_interface() -> None:
    """The numbers that programs have compiled in are those of the kernel's interface."""
    assert (abi.CREATE_MAPPING, abi.UNMAP) == (0x40287800, 0x40107801)
    assert abi.CREATE_MAPPING_X86_32 == 0x40247800
    assert abi.CreateMapping.FORMAT.size == 40
    assert abi.Unmap.FORMAT.size == 16


def test_bytes_of_the_header_unpack_to_the_fields(tmp_path: Path) -> None:
    """abi.py reads from a C program's bytes what the program wrote into the fields."""
    report = parsed(run([compiled(tmp_path, REPORT, "gcc", "c99", ".c")]))
    assert abi.CreateMapping.unpack(bytes.fromhex(report["create.bytes"])) == CREATE
    assert abi.Unmap.unpack(bytes.fromhex(report["unmap.bytes"])) == UNMAP


def test_header_included_alone_and_twice_defines_only_its_names(tmp_path: Path) -> None:
    """The header needs nothing before it, may be included twice, and adds four macros."""
    source = tmp_path / "twice.c"
    source.write_text(
        "#include <msharefs.h>\n#include <msharefs.h>\nint main(void) { return 0; }\n"
    )
    run(["gcc", "-std=c89", *STRICT, "-fsyntax-only", source])
    macros = run(["gcc", "-std=c89", *STRICT, "-E", "-dM", source])
    named = {line.split()[1] for line in macros.splitlines() if "mshare" in line.lower()}
    assert named == {
        "MSHAREFS_H",
        "MSHAREFS_CREATE_MAPPING",
        "MSHAREFS_UNMAP",
        "MSHAREFS_ATTACH",
        "MSHAREFS_CLAIM",
    }


@pytest.mark.parametrize(
    ("compilers", "dialects", "suffix"),
    [(C_COMPILERS, C_DIALECTS, ".c"), (CXX_COMPILERS, CXX_DIALECTS[1:], ".cc")],
)
def test_the_header_for_attaching_is_clean(
    tmp_path: Path, compilers: list[str], dialects: list[str], suffix: str
) -> None:
    """In the strict dialects, included twice, and where none or all of its functions are used."""
    twice = "#include <msharefs_attach.h>\n" * 2
    unused = f"{twice}int main(void) {{ return 0; }}\n"
    used = f"""{twice}
int main(void)
{{
	void *at = msharefs_attach(-1, 4096, PROT_READ);

	if (!msharefs_claim(-1))
		return 1;
	if (at != MAP_FAILED)
		return msharefs_attached(at) == MSHAREFS_FENCED || msharefs_detach(at);
	return errno != EBADF;
}}
"""
    for compiler in compilers:
        for dialect in dialects:
            compiled(tmp_path, unused, compiler, dialect, suffix)
            run([compiled(tmp_path, used, compiler, dialect, suffix)])


@pytest.mark.parametrize("dialect", ["c89", "c17"])
def test_header_under_the_kernels_name(tmp_path: Path, dialect: str) -> None:
    """A program that includes <linux/msharefs.h>, before or after ours, is compiled as it is."""
    for first, second in (("linux/msharefs.h", "msharefs.h"), ("msharefs.h", "linux/msharefs.h")):
        source = REPORT.replace(
            "#include <msharefs.h>", f"#include <{first}>\n#include <{second}>\n"
        )
        assert source != REPORT
        program = compiled(tmp_path, source, "gcc", dialect, ".c")
        assert parsed(run([program])) == expected_report()


def test_flags_are_those_of_the_system_headers(tmp_path: Path) -> None:
    """The PROT_* and MAP_* bits in abi.py are those of this machine's headers."""
    lines = [f'\tprintf("{name} %lu\\n", (unsigned long){name});' for name in FLAG_NAMES]
    source = "\n".join(
        [
            "#define _GNU_SOURCE",
            "#include <stdio.h>",
            "#include <sys/mman.h>",
            "#include <linux/mman.h>",
            "int main(void)",
            "{",
            *lines,
            "\treturn 0;",
            "}",
            "",
        ]
    )
    program = compiled(tmp_path, source, "gcc", "gnu11", ".c")
    assert parsed(run([program])) == {name: str(getattr(abi, name)) for name in FLAG_NAMES}


if platform.machine() == "x86_64":

    def test_32_bit_program_passes_36_bytes(tmp_path: Path) -> None:
        """A 32-bit x86 program, built with the same header, has no padding in mshare_create."""
        # The 32-bit C library need not be there: nothing is linked, and the one file of it that
        # the headers ask for lists functions that it lacks.
        stubs = tmp_path / "gnu"
        stubs.mkdir()
        (stubs / "stubs-32.h").write_text("")
        checks = {
            "number": f"MSHAREFS_CREATE_MAPPING == {abi.CREATE_MAPPING_X86_32}",
            "create": f"sizeof(struct mshare_create) == {abi.CreateMapping.FORMAT_X86_32.size}",
            "unmap": f"MSHAREFS_UNMAP == {abi.UNMAP}",
        }
        source = tmp_path / "small.c"
        source.write_text(
            "#include <msharefs.h>\n"
            + "".join(f"typedef char {n}[({check}) ? 1 : -1];\n" for n, check in checks.items())
        )
        multiarch = run(["gcc", "-print-multiarch"]).strip()
        options = ["-m32", "-fsyntax-only", f"-I{tmp_path}", f"-I/usr/include/{multiarch}"]
        run(["gcc", "-std=c89", *STRICT, *options, source])
