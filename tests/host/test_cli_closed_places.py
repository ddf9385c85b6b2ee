# SPDX-License-Identifier: Apache-2.0
"""Places that the command line is given and that are closed to its user, full, or not there: named, with what to do.

Nothing half-written stays; and what can not be read ends in the same exit code as what is not there.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from tests.host.test_full_disk import on_a_small_disk
from tests.support.channels import make
from tests.support.cli import PROGRAM, sipc
from tests.support.users import User

from sipc.cli import main
from sipc.cli.exits import Exit
from sipc.errors import SpecError
from sipc.guard.example import write_example
from sipc.guard.observe import SYSTEM, places
from sipc.guard.places import default_state

pytestmark = pytest.mark.host

STRANGER = User(name="stranger", uid=4291, gid=4291)
# Where Python does not help itself to UTF-8 (PEP 538, PEP 540).
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
FULL = """
import subprocess, sys
from pathlib import Path
from sipc.cli import main
place = Path(sys.argv[1])
fill = place / "fill"
subprocess.run(["dd", "if=/dev/zero", f"of={fill}"], capture_output=True)
before = set(place.rglob("*"))
code = main([part.replace("PLACE", str(place)) for part in COMMAND])
print(code, sorted(str(path.relative_to(place)) for path in set(place.rglob("*")) - before if path.is_file()))
fill.unlink()
print(main([part.replace("PLACE", str(place)) for part in COMMAND]))
"""


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that all can reach, and in it a file, a directory and a definition that root alone can read."""
    assert os.geteuid() == 0, "these tests become other users: run them as root"
    place = Path(tempfile.mkdtemp(prefix="sipc-closed-"))
    place.chmod(0o755)
    (place / "file").write_text("[channel.feed]\n")
    (place / "file").chmod(0o600)
    (place / "dir").mkdir(mode=0o700)
    (place / "dir" / "feed.toml").write_text("[channel.feed]\n")
    (place / "open.toml").write_text("[channel.feed]\n")
    (place / "open.toml").chmod(0o644)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["guard", "check", "file"], Exit.BAD_INPUT),
        (["guard", "graph", "file"], Exit.BAD_INPUT),
        (["guard", "audit", "verify", "file"], Exit.BAD_INPUT),
        (["guard", "top", "--state", "dir"], Exit.BAD_INPUT),
        (["list", "--registry", "dir"], Exit.REFUSED),
        (["send", "feed", "file"], Exit.BAD_INPUT),
        (["explain", "-d", "open.toml", "file"], Exit.BAD_INPUT),
        (["policy", "generate", "file"], Exit.BAD_INPUT),
        (["policy", "generate", "dir"], Exit.BAD_INPUT),
        (["policy", "generate", "open.toml", "dir"], Exit.BAD_INPUT),
        (["policy", "generate", "open.toml", "--out", "dir"], Exit.BAD_INPUT),
        (["policy", "generate", "open.toml", "--out", "new"], Exit.BAD_INPUT),
        (["policy", "verify", "open.toml", "--policy", "file"], Exit.BAD_INPUT),
        (["policy", "verify", "open.toml", "--base", "dir"], Exit.BAD_INPUT),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_this_user_can_not_use_is_bad_input_and_no_usage(arguments: list[str], code: int, closed: Path) -> None:
    """The place, "Permission denied", and a next step; a folder that can not be read is not taken for an empty one."""
    paths = [str(closed / part) if part in ("file", "dir", "new", "open.toml") else part for part in arguments]
    with redirect_stdout(io.StringIO()):
        main(["--help"])  # what is imported late is root's, too

    def run() -> tuple[int, str]:
        with redirect_stderr(io.StringIO()) as words, redirect_stdout(io.StringIO()):
            return main(paths), words.getvalue()

    found, words = STRANGER.do(run)
    assert found == code, words
    named, _, then = words.partition("Permission denied")
    assert str(closed) in named
    assert len(then) > len(": name a")
    assert "usage" not in words.lower()


def test_what_is_only_replaced_need_not_be_readable(closed: Path) -> None:
    """A file that its owner may write and not read."""
    guard, mine = closed / "guard", closed / "mine"
    assert main(["guard", "init", str(guard)]) == 0
    mine.mkdir(mode=0o700)
    (mine / "target").write_text("old")
    (mine / "target").chmod(0o200)
    for path in (mine, mine / "target"):
        os.chown(path, STRANGER.uid, STRANGER.gid)
    arguments = ["guard", "graph", str(guard / "guard.toml"), "--json", "-o", str(mine / "target")]
    assert STRANGER.do(lambda: main(arguments)) in (Exit.OK, Exit.NO)
    assert (mine / "target").read_text().startswith("{")


def test_denials_without_a_definition_lead_to_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a host whose channels are guards', the usual folder is not there."""
    monkeypatch.setattr("sipc.cli.explain.DEFINITIONS", tmp_path / "none")
    assert main(["explain", str(tmp_path / "log")]) == Exit.BAD_INPUT
    assert capsys.readouterr().err.rstrip().endswith("give the files that define them with -d FILE")


