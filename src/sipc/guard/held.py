# SPDX-License-Identifier: Apache-2.0
"""Messages that a filter has in hand: taken from a channel, not yet wholly passed on, and safe from a kill.

Owns two files of the state directory, each for one batch, used in turn.  A block is finished towards its sender once it
is here, so that the next can come while this one is judged, logged and sent; what a successor does with it is in
`filtering.py`.

    word     0 magic, 1 number of the batch, 2 bytes of it that count, 3 number of the batch that is done, 4 blocks,
             5 epoch of its channel
    frame    at 4096, one for each block: u64 epoch, seq, record, count; u32 length of the channel's name; the name;
             u64 length[count]; the messages, back to back

A batch counts as far as word 2 says: one aligned store into a shared mapping, made when the frame is written, so a
SIGKILL leaves a frame whole or not there (see `cursor.py`).  Nothing is synced: after a power failure there are no
channels, and a batch of another epoch is not passed on.  Its frames may be torn then, so the epoch stands before them.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sipc.errors import SpecError
from sipc.guard.storage import close_directory, doing

__all__ = ("Batch", "Held", "blocks_in_hand")

_NAMES = ("held.0", "held.1")
_MAGIC = int.from_bytes(b"SIPCHLD1", "little")
_PAGE = mmap.PAGESIZE
_WORDS = struct.Struct("=6Q")
_MAGIC_WORD, _NUMBER, _LENGTH, _DONE, _BLOCKS, _EPOCH = range(6)
_FRAME = struct.Struct("<4QI")
_KEEP = 16 << 20  # bytes; a file that one batch made larger is made small again
_JOIN = 16 << 10  # bytes; smaller messages are joined, for fewer pieces than a call takes (IOV_MAX is 1024)
_PIECES = 1000
_ADVICE = "make room, or let this user write there; the block is not finished and comes again"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(slots=True, kw_only=True)
class Batch:
    """Messages of one channel in the order in which they came; `blocks` has (seq, record, count) of each block."""

    number: int
    channel: str
    epoch: int
    blocks: list[tuple[int, int, int]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # which message is the first of each block
    size: int = 0  # bytes of the messages
    judged: int = 0  # of how many everything was done

    def blocks_of(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """The blocks of messages `first` to `end`, in the form of `blocks`."""
        found = []
        for at in range(max(0, bisect_right(self.starts, first) - 1), bisect_left(self.starts, end)):
            start, (seq, record, count) = self.starts[at], self.blocks[at]
            low, high = max(start, first), min(start + count, end)
            if low < high:
                found.append((seq, record + low - start, high - low))
        return found

    def take(self, seq: int, record: int, messages: Sequence[bytes]) -> None:
        """Add the messages of one block."""
        self.starts.append(len(self.messages))
        self.blocks.append((seq, record, len(messages)))
        self.messages += messages
        self.size += sum(map(len, messages))

    def place_of(self, seq: int, record: int) -> int:
        """Which message is the first that does not come before this one."""
        start = 0
        for its, first, count in self.blocks:
            if its == seq and record < first + count:
                return start + max(0, record - first)
            if its > seq:
                break
            start += count
        return start


def blocks_in_hand(state: Path) -> int:
    """How many blocks a filter with this state directory has taken and not passed on; read from outside.

    Whoever writes the files may be hostile: what makes no sense says nothing.  Raises `OSError`.
    """
    found = 0
    for name in _NAMES:
        try:
            fd = os.open(state / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        try:
            data = os.read(fd, _WORDS.size) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        if len(data) == _WORDS.size:
            magic, number, length, done, blocks, _ = _WORDS.unpack(data)
            found += blocks if magic == _MAGIC and length and done != number else 0
    return found


class _File:
    """One of the two, and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batch: Batch | None = None
        self.torn: str | None = None  # why there is none, although the words say so
        self.fd = -1
        with doing("open", path, _ADVICE):
            self.fd = os.open(path, _OPEN, 0o600)
            try:
                os.posix_fallocate(self.fd, 0, _PAGE)  # a store to a page that the disk has no room for would be SIGBUS
                self.words = memoryview(mmap.mmap(self.fd, _PAGE)).cast("Q")
            except BaseException:
                os.close(self.fd)
                raise
        if self.words[_MAGIC_WORD] != _MAGIC:
            self.words[_LENGTH] = self.words[_NUMBER] = self.words[_DONE] = 0
            self.words[_MAGIC_WORD] = _MAGIC
        try:
            self.batch = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> Batch | None:
        length = self.words[_LENGTH]
        if not length:
            return None
        with doing("read", self.path, _ADVICE):
            data = b"".join(_pieces(self.fd, _PAGE, length))
        batch, at = Batch(number=self.words[_NUMBER], channel="", epoch=0), 0
        try:
            while at < length:
                epoch, seq, record, count, named = _FRAME.unpack_from(data, at)
                at += _FRAME.size + named
                batch.epoch, batch.channel = epoch, data[at - named : at].decode()
                lengths = struct.unpack_from(f"<{count}Q", data, at)
                at += 8 * count
                if at + sum(lengths) > len(data):
                    raise ValueError("a frame is cut")
                messages = []
                for size in lengths:
                    messages.append(data[at : at + size])
                    at += size
                batch.take(seq, record, messages)
        except (struct.error, ValueError) as error:
            self.torn = str(error)
            return None
        return batch

    def begin(self, batch: Batch) -> None:
        self.words[_LENGTH] = 0  # first: what is there belongs to another batch
        self.words[_NUMBER] = batch.number
        self.words[_EPOCH] = batch.epoch
        self.words[_BLOCKS] = 0
        self.batch = batch
        if os.fstat(self.fd).st_size > _KEEP:
            os.ftruncate(self.fd, _PAGE)

    def add(self, head: bytes, messages: Sequence[bytes], size: int) -> None:
        length = self.words[_LENGTH]
        small = size < _JOIN * len(messages) or len(messages) > _PIECES
        pieces = [head, b"".join(messages)] if small else [head, *messages]
        total, at = len(head) + size, _PAGE + length
        written = os.pwritev(self.fd, pieces, at)
        if written < total:
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                written = os.pwrite(self.fd, rest, at + total - len(rest))
                rest = rest[written:]
        self.words[_BLOCKS] += 1
        self.words[_LENGTH] = length + total

    def close(self) -> None:
        mapping = self.words.obj
        self.words.release()
        if isinstance(mapping, mmap.mmap):
            mapping.close()
        close_directory(self.fd)


