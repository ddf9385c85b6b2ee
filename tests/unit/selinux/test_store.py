# SPDX-License-Identifier: Apache-2.0
"""A module store under conditions that nobody wishes for: other programs at work, signals, no rights, odd settings.

The store is real, below a root of the test's; what goes wrong is done to it by a program in semodule's place, which
runs the real one too.  `tests/unit/cli/test_policy_modules.py` has what the commands say.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.policies import modules, specs_of

import sipc.cli.commands  # noqa: F401 - before the rights to read it are given up
from sipc.cli import main
from sipc.descriptor import Descriptor
from sipc.errors import Denied, PolicyUnavailable
from sipc.kernel import Keys
from sipc.selinux.changes import installation
from sipc.selinux.store import Store, Stored
from sipc.spec import ChannelSpec, Enforcement

FEED = "[channel.feed]\n"
EVIL = "(type evil_t)(roletype system_r evil_t)(typeattributeset domain (evil_t))(typepermissive evil_t)\n"
SEMODULE = shutil.which("semodule", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""
NOBODY = 65534


def semodule(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run semodule on a root's store, as an administrator would."""
    argv = [SEMODULE, "-p", str(root), "-s", "default", "-n", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)


def make(root: Path, places: list[Path], settings: str = "") -> Path:
    """An image whose policy has these modules and none of ours."""
    for folder in ("etc/selinux/default/policy", "etc/selinux/default/contexts/files",
                   "var/lib/selinux/default/active/modules"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "etc/selinux/config").write_text("SELINUXTYPE=default\n")
    (root / "etc/selinux/semanage.conf").write_text(f"module-store = direct\n{settings}")
    files = [part for place in places for path in sorted(place.glob("*.cil")) for part in ("-i", str(path))]
    done = semodule(root, "-X", "100", *files)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def pristine(small: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one, to copy."""
    return make(tmp_path_factory.mktemp("pristine"), small, "expand-check = 0\n")


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(pristine, tmp_path / "image", symlinks=True))


@pytest.fixture
def feed(tmp_path: Path) -> str:
    """One channel's definition."""
    path = tmp_path / "feed.toml"
    path.write_text(FEED)
    return str(path)


def held(root: Path) -> list[Stored]:
    """What the store holds."""
    return Store(root).read()


def ours(root: Path) -> dict[str, str]:
    """Our modules in force, and their texts."""
    return {module.name: module.text() for module in held(root) if module.kind and not module.why_not}


def in_its_place(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script before semodule; `$REAL` is the real one, `$LOG` a file."""
    folder.mkdir()
    program = folder / "semodule"
    program.write_text(f"#!/bin/sh\nREAL={SEMODULE} LOG={folder}/log\n{script}\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("check", [0, 1])
def test_channels_are_installed_into_all_of_debians_policy_checked_or_not(
    check: int, full: list[Path], tmp_path: Path, feed: str
) -> None:
    """Every module that Debian ships, `expand-check` as it ships and as libsemanage's authors meant it."""
    root = make(tmp_path / "image", full, f"expand-check = {check}\n")
    other = tmp_path / "chain.toml"
    other.write_text(
        '[channel.low]\nreceiver = { type = "filter_t" }\n[channel.high]\nsender = { type = "filter_t" }\n'
    )
    assert main(["policy", "install", feed, str(other), "--new", "filter_t", "--root", str(root)]) == 0
    assert set(ours(root)) == {"sipc", "sipc_feed", "sipc_low", "sipc_high", "sipc_end_filter"}
    assert main(["policy", "remove", "feed", "low", "high", "--root", str(root)]) == 0
    assert ours(root) == {}


@pytest.mark.parametrize("check", [0, 1])
def test_what_neverallow_forbids_is_refused_where_it_is_checked_and_never_proven(
    check: int, root: Path, tmp_path: Path, feed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ways round: the grant comes after the channel, and the channel after the grant."""
    (root / "etc/selinux/semanage.conf").write_text(f"module-store = direct\nexpand-check = {check}\n")
    argv = ["policy", "install", feed, "--root", str(root)]
    assert main(argv) == 0
    grant = tmp_path / "grant.cil"
    grant.write_text("(optional granted (allow sipc_feed_receiver_t sipc_feed_t (msgq (write))))\n")
    assert (semodule(root, "-i", str(grant)).returncode == 0) is (check == 0)
    assert main(["policy", "remove", "feed", "--root", str(root)]) == 0
    assert semodule(root, "-i", str(grant)).returncode == 0
    before = held(root)
    assert main(argv) == 1
    assert "is granted msgq write on sipc_feed_t" in capsys.readouterr().out
    assert held(root) == before
    assert main([*argv, "--unproven"]) == (4 if check else 0)
    assert ("neverallow check failed" in capsys.readouterr().err) is (check == 1)
    assert (held(root) == before) is (check == 1)


def test_all_modules_go_through_one_run_of_semodule(
    root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a kill between two of them finds the store as it was or as it is to be, and nothing else."""
    in_its_place(tmp_path / "bin", 'echo "$@" >>$LOG; exec $REAL "$@"', monkeypatch)
    assert main(["policy", "install", feed, "--root", str(root)]) == 0
    other = tmp_path / "other.toml"
    other.write_text('[channel.low]\nsender = { type = "filter_t" }\n')
    assert main(["policy", "install", str(other), "--remove", "feed", "--new", "filter_t", "--root", str(root)]) == 0
    first, second = (tmp_path / "bin/log").read_text().splitlines()
    assert (first.count(" -i "), first.count(" -r ")) == (2, 0)
    assert (second.count(" -i "), second.count(" -r ")) == (3, 1)
    assert set(ours(root)) == {"sipc", "sipc_low", "sipc_end_filter"}


@pytest.mark.parametrize("act", ["-i {evil}", "-d rsync"], ids=["a module", "a module less"])
def test_a_store_that_changed_after_the_proof_is_not_the_one_that_was_proven(
    act: str, root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Another program slips its change in just before ours: ours is taken back, the other's is its own affair."""
    evil = tmp_path / "evil.cil"
    evil.write_text(EVIL)
    script = f'[ -e $LOG ] || $REAL -p {root} -s default -n {act.format(evil=evil)}; : >>$LOG; exec $REAL "$@"'
    in_its_place(tmp_path / "bin", script, monkeypatch)
    assert main(["policy", "install", feed, "--root", str(root)]) == 4
    said = capsys.readouterr().err
    assert "since the proof" in said
    assert "nothing was changed" in said
    assert ours(root) == {}
    assert any(module.name == "evil" or (module.name == "rsync" and module.disabled) for module in held(root))
    assert main(["policy", "install", feed, "--root", str(root)]) == (1 if "evil" in act else 0)


def test_ours_switched_off_by_another_program_is_noticed(
    root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Success is said only when the modules are in force."""
    script = f'$REAL "$@" || exit; [ -e $LOG ] || $REAL -p {root} -s default -n -d sipc_feed; : >>$LOG'
    in_its_place(tmp_path / "bin", script, monkeypatch)
    assert main(["policy", "install", feed, "--root", str(root)]) == 4
    assert "another program changed sipc_feed" in capsys.readouterr().err
    assert ours(root) == {}


def test_ctrl_c_waits_for_the_store_to_be_whole(
    root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the middle of the transaction, to us and to semodule, and neither leaves it half done."""
    script = (  # in Python, which leaves a mask of signals as it is; a shell does not
        f"exec {sys.executable} -c 'import os, signal, sys\n"
        "for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    os.kill(os.getpid(), signum)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        'os.execv(sys.argv[1], sys.argv[1:])\' $REAL "$@"'
    )
    in_its_place(tmp_path / "bin", script, monkeypatch)
    assert main(["policy", "install", feed, "--root", str(root)]) == 130
    assert ours(root) == modules(FEED)


def test_what_can_not_be_put_back_is_said(
    root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not 'nothing was changed'."""
    script = '[ -e $LOG ] && { echo broken >&2; exit 1; }; $REAL "$@"; : >$LOG; echo no loading >&2; exit 1'
    in_its_place(tmp_path / "bin", script, monkeypatch)
    assert main(["policy", "install", feed, "--root", str(root)]) == 4
    said = capsys.readouterr().err
    assert "no loading; and it could NOT be undone (semodule refuses: broken)" in said
    assert "nothing was changed" not in said


def test_a_store_that_is_gone_is_said(
    root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill between libsemanage's two renames leaves none."""
    active = root / "var/lib/selinux/default/active"
    in_its_place(tmp_path / "bin", f"mv {active} {active.with_name('previous')}; echo killed >&2; exit 1", monkeypatch)
    assert main(["policy", "install", feed, "--root", str(root)]) == 4
    said = capsys.readouterr().err
    assert "killed" in said
    assert "'previous'" in said


def test_a_store_that_another_program_holds_is_left_alone(
    root: Path, feed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program gives up after five seconds, and its words come in one line."""
    before = held(root)
    with (root / "var/lib/selinux/default/semanage.trans.LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["policy", "install", feed, "--root", str(root), "--unproven"]) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "lock" in said
    assert said.endswith("nothing was changed\n")
    assert held(root) == before


def as_nobody(argv: list[str]) -> int:
    """Run a command in a child that gave up root; returns its exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            code = main(argv)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def shown(pristine: Path) -> Iterator[Path]:
    """An image outside of pytest's own directory, which others may not enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        image = Path(shutil.copytree(pristine, Path(folder, "image")))
        image.chmod(0o755)
        yield image


def test_without_the_rights_it_says_to_run_as_root(
    shown: Path, feed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A store is root's alone; one that may be read is not yet one that may be changed."""
    active = shown / "var/lib/selinux/default/active"
    active.chmod(0)
    for verb in (["list"], ["install", feed], ["remove", "feed"]):
        assert as_nobody(["policy", *verb, "--root", str(shown)]) == 4
        assert f"uid {os.geteuid() or NOBODY} may not read it: run it as root" in capfd.readouterr().err
    active.chmod(0o755)
    for path in active.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    active.chmod(0o555)
    assert as_nobody(["policy", "list", "--root", str(shown)]) == 0
    capfd.readouterr()
    for verb in (["install", feed], ["remove", "feed"]):
        assert as_nobody(["policy", *verb, "--root", str(shown)]) == 4
        assert "may not change this module store: run it as root" in capfd.readouterr().err
    for path in (active, *active.rglob("*")):
        path.chmod(0o755)


def test_settings_of_the_store_are_followed(
    small: list[Path], tmp_path: Path, feed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is (store-root), whether its files are packed (bzip-blocksize)."""
    image = tmp_path / "image"
    (image / "srv/stores/default/active/modules").mkdir(parents=True)
    make(image, small, "store-root = /srv/stores\nbzip-blocksize = 0\n")
    shutil.rmtree(image / "var")
    assert main(["policy", "install", feed, "--root", str(image)]) == 0
    assert ours(image) == modules(FEED)
    capsys.readouterr()
    assert main(["policy", "list", "--root", str(image), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["store"] == str(image / "srv/stores/default/active/modules")
    assert document["modules"][1] == {
        "name": "sipc_feed", "priority": 400, "kind": "channel", "channel": "feed",
        "ends": ["sipc_feed_sender_t", "sipc_feed_receiver_t"], "in_force": True, "why_not": None,
    }  # fmt: skip


def test_a_module_without_cil_is_no_module_left_out(root: Path, feed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A proof of a policy without it would be of another policy."""
    (root / "var/lib/selinux/default/active/modules/100/rsync/cil").unlink()
    assert main(["policy", "install", feed, "--root", str(root)]) == 4
    assert "module rsync of the store has no CIL" in capsys.readouterr().err


def test_a_channel_that_exists_keeps_its_policy_unless_it_is_revoked(
    root: Path, tmp_path: Path, feed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under modes alone it does not rely on one."""
    registry = tmp_path / "registry"
    registry.mkdir(mode=0o700)
    argv = ["policy", "remove", "feed", "--root", str(root), "--registry", str(registry)]

    def publish(enforcement: Enforcement) -> None:
        (spec,) = specs_of(f'{FEED}enforcement = "{enforcement}"\n')
        keys = Keys(queue="1", segment="2")
        descriptor = Descriptor(spec=spec, epoch=1, keys=keys, creator_uid=0, ipc_namespace=0, created=0)
        path = registry / "feed.json"
        path.write_text(descriptor.to_json())
        path.chmod(0o644)

    publish(Enforcement.SELINUX)
    assert main(["policy", "install", feed, "--root", str(root)]) == 0
    capsys.readouterr()
    assert main(argv) == 3
    assert "relies on this policy: run 'sipc destroy feed' first" in capsys.readouterr().err
    assert ours(root) == modules(FEED)
    assert main([*argv, "--revoke"]) == 0
    assert ours(root) == {}
    assert main(["policy", "install", feed, "--root", str(root)]) == 0
    publish(Enforcement.DAC)
    assert main(argv) == 0


def test_the_only_store_needs_no_name(tmp_path: Path) -> None:
    """Without a configuration file, as in an image that is being made; the host's own is never taken for it."""
    with pytest.raises(PolicyUnavailable, match="no module store"):
        Store(tmp_path)
    (tmp_path / "var/lib/selinux/targeted/active/modules").mkdir(parents=True)
    store = Store(tmp_path)
    assert (store.name, store.place) == ("targeted", ("-p", str(tmp_path), "-n", "-s", "targeted"))
    assert store.command("-B") == f"semodule -p {tmp_path} -n -s targeted -B"


def test_a_program_of_the_working_directory_is_not_run(
    root: Path, tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty PATH is not 'here', which it is to execvp(3) and to the shell."""
    in_its_place(tmp_path / "bin", ": >$LOG; exit 1", monkeypatch)
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", "")
    assert main(["policy", "install", feed, "--root", str(root), "--unproven"]) == 0
    assert not (tmp_path / "bin/log").exists()


def test_a_refusal_leaves_no_file_behind(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where temporary files are; what libsemanage keeps beside the store, its next run clears."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    spec = ChannelSpec(name="feed")
    store = Store(root)
    change = installation(store, store.read(), [spec], {"sipc": "(nonsense)\n"})
    with pytest.raises(Denied, match="nothing was changed"):
        store.apply(change, store.read(), proven=False)
    assert list((tmp_path / "temporary").iterdir()) == []
