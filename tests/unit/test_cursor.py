# SPDX-License-Identifier: Apache-2.0
"""The cursor: what a receiver that starts anew knows of what it had finished, whatever its files have become."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.channels import Child
from tests.support.strategies import u64

from sipc.cursor import Cursor, finished
from sipc.errors import KernelError, SpecError

EPOCH = 0x1122334455667788
MAGIC = b"SIPCCUR1"
WORDS = struct.Struct("<8Q")
FRAME = struct.Struct("<QQ")
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def frames(*blocks: tuple[int, bytes]) -> bytes:
    """A file of kept blocks."""
    return b"".join(FRAME.pack(seq, len(block)) + block for seq, block in blocks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a cursor may be made."""
    return tmp_path / "cursor"


# -- the last finished block


def test_a_new_cursor_starts_at_block_0(path: Path) -> None:
    """64 bytes, readable by its owner alone."""
    with closing(Cursor(path, EPOCH)) as cursor:
        assert (cursor.seq, cursor.records, cursor.kept()) == (0, 0, [])
    assert path.read_bytes() == struct.pack("<8s7Q", MAGIC, EPOCH, 0, 0, 0, 0, 0, 0)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(path.parent) == ["cursor"]


@one_file
@given(seq=u64)
def test_a_cursor_resumes_where_it_was(path: Path, seq: int) -> None:
    """Every 64-bit number."""
    with closing(Cursor(path, EPOCH)) as cursor:
        cursor.seq = seq
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.seq == seq


def test_it_needs_no_close(path: Path) -> None:
    """SIGKILL at any moment leaves the last number that was stored."""

    def die() -> None:
        cursor = Cursor(path, EPOCH)
        for seq in range(1, 1001):
            cursor.seq = seq
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(Child(die).wait()) == signal.SIGKILL
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.seq == 1000


def test_a_number_is_one_store(path: Path) -> None:
    """An aligned 8-byte item of a shared mapping, so that no kill leaves half a number."""
    with closing(Cursor(path, EPOCH)) as cursor:
        assert (cursor._words.format, cursor._words.itemsize, cursor._words.nbytes) == ("Q", 8, 64)
        cursor.seq = 0xFFFF_FFFF
        cursor.seq = 1 << 32
        assert WORDS.unpack(path.read_bytes())[2] == 1 << 32


@pytest.mark.parametrize("epoch", [1, EPOCH - 1, EPOCH ^ (1 << 63), (1 << 64) - 1])
def test_another_epoch_starts_anew(epoch: int, path: Path) -> None:
    """What was finished of a channel that is no more says nothing about its successor."""
    with closing(Cursor(path, epoch)) as cursor:
        cursor.seq = 5
        cursor.finished_records(3)
        cursor.keep(5, b"part")
    with closing(Cursor(path, EPOCH)) as cursor:
        assert (cursor.seq, cursor.records, cursor.kept()) == (0, 0, [])
    assert os.listdir(path.parent) == ["cursor"]
    with closing(Cursor(path, epoch)) as cursor:
        assert cursor.seq == 0


class Dying(list[int]):
    """The cursor's words in a process that is killed after so many stores."""

    def __init__(self, words: list[int], left: int) -> None:
        super().__init__(words)
        self.left = left

    def __setitem__(self, index: object, value: object) -> None:
        assert isinstance(index, int)
        assert isinstance(value, int)
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().__setitem__(index, value)


