# SPDX-License-Identifier: Apache-2.0
"""`sipc guard install --policy` and `uninstall --policy` on a real module store: everything, or nothing.

What fails is done by the file system, and by a program in semodule's place; the store is real.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.guards import GOOD

from sipc.cli import main
from sipc.selinux.store import Store

UNITS = "etc/systemd/system"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A guard file under SELinux, with the module of its filter beside it."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "json_guard.py").write_text("def scrub(message): ...\n")
    (folder / "guard.toml").write_text(GOOD)
    return str(folder / "guard.toml")


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A semodule that refuses, first on the path; removed, it is the real one again."""
    program = tmp_path / "bin" / "semodule"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho it is locked >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder; what a program's own lock is left out."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in sorted(root.rglob("*")) if not path.name.endswith(".LOCK")}  # fmt: skip


def ours(root: Path) -> set[str]:
    """Names of our modules in its store."""
    return {module.name for module in Store(root).read() if module.kind}


def test_without_a_module_store_the_way_on_is_an_option_that_there_is(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image whose policy comes later; `--store` is an option of other commands."""
    at = ["guard", "install", file, "--root", str(tmp_path / "image")]
    assert main(at) == 4
    words = capsys.readouterr().err
    assert "--without-policy" in words
    assert "name the store with" not in words
    assert not (tmp_path / "image").exists()
    assert main([*at, "--without-policy"]) == 0


@pytest.mark.parametrize("before", [False, True], ids=["new", "over an older one"])
def test_what_can_not_be_written_leaves_the_policy_out(
    file: str, root: Path, before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory stands in the way of one unit: not one file, module or directory is other than before."""
    at = ["guard", "install", file, "--root", str(root)]
    if before:
        assert main([*at, "--without-policy"]) == 0
        Path(file).write_text(GOOD.replace("slots = 6", "slots = 5").replace('"stop-sender"', '"log"'))
        (root / UNITS / "sipc-guard-json-act-scrub.service").unlink()
    (root / UNITS / "sipc-guard-json-act-scrub.service" / "full").mkdir(parents=True)
    was = tree(root)
    assert main([*at, "--policy"]) == 4
    assert "sipc-guard-json-act-scrub.service" in capsys.readouterr().err
    assert tree(root) == was
    assert ours(root) == set()


@pytest.mark.parametrize("before", [False, True], ids=["new", "over an older one"])
def test_a_policy_that_can_not_be_installed_leaves_the_files_out(
    file: str, root: Path, refusing: Path, before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused when all files are written: they are gone again, and those of an older version are back."""
    at = ["guard", "install", file, "--root", str(root)]
    if before:
        assert main([*at, "--without-policy"]) == 0
        Path(file).write_text(GOOD.replace("slots = 6", "slots = 5").replace('"stop-sender"', '"log"'))
    was = tree(root)
    capsys.readouterr()
    assert main([*at, "--policy"]) == 4
    captured = capsys.readouterr()
    assert "it is locked; nothing was changed" in captured.err
    assert captured.out == ""
    assert tree(root) == was
    refusing.unlink()
    assert main([*at, "--policy"]) == 0
    assert {module.channel for module in Store(root).read() if module.kind == "channel"} == {"json.raw", "json.clean"}
    assert (root / UNITS / "sipc-guard-json.target").is_file()


def test_an_uninstallation_that_fails_can_be_done_again(
    file: str, root: Path, tmp_path: Path, refusing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guard's file goes last; with --purge nothing is left, neither of the policy nor of what stages kept."""
    program = refusing.read_text()
    refusing.unlink()
    was = tree(root)
    assert main(["guard", "install", file, "--root", str(root), "--policy"]) == 0
    for place in ("var/lib/sipc-guards/json/scrub", "var/lib/sipc/json/scrub/quarantine"):
        (root / place).mkdir(parents=True)
        (root / place / "kept").write_text("x")
    refusing.write_text(program)
    refusing.chmod(0o755)
    away = ["guard", "uninstall", "--root", str(root), "--policy", "--purge"]
    assert main(away) == 4
    assert "it is locked" in capsys.readouterr().err
    assert (root / "etc/sipc/guards/json.toml").is_file()
    refusing.unlink()
    assert main(away) == 0
    assert ours(root) == set()
    left = {name for name in tree(root).keys() ^ was.keys() if not name.startswith(("var/lib/selinux", "etc/selinux"))}
    assert left <= {"etc/sipc", "etc/systemd", UNITS}
