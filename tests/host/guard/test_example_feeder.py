# SPDX-License-Identifier: Apache-2.0
"""The feeder of the log diode: each line of a log in the spool once, in whole files, whatever happens to either."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples.log_diode import feeder
from tests.support.faults import Faults, at_every_step

from sipc.guard.sources import DirectorySource
from sipc.watch import watching

pytestmark = pytest.mark.host

PROGRAM = Path(feeder.__file__)


def once(log: Path, spool: Path) -> int:
    feeder.follow(log, feeder.Spool(spool), once=True)
    return 0


def batches(spool: Path) -> list[bytes]:
    """What the guard would take: visible names, in their order."""
    return [(spool / name).read_bytes() for name in sorted(os.listdir(spool)) if not name.startswith(".")]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "app.log"


def wait_for(folder: Path, reached: Callable[[], bool]) -> None:
    """Until something that happens in the directory makes it true."""
    while not reached():
        with watching([folder]) as fd:
            if reached():
                return
            assert select.select([fd], [], [], 60)[0], os.listdir(folder)


@pytest.fixture
def running(folder: Path, log: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """The program itself, on a log or (`-`) on its standard input; ended afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def run(source: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, PROGRAM, source, folder], stdin=subprocess.PIPE)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_a_log_is_read_on_from_where_it_was(log: Path, folder: Path) -> None:
    """Whole lines only; the rest of a line comes when it has an end."""
    log.write_bytes(b"one\ntwo\nthr")
    once(log, folder)
    assert batches(folder) == [b"one\ntwo\n"]
    once(log, folder)
    assert batches(folder) == [b"one\ntwo\n"]
    with log.open("ab") as file:
        file.write(b"ee\nfour\n")
    once(log, folder)
    assert batches(folder) == [b"one\ntwo\n", b"three\nfour\n"]


def test_batches_are_whole_lines_and_bounded(log: Path, folder: Path) -> None:
    """However much there is at once; a line longer than a batch is broken, and not one byte is missing."""
    lines = b"".join(b"line %d\n" % number for number in range(30_000))
    log.write_bytes(lines + b"x" * (3 * feeder.BATCH) + b"\n" + lines)
    once(log, folder)
    found = batches(folder)
    assert all(len(batch) <= feeder.BATCH + 1 and batch.endswith(b"\n") for batch in found)
    assert b"".join(found).replace(b"\n", b"") == log.read_bytes().replace(b"\n", b"")


def test_the_rest_of_a_rotated_log_comes_first(log: Path, folder: Path) -> None:
    """Renamed away while nothing ran; its last line gets the end that it never had."""
    log.write_bytes(b"one\n")
    once(log, folder)
    with log.open("ab") as file:
        file.write(b"two\nthree")
    log.rename(log.with_name("app.log.1"))
    once(log, folder)
    log.write_bytes(b"four\n")
    once(log, folder)
    log.write_bytes(b"four\nfive\n")
    once(log, folder)
    assert b"".join(batches(folder)) == b"one\ntwo\nthree\nfour\nfive\n"


def test_a_log_that_was_emptied_in_place_begins_again(log: Path, folder: Path) -> None:
    """As logrotate's copytruncate leaves it."""
    log.write_bytes(b"one\ntwo\n")
    once(log, folder)
    os.truncate(log, 0)
    once(log, folder)
    log.write_bytes(b"new\n")
    once(log, folder)
    assert batches(folder) == [b"one\ntwo\n", b"new\n"]


def test_what_only_looks_like_a_rotated_log_is_not_read(log: Path, folder: Path) -> None:
    """A pipe beside the log does not hold up anything, and another file is not the log."""
    log.write_bytes(b"one\n")
    once(log, folder)
    os.mkfifo(log.with_name("app.log.pipe"))
    log.with_name("app.log.old").write_bytes(b"another\n")
    log.unlink()
    log.with_name("new").write_bytes(b"two\n")
    log.with_name("new").rename(log)
    once(log, folder)
    assert b"another\n" not in b"".join(batches(folder))


def test_killed_at_any_step_it_neither_loses_nor_repeats_a_line(
    faults: Faults, log: Path, folder: Path, tmp_path: Path
) -> None:
    """Over a rotation, and while the guard takes the batches away."""
    taken: list[bytes] = []

    def take() -> None:
        for name in sorted(os.listdir(folder)):
            if not name.startswith("."):
                taken.append((folder / name).read_bytes())
                (folder / name).unlink()

    def prepare() -> None:
        shutil.rmtree(log.parent)
        log.parent.mkdir()
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        taken.clear()
        log.write_bytes(b"one\n")
        once(log, folder)
        with log.open("ab") as file:
            file.write(b"two\n")
        log.rename(log.with_name("app.log.1"))
        log.write_bytes(b"three\n")

    def check(whole: bool) -> None:
        take()
        if not whole:
            once(log, folder)
            take()
        assert b"".join(taken) == b"one\ntwo\nthree\n"
        assert [name for name in os.listdir(folder) if not name.startswith(feeder._STATE)] == []
        prepare()

    prepare()
    assert at_every_step(faults, lambda: once(log, folder), check) > 30


def test_it_follows_a_log_through_rotations(
    log: Path, folder: Path, running: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """As a process, beside a writer that rotates; the source of a guard's stage takes what comes."""
    process = running(str(log))
    expected = bytearray()
    got = bytearray()
    with DirectorySource(folder, max_message=1 << 20) as source:
        for turn in range(5):
            with log.open("ab") as file:
                for number in range(100):
                    line = b"turn %d line %d\n" % (turn, number)
                    file.write(line)
                    expected += line
            while len(got) < len(expected):
                data = source.take(60)
                assert data.endswith(b"\n")
                got += data
                source.done()
            log.rename(log.with_name(f"app.log.{turn}"))
    assert got == expected
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_it_reads_a_stream_to_its_end(folder: Path, running: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """As from `journalctl -f`: what came is published while the stream is open, the rest when it ends."""
    process = running("-")
    assert process.stdin is not None
    process.stdin.write(b"one\ntwo\nthr")
    process.stdin.flush()
    wait_for(folder, lambda: batches(folder) != [])
    assert b"".join(batches(folder)) == b"one\ntwo\n"
    process.stdin.write(b"ee\n" + b"y" * (2 * feeder.BATCH) + b"\nlast")
    process.stdin.close()
    assert process.wait(60) == 0
    found = batches(folder)
    assert all(batch.endswith(b"\n") and len(batch) <= feeder.BATCH + 1 for batch in found)
    assert b"".join(found).replace(b"\n", b"") == b"onetwothree" + b"y" * (2 * feeder.BATCH) + b"last"
    process.stdin = None


def test_a_stream_goes_on_in_the_same_spool(folder: Path) -> None:
    """Numbers are never used again, so the guard takes batches in the order in which they came."""
    for text in (b"one\n", b"two\n", b"three\n"):
        subprocess.run([sys.executable, PROGRAM, "-", folder], input=text, check=True, timeout=60)
    assert batches(folder) == [b"one\n", b"two\n", b"three\n"]
