# SPDX-License-Identifier: Apache-2.0
"""`sipc policy install`, `remove`, `list` on a real module store: Debian's small policy below a root of the test's."""

from __future__ import annotations

import bz2
import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from tests.support.policies import GOLDEN, modules

from sipc.cli import main
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import find_modules
from sipc.selinux.options import Options

ROOT = GOLDEN.parents[3]
FEED = "[channel.feed]\n"
LOW = '[channel.low]\nreceiver = { type = "filter_t" }\n'
HIGH = '[channel.high]\nsender = { type = "filter_t" }\n'
SEMODULE = shutil.which("semodule", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


def semodule(root: Path, *arguments: str) -> str:
    """Run semodule on a root's store, as an administrator would."""
    argv = [SEMODULE, "-p", str(root), "-s", "default", "-n", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder: Path, text: str, name: str = "channels.toml") -> str:
    """A definition file."""
    path = folder / name
    path.write_text(text)
    return str(path)


def installed(root: Path) -> dict[str, str]:
    """Our modules' texts, as they are in the store."""
    place = root / "var/lib/selinux/default/active/modules/400"
    return {path.parent.name: bz2.decompress(path.read_bytes()).decode() for path in place.glob("*/cil")}


def built(root: Path) -> str:
    """The policy that this root would boot with, as a checksum."""
    return hashlib.sha256((root / "etc/selinux/default/policy/policy.33").read_bytes()).hexdigest()


def test_installed_listed_and_removed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the generator makes is in the store and in the policy; removed again, the policy is what it was."""
    before, at = built(root), ["--root", str(root)]
    assert main(["policy", "install", write(tmp_path, FEED), *at]) == 0
    captured = capsys.readouterr()
    assert captured.out == "installed sipc\ninstalled sipc_feed\n"
    assert "setfiles" in captured.err
    assert installed(root) == modules(FEED)
    policy = root / "etc/selinux/default/policy/policy.33"
    assert "sipc_feed_sender_t" in read_policy(policy.read_bytes(), "built").numbers
    assert main(["policy", "verify", str(tmp_path / "channels.toml"), "--policy", str(policy)]) == 0
    capsys.readouterr()
    assert main(["policy", "list", *at]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "sipc (priority 400): base, shared by all channels",
        "sipc_feed (priority 400): channel feed: sipc_feed_sender_t -> sipc_feed_receiver_t",
    ]
    assert main(["policy", "remove", "feed", *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "version": 1, "installed": [], "removed": ["sipc_feed", "sipc"], "proof": None,
    }  # fmt: skip
    assert (installed(root), built(root)) == ({}, before)
    assert main(["policy", "list", *at]) == 0
    assert capsys.readouterr() == ("", "no module of sipc is installed\n")


def test_what_is_not_proven_is_not_installed_unless_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A domain in the policy that reads and writes everything is shown as the way back; the store is as before."""
    evil = tmp_path / "evil.cil"
    evil.write_text(
        "(type evil_t)(roletype system_r evil_t)(typeattributeset domain (evil_t))(typepermissive evil_t)\n"
    )
    semodule(root, "-i", str(evil))
    before, argv = built(root), ["policy", "install", write(tmp_path, FEED), "--root", str(root)]
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("NOT PROVEN")
    assert "evil_t is permissive" in captured.out
    assert "nothing was installed" in captured.err
    assert main([*argv, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["installed"], said["proof"]["ok"]) == ([], False)
    assert (set(installed(root)), built(root)) == ({"evil"}, before)
    assert main([*argv, "--unproven"]) == 0
    assert "nothing was proven" in capsys.readouterr().err
    assert set(installed(root)) == {"evil", "sipc", "sipc_feed"}


def test_what_semodule_refuses_leaves_the_store_as_it_was(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ways: a module that does not resolve, and one that others still need."""
    missing = write(tmp_path, '[channel.feed]\nsender = { type = "nobody_t" }\n')
    before, at = built(root), ["--root", str(root)]
    assert main(["policy", "install", missing, *at]) == 3  # our compiler says so first
    assert main(["policy", "install", missing, *at, "--unproven"]) == 4
    assert "nothing was changed" in capsys.readouterr().err
    assert (installed(root), built(root)) == ({}, before)
    assert main(["policy", "install", write(tmp_path, FEED), *at]) == 0
    user = tmp_path / "user.cil"
    user.write_text("(allow unconfined_t sipc_feed_out_t (file (getattr)))\n")
    semodule(root, "-i", str(user))
    before, kept = built(root), installed(root)
    assert main(["policy", "remove", "feed", *at]) == 4
    assert (installed(root), built(root)) == (kept, before)


def test_what_fails_after_it_was_done_is_undone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading comes after the store has changed.  Here a program in semodule's place fails then, once."""
    assert main(["policy", "install", write(tmp_path, FEED), "--root", str(root)]) == 0
    before, kept = built(root), installed(root)
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "semodule"
    program.write_text(
        f'#!/bin/sh\n{SEMODULE} "$@" || exit\n[ -e {folder}/once ] && exit 0\n: >{folder}/once\n'
        "echo Could not load the policy >&2; exit 1\n"
    )
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    both = write(tmp_path, FEED + "checksum = true\n" + LOW)
    assert main(["policy", "install", both, "--new", "filter_t", "--launcher", "init_t", "--launcher", "sysadm_t",
                 "--root", str(root), "--unproven"]) == 4  # fmt: skip
    said = capsys.readouterr().err
    assert "Could not load the policy" in said
    assert "nothing was changed" in said
    assert (folder / "once").exists()
    assert (installed(root), built(root)) == (kept, before)


def test_channels_that_share_an_end_change_together(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end's module names all its channels, so none comes, changes or goes without the others."""
    at, new = ["--root", str(root)], ["--new", "filter_t"]
    both, low, high = (
        write(tmp_path, text, f"{number}.toml") for number, text in enumerate((LOW + HIGH, LOW, HIGH))
    )
    assert main(["policy", "install", low, *new, *at]) == 0
    assert main(["policy", "install", high, *new, *at]) == 3
    assert "channel 'low' is installed and has the end filter_t too" in capsys.readouterr().err
    assert main(["policy", "install", both, *new, *at]) == 0
    options = Options(new=frozenset({"filter_t"}))
    assert installed(root) == modules(LOW + HIGH, options)
    assert main(["policy", "remove", "high", *at]) == 3
    assert "--remove" in capsys.readouterr().err
    assert installed(root) == modules(LOW + HIGH, options)
    assert main(["policy", "install", low, "--remove", "high", *new, *at]) == 0
    assert installed(root) == modules(LOW, options)
    assert main(["policy", "remove", "low", *at]) == 0
    assert installed(root) == {}


def test_a_definition_that_changed_leaves_nothing_of_the_old_one(root: Path, tmp_path: Path) -> None:
    """Another type for the channel, other ends: the old modules go in the same transaction."""
    at = ["--root", str(root)]
    assert main(["policy", "install", write(tmp_path, LOW), "--new", "filter_t", *at]) == 0
    text = '[channel.low]\ntype = "shaft_t"\n'
    assert main(["policy", "install", write(tmp_path, text), *at]) == 0
    assert installed(root) == modules(text)


def test_a_module_that_is_hidden_disabled_or_not_ours_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would not take effect is not installed, and nobody else's module is replaced."""
    argv = ["policy", "install", write(tmp_path, FEED), "--root", str(root)]
    assert main(argv) == 0
    capsys.readouterr()
    semodule(root, "-d", "sipc_feed")
    assert main(["policy", "list", "--root", str(root)]) == 0
    assert "NOT IN FORCE" in capsys.readouterr().out
    assert main(argv) == 3
    assert "-e sipc_feed" in capsys.readouterr().err
    semodule(root, "-e", "sipc_feed")
    other = tmp_path / "sipc_feed.cil"
    other.write_text(modules(FEED)["sipc_feed"])
    semodule(root, "-X", "500", "-i", str(other))
    assert main(argv) == 3
    assert "-X 500 -r sipc_feed" in capsys.readouterr().err
    semodule(root, "-X", "500", "-r", "sipc_feed")
    other.write_text("(type somebody_t)\n")
    semodule(root, "-X", "400", "-i", str(other))
    assert main(argv) == 3
    assert "was not made by sipc" in capsys.readouterr().err


def test_of_a_store_only_what_is_in_force_is_composed(tmp_path: Path) -> None:
    """The highest priority of each name, and nothing that is disabled."""
    for place in ("100/a", "400/a", "100/b", "400/c"):
        (tmp_path / "modules" / place).mkdir(parents=True)
        (tmp_path / "modules" / place / "cil").write_text(f"; {place}\n")
    (tmp_path / "modules/disabled").mkdir()
    (tmp_path / "modules/disabled/c").touch()
    assert [path.read_text() for path in find_modules([tmp_path])] == ["; 100/b\n", "; 400/a\n"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["install", "{feed}", "--root", "{empty}"], 4, "no module store"),
        (["list", "--root", "{empty}"], 4, "no module store"),
        (["remove", "feed", "--root", "{empty}"], 4, "no module store"),
        (["list", "--root", "{image}", "--store", "targeted"], 4, "targeted"),
        (["list", "--root", "{image}", "--store", "../default"], 3, "no name of a policy store"),
        (["list", "--root", "{two}"], 3, "several policy stores, a, b"),
        (["remove", "other", "--root", "{image}"], 3, "no module of channel 'other'"),
        (["remove", "--root", "{image}"], 2, "CHANNELS"),
        (["install", "{feed}", "--remove", "feed", "--root", "{image}"], 3, "leave one out"),
        (["install", "/nowhere.toml", "--root", "{image}"], 3, "/nowhere.toml"),
        (["install", "{feed}", "--new", "stranger_t", "--root", "{image}"], 3, "stranger_t"),
    ],
)
def test_bad_input_has_its_exit_code_and_changes_nothing(
    arguments: list[str], code: int, words: str, pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with words that say what to do."""
    for name in ("a", "b"):
        (tmp_path / "two/var/lib/selinux" / name / "active/modules").mkdir(parents=True)
    places = {"feed": write(tmp_path, FEED), "empty": tmp_path, "two": tmp_path / "two", "image": pristine}
    before = built(pristine)
    assert main(["policy", *(part.format(**places) for part in arguments)]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert built(pristine) == before


def test_without_semodule_it_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment refuses (4)."""
    monkeypatch.setattr("sipc.selinux.store.shutil.which", lambda *_args, **_more: None)
    assert main(["policy", "install", write(tmp_path, FEED), "--root", str(root), "--unproven"]) == 4
    assert "policycoreutils" in capsys.readouterr().err
