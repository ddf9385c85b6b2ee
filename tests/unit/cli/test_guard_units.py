# SPDX-License-Identifier: Apache-2.0
"""`sipc guard install` and `uninstall` below a root of the test: all or nothing; no systemd here, and what is said."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.guards import GOOD

from sipc.cli import guard_units, main
from sipc.errors import Denied, PolicyUnavailable
from sipc.guard import systemd
from sipc.guard.audit import Audit, FileLog
from sipc.guard.config import parse
from sipc.guard.systemd import Systemd, replace_all, replaced, status_of
from sipc.guard.units import definitions, render
from sipc.guard.verdicts import MessageId


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A guard file that asks for no SELinux, with the module of its filter beside it."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "json_guard.py").write_text("def scrub(message): ...\n")
    path = folder / "guard.toml"
    path.write_text(GOOD.replace('"selinux"', '"dac"'))
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_installed_below_a_root_and_removed_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file as it is, the helper's definitions, the filter's module, every unit; then nothing of it."""
    root = tmp_path / "image"
    assert main(["guard", "install", str(file), "--root", str(root)]) == 0
    guard = parse(file.read_text(), "x")
    wanted = {f"etc/systemd/system/{name}": text.encode() for name, text in render(guard).items()}
    wanted |= {
        "etc/sipc/guards/json.toml": file.read_bytes(),
        "etc/sipc/guards/json/channels.toml": definitions(guard).encode(),
        "etc/sipc/guards/json/json_guard.py": (file.parent / "json_guard.py").read_bytes(),
    }
    assert tree(root) == wanted
    assert {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()} == {0o644}
    capsys.readouterr()
    assert main(["guard", "install", str(file), "--root", str(root)]) == 0
    assert capsys.readouterr().out == ""  # nothing is different now
    assert main(["guard", "uninstall", "--root", str(root)]) == 0
    assert tree(root) == {}


def test_what_an_older_version_had_is_removed_with_the_new_one(file: Path, tmp_path: Path) -> None:
    """A stage and a module that the file no longer names leave no unit and no code behind; other guards' stay."""
    root = tmp_path / "image"
    assert main(["guard", "install", str(file), "--root", str(root)]) == 0
    other = root / "etc/systemd/system/sipc-guard-json2-stage-scrub.service"
    other.write_text("another guard's\n")
    file.write_text(file.read_text().replace("stage.scrub", "stage.clean").replace('"scrub"', '"clean"')
                    .replace("via scrub", "via clean").replace("only scrub", "only clean")
                    .replace("json_guard:", "elsewhere:"))  # fmt: skip
    assert main(["guard", "install", str(file), "--root", str(root)]) == 0
    names = {path.name for path in (root / "etc/systemd/system").iterdir()}
    assert {"sipc-guard-json-stage-clean.service", other.name} <= names
    assert not {"sipc-guard-json-stage-scrub.service", "sipc-guard-json-act-scrub.service"} & names
    assert not (root / "etc/sipc/guards/json/json_guard.py").exists()


