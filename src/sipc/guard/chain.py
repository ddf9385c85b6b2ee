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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO

from sipc.errors import SpecError

__all__ = ("GENESIS", "MAX_LINE", "MOST", "PREFIX", "Entry", "Report", "decode", "read_lines", "verify")

GENESIS = "0" * 64
MOST = 256  # messages of one entry
MAX_LINE = 1 << 17  # bytes; a message takes at most 250 of them, everything else some hundred
PREFIX = b'{"version":2,"number":'
_VERSION = 2
_HASH = re.compile(r"[0-9a-f]{64}")
_HEX = 64
_LARGEST = (1 << 64) - 1
_HASHES = re.compile(r"([0-9a-f]{64})*")
_PATTERNS = {
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    "stage": re.compile(r"[a-z0-9][a-z0-9._-]{0,63}"),
    "channel": re.compile(r"([a-z0-9][a-z0-9._-]{0,63})?"),
    "epoch": re.compile(r"[0-9a-f]{16}"),
    "verdict": re.compile(r"pass|drop|quarantine|repair|violation"),
    "reason": re.compile(r"([a-z][a-z0-9-]{0,39})?"),
    "previous": _HASH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the log says of messages that came together and fared alike: nothing from which a byte could be read.

    `blocks` says which: the number of a block of the channel, the first record of it, and how many.  `sizes` (bytes)
    and `digests` (SHA-256) have one element for each message.  `verdict` is a verdict; or "repair" when an entry was
    torn: then they are of its remains; or "violation" when a block broke the protocol, of which nothing was read: then
    reason is the field that was wrong.  `passed_sizes` and `passed_digests` are of what was handed on instead, where
    that is not what came.
    """

    number: int
    time: str
    stage: str
    channel: str
    epoch: str
    blocks: tuple[tuple[int, int, int], ...]
    verdict: str
    reason: str
    sizes: tuple[int, ...]
    digests: tuple[str, ...]
    passed_sizes: tuple[int, ...] = ()
    passed_digests: tuple[str, ...] = ()
    previous: str = GENESIS
    _hash: str = field(init=False, repr=False, compare=False)
    _line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what could carry anything else than its meaning."""
        if not _are_numbers((self.number,)):
            raise SpecError(f"audit: number must be from 0 to {_LARGEST}, not {self.number!r}")
        for key, pattern in _PATTERNS.items():
            value = getattr(self, key)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise SpecError(f"audit: {key} must be like {pattern.pattern}, not {value!r}")
        if not isinstance(self.blocks, tuple) or not 0 < len(self.blocks) <= MOST:
            raise SpecError(f"audit: blocks must be 1 to {MOST}")
        for block in self.blocks:
            if not isinstance(block, tuple) or len(block) != len(("seq", "record", "count")) or not _are_numbers(block):
                raise SpecError(f"audit: a block must be three numbers from 0 to {_LARGEST}, not {block!r}")
        for which, sizes, digests in (
            ("", self.sizes, self.digests), ("passed_", self.passed_sizes, self.passed_digests),
        ):  # fmt: skip
            if not isinstance(sizes, tuple) or not _are_numbers(sizes):
                raise SpecError(f"audit: {which}sizes must be numbers from 0 to {_LARGEST}")
            if not isinstance(digests, tuple) or not _are_hashes(digests):
                raise SpecError(f"audit: {which}digests must be of {_HEX} hexadecimal digits each")
            if len(sizes) != len(digests):
                raise SpecError(f"audit: {which}sizes and {which}digests must have one element for each message")
        if len(self.sizes) != sum(count for _, _, count in self.blocks) or len(self.sizes) > MOST:
            raise SpecError(f"audit: an entry has as many messages as its blocks, and at most {MOST}")
        if self.passed_sizes and len(self.passed_sizes) != len(self.sizes):
            raise SpecError("audit: what was passed instead must have one element for each message, or none")

        body = _spelt({"version": _VERSION, **{key: getattr(self, key) for key in _ORDER}})
        hashed = hashlib.blake2b(body.encode(), digest_size=32).hexdigest()
        object.__setattr__(self, "_hash", hashed)
        object.__setattr__(self, "_line", f'{body[:-1]},"hash":"{hashed}"}}\n'.encode())

    @property
    def hash(self) -> str:
        """What the next entry carries as `previous`."""
        return self._hash

    def line(self) -> bytes:
        """The line, with its end."""
        return self._line


def _are_hashes(values: Sequence[Any]) -> bool:
    whole = set(map(type, values)) <= {str} and set(map(len, values)) <= {_HEX}
    return whole and _HASHES.fullmatch("".join(values)) is not None


def _are_numbers(values: Sequence[Any]) -> bool:
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= _LARGEST)


_ORDER = tuple(item.name for item in fields(Entry) if item.init)
_KEYS = frozenset(_ORDER)
_spelt = json.JSONEncoder(separators=(",", ":")).encode


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


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
        entry = Entry(**{key: _frozen(value) for key, value in found.items()})
    except (ValueError, RecursionError) as error:  # SpecError, and all that JSON raises
        raise SpecError(str(error)[:200]) from error
    if hashed != entry.hash:
        raise SpecError("its hash is of another content: it was edited")
    if line != entry.line():
        raise SpecError("it is spelt differently from how entries are written")
    return entry


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found: `entries`, and how many `messages` they are about.

    `problems` are pairs of a line's number, from 1, and a text; `head` is the last entry's hash.
    """

    entries: int = 0
    messages: int = 0
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
        report.messages += len(entry.sizes) if entry.verdict != "repair" else 0
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
