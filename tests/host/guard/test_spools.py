# SPDX-License-Identifier: Apache-2.0
"""Sources and sinks: in order, whole, and exactly once, also when the process is killed at any step."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
from pathlib import Path

import pytest
from tests.support.channels import Child
from tests.support.faults import Faults, at_every_step, with_every_failure

from sipc.errors import Broken, Closed, EndOfStream, KernelError, SpecError, Timeout
from sipc.guard.framing import message
from sipc.guard.sinks import DirectorySink, FileSink, StreamSink
from sipc.guard.sources import DirectorySource, FileSource, StreamSource
from sipc.guard.verdicts import MessageId

pytestmark = pytest.mark.host

LIMIT = 100_000
EPOCH = 0xABCD


def identity(seq: int, record: int = 0) -> MessageId:
    return MessageId(epoch=EPOCH, seq=seq, record=record)


# -- a spool to read from


def spool(folder: Path) -> DirectorySource:
    return DirectorySource(folder, max_message=LIMIT)


def test_files_come_in_the_order_of_their_names_and_go_when_done(folder: Path) -> None:
    """Whatever the order in which they were put there; not before."""
    names = ["10", "2", "a", "B", "a.json", "z", "é"]
    for name in reversed(names):
        (folder / name).write_text(name)
    with spool(folder) as source:
        for name in sorted(names):
            assert source.take(0) == name.encode()
            assert source.take(0) == name.encode()
            assert not (folder / name).exists()
            assert (folder / ".taken").read_text() == name
            source.done()
            source.done()
        with pytest.raises(Timeout):
            source.take(0)
    assert os.listdir(folder) == []


def test_a_file_that_is_not_done_comes_again_first(folder: Path) -> None:
    """To the next process, before all others, although a file of its name came meanwhile."""
    (folder / "b").write_text("first b")
    with spool(folder) as source:
        assert source.take() == b"first b"
    (folder / "b").write_text("second b")
    (folder / "a").write_text("a")
    with spool(folder) as source:
        got = []
        for _ in range(3):
            got.append(source.take(0))
            source.done()
    assert got == [b"first b", b"a", b"second b"]


def test_only_what_was_renamed_into_place_is_a_message(folder: Path) -> None:
    """Hidden names are being written; directories, links, pipes and devices are no messages, and are named."""
    (folder / ".hidden").write_text("half")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    with spool(folder) as source:
        with pytest.raises(Timeout):
            source.take(0)
        assert source.skipped == {"folder", "link", "pipe"}
        (folder / ".hidden").rename(folder / "ready")
        assert source.take(0) == b"half"
        source.done()
    assert sorted(os.listdir(folder)) == ["folder", "link", "pipe"]


def test_a_wait_ends_when_a_file_is_moved_in(folder: Path, tmp_path: Path) -> None:
    """Without polling, and not by one that is still being written."""

    def wait() -> bytes:
        with spool(folder) as source:
            (tmp_path / "waiting").touch()
            return source.take(60)

    child = Child(wait)
    while not (tmp_path / "waiting").exists():
        assert not child.done()
    (folder / ".half").write_text("half")
    (tmp_path / "whole").write_text("whole")
    (tmp_path / "whole").rename(folder / "whole")
    assert child.result() == b"whole"


def test_a_file_that_grows_while_it_is_read_is_no_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer did not rename it when it was whole; it is kept, to be renamed back when it is."""
    (folder / "a").write_text("begin")
    (folder / "b").write_text("b")
    read = os.read

    def slow(fd: int, size: int) -> bytes:
        piece = read(fd, size)
        if piece == b"begin":
            with (folder / ".taken").open("a") as file:
                file.write(" and go on")
        return piece

    monkeypatch.setattr(os, "read", slow)
    with spool(folder) as source:
        assert source.take(0) == b"b"
        source.done()
    (kept,) = os.listdir(folder)
    assert kept.endswith("-changing-a")
    assert (folder / kept).read_text() == "begin and go on"


