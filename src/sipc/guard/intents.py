# SPDX-License-Identifier: Apache-2.0
"""Intents: what a stage is about to send, noted before it does, so that a kill at any moment repeats and loses nothing.

Owns two files of the state directory, written in turn, and the reading of them.  An intent says of which messages it is
(of a filter: of which batch in hand, `held.py`; of a source: of which message), what was said of each, what is passed
on, and the number of each output's newest block before.  After a kill sending is redone, and nothing judged anew: the
numbers of the outputs (`Sender.last_seq`) tell how much of it is sent already, and a filter that would say something
else the second time is not asked.  So what is sent is always what was judged.  What is passed on as it came lies in the
batch, and not here a second time.

A file is written from behind: first the content, then the header that makes it count.  A write that was cut has a wrong
sum, and the intent before it counts; that one is always finished by then.  Nothing is synced: after a power failure
there are no channels whose numbers could be compared (see `cursor.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sipc.errors import SpecError
from sipc.guard.held import Held
from sipc.guard.storage import close_directory, doing
from sipc.guard.verdicts import Code, Drop, Pass, Quarantine, Verdict
from sipc.sender import Sender

__all__ = ("Intent", "Intents", "Mark", "already_sent", "digest_of")

_HEADER = struct.Struct("<8sQQII")  # magic, number, length of the rest, length of its description, crc32 of that
_MAGIC = b"SIPCINT2"
_NAMES = ("intent.0", "intent.1")
_AS_THEY_CAME = -1  # instead of a code; how many follows
_PIECES = 1000  # in one call; IOV_MAX is 1024
_ADVICE = "make room, or let this user write there; nothing of this was sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where an output stood: its epoch, its newest block, and how many of the intent's messages it had by then."""

    epoch: int
    before: int
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is about to be sent, and of what.

    Of a filter: `batch` and `epoch` name the batch in hand, `first` and `end` which of its messages, and `given` is
    those themselves.
    Of a source: `epoch` and `seq` name the message, and `digest` its content.  Of a sink: `channel`, `epoch` and `seq`
    name the block in hand.  `over` are the ends of streams, (epoch, seq) by channel, that were passed on: what comes
    after them is a new run of the guard.  With `ended` nothing is intended: all input of the run `run` had ended, and
    was passed on.
    """

    channel: str = ""
    epoch: int = 0
    seq: int = 0
    digest: str = ""
    batch: int = 0
    first: int = 0
    end: int = 1
    given: Sequence[bytes] = field(default=(), repr=False, compare=False)
    verdicts: tuple[Verdict, ...] = ()
    marks: Mapping[str, Mark] = field(default_factory=dict)
    over: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ended: bool = False
    run: str = ""

    def about(self, channel: str, epoch: int, seq: int) -> bool:
        """Whether it is about this block."""
        return (self.channel, self.epoch, self.seq) == (channel, epoch, seq)

    @property
    def payloads(self) -> list[bytes]:
        """What is passed on."""
        return [verdict.payload for verdict in self.verdicts if isinstance(verdict, Pass)]


def digest_of(message: bytes) -> str:
    """The name of a message's content."""
    return hashlib.sha256(message).hexdigest()


