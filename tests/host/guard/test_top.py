# SPDX-License-Identifier: Apache-2.0
"""`sipc guard top` and `sipc guard metrics` as their users run them: on a terminal, in a pipe, for a collector."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.cli import LONGEST, PROGRAM, sipc
from tests.support.statuses import channel, publish, written

pytestmark = pytest.mark.host

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two stages of one guard."""
    publish(tmp_path, "json", "scrub", written())
    publish(tmp_path, "json", "ingest", written(stage="ingest", kind="source", channels={"raw": channel("out")}))
    return tmp_path


class Screen:
    """The other side of the command's terminal."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self.text = ""

    def until(self, done: Callable[[str], bool]) -> str:
        """Read until what came since the last time has what is wanted; returns it."""
        deadline = time.monotonic() + LONGEST
        while not done(self.text):
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.text
            try:
                piece = os.read(self.master, 1 << 16)
            except OSError:  # the other side is closed
                piece = b""
            assert piece, self.text
            self.text += piece.decode()
        found, self.text = self.text, ""
        return found

    def resize(self, rows: int, columns: int) -> None:
        """Another size; the kernel tells the process group in front."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def terminal(
    *arguments: str | Path, rows: int = 24, columns: int = 100, shell: tuple[str, ...] = ()
) -> Iterator[Screen]:
    """The command in front of a terminal of its own; or a shell that starts it."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def in_front() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*shell, *PROGRAM, "guard", "top", *map(str, arguments)], stdin=slave, stdout=slave, stderr=subprocess.PIPE,
        preexec_fn=in_front, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    try:
        with process:
            try:
                yield Screen(master, process)
            finally:
                process.kill()
    finally:
        os.close(master)


def page(text: str) -> list[str]:
    """The lines of the last page that was drawn."""
    last = text.split("\x1b[H")[-2]
    return [re.sub(r"\x1b\[[KJ]|\r", "", line) for line in last.split("\n")]


def drawn(text: str) -> bool:
    """Whether a whole page came: it ends where it began."""
    return text.endswith("\x1b[H") and text.count("\x1b[H") % 2 == 0


def test_it_is_drawn_again_and_again_and_left_in_order(place: Path) -> None:
    """On the alternate screen, without the cursor; Ctrl-C gives both back, and is no failure."""
    with terminal("--state", place, "--interval", "0.1") as screen:
        first = screen.until(drawn)
        assert first.startswith(ENTER)
        assert any(line.startswith("scrub  ") for line in page(first))
        publish(place, "json", "scrub", written(state="full", updated=1_700_000_002.0))
        screen.until(lambda text: "full" in text and drawn(text))
        os.write(screen.master, b"\x03")
        assert screen.until(lambda text: LEAVE in text).endswith(LEAVE)
        assert screen.process.wait(LONGEST) == 0
        assert screen.process.stderr is not None
        assert screen.process.stderr.read() == b""


def test_speeds_come_with_the_second_look(place: Path) -> None:
    """A channel that moves has one."""
    with terminal("--state", place, "--interval", "0.1") as screen:
        screen.until(drawn)
        raw = channel("in", messages=20, bytes=2000)
        publish(place, "json", "scrub", written(updated=1_700_000_001.5, channels={"raw": raw}))
        text = screen.until(lambda text: "2.0 KiB" in text and drawn(text))
        assert re.search(r"raw +in +scrub +20 +20\.0 +2\.0 KiB", text)


def test_it_fits_the_window_whatever_size_that_gets(place: Path) -> None:
    """Too long lines and too many lines are cut, at once when the window changes."""
    with terminal("--state", place, "--interval", "3600", rows=24, columns=100) as screen:
        assert len(page(screen.until(drawn))) <= 24
        for rows, columns in ((6, 40), (3, 20), (40, 200), (1, 1)):
            screen.resize(rows, columns)
            lines = page(screen.until(drawn))
            assert len(lines) <= rows
            assert all(len(line) <= columns for line in lines)
            if rows == 6:
                assert "more lines" in lines[-1]
            if rows == 40:
                assert any("QUARANTINE" in line for line in lines)


def test_stopped_and_continued_the_terminal_is_given_back_meanwhile(place: Path) -> None:
    """Ctrl-Z leaves the alternate screen; fg comes back to it, and draws at once."""
    shell = ("sh", "-m", "-c", '"$@"; echo stopped; read line; fg >/dev/null', "sh")
    with terminal("--state", place, "--interval", "3600", shell=shell) as screen:
        screen.until(drawn)
        os.write(screen.master, b"\x1a")
        assert LEAVE in screen.until(lambda text: "stopped" in text).partition("stopped")[0]
        os.write(screen.master, b"\n")
        again = screen.until(lambda text: ENTER in text and drawn(text))
        assert any(line.startswith("scrub  ") for line in page(again))
        os.write(screen.master, b"\x03")
        screen.until(lambda text: LEAVE in text)
        assert screen.process.wait(LONGEST) == 0


def test_terminated_it_gives_the_terminal_back(place: Path) -> None:
    """A signal from elsewhere is told by the exit code."""
    with terminal("--state", place, "--interval", "3600") as screen:
        screen.until(drawn)
        screen.process.send_signal(signal.SIGTERM)
        screen.until(lambda text: LEAVE in text)
        assert screen.process.wait(LONGEST) == 130


def test_quit_by_the_keyboard_it_gives_the_terminal_back(place: Path) -> None:
    """SIGQUIT ends it as it ends anything."""
    with terminal("--state", place, "--interval", "3600") as screen:
        screen.until(drawn)
        os.write(screen.master, b"\x1c")
        screen.until(lambda text: LEAVE in text)
        assert screen.process.wait(LONGEST) == -signal.SIGQUIT


def test_a_guard_that_goes_away_is_told_and_comes_again(place: Path) -> None:
    """The view does not end with it."""
    with terminal("json", "--state", place, "--interval", "0.1") as screen:
        screen.until(drawn)
        (place / "json").rename(place / "gone")
        screen.until(lambda text: "guard 'json' has published nothing" in text and drawn(text))
        (place / "gone").rename(place / "json")
        screen.until(lambda text: "running" in text and drawn(text))


def test_a_terminal_that_is_gone_ends_it(place: Path) -> None:
    """Nobody looks any more."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "guard", "top", "--state", str(place), "--interval", "0.1"], stdin=slave, stdout=slave,
        stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(slave)
        assert os.read(master, 1 << 16)
        os.close(master)
        assert process.wait(LONGEST) in (1, 4)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("arguments", [[], ["--once"], ["json"]])
