# SPDX-License-Identifier: Apache-2.0
"""The files beside the helper: systemd unit, sysusers.d, tmpfiles.d agree with the program and the library."""

from __future__ import annotations

import configparser
import ctypes
import os
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from tests.support.channels import definition
from tests.support.objects import assert_whole, snapshot
from tests.support.program import USERS, write

from sipc import helper
from sipc.definitions import DEFINITIONS, parse
from sipc.registry import SYSTEM
from sipc.selinux.grants import types_of
from sipc.spec import Enforcement

pytestmark = pytest.mark.host

ROOT = Path(helper.__file__).parents[2]


def _unit(name: str = "channel") -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "helper" / f"sipc-{name}@.service")
    return parser


def test_the_unit_runs_the_helper_with_verbs_it_knows() -> None:
    """Start makes, stop destroys, in the system's registry, and the objects outlive the process."""
    unit = _unit()
    assert set(unit) == {"DEFAULT", "Unit", "Service", "Install"}
    service = unit["Service"]
    assert (service["Type"], service["RemainAfterExit"]) == ("oneshot", "yes")
    assert (service["PrivateIPC"], service["RemoveIPC"]) == ("no", "no")
    assert service["Environment"] == f"SIPC_REGISTRY={SYSTEM}"
    assert service["ReadWritePaths"] == str(SYSTEM)
    start, stop = (shlex.split(service[key].replace("%i", "feed")) for key in ("ExecStart", "ExecStop"))
    for argv in (start, stop):
        program_file = ROOT / "helper" / Path(argv[0]).name
        assert os.access(program_file, os.X_OK)
    made = helper._parser().parse_args(start[1:])
    assert (made.verb, made.channel, made.files, made.replace) == ("create", ["feed"], [], False)
    ended = helper._parser().parse_args(stop[1:])
    assert (ended.verb, ended.names) == ("destroy", ["feed"])


def test_the_ends_units_start_what_the_policy_and_the_accounts_name() -> None:
    """Each end: its own user, its own domain, its own state, a file in its own place, after the channel."""
    spec = parse("[channel.feed]\n", "feed", enforcement=Enforcement.SELINUX)["feed"]
    types = types_of(spec)
    own = {"send": ("sender", types.sender, "in"), "recv": ("receiver", types.receiver, "out")}
    for verb, (role, domain, place) in own.items():
        unit = _unit(verb)
        service = {key: value.replace("%i", "feed") for key, value in unit["Service"].items()}
        assert unit["Unit"]["Requires"] == unit["Unit"]["After"] == "sipc-channel@%i.service"
        assert service["User"] == f"sipc-{verb}"
        assert service["SELinuxContext"] == f"-system_u:system_r:{domain}:s0"
        assert service["ReadWritePaths"] == f"{SYSTEM}/.private/feed/{role}"
        assert service["ExecStart"] == f"sipc {verb} feed /var/lib/sipc/feed/{place}/data"
        assert (service["CapabilityBoundingSet"], service["PrivateIPC"]) == ("", "no")
    assert _unit()["Service"]["SELinuxContext"].replace("%i", "feed") == f"-system_u:system_r:{types.channel}:s0"


def test_a_wheel_puts_the_files_where_systemd_looks(tmp_path: Path) -> None:
    """`pip install` as root leaves nothing to copy."""
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*argv, "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("sipc-*.whl")
    names = {name.split(".data/data/", 1)[1] for name in zipfile.ZipFile(wheel).namelist() if ".data/data/" in name}
    units = {f"lib/systemd/system/{path.name}" for path in (ROOT / "helper").glob("*.service")}
    assert names == units | {"lib/sysusers.d/sipc.conf", "lib/tmpfiles.d/sipc.conf"}


def _drop_to(names: list[str]) -> None:
    """Leave the process, and what it starts, these capabilities and no others."""
    numbers = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_IPC_OWNER": 15, "CAP_SYS_RESOURCE": 24}
    kept = {numbers[name] for name in names}
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    drop, last = 24, int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in kept and prctl(drop, number, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_the_units_capabilities_are_enough(backend: str, registry: Path, tmp_path: Path) -> None:
    """With those and no others it makes and destroys a channel between two users; the program file does it."""
    file = write(tmp_path, definition("c", backend=backend) + USERS)
    registry.chmod(0o755)
    names = _unit()["Service"]["CapabilityBoundingSet"].split()
    command = [sys.executable, str(ROOT / "helper" / "sipc-helper"), "--registry", str(registry)]
    before = snapshot()
    for argv in (["create", str(file)], ["destroy", "c"]):
        done = subprocess.run(
            [*command, *argv],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=(lambda: _drop_to(names)) if os.geteuid() == 0 else None,
        )
        assert (done.returncode, done.stderr) == (0, "")
        if argv[0] == "create":
            assert_whole(registry, "c")
    assert snapshot() == before


def _lines(name: str) -> list[list[str]]:
    text = (ROOT / "helper" / name).read_text()
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def test_tmpfiles_make_the_directories_that_the_helper_uses() -> None:
    """The registry and the definitions: root's, readable by all, as `Registry` wants them."""
    made = {line[1]: line for line in _lines("sipc.tmpfiles.conf")}
    for path in (SYSTEM, DEFINITIONS, DEFINITIONS.parent):
        kind, _, mode, user, group, *_ = made[str(path)]
        assert (kind, mode, user, group) == ("d", "0755", "root", "root")
    assert list(made).index(str(DEFINITIONS.parent)) < list(made).index(str(DEFINITIONS))


def test_sysusers_make_two_accounts_with_groups_of_their_own() -> None:
    """A sender and a receiver; neither has a shell, a home, or the other's group."""
    lines = _lines("sipc.sysusers.conf")
    assert [line[:3] for line in lines] == [["u", "sipc-send", "-"], ["u", "sipc-recv", "-"]]
    assert all(line[4:] in ([], ["-"], ["-", "-"]) for line in lines)


def test_the_wheel_carries_the_helpers_files() -> None:
    """What the package installs is what lies here."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    carried = {**wheel["shared-scripts"], **wheel["shared-data"]}
    here = {path.name for path in (ROOT / "helper").iterdir() if path.is_file()}
    assert {Path(path).name for path in carried} >= here