def already_sent(sender: Sender, messages: Sequence[bytes], blocks: int) -> int:
    """How many of `messages`, handed to `send_many`, are in the first `blocks` blocks that it made.

    A large message of which only a part is there does not count: its receiver drops the part when it comes again.
    """
    sent = 0
    for _, end, packed in sender._batches(messages):
        size = len(messages[end - 1])
        blocks -= 1 if packed or size <= sender._one_block else -(-size // sender._block_size)
        if blocks < 0:
            break
        sent = end
    return sent


class Intents:
    """The newest intent of a stage, in a file."""

    def __init__(self, directory: Path, held: Held | None = None) -> None:
        """Open or make the files, and read what a predecessor intended last (`last`).

        `held` has the messages of a filter's batches; of one that is not there any more everything was passed on, and
        what was said of it is left out.
        """
        self._held = held
        self._paths = [directory / name for name in _NAMES]
        self._fds: list[int] = []
        self._number = 0
        self.last: Intent | None = None
        try:
            for path in self._paths:
                with doing("open", path, _ADVICE):
                    self._fds.append(
                        os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
                    )
            for fd, path in zip(self._fds, self._paths, strict=True):
                with doing("read", path, _ADVICE):
                    self._read(fd)
        except BaseException:
            self.close()
            raise

    def _read(self, fd: int) -> None:
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return
        magic, number, length, described, crc = _HEADER.unpack(header)
        if magic != _MAGIC or number <= self._number or length > os.fstat(fd).st_size:
            return
        rest = b"".join(_pieces(fd, _HEADER.size, length))
        if len(rest) == length and _sum(number, length, rest[:described]) == crc:
            self._number, self.last = number, self._decoded(rest, described)

    def _decoded(self, rest: bytes, described: int) -> Intent:
        try:
            found = json.loads(rest[:described])
            at = described
            batch = self._held.batch(found["batch"]) if self._held is not None else None
            # By its epoch too: after a power failure numbers begin again, and an old intent is not of a new batch.
            same = batch is not None and batch.epoch == found["epoch"]
            given = batch.messages[found["first"] : found["end"]] if batch is not None and same else []
            there = not found["batch"] or len(given) == found["end"] - found["first"]
            said = found["verdicts"] if there else []
            verdicts: list[Verdict] = []
            for code, what, *more in said:
                if code == _AS_THEY_CAME:
                    start = len(verdicts)
                    verdicts += [Pass(given[number]) for number in range(start, start + what)]
                elif code == Code.PASS:
                    verdicts.append(Pass(rest[at : at + what]))
                    at += what
                else:
                    verdicts.append(Drop(what) if code == Code.DROP else Quarantine(what, *more))
            marks = {name: Mark(epoch=a, before=b, start=c) for name, (a, b, c) in found["marks"].items()}
            over = {name: (epoch, seq) for name, (epoch, seq) in found["over"].items()}
            return Intent(**{**found, "verdicts": tuple(verdicts), "marks": marks, "over": over, "given": given})
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise SpecError(
                f"an intent with a right sum makes no sense ({error}): was it written by another release? Remove "
                "held.* and intent.* in the state directory, and nothing else; then what was in hand may come twice"
            ) from error

    def write(self, intent: Intent) -> None:
        """Note an intent, before anything of it is done.  Raises `KernelError`; then nothing may be."""
        description = json.dumps(_encoded(intent), separators=(",", ":")).encode()
        payloads = [
            verdict.payload
            for verdict, given in _pairs(intent)
            if isinstance(verdict, Pass) and verdict.payload is not given
        ]
        number = self._number + 1
        which = number % len(self._fds)
        length = len(description) + sum(map(len, payloads))
        with doing("write", self._paths[which], _ADVICE):
            _write(self._fds[which], [description, *payloads], length)
            header = _HEADER.pack(_MAGIC, number, length, len(description), _sum(number, length, description))
            os.pwrite(self._fds[which], header, 0)
        self._number, self.last = number, intent

    def close(self) -> None:
        """Close the files; they stay."""
        for fd in self._fds:
            close_directory(fd)
        self._fds = []


def _write(fd: int, pieces: list[bytes], length: int) -> None:
    pieces = pieces if len(pieces) <= _PIECES else [b"".join(pieces)]
    written = os.pwritev(fd, pieces, _HEADER.size)
    if written < length:
        rest = memoryview(b"".join(pieces))
        while written < length:
            written += os.pwrite(fd, rest[written:], _HEADER.size + written)


def _sum(number: int, length: int, description: bytes) -> int:
    """Over the header's numbers too: with them alone written, the rest would be an older intent's, and pass for new."""
    return zlib.crc32(description, zlib.crc32(b"%d %d" % (number, length)))


def _pairs(intent: Intent) -> Iterator[tuple[Verdict, bytes | None]]:
    return zip_longest(intent.verdicts, intent.given[: len(intent.verdicts)])


def _pieces(fd: int, start: int, length: int) -> Iterator[bytes]:
    end = start + length
    while start < end and (piece := os.pread(fd, min(end - start, 1 << 20), start)):
        start += len(piece)
        yield piece


def _encoded(intent: Intent) -> dict[str, Any]:
    return {
        "channel": intent.channel, "epoch": intent.epoch, "seq": intent.seq, "digest": intent.digest,
        "batch": intent.batch, "first": intent.first, "end": intent.end,
        "verdicts": _said(intent),
        "marks": {name: [mark.epoch, mark.before, mark.start] for name, mark in intent.marks.items()},
        "over": dict(intent.over), "ended": intent.ended, "run": intent.run,
    }  # fmt: skip


def _said(intent: Intent) -> list[list[Any]]:
    """One element for each verdict, and one for all in a row that pass what came."""
    said: list[list[Any]] = []
    alike = 0
    for verdict, given in _pairs(intent):
        if type(verdict) is Pass and verdict.payload is given:
            alike += 1
            continue
        if alike:
            said.append([_AS_THEY_CAME, alike])
            alike = 0
        if isinstance(verdict, Pass):
            said.append([int(Code.PASS), len(verdict.payload)])
        elif isinstance(verdict, Drop):
            said.append([int(Code.DROP), verdict.reason])
        else:
            said.append([int(Code.QUARANTINE), verdict.reason, verdict.detail])
    return [*said, [_AS_THEY_CAME, alike]] if alike else said