@pytest.mark.parametrize("command", ["guard audit verify -", "explain -d {0}/feed.toml"])
@pytest.mark.parametrize(("redirection", "words"), [
    ("<&-", "sipc: standard input is closed: name a file, or redirect it\n"),
    ("0>/dev/null", "sipc: standard input: Bad file descriptor: redirect it from a file or a pipe\n"),
], ids=["closed", "only for writing"])  # fmt: skip
def test_a_standard_input_that_can_not_be_read_is_named(
    command: str, redirection: str, words: str, tmp_path: Path
) -> None:
    """Bad input, and no bug."""
    (tmp_path / "feed.toml").write_text("[channel.feed]\n")
    line = " ".join([*PROGRAM, command, redirection]).format(tmp_path)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (Exit.BAD_INPUT, words)


@pytest.mark.parametrize("command", [
    "explain -d {0}/feed.toml /dev/zero", "policy verify {0}/feed.toml --policy /dev/zero",
    "guard check {0}/guard.toml --policy /dev/zero", "guard graph {0}/guard.toml --policy /dev/zero",
])  # fmt: skip
def test_what_has_no_end_is_not_read(command: str, tmp_path: Path) -> None:
    """/dev/kmsg and /dev/zero: said at once, and not waited for, nor held in memory."""
    (tmp_path / "feed.toml").write_text("[channel.feed]\n")
    write_example(tmp_path)
    done = sipc(*command.format(tmp_path).split())
    assert done.returncode == Exit.BAD_INPUT
    assert "/dev/zero is a device, which has no end: " in done.stderr


def test_who_has_no_home_is_told_where_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number without an account, as in containers; guards of the system are seen all the same."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def look() -> tuple[str, list[Path]]:
        with pytest.raises(SpecError) as caught:
            default_state(os.environ)
        return str(caught.value), places(None)

    words, seen = STRANGER.do(look)
    assert words.startswith("uid 4291 has no home directory")
    assert "--state" in words
    assert seen == [SYSTEM]


def test_words_of_the_helpers_that_a_locale_has_not_are_no_bug(tmp_path: Path) -> None:
    """Its error, with the name spelled out, and its exit code."""
    done = sipc("create", tmp_path / "nö.toml", env=ASCII)
    assert done.returncode == Exit.BAD_INPUT
    assert "cannot be read (No such file or directory)" in done.stderr
    assert "\\xc3\\xb6" in done.stderr


@pytest.mark.parametrize("command", [
    ["guard", "init", "PLACE/g"],
    ["policy", "generate", "PLACE/../feed.toml", "--out", "PLACE/p"],
], ids=["init", "generate"])  # fmt: skip
def test_a_full_disk_leaves_no_half_file_and_the_next_try_has_no_trace_of_it(
    command: list[str], tmp_path: Path
) -> None:
    """Exit code 3 and no file; once there is room the same command does it."""
    (tmp_path / "feed.toml").write_text("[channel.feed]\n")
    lines = on_a_small_disk(tmp_path / "disk", "200k", FULL.replace("COMMAND", repr(command)))
    assert lines[0] == "3 []"
    assert lines[-1] == "0"


def test_a_full_disk_is_named_by_what_had_to_be_written(tmp_path: Path) -> None:
    """The registry, and a guard's state: not standard output, where nothing was wrong; and nothing is left of it."""
    (tmp_path / "feed.toml").write_text('[channel.feed]\nenforcement = "dac"\n')
    assert main(["guard", "init", str(tmp_path / "g")]) == 0
    script = """
import subprocess, sys
from pathlib import Path
place = Path(sys.argv[1])
subprocess.run(["dd", "if=/dev/zero", f"of={place}/fill"], capture_output=True)
for argv in (
    ["create", place / "../feed.toml", "--registry", place / "registry"],
    ["guard", "run", place / "../g/guard.toml", "--state", place / "state", "--registry", place / "../registry"],
):
    done = subprocess.run([sys.executable, "-m", "sipc.cli", *argv], capture_output=True, text=True)
    print(done.returncode, done.stderr.strip().replace(str(place), "PLACE"))
print([str(path.relative_to(place)) for path in place.rglob("*") if path.name == "channels.toml"])
"""
    created, ran, left = on_a_small_disk(tmp_path / "disk", "16k", script)
    assert created.startswith("4 sipc-helper: file operation on registry PLACE/registry: No space left on device: make")
    assert ran.startswith("4 sipc: write on PLACE/state/first/channels.toml: No space left on device: make room, or")
    assert left == "[]"


def test_what_can_not_be_said_to_standard_output_has_a_next_step(registry: Path) -> None:
    """The device that is always full."""
    make(registry, "c")
    line = " ".join([*PROGRAM, "list", "--registry", str(registry), ">/dev/full"])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == Exit.REFUSED
    assert done.stderr == "sipc: standard output: No space left on device: make room, or send it elsewhere\n"