class Held:
    """The batches of one filter, two at most that are not done."""

    def __init__(self, directory: Path) -> None:
        """Open or make the files.  `pending` are the batches that a predecessor left, oldest first: see `check`."""
        self._files: list[_File] = []
        try:
            for name in _NAMES:
                self._files.append(_File(directory / name))
        except BaseException:
            self.close()
            raise
        there = sorted((file for file in self._files if file.batch), key=lambda file: file.words[_NUMBER])
        # Not of a batch that was begun and got no message: the next is begun in its place, and not in that of the one
        # before, which may be in hand.
        self._newest = max((file.words[_NUMBER] for file in there), default=0)
        self._batches = [file.batch for file in there if file.batch is not None]
        self.pending = [
            file.batch for file in there if file.batch is not None and file.words[_DONE] != file.words[_NUMBER]
        ]

    def check(self, epochs: Collection[int]) -> bool:
        """Whether every file could be read; `epochs` are those of the channels that there are.

        Raises `SpecError` when one could not that is of such a channel.  One of another is left from before a power
        failure, and what was in it is gone with its channel.
        """
        torn = [file for file in self._files if file.torn is not None]
        for file in torn:
            if file.words[_EPOCH] in epochs:
                raise SpecError(
                    f"{file.path} makes no sense ({file.torn}): was it written by another release? Remove held.* and "
                    "intent.* there, and nothing else; then what was in hand may be lost, or come twice"
                )
        for file in torn:
            file.words[_LENGTH] = 0
        return not torn

    def batch(self, number: int) -> Batch | None:
        """The batch of this number, if it is still there."""
        return next((file.batch for file in self._files if file.batch and file.batch.number == number), None)

    def newest(self, channel: str, epoch: int) -> int:
        """The last block of a channel that a predecessor took, as far as it is known here; 0 for none."""
        seqs = [one.blocks[-1][0] for one in self._batches if (one.channel, one.epoch) == (channel, epoch)]
        return max(seqs, default=0)

    def begin(self, channel: str, epoch: int) -> Batch:
        """A new batch, without a message; the one before the last must be done."""
        self._newest += 1
        batch = Batch(number=self._newest, channel=channel, epoch=epoch)
        file = self._files[batch.number % 2]
        with doing("ftruncate", file.path, _ADVICE):
            file.begin(batch)
        return batch

    def add(self, batch: Batch, seq: int, record: int, messages: Sequence[bytes]) -> None:
        """Keep the messages of one block, from record `record` on; when this returns it may be finished.

        Raises `KernelError`; then nothing was kept.
        """
        sizes = list(map(len, messages))
        name = batch.channel.encode()
        head = b"".join((
            _FRAME.pack(batch.epoch, seq, record, len(sizes), len(name)), name, struct.pack(f"<{len(sizes)}Q", *sizes),
        ))  # fmt: skip
        size, file = sum(sizes), self._files[batch.number % 2]
        with doing("write", file.path, _ADVICE):
            file.add(head, messages, size)
        batch.take(seq, record, messages)

    def done(self, batch: Batch) -> None:
        """All of it was passed on."""
        self._files[batch.number % 2].words[_DONE] = batch.number

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._files:
            file.close()
        self._files = []


def _pieces(fd: int, start: int, length: int) -> list[bytes]:
    found, end = [], start + length
    while start < end and (piece := os.pread(fd, min(end - start, 1 << 20), start)):
        start += len(piece)
        found.append(piece)
    return found
