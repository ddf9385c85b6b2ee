# SPDX-License-Identifier: Apache-2.0
"""The hash chain of an audit log: entries as lines, and what is wrong with a log.

Owns the form of an entry and its verification; no files, no clock (`audit.py` has those).  A line is one JSON object in
one fixed spelling, with `hash`, BLAKE2b of 256 bits over the object without it, and `previous`, the hash of the entry
before.  A line that is spelt in any other way is not an entry, so no byte of a log is without meaning.

The hashes have no key.  Who can write the file can write a whole new end of it, with every hash right: against that
stands the head, the hash of the last entry, noted where he can not write.  Whatever lies before a noted head is proven.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO

from sipc.errors import SpecError

__all__ = ("GENESIS", "MAX_LINE", "PREFIX", "Entry", "Report", "decode", "read_lines", "verify")

GENESIS = "0" * 64
MAX_LINE = 4096  # bytes; an entry has no field that could make it half as long
PREFIX = b'{"version":1,"number":'
_VERSION = 1
_HASH = re.compile(r"[0-9a-f]{64}")
_PATTERNS = {
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    "stage": re.compile(r"[a-z0-9][a-z0-9._-]{0,63}"),
    "channel": re.compile(r"([a-z0-9][a-z0-9._-]{0,63})?"),
    "epoch": re.compile(r"[0-9a-f]{16}"),
    "verdict": re.compile(r"pass|drop|quarantine|repair|violation"),
    "reason": re.compile(r"([a-z][a-z0-9-]{0,39})?"),
    "digest": _HASH,
    "previous": _HASH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the log says of one message: nothing from which its bytes could be read.

    `verdict` is a verdict, or "repair" when an entry was torn: then size and digest are of its remains; or "violation"
    when a block broke the protocol, of which nothing was read: then reason is the field that was wrong.  `passed_size`
    and `passed_digest` are of what was handed on, and None when nothing was.
    """

    number: int
    time: str
    stage: str
    channel: str
    epoch: str
    seq: int
    record: int
    verdict: str
    reason: str
    size: int
    digest: str
    passed_size: int | None = None
    passed_digest: str | None = None
    previous: str = GENESIS

    def __post_init__(self) -> None:
        """Refuse what could carry anything else than its meaning."""
        for key in ("number", "seq", "record", "size"):
            value = getattr(self, key)
            if type(value) is not int or not 0 <= value < 1 << 64:
                raise SpecError(f"audit: {key} must be from 0 to {(1 << 64) - 1}, not {value!r}")
        for key, pattern in _PATTERNS.items():
            value = getattr(self, key)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise SpecError(f"audit: {key} must be like {pattern.pattern}, not {value!r}")
        if (self.passed_size is None) != (self.passed_digest is None):
            raise SpecError("audit: passed_size and passed_digest go together: give both or none")
        if self.passed_size is not None and (type(self.passed_size) is not int or not 0 <= self.passed_size < 1 << 64):
            raise SpecError(f"audit: passed_size must be from 0 to {(1 << 64) - 1}, not {self.passed_size!r}")
        if self.passed_digest is not None and not (
            isinstance(self.passed_digest, str) and _HASH.fullmatch(self.passed_digest)
        ):
            raise SpecError(f"audit: passed_digest must be 64 hexadecimal digits, not {self.passed_digest!r}")

    def _body(self) -> str:
        # Not `asdict`, which copies every field deeply: this is done twice for each message of a stage.
        return _spelt({"version": _VERSION, **{key: getattr(self, key) for key in _ORDER}})

    @property
    def hash(self) -> str:
        """What the next entry carries as `previous`."""
        return hashlib.blake2b(self._body().encode(), digest_size=32).hexdigest()

    def line(self) -> bytes:
        """The line, with its end."""
        body = self._body()
        hashed = hashlib.blake2b(body.encode(), digest_size=32).hexdigest()
        return f'{body[:-1]},"hash":"{hashed}"}}\n'.encode()


_ORDER = tuple(item.name for item in fields(Entry))
_KEYS = frozenset(_ORDER)
_spelt = json.JSONEncoder(separators=(",", ":")).encode


def decode(line: bytes) -> Entry:
    """The entry that `line` is.  Raises `SpecError` saying why it is none."""
    if not line.endswith(b"\n"):
        raise SpecError("it has no end: torn, or longer than an entry")
    try:
        found: Any = json.loads(line)
        if not isinstance(found, dict) or found.pop("version", None) != _VERSION:
            raise SpecError("it is not an object of version 1")
        hashed = found.pop("hash", None)
        if found.keys() != _KEYS:
            raise SpecError(f"its keys are not those of an entry: {sorted(found.keys() ^ _KEYS)[:3]}")
        entry = Entry(**found)
    except (ValueError, RecursionError) as error:  # SpecError, and all that JSON raises
        raise SpecError(str(error)[:200]) from error
    if hashed != entry.hash:
        raise SpecError("its hash is of another content: it was edited")
    if line != entry.line():
        raise SpecError("it is spelt differently from how entries are written")
    return entry


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found: `problems` are pairs of a line's number, from 1, and a text; `head` is the last entry's hash."""

    entries: int = 0
    repeats: int = 0
    head: str | None = None
    head_found_at: int | None = None
    problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(lines: Iterable[bytes], *, head: str | None = None, repeats: bool = False) -> Report:
    """Find every entry that was edited, is missing, or is not in its place.

    `head` is a hash noted earlier: it must be there, or the end was cut off or rewritten.  `repeats` allows a line to
    come again at once, as from the journal.  Raises `SpecError` when there is nothing to verify.
    """
    if head is not None and not _HASH.fullmatch(head):
        raise SpecError(f"head must be 64 hexadecimal digits, as verification prints them, not {head!r}")
    report = Report()
    expected: int = 1
    previous: str | None = GENESIS  # None: the line before could not be read
    last: bytes | None = None
    count = 0
    for count, line in enumerate(lines, 1):
        if repeats and line == last:
            report.repeats += 1
            continue
        last = line
        try:
            entry = decode(line)
        except SpecError as error:
            report.problems.append((count, f"is no entry: {error}"))
            expected, previous = expected + 1, None
            continue
        if problem := _misplaced(entry, expected, previous):
            report.problems.append((count, problem))
        report.entries += 1
        report.head = entry.hash
        expected, previous = entry.number + 1, entry.hash
        if entry.hash == head:
            report.head_found_at = entry.number
    if not count and head is None:
        raise SpecError(
            "there is nothing to verify: the log has no line; name the log, or the head that it should have"
        )
    if head is not None and report.head_found_at is None:
        report.problems.append((count, f"no entry has the hash {head}: the end of the log was cut off, or rewritten"))
    return report


def _misplaced(entry: Entry, expected: int, previous: str | None) -> str | None:
    if entry.number > expected:
        last = entry.number - 1
        return f"entry {expected} is missing" if expected == last else f"entries {expected} to {last} are missing"
    if entry.number < expected:
        return f"entry {entry.number} is not in its place: entry {expected} should stand here"
    if previous is not None and entry.previous != previous:
        return f"entry {entry.number} follows another entry than the one before it: that one was edited or replaced"
    return None


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; one that is longer than any entry comes in pieces, so that no log fills the memory."""
    while line := stream.readline(MAX_LINE + 1):
        yield line