@pytest.mark.parametrize("stores", range(6))
def test_a_new_epoch_is_begun_wholly_or_not_at_all(stores: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after any store, the file never says that blocks of the new epoch were finished."""
    old = EPOCH - 1
    words = Dying([int.from_bytes(MAGIC, "little"), old, 7, 9, 0, 0, 0, 0], stores)
    monkeypatch.setattr("sipc.cursor.own_words", lambda *_: cast("memoryview[int]", words))
    with suppress(KeyboardInterrupt):
        Cursor(path, EPOCH)
    monkeypatch.undo()
    path.write_bytes(WORDS.pack(*words))
    assert words[1] == (EPOCH if stores == 5 else old)
    with closing(Cursor(path, EPOCH)) as cursor:
        assert (cursor.seq, cursor.records) == (0, 0)


# -- records of the block after it


def test_finished_records_belong_to_the_next_block_alone(path: Path) -> None:
    """Once `seq` moves, their count is of a block that is finished."""
    with closing(Cursor(path, EPOCH)) as cursor:
        cursor.seq = 4
        cursor.finished_records(17)
        assert cursor.records == 17
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.records == 17
        cursor.seq = 5
        assert cursor.records == 0


@one_file
@given(seq=u64, later=u64, count=st.integers(0, (1 << 30) // 4))
def test_the_count_is_one_store_with_its_block(path: Path, seq: int, later: int, count: int) -> None:
    """Count and block are in one word: a kill between two stores can not pair them wrongly."""
    with closing(Cursor(path, EPOCH)) as cursor:
        cursor.seq = seq
        cursor.finished_records(count)
        assert cursor.records == count
        cursor.seq = later
        assert cursor.records == (count if (later - seq) % (1 << 32) == 0 else 0)


# -- the blocks of an unfinished message


def test_kept_blocks_come_back_in_order(path: Path) -> None:
    """A message of several blocks can be finished by the next process."""
    blocks = [b"", b"one", os.urandom(100_000)]
    with closing(Cursor(path, EPOCH)) as cursor:
        for seq, block in enumerate(blocks, 1):
            cursor.keep(seq, block)
            cursor.seq = seq
    assert path.with_name("cursor.partial").stat().st_mode & 0o7777 == 0o600
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.kept() == blocks
        cursor.keep(4, b"last")
        cursor.seq = 4
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.kept() == [*blocks, b"last"]
        cursor.drop_kept()
        assert cursor.kept() == []
    assert os.listdir(path.parent) == ["cursor"]


def test_a_block_kept_but_not_finished_comes_again(path: Path) -> None:
    """It is kept before `seq` is stored: between the two it is still to come, and is then kept in its own place."""
    with closing(Cursor(path, EPOCH)) as cursor:
        cursor.keep(1, b"first")
        cursor.seq = 1
        cursor.keep(2, b"second")
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.kept() == [b"first"]
        cursor.keep(2, b"second")
        cursor.seq = 2
    assert path.with_name("cursor.partial").read_bytes() == frames((1, b"first"), (2, b"second"))
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.kept() == [b"first", b"second"]


@pytest.mark.parametrize("cut", range(len(frames((1, b"first"), (2, b"second"))) + 1))
def test_a_torn_file_of_kept_blocks_gives_whole_blocks_or_none(cut: int, path: Path) -> None:
    """Never part of a block, and never a message with a block missing."""
    partial = path.with_name("cursor.partial")
    for seq in (1, 2):
        with closing(Cursor(path, EPOCH)) as cursor:
            cursor.seq = seq
        partial.write_bytes(frames((1, b"first"), (2, b"second"))[:cut])
        with closing(Cursor(path, EPOCH)) as cursor:
            first, both = cut >= 16 + 5, cut >= 2 * 16 + 5 + 6
            whole = {1: [b"first"] if first else [], 2: [b"first", b"second"] if both else []}[seq]
            assert cursor.kept() == whole
            assert partial.exists() == bool(whole)


@one_file
@given(seq=st.one_of(st.integers(0, 4), u64), data=st.one_of(
    st.binary(max_size=100),
    st.lists(st.tuples(st.one_of(st.integers(0, 5), u64), st.binary(max_size=9)), max_size=6).map(
        lambda blocks: frames(*blocks)
    ),
    u64.map(lambda length: FRAME.pack(1, length) + b"short"),
))  # fmt: skip
def test_garbage_in_the_file_of_kept_blocks_is_never_more_than_its_blocks(path: Path, seq: int, data: bytes) -> None:
    """Any bytes: a list of whole blocks that ends with block `seq`, or none; and the cursor goes on."""
    with closing(Cursor(path, EPOCH)) as cursor:
        cursor.seq = seq
    path.with_name("cursor.partial").write_bytes(data)
    with closing(Cursor(path, EPOCH)) as cursor:
        kept = cursor.kept()
        assert sum(FRAME.size + len(block) for block in kept) <= len(data)
        cursor.keep(seq, b"more")
        assert cursor.kept() == [*kept, b"more"]
        cursor.keep(seq, b"and more")
        assert cursor.kept() == [*kept, b"more", b"and more"]
        cursor.drop_kept()
        assert cursor.kept() == []


def test_a_disk_that_is_full_loses_no_block(path: Path) -> None:
    """A `KernelError` with errno; what was kept before is kept, and with room again it goes on."""
    block = bytes(5000)

    def act() -> tuple[int | None, str, list[int], list[int]]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with closing(Cursor(path, EPOCH)) as cursor:
            cursor.keep(1, block)
            cursor.seq = 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
            with pytest.raises(KernelError) as caught:
                cursor.keep(2, block)
            before = [len(kept) for kept in cursor.kept()]
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            cursor.keep(2, block)
            cursor.seq = 2
            return caught.value.errno, str(caught.value), before, [len(kept) for kept in cursor.kept()]

    number, message, before, after = Child(act).result()
    assert number == errno.EFBIG
    assert "cursor.partial" in message
    assert "receive again" in message
    assert (before, after) == ([5000], [5000, 5000])


# -- what is no cursor


@pytest.mark.parametrize("size", [1, 8, 63, 65, 128, 100_000])
def test_a_file_of_another_size_is_left_alone(size: int, path: Path) -> None:
    """It is somebody's data: refused by name, not a byte of it changed."""
    content = (MAGIC * size)[:size]
    path.write_bytes(content)
    with pytest.raises(SpecError, match=rf"cursor {path} is no cursor file \({size} bytes, not 64\)"):
        Cursor(path, EPOCH)
    assert path.read_bytes() == content


@one_file
@given(content=st.binary(min_size=64, max_size=64))
def test_a_file_of_that_size_without_the_magic_is_left_alone(path: Path, content: bytes) -> None:
    """Also when only one byte of the magic is wrong; 64 zero bytes are a cursor that was never begun."""
    if content[:8] in (MAGIC, bytes(8)):
        return
    path.write_bytes(content)
    with pytest.raises(SpecError, match="is no cursor file"):
        Cursor(path, EPOCH)
    assert path.read_bytes() == content


@one_file
@given(rest=st.binary(min_size=56, max_size=56), begun=st.booleans())
def test_a_cursor_with_any_content_is_read(path: Path, rest: bytes, begun: bool) -> None:
    """Of this epoch it is believed, of any other it starts anew; never anything else."""
    path.write_bytes((MAGIC if begun else bytes(8)) + rest)
    epoch, seq = struct.unpack_from("<QQ", rest)
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.seq == (seq if epoch == EPOCH else 0)


def test_a_file_cut_short_while_it_was_made_is_begun_anew(path: Path) -> None:
    """Killed between making the file and writing to it."""
    path.touch(mode=0o600)
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.seq == 0
    assert path.stat().st_size == 64


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.with_name("real").touch()
    path.symlink_to("real")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _writable(path: Path) -> None:
    path.touch()
    path.chmod(0o622)


def _group(path: Path) -> None:
    path.touch()
    path.chmod(0o620)


def _below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


REASONS: dict[Callable[[Path], None], str] = {
    _directory: "directory",
    _link: "symbolic links",
    _pipe: "no cursor file",
    _writable: r"mode 0622\) can be changed by others",
    _group: r"mode 0620\) can be changed by others",
    _below_a_file: "Not a directory",
}


@pytest.mark.parametrize("make", REASONS, ids=lambda make: make.__name__.strip("_"))
def test_what_can_not_be_a_cursor_is_refused_by_name(make: Callable[[Path], None], path: Path) -> None:
    """A `SpecError` that says why and what would do, at once, and nothing is made."""
    make(path)
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else None
    with pytest.raises(SpecError, match=REASONS[make]) as caught:
        Cursor(path, EPOCH)
    assert f"cursor {path}" in str(caught.value)
    assert "name a" in str(caught.value)
    assert before == (sorted(path.parent.iterdir()) if path.parent.is_dir() else None)


def test_kept_blocks_that_can_not_be_read_are_an_error_of_ours(path: Path) -> None:
    """Each error names the file, when the cursor is begun, read, and kept in."""
    partial = path.with_name("cursor.partial")
    with closing(Cursor(path, EPOCH)) as cursor:
        partial.mkdir()
        with pytest.raises(SpecError, match=str(partial)):
            cursor.kept()
        for act in (lambda: cursor.keep(1, b"x"), cursor.drop_kept, lambda: Cursor(path, EPOCH + 1)):
            with pytest.raises(KernelError, match=str(partial)):
                act()
    with closing(Cursor(path, EPOCH)) as cursor:
        assert cursor.seq == 0


def test_a_closed_cursor_can_not_be_used(path: Path) -> None:
    """Its mapping is gone: ValueError, not SIGSEGV."""
    cursor = Cursor(path, EPOCH)
    cursor.keep(1, b"x")
    cursor.close()
    with pytest.raises(ValueError, match="released"):
        cursor.seq = 1
    with pytest.raises(ValueError, match="released"):
        cursor.finished_records(1)


def test_the_end_of_a_stream_outlives_the_receiver(path: Path) -> None:
    """Noted with the block that it is; over when a later block is finished, or the channel is another."""
    with closing(Cursor(path, EPOCH)) as cursor:
        assert not cursor.at_end
        cursor.seq = 3
        assert not cursor.at_end
        cursor.ended(4)
    with closing(Cursor(path, EPOCH)) as cursor:
        assert (cursor.seq, cursor.at_end) == (4, True)
        cursor.seq = 5
        assert not cursor.at_end
        cursor.ended(6)
    with closing(Cursor(path, EPOCH + 1)) as cursor:
        assert not cursor.at_end


def test_the_end_of_a_stream_is_noted_before_it_is_finished(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two stores, the block comes again; the other way round the end would be forgotten."""
    words = Dying([int.from_bytes(MAGIC, "little"), EPOCH, 3, 0, 0, 0, 0, 0], 1)
    monkeypatch.setattr("sipc.cursor.own_words", lambda *_: cast("memoryview[int]", words))
    with suppress(KeyboardInterrupt):
        Cursor(path, EPOCH).ended(4)
    monkeypatch.undo()
    path.write_bytes(WORDS.pack(*words))
    with closing(Cursor(path, EPOCH)) as cursor:
        assert (cursor.seq, cursor.at_end) == (3, False)


# -- looked at from outside


def test_what_is_finished_can_be_read_from_outside(path: Path) -> None:
    """While its receiver has it open, and afterwards."""
    assert finished(path, EPOCH) == 0
    with closing(Cursor(path, EPOCH)) as cursor:
        cursor.seq = 7
        assert finished(path, EPOCH) == 7
    assert finished(path, EPOCH) == 7
    assert finished(path, EPOCH + 1) == 0  # a channel that was made anew


@given(data=st.binary(max_size=100))
@one_file
def test_a_file_that_is_no_cursor_has_finished_nothing(tmp_path: Path, data: bytes) -> None:
    """Whatever a stage has put there: nothing is believed to be finished."""
    path = tmp_path / "cursor"
    path.write_bytes(data)
    assert finished(path, EPOCH) == 0


def test_looking_from_outside_follows_no_link_and_waits_for_no_writer(path: Path, tmp_path: Path) -> None:
    """A link is refused; a pipe is none, and nobody waits for its other end."""
    with closing(Cursor(tmp_path / "other", EPOCH)) as cursor:
        cursor.seq = 7
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        finished(path, EPOCH)
    path.unlink()
    os.mkfifo(path)
    assert finished(path, EPOCH) == 0
