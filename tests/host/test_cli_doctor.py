# SPDX-License-Identifier: Apache-2.0
"""`sipc doctor` in ipc namespaces that a test made sick: what it finds, and that the fix it names does fix it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.channels import definition

from sipc.cli.exits import Exit

pytestmark = pytest.mark.host

_DOCTOR = f"{sys.executable} -m sipc.cli doctor"
_MAKE = f"{sys.executable} -c 'import sysv_ipc; sysv_ipc.{{}}(4711, sysv_ipc.IPC_CREX, **{{}})'"


def inside(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in an ipc namespace of its own, which ends with it."""
    return subprocess.run(
        ["unshare", "--ipc", "sh", "-ec", script], capture_output=True, text=True, timeout=60, check=False
    )


def findings(before: str, registry: Path) -> tuple[int, list[dict[str, Any]]]:
    """What the doctor finds after `before`; its exit code."""
    done = inside(f"{before}\n{_DOCTOR} --json --registry {registry}")
    assert done.stderr == "", done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["version"] == 1
    assert report["ok"] == (done.returncode == Exit.OK)
    return done.returncode, report["findings"]


def about(found: list[dict[str, Any]], word: str) -> list[dict[str, Any]]:
    """The findings whose text has this word."""
    return [finding for finding in found if word in finding["text"]]


def test_a_healthy_place_has_nothing_bad(tmp_path: Path) -> None:
    """Exit code 0, and every limit was looked at."""
    code, found = findings("true", tmp_path / "none")
    assert code == Exit.OK
    for name in ("msgmni", "msgmnb", "msgmax", "shmmax", "shm_rmid_forced"):
        (one,) = about(found, f"kernel.{name} ")
        assert one["level"] == "ok", one
    assert about(found, "ipc namespace")
    assert about(found, "mqueue")
    assert about(found, "user sipc-send")


@pytest.mark.parametrize(
    ("limit", "low"), [("msgmnb", 16), ("msgmax", 8), ("msgmni", 0), ("shmmax", 4096), ("shm_rmid_forced", 1)]
)
def test_a_limit_that_is_too_low_is_bad_and_its_fix_fixes_it(limit: str, low: int, tmp_path: Path) -> None:
    """Lowered in a namespace of its own; the command that the doctor names raises it again."""
    lower = f"echo {low} > /proc/sys/kernel/{limit}"
    code, found = findings(lower, tmp_path / "none")
    (one,) = about(found, f"kernel.{limit} ")
    assert (code, one["level"]) == (Exit.NO, "bad")
    name, _, value = one["fix"].removeprefix("sysctl -w ").partition("=")
    assert name == f"kernel.{limit}"
    fixed = f"{lower}\necho {value} > /proc/sys/{name.replace('.', '/')}"
    code, found = findings(fixed, tmp_path / "none")
    assert code == Exit.OK


@pytest.mark.parametrize(
    ("kind", "arguments", "option"), [("MessageQueue", "{}", "-q"), ("SharedMemory", '{"size":4096}', "-m")]
)
def test_a_leftover_is_found_and_its_fix_removes_it(kind: str, arguments: str, option: str, tmp_path: Path) -> None:
    """An object of this user that no descriptor names."""
    make = _MAKE.format(kind, arguments)
    _, found = findings(make, tmp_path / "none")
    (one,) = [finding for finding in found if finding["fix"].startswith("ipcrm")]
    assert one["fix"].startswith(f"ipcrm {option} ")
    assert "no descriptor here names it" in one["text"]
    _, found = findings(f"{make}\n{one['fix']}", tmp_path / "none")
    assert [finding for finding in found if finding["fix"].startswith("ipcrm")] == []


def test_a_channels_own_objects_are_no_leftovers_and_a_dead_helpers_journal_is(tmp_path: Path) -> None:
    """The registry says what is whose."""
    registry, file = tmp_path / "registry", tmp_path / "c.toml"
    file.write_text(definition("c"))
    create = f"{sys.executable} -m sipc.cli create {file} --registry {registry} > /dev/null"
    _, found = findings(create, registry)
    assert [finding for finding in found if finding["fix"].startswith("ipcrm")] == []
    assert about(found, "1 channels")
    (registry / "c.json").rename(registry / ".c.json.new")
    code, found = findings("true", registry)
    (one,) = about(found, "died before publishing")
    assert (code, one["fix"]) == (Exit.NO, f"sipc destroy c --registry {registry}")
    (registry / ".c.json.new").unlink()


def test_the_text_has_the_fix_below_what_it_fixes(tmp_path: Path) -> None:
    """For people."""
    done = inside(f"echo 16 > /proc/sys/kernel/msgmnb\n{_DOCTOR} --registry {tmp_path / 'none'} || true")
    lines = done.stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if "kernel.msgmnb" in line)
    assert lines[place].startswith("bad")
    assert lines[place + 1].strip() == "fix: sysctl -w kernel.msgmnb=64"


def test_another_ipc_namespace_is_said(tmp_path: Path) -> None:
    """A channel made outside is not visible inside; where process 1 may not be looked at, that is not known."""
    _, found = findings("true", tmp_path / "none")
    (one,) = [finding for finding in found if finding["text"].startswith("ipc namespace")]
    try:
        Path("/proc/1/ns/ipc").stat()
    except OSError:
        assert (one["level"], one["fix"]) == ("ok", "")
    else:
        assert (one["level"], one["fix"]) == ("warn", "nsenter --ipc --target 1")
    assert str(Path("/proc/self/ns/ipc").stat().st_ino) not in one["text"].split(",")[0]
