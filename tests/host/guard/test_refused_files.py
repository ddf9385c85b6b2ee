# SPDX-License-Identifier: Apache-2.0
"""What lies in a source's directory and can be no message: put out of the way, whole and told; the others go on."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.faults import Faults, at_every_step
from tests.support.users import User

from sipc.errors import SpecError, Timeout
from sipc.guard.sources import DirectorySource
from sipc.guard.verdicts import MessageId

pytestmark = pytest.mark.host

LIMIT = 1000
STAGE, WRITER = (User(name=str(uid), uid=uid, gid=uid) for uid in (64011, 64012))


def refused(folder: Path) -> dict[str, bytes]:
    """What lies there as refused: by reason and name, without the time."""
    names = [name for name in os.listdir(folder) if name.startswith(".refused-")]
    return {name.split("-", 2)[2]: (folder / name).read_bytes() for name in names}


@pytest.fixture
def open_spool() -> Iterator[Path]:
    """A spool of one user that another may fill."""
    assert os.geteuid() == 0, "these tests are of several users: run them as root"
    with tempfile.TemporaryDirectory(prefix="sipc-test-") as name:
        place = Path(name) / "spool"
        place.mkdir()
        Path(name).chmod(0o755)
        os.chown(place, STAGE.uid, WRITER.gid)
        place.chmod(0o770)
        yield place


def emptied(folder: Path) -> tuple[list[bytes], list[str]]:
    """All messages of a spool, and what was told."""
    told: list[str] = []
    found = []
    with DirectorySource(folder, max_message=LIMIT, report=told.append) as source:
        while True:
            try:
                found.append(source.take(0))
            except Timeout:
                return found, told
            source.done()


def test_a_file_that_is_too_large_is_put_out_of_the_way_and_the_next_comes(folder: Path) -> None:
    """Whole, with the reason in its name, and told; renamed back under a larger limit it is a message."""
    (folder / "a").write_bytes(bytes(LIMIT + 1))
    (folder / "b").write_bytes(b"b")
    found, told = emptied(folder)
    (kept,) = os.listdir(folder)
    assert found == [b"b"]
    (line,) = told
    assert line == (
        f"refused: {folder}/a has {LIMIT + 1} bytes, and a message may have {LIMIT}: take the file away, or raise "
        f"max_message of the channel; it is {kept} now"
    )
    assert refused(folder) == {"too-large-a": bytes(LIMIT + 1)}
    assert emptied(folder) == ([], [f"spool {folder} has 1 of .refused-*, refused before: look why, or take them away"])
    (folder / kept).rename(folder / "a")
    with DirectorySource(folder, max_message=LIMIT + 1) as source:
        assert source.take(0) == bytes(LIMIT + 1)


def test_a_file_that_may_not_be_read_does_not_stop_the_others(open_spool: Path) -> None:
    """By its mode: whoever may put a file there could else stop the source with one."""

    def fill() -> None:
        for name in "abc":
            (open_spool / name).write_text(name)
            (open_spool / name).chmod(0o000 if name == "b" else 0o644)

    WRITER.do(fill)
    found, told = STAGE.do(lambda: emptied(open_spool))
    assert found == [b"a", b"c"]
    assert refused(open_spool) == {"unreadable-b": b"b"}
    (line,) = told
    assert line.startswith(
        f"refused: open on {open_spool}/b: Permission denied: this user must be allowed to read what is put there "
    )


def test_a_lease_does_not_stop_the_others(open_spool: Path) -> None:
    """Opening a file whose owner has a lease on it would wait for him."""

    def lease() -> bool:
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        fd = os.open(open_spool / "a", os.O_RDWR | os.O_CREAT, 0o644)
        os.write(fd, b"a")
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        (open_spool / "b").write_text("b")
        (open_spool / "b").chmod(0o644)
        signal.sigwait([signal.SIGTERM])
        return True

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        writer = WRITER.run(lease)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    while not (open_spool / "b").exists():
        assert not writer.done()
    found, _ = STAGE.do(lambda: emptied(open_spool))
    assert found == [b"b"]
    os.kill(writer.pid, signal.SIGTERM)
    assert writer.result()
    assert refused(open_spool) == {"unreadable-a": b"a"}


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "socket"])
def test_what_is_put_in_the_place_of_the_file_in_hand_does_not_stop_the_others(folder: Path, kind: str) -> None:
    """By who may rename there; it is not opened, waited for, or followed."""
    (folder / "b").write_text("b")
    taken = folder / ".taken"
    if kind == "folder":
        taken.mkdir()
    elif kind == "link":
        taken.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(taken)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(taken))
    found, told = emptied(folder)
    assert found == [b"b"]
    (kept,) = os.listdir(folder)
    assert kept.startswith(".refused-")
    assert kept.endswith("-taken")
    assert told[0].startswith("refused: ")


def test_odd_names_are_told_in_one_printable_line_and_kept(folder: Path) -> None:
    """A line end, a terminal's escape, no UTF-8, as long as can be; of a name that would be too long the beginning."""
    names = [b"a\n\x1b[2J", b"b\xff\xfe", b"c" * 255]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(bytes(LIMIT + 1))
    (folder / os.fsdecode(b"d\x1b\xff")).mkdir()
    found, told = emptied(folder)
    assert found == []
    assert len(told) == 4
    assert all(line.isprintable() for line in told)
    assert sorted(map(len, refused(folder).values())) == [LIMIT + 1] * 3
    assert max(len(os.fsencode(name)) for name in os.listdir(folder)) == 255


def test_what_was_perhaps_sent_is_not_put_out_of_the_way(folder: Path) -> None:
    """Its intent was noted: the successor, which knows what was sent, must find it."""
    identity = MessageId(epoch=1, seq=1)
    (folder / f".taken-{identity.name}").write_bytes(bytes(LIMIT + 1))
    with DirectorySource(folder, max_message=LIMIT) as source, pytest.raises(SpecError, match="raise max_message"):
        source.take(0)
    assert os.listdir(folder) == [f".taken-{identity.name}"]


def test_a_killed_source_loses_no_file_that_it_refuses(faults: Faults, folder: Path) -> None:
    """Killed at every step, it is in the spool or put out of the way; once, and whole."""

    def empty() -> int:
        emptied(folder)
        return 0

    def fill() -> None:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        (folder / "a").write_bytes(bytes(LIMIT + 1))

    def check(whole: bool) -> None:
        if not whole:
            empty()
        assert refused(folder) == {"too-large-a": bytes(LIMIT + 1)}
        assert len(os.listdir(folder)) == 1
        fill()

    fill()
    empty()
    fill()
    assert at_every_step(faults, empty, check) > 5