def test_without_a_terminal_it_is_one_table(place: Path, arguments: list[str]) -> None:
    """For a pipe, a file, a mail: text, and an end."""
    done = sipc("guard", "top", *arguments, "--state", place, "--interval", "0.1")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert (lines[0], lines[1].split()[0], done.stderr) == ("guard json", "STAGE", "")
    assert "\x1b" not in done.stdout


def test_with_standard_output_closed_it_ends_in_order(place: Path) -> None:
    """Nobody reads it, as with every other command."""
    line = " ".join([*PROGRAM, "guard", "top", "--state", str(place), "--interval", "0.1", ">&-"])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=LONGEST)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_a_screen_gets_one_table(place: Path) -> None:
    """TERM=dumb, and --once on any."""
    with terminal("--once", "--state", place, "--interval", "0.1") as screen:
        text = screen.until(lambda text: "raw" in text and text.endswith("\n"))
        assert "\x1b" not in text


def test_as_json_it_is_one_object(place: Path) -> None:
    """On one line."""
    done = sipc("guard", "top", "--json", "--state", place, "--interval", "0.1")
    document = json.loads(done.stdout)
    assert document["version"] == 1
    assert [stage["stage"] for stage in document["stages"]] == ["ingest", "scrub"]
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("command", ["top", "metrics"])
@pytest.mark.parametrize("arguments", [["other"], ["../json"], ["--state", "/nowhere"]])
def test_nothing_to_show_is_no_answer(place: Path, command: str, arguments: list[str]) -> None:
    """Exit code 3, and why."""
    where = [] if "--state" in arguments else ["--state", str(place)]
    done = sipc("guard", command, *arguments, *where)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("sipc: ")


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "x", "1e9"])
def test_an_interval_is_a_time_between_looks(place: Path, interval: str) -> None:
    """Neither none nor for ever."""
    assert sipc("guard", "top", "--state", place, "--interval", interval).returncode == 2


def test_metrics_for_a_collector_are_written_whole(place: Path, tmp_path: Path) -> None:
    """Readable by the collector; one that was there stays when there is nothing to write."""
    folder = tmp_path / "collector"
    folder.mkdir()
    out = folder / "sipc.prom"
    assert sipc("guard", "metrics", "-o", out, "--state", place).returncode == 0
    text = out.read_text()
    assert 'sipc_guard_channel_messages_total{guard="json",stage="scrub",channel="raw",direction="in"} 10\n' in text
    assert text == sipc("guard", "metrics", "json", "--state", place).stdout
    assert stat.S_IMODE(out.stat().st_mode) == 0o644
    assert sipc("guard", "metrics", "other", "-o", out, "--state", place).returncode == 3
    assert out.read_text() == text
    assert os.listdir(folder) == ["sipc.prom"]
    assert sipc("guard", "metrics", "-o", tmp_path / "none/x.prom", "--state", place).returncode == 3


def same(found: os.stat_result) -> tuple[int, ...]:
    """What another file would not have alike; not when it was looked at."""
    return found.st_ino, found.st_dev, found.st_mode, found.st_rdev, found.st_mtime_ns


@pytest.mark.parametrize("kind", ["pipe", "link", "link to nothing", "device"])
def test_what_is_no_plain_file_is_not_replaced(place: Path, tmp_path: Path, kind: str) -> None:
    """`-o /dev/null` of root took the machine's /dev/null away."""
    out = tmp_path / "out"
    (tmp_path / "other").write_text("other\n")
    if kind == "pipe":
        os.mkfifo(out)
    elif kind == "device":
        os.mknod(out, stat.S_IFCHR | 0o600, Path(os.devnull).stat().st_rdev)
    else:
        out.symlink_to("other" if kind == "link" else "nothing")
    before, names = same(out.lstat()), os.listdir(tmp_path)
    done = sipc("guard", "metrics", "-o", out, "--state", place)
    assert done.returncode == 3
    assert done.stderr == (
        f"sipc: {out} is no plain file, and would be replaced by one: name another, or standard output\n"
    )
    assert same(out.lstat()) == before
    assert os.listdir(tmp_path) == names
    assert (tmp_path / "other").read_text() == "other\n"


def test_readers_of_the_file_never_see_half_of_it(place: Path, tmp_path: Path) -> None:
    """The name goes from the old file to the new one in one step."""
    out = tmp_path / "sipc.prom"
    out.write_text("old\n")
    with out.open() as held:
        assert sipc("guard", "metrics", "-o", out, "--state", place).returncode == 0
        assert held.read() == "old\n"
    assert out.read_text().startswith("# HELP ")