def test_a_killed_source_neither_loses_nor_repeats_a_file(faults: Faults, folder: Path, tmp_path: Path) -> None:
    """Killed at every step of taking, noting, sending and letting go: what was sent is each file once."""
    sent = tmp_path / "sent"

    def stage() -> int:
        with DirectorySource(folder, max_message=LIMIT) as source:
            while True:
                last = sent.read_bytes().count(b"\n") if sent.exists() else 0  # what a sender knows of itself
                if source.intended is not None and source.intended.seq <= last:
                    source.done()
                try:
                    data = source.take(0)
                except Timeout:
                    return 0
                source.intend(identity(last + 1))
                fd = os.open(sent, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                os.write(fd, data + b"\n")
                os.close(fd)
                source.done()

    def fill() -> None:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        sent.unlink(missing_ok=True)
        for name in "ab":
            (folder / name).write_text(name)

    def check(whole: bool) -> None:
        if not whole:
            assert stage() == 0
        assert sent.read_bytes() == b"a\nb\n"
        assert os.listdir(folder) == []
        fill()

    fill()
    stage()
    fill()
    assert at_every_step(faults, stage, check) > 20


def test_two_files_in_hand_are_nobodys_work(folder: Path) -> None:
    """Refused with both names: one of them would be sent under the other's number."""
    (folder / ".taken").touch()
    (folder / f".taken-{identity(1).name}").touch()
    with pytest.raises(SpecError, match="one file can be in hand"):
        spool(folder)


def test_a_source_that_is_no_directory_is_refused(folder: Path) -> None:
    """Nor a link to one."""
    (folder / "link").symlink_to(folder)
    for name in ("absent", "link"):
        with pytest.raises(SpecError, match=name):
            spool(folder / name)
    with spool(folder) as source, pytest.raises(SpecError, match="no message is in hand"):
        source.intend(identity(1))


# -- other sources


def test_a_file_is_one_message(folder: Path) -> None:
    """Again until it is done, then the stream is over; the file stays."""
    (folder / "f").write_bytes(b"content")
    with FileSource(folder / "f", max_message=LIMIT) as source:
        assert source.take() == source.take(0) == b"content"
        source.done()
        with pytest.raises(EndOfStream):
            source.take()
    assert (folder / "f").exists()
    with pytest.raises(SpecError, match="and a message may have 3"):
        FileSource(folder / "f", max_message=3).take()
    os.mkfifo(folder / "pipe")
    with pytest.raises(SpecError, match="not a plain file"):
        FileSource(folder / "pipe", max_message=LIMIT).take()
    with pytest.raises(KernelError, match="absent"):
        FileSource(folder / "absent", max_message=LIMIT).take()


def test_a_stream_ends_in_order_or_was_cut() -> None:
    """Between frames it ends; within one it is `Broken`, as is a frame that is too large."""
    for stream, end in (
        (message(b"a") + message(b""), EndOfStream),
        (message(b"a") + message(b"") + b"\1", Broken),
        (message(b"a") + message(b"") + message(bytes(LIMIT + 1))[:4], Broken),
    ):
        reading, writing = os.pipe()
        source = StreamSource(reading, max_message=LIMIT)
        with pytest.raises(Timeout):
            source.take(0.01)
        os.write(writing, stream)
        os.close(writing)
        assert source.take() == source.take() == b"a"
        source.done()
        assert source.take() == b""
        source.done()
        with pytest.raises(end):
            source.take()
        os.close(reading)


def test_what_has_come_behind_a_message_comes_with_it() -> None:
    """Nobody waits for more; limits hold; what is wrong is said in its turn, and nothing before it is lost."""
    reading, writing = os.pipe()
    source = StreamSource(reading, max_message=LIMIT)
    os.write(writing, b"".join(message(b"%d" % number) for number in range(6)) + message(b"half")[:5])
    assert source.take() == b"0"
    assert source.take_behind(1 << 20, 2) == [b"1", b"2"]
    source.done()
    assert source.take() == b"3"
    assert source.take_behind(1 << 20, 9) == [b"4", b"5"]
    source.done()
    os.write(writing, b"alf" + message(b"x") + struct.pack("<I", LIMIT + 1))
    os.close(writing)
    assert source.take() == b"half"
    assert source.take_behind(1 << 20, 9) == [b"x"]
    source.done()
    with pytest.raises(Broken, match="no stream of frames"):
        source.take()
    os.close(reading)


def test_what_one_stream_writes_another_reads() -> None:
    """Frames of any size, through a pipe; and a reader that goes is said so."""
    reading, writing = os.pipe()
    messages = [os.urandom(size) for size in (0, 1, 70_000, 99_999)]

    def write() -> None:
        os.close(reading)
        sink = StreamSink(writing)
        sink.put(messages[0], identity(0))
        sink.put_all(messages[1:])

    child = Child(write)
    os.close(writing)
    source, got = StreamSource(reading, max_message=LIMIT), []
    with pytest.raises(EndOfStream):
        while True:
            got.append(source.take())
            source.done()
    child.result()
    os.close(reading)
    assert got == messages
    reading, writing = os.pipe()
    os.close(reading)
    sink = StreamSink(writing)
    for _ in range(2):
        with pytest.raises(Broken):
            sink.put(b"x", identity(1))
    os.close(writing)


# -- a spool to write to


class Reader:
    """Who empties the spool: everything it ever saw."""

    def __init__(self, folder: Path, *, takes: bool) -> None:
        self.folder, self.takes = folder, takes
        self.seen: list[tuple[str, bytes]] = []

    def look(self) -> None:
        for path in sorted(path for path in self.folder.iterdir() if not path.name.startswith(".")):
            entry = (path.name, path.read_bytes())
            if self.takes or entry not in self.seen:
                self.seen.append(entry)
            if self.takes:
                path.unlink()


FIRST, SECOND = os.urandom(5000), os.urandom(90_000)
EXPECTED = [(f"{identity(1).name}.bin", FIRST), (f"{identity(2).name}.bin", SECOND)]


def fresh(folder: Path) -> None:
    """A spool with one message."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    with DirectorySink(folder, suffix=".bin") as sink:
        sink.put(FIRST, identity(1))


def put_second(folder: Path) -> int:
    with DirectorySink(folder, suffix=".bin") as sink:
        sink.put(SECOND, identity(2))
    return 0


@pytest.mark.parametrize("takes", [False, True], ids=["stays", "taken"])
def test_a_killed_sink_publishes_whole_and_exactly_once(takes: bool, faults: Faults, folder: Path) -> None:
    """Killed at every step, put again: the reader saw each message once, whole, also when it takes them away."""
    reader = Reader(folder, takes=takes)

    def check(whole: bool) -> None:
        del whole
        reader.look()
        put_second(folder)
        reader.look()
        put_second(folder)
        reader.look()
        assert reader.seen == EXPECTED
        assert sorted(n for n in os.listdir(folder) if n.startswith(".")) == [f".last-{identity(2).name}"]
        again()

    def again() -> None:
        nonlocal reader
        fresh(folder)
        reader = Reader(folder, takes=takes)
        reader.look()

    again()
    assert at_every_step(faults, lambda: put_second(folder), check) > 10


def test_a_message_that_was_published_already_is_on_disk_too(faults: Faults, folder: Path) -> None:
    """Killed after the rename and before the directory was synced: the next one, who finds it, syncs that."""
    fresh(folder)
    first, again = faults.act(lambda: put_second(folder)), faults.act(lambda: put_second(folder))
    assert (first.calls.count("fsync"), again.calls.count("fsync")) == (2, 1)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failing_disk_publishes_nothing_or_all_and_is_told(code: int, faults: Faults, folder: Path) -> None:
    """Every call fails in turn: an error of ours, and putting it again sets it right."""
    reader = Reader(folder, takes=False)

    def check(well: bool) -> None:
        reader.look()
        if well:
            assert reader.seen == EXPECTED
        put_second(folder)
        reader.look()
        assert reader.seen == EXPECTED
        again()

    def again() -> None:
        nonlocal reader
        fresh(folder)
        reader = Reader(folder, takes=False)
        reader.look()

    again()
    with_every_failure(faults, lambda: put_second(folder), check, code)


def test_names_sort_as_messages_came_and_what_is_older_is_not_put_again(folder: Path) -> None:
    """Records of one block too; another epoch begins anew."""
    with DirectorySink(folder) as sink:
        for one in (identity(9), identity(10), identity(10, 1), identity(10, 2), identity(100)):
            sink.put(one.name.encode(), one)
        before = sorted(os.listdir(folder))
        sink.put(b"other", identity(10, 1))
        sink.put(b"other", identity(100))
        assert sorted(os.listdir(folder)) == before
        sink.put(b"new", MessageId(epoch=7, seq=1))
    names = sorted(name for name in os.listdir(folder) if name.startswith(f"{EPOCH:016x}"))
    assert [(folder / name).read_text() for name in names] == names
    assert (folder / MessageId(epoch=7, seq=1).name).read_bytes() == b"new"
    with pytest.raises(Closed):
        sink.put(b"", identity(101))


def test_a_link_in_the_way_is_not_written_through(folder: Path, tmp_path: Path) -> None:
    """Who empties the spool can put links there, soft and hard: what they lead to stays as it is."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with DirectorySink(folder) as sink, FileSink(folder / "f") as file:
        (folder / f".new-{identity(1).name}").symlink_to(victim)
        (folder / f".new-{identity(2).name}").hardlink_to(victim)
        (folder / identity(3).name).symlink_to(victim)
        (folder / ".f.new").hardlink_to(victim)
        (folder / "f").symlink_to(victim)
        for seq in (1, 2, 3):
            sink.put(b"message", identity(seq))
        file.put(b"message", identity(1))
    assert victim.read_text() == "precious"
    for name in (*(identity(seq).name for seq in (1, 2, 3)), "f"):
        assert stat.S_ISREG((folder / name).lstat().st_mode)
        assert (folder / name).read_bytes() == b"message"


def test_modes_are_as_told_and_private_unless_told(folder: Path) -> None:
    """Whatever the umask."""
    before = os.umask(0o777)
    try:
        with DirectorySink(folder) as sink:
            sink.put(b"", identity(1))
        with DirectorySink(folder, mode=0o640) as sink:
            sink.put(b"", identity(2))
    finally:
        os.umask(before)
    assert [stat.S_IMODE((folder / identity(n).name).stat().st_mode) for n in (1, 2)] == [0o600, 0o640]


def test_a_file_sink_shows_the_old_message_or_the_new_one(faults: Faults, folder: Path) -> None:
    """Killed at every step."""

    def put() -> int:
        with FileSink(folder / "f") as sink:
            sink.put(SECOND, identity(2))
        return 0

    def check(whole: bool) -> None:
        assert (folder / "f").read_bytes() in ((SECOND,) if whole else (FIRST, SECOND))
        put()
        assert (folder / "f").read_bytes() == SECOND
        assert os.listdir(folder) == ["f"]
        (folder / "f").write_bytes(FIRST)

    (folder / "f").write_bytes(FIRST)
    assert at_every_step(faults, put, check) > 5


@pytest.mark.parametrize("kind", ["device", "pipe", "link", "folder"])
def test_a_sinks_file_is_never_put_in_the_place_of_something_else(kind: str, folder: Path) -> None:
    """`sink = { file = "/dev/null" }` of root would take the machine's away."""
    place = folder / "f"
    if kind == "device":
        os.mknod(place, stat.S_IFCHR | 0o600, Path(os.devnull).stat().st_rdev)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to("elsewhere")
    else:
        place.mkdir()
    before = place.lstat()
    with pytest.raises(SpecError, match="place/f is no plain file, and would be replaced by one"):
        FileSink(place)
    after = place.lstat()
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    assert os.listdir(folder) == ["f"]


@pytest.mark.parametrize("suffix", ["/x", "x\0", "x" * 101])
def test_an_ending_of_another_form_is_refused(suffix: str, folder: Path) -> None:
    """It is a part of a file name."""
    with pytest.raises(SpecError, match="suffix"):
        DirectorySink(folder, suffix=suffix)


def test_two_sinks_in_one_directory_are_found(folder: Path) -> None:
    """Two marks of the newest message: neither is believed."""
    for seq in (1, 2):
        (folder / f".last-{identity(seq).name}").touch()
    with pytest.raises(SpecError, match="one sink makes one"):
        DirectorySink(folder)
