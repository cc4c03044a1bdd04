"""What the pages have systemd do: the unit as it is installed, and the drop-ins on top of it."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.docs import pages
from tests.docs.machine import Machine
from tests.docs.pages import Block
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import ROOT

pytestmark = [pytest.mark.mount, pytest.mark.root_only("makes a machine of its own: namespaces")]

SYSTEM = "/etc/systemd/system"
UNIT = "msharefs@mnt-mshare.service"


def block(page: str, language: str, word: str) -> Block:
    """The one block of the page in that language with that word in it."""
    all_blocks = pages.blocks(page)
    (found,) = [each for each in all_blocks if each.language == language and word in each.text]
    return found


@pytest.fixture(scope="module")
def systemd(machine: Machine) -> Machine:
    """The machine with the commands and the unit, as the page installs it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    copy = block("administration.md", "sh", "systemctl").text.partition("\n")[0]
    for command in (f"cd {ROOT}", "make -s install-helper", f"mkdir -p {SYSTEM}", copy):
        code, output = machine.run(f"cd {ROOT}; {command}", root=True)
        assert code == 0, output
    return machine


def complaints(systemd: Machine, unit: str, drop_in: str) -> list[str]:
    """What systemd has to say of a unit with the drop-in. Its own units are not our business."""
    directory = f"{SYSTEM}/{unit}.d"
    file = f"mkdir -p {directory}; cat >{directory}/override.conf <<'END'\n{drop_in}END\n"
    verify = f"systemd-analyze verify --man=no {unit}; rm -r {directory}"
    _, output = systemd.run(file + verify, root=True)
    return [line for line in output.splitlines() if re.search(r"msharefs|mshare|postgresql", line)]


def test_service_with_metrics(systemd: Machine) -> None:
    """The unit, its command and the drop-in that lets Prometheus in."""
    drop_in = block("administration.md", "ini", UNIT).text
    assert complaints(systemd, UNIT, drop_in) == []
    assert len(complaints(systemd, UNIT, drop_in.replace("IPAddressAllow", "IPAdressAllow"))) == 1


def test_service_that_maps_files(systemd: Machine) -> None:
    """The drop-in that lets callers' files be had."""
    drop_in = block("administration.md", "ini", "pidfd_getfd").text
    assert complaints(systemd, UNIT, drop_in) == []
    assert complaints(systemd, UNIT, drop_in.replace("pidfd_getfd", "pidfd_get_fd"))


def test_what_a_service_may_do(systemd: Machine) -> None:
    """By systemd's own measure, of which 10 is everything; a better unit may lower it."""
    command = f"systemd-analyze security --offline=true --threshold=25 {SYSTEM}/msharefs@.service"
    code, output = systemd.run(command, root=True)
    assert code == 0, output.splitlines()[-1]


def test_postgresql_as_a_service(systemd: Machine) -> None:
    """Debian's unit with the drop-in of docs/run.md, behind the mount's."""
    drop_in = block("run.md", "ini", "mshare run").text
    unit = "postgresql@15-main.service"
    assert complaints(systemd, unit, drop_in) == []
    assert f"After={UNIT}" in drop_in
    # Debian's unit has an ExecStart of its own: without the empty line there would be two.
    assert complaints(systemd, unit, drop_in.replace("ExecStart=\n", "")) != []


def test_instances_are_the_mount_point(systemd: Machine) -> None:
    """Every instance that the page names is what systemd-escape makes of the mount point."""
    text = block("administration.md", "sh", "systemctl").text
    _, escaped = systemd.run("systemd-escape --path --template=msharefs@.service /mnt/mshare")
    assert escaped.strip() == UNIT
    assert set(re.findall(r"systemctl .*(msharefs@\S+)", text)) == {UNIT}


def test_options_of_the_service(make_mount: MakeMount) -> None:
    """The line for the unit's environment file has options that a mount takes."""
    line = block("administration.md", "text", "MSHAREFS_OPTIONS").text.strip()
    mounted = make_mount(line.removeprefix("MSHAREFS_OPTIONS="))
    assert mounted.status()["arena"]["size"] == 64 << 30
    assert mounted.path.stat().st_mode & 0o7777 == 0o755