def test_a_file_with_a_problem_touches_nothing(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is checked first, as a whole."""
    file.write_text(file.read_text().replace('to = "deliver"', 'to = "nowhere"'))
    assert main(["guard", "install", str(file), "--root", str(tmp_path / "image")]) == 3
    assert "there is no stage 'nowhere'" in capsys.readouterr().err
    assert not (tmp_path / "image").exists()


def test_without_its_policy_a_guard_under_selinux_is_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A root without a module store: nothing is written, unless told not to look."""
    file.write_text(GOOD)
    root = tmp_path / "image"
    assert main(["guard", "install", str(file), "--root", str(root)]) == 4
    assert "module store" in capsys.readouterr().err
    assert not root.exists()
    assert main(["guard", "install", str(file), "--root", str(root), "--without-policy"]) == 0
    unit = (root / "etc/systemd/system/sipc-guard-json-stage-ingest.service").read_text()
    assert "\nSELinuxContext=system_u:system_r:json_ingest_t:s0\n" in unit


@pytest.mark.parametrize("command", ["install", "up", "down", "status", "uninstall"])
def test_without_systemd_the_way_out_is_told(
    file: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 4, `sipc guard run`; and nothing was written."""
    monkeypatch.setattr(systemd, "_RUNNING", Path("/nonexistent"))
    assert main(["guard", command, str(file)]) == 4
    assert "sipc guard run" in capsys.readouterr().err
    with pytest.raises(PolicyUnavailable):
        Systemd()


@pytest.mark.parametrize("step", range(6))
def test_a_failure_at_any_step_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Three files to change, one to make, one to remove: the disk fails once, and all is as before."""
    root = tmp_path / "root"
    root.mkdir()
    for name in "abc":
        (root / name).write_text(f"old {name}")
    (root / "gone").write_text("old gone")
    before = tree(root)
    left = step
    real = systemd._put

    def fail_once(path: Path, data: bytes | None) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(systemd, "_put", fail_once)
    wanted: dict[Path, bytes | None] = {root / name: b"new" for name in "abc"}
    wanted |= {root / "deep" / "er" / "d": b"new", root / "gone": None}
    if step < len(wanted):
        with pytest.raises(Denied, match="No space left"):
            replace_all(wanted)
        assert tree(root) == before
        assert not (root / "deep").exists()
    else:
        assert replace_all(wanted) == list(wanted)
        assert tree(root) == {"a": b"new", "b": b"new", "c": b"new", "deep/er/d": b"new"}


def test_files_come_back_when_what_follows_fails(tmp_path: Path) -> None:
    """Changed, made and removed: all as before, and no second name is left."""
    for name in ("changed", "removed"):
        (tmp_path / name).write_text(f"old {name}")
    before = tree(tmp_path)
    wanted: dict[Path, bytes | None] = {tmp_path / "changed": b"new", tmp_path / "removed": None,
                                        tmp_path / "deep" / "made": b"new"}  # fmt: skip
    with pytest.raises(KeyboardInterrupt), replaced(wanted):
        assert tree(tmp_path).keys() >= {"changed", "deep/made"}
        assert not (tmp_path / "removed").exists()
        raise KeyboardInterrupt
    assert tree(tmp_path) == before
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("channel", ["json.raw", ""])
def test_who_is_accused_is_said_from_the_log_of_the_stage(
    channel: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where systemd puts it; without a log, or a violation at its end, nothing is said."""
    place = tmp_path / "var/lib/sipc-guards/json/scrub"
    place.mkdir(parents=True, mode=0o700)
    if channel:
        with closing(FileLog(place / "audit.jsonl")) as log:
            Audit(log, stage="scrub").violation(MessageId(epoch=1, seq=1), channel=channel, reason="kind")
    assert main(["guard", "accused", str(file), "scrub", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (f"{channel}\n" if channel else "")


def test_a_status_file_is_believed_in_nothing_but_its_text(tmp_path: Path) -> None:
    """A stage may put anything there: a link, a pipe, a directory, too much, no JSON, tables without an end."""
    place = tmp_path / "run/sipc-guards/json/scrub"
    place.mkdir(parents=True)
    path = place / "status.json"
    secret = tmp_path / "secret"
    secret.write_text('{"version": 1}')
    assert status_of(tmp_path, "json", "scrub") is None
    path.symlink_to(secret)
    assert status_of(tmp_path, "json", "scrub") is None
    path.unlink()
    os.mkfifo(path)
    assert status_of(tmp_path, "json", "scrub") is None
    path.unlink()
    path.mkdir()
    assert status_of(tmp_path, "json", "scrub") is None
    path.rmdir()
    for text in ("", "[]", "x", '{"version": 2}', "[" * 60_000, '{"version": 1, "x": "' + "y" * (1 << 16) + '"}'):
        path.write_text(text)
        assert status_of(tmp_path, "json", "scrub") is None
    path.write_text('{"version": 1, "state": "running"}')
    assert status_of(tmp_path, "json", "scrub") == {"version": 1, "state": "running"}


def test_what_restorecon_says_of_anybodys_files_is_told_printable(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in a spool are its writers' choice: no UTF-8, a terminal's escapes."""
    program = tmp_path / "restorecon"
    program.write_text("#!/bin/sh\nprintf 'can not: \\377 \\033[2J\\nnor that\\n' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setattr(guard_units, "_PATH", str(tmp_path))
    monkeypatch.setattr(guard_units, "LABELLED", (str(tmp_path),))
    guard_units._relabel(parse(file.read_text(), "x"))
    assert capsys.readouterr().err == "note: restorecon: can not: \ufffd \\x1b[2J; nor that\n"
