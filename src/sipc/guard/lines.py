# SPDX-License-Identifier: Apache-2.0
"""On which line of a TOML text each key stands.

Owns a scanner that walks through TOML as its grammar has it (toml.io, version 1.0.0), and keeps of every key, header
and array element the line it begins on, and of every key that is given twice both lines.  `tomllib` says what a text
means and whether it is TOML at all; it knows no lines.  So nothing here decides about validity: where a text that
tomllib refuses makes no sense, the scan ends.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_left
from dataclasses import dataclass

__all__ = ("DEEPEST", "Lines", "Path", "Twice", "find_lines")

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# A string in three quotes ends at three, and up to two more before them are its own.
_STRINGS = (
    ('"""', re.compile(r'"""(?:[^\\"]|\\.|"(?!""))*"{3,5}', re.DOTALL)),
    ("'''", re.compile(r"'''(?:[^']|'(?!''))*'{3,5}")),
    ('"', re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')),
    ("'", re.compile(r"'[^'\n]*'")),
)
# A guard's deepest path has five parts.  A path is kept for every key, with all parts before it, and tomllib walks them
# all for each of a dotted key: without a limit a text of 100 KiB takes minutes and gigabytes.
DEEPEST = 16
# More would not be read by anybody, and each is compared with those before.
_MOST_TWICE = 100
# Numbers, booleans, dates (which may have a space inside): whatever can not end them.
_SCALAR = re.compile(r"[^,\]}#\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice:
    """A key or header that is given twice, and the lines of both."""

    path: Path
    first: int
    second: int
    header: bool


class Lines:
    """Lines, counted from 1, by path: ("stage", "ingest", "user"), and a number for an element of an array.

    `deep` is the line on which a path gets more than DEEPEST parts, if one does; nothing after it is known.
    """

    def __init__(self) -> None:
        self.known: dict[Path, int] = {}
        self.twice: list[Twice] = []
        self.deep: int | None = None

    def of(self, path: Path) -> int:
        """The line of a key, or of the nearest thing around it that has one, or 1."""
        for end in range(len(path), 0, -1):
            if (line := self.known.get(path[:end])) is not None:
                return line
        return 1


def find_lines(text: str) -> Lines:
    """Scan a text.  Of one that is not TOML, what stands before the scan gets lost."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    with contextlib.suppress(_LostError):  # what is known by then is true
        scanner.document()
    return scanner.found


class _LostError(Exception):
    """The text goes on as TOML can not."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found = Lines()
        self.ends = [match.start() for match in re.finditer("\n", text)]
        self.headers: dict[Path, int] = {}
        self.assigned: dict[Path, int] = {}
        self.last: dict[Path, int] = {}  # of an array of tables: the number of its last one

    def line(self) -> int:
        return bisect_left(self.ends, self.at) + 1

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _LostError
        self.at = match.end()
        return match[0]

    def sees(self, mark: str) -> bool:
        return self.text.startswith(mark, self.at)

    def passes(self, mark: str) -> bool:
        if not self.sees(mark):
            return False
        self.at += len(mark)
        return True

    def expect(self, mark: str) -> None:
        if not self.passes(mark):
            raise _LostError

    def deeper(self, parts: int) -> None:
        """Go on only where a path of so many parts can stand."""
        if parts > DEEPEST:
            self.found.deep = self.line()
            raise _LostError

    def document(self) -> None:
        table: Path = ()
        self.take(_SPACE)
        while self.at < len(self.text) and len(self.found.twice) < _MOST_TWICE:
            if self.sees("["):
                table = self.header()
            else:
                self.pair(table)
            self.take(_SPACE)

    def header(self) -> Path:
        line = self.line()
        many = self.sees("[[")
        self.expect("[[" if many else "[")
        parts = self.key()
        self.expect("]]" if many else "]")
        path: Path = ()
        for part in parts[:-1]:
            path = self.inside((*path, part))
            self.found.known.setdefault(path, line)
        path = (*path, parts[-1])
        if many:
            self.last[path] = self.last.get(path, -1) + 1
            self.found.known.setdefault(path, line)
            path = (*path, self.last[path])
        elif path in self.headers:
            self.found.twice.append(Twice(path=path, first=self.headers[path], second=line, header=True))
            return path
        self.headers[path] = line
        self.found.known[path] = line  # not the line of a table inside it that came first
        return path

    def repeated(self, path: Path) -> bool:
        """Whether all around this key is given twice already."""
        return any(path[: len(twice.path)] == twice.path for twice in self.found.twice)

    def inside(self, path: Path) -> Path:
        return (*path, self.last[path]) if path in self.last else path

    def key(self) -> list[str]:
        parts = []
        while True:
            self.take(_BLANK)
            parts.append(self.part())
            self.deeper(len(parts))
            self.take(_BLANK)
            if not self.passes("."):
                return parts

    def part(self) -> str:
        for quote, pattern in _STRINGS[2:]:
            if self.sees(quote):
                quoted = self.take(pattern)
                try:
                    return next(iter(tomllib.loads(f"{quoted} = 0")))
                except tomllib.TOMLDecodeError:
                    raise _LostError from None
        return self.take(_BARE)

    def pair(self, table: Path) -> None:
        line = self.line()
        path = table
        for part in self.key():
            path = (*path, part)
            self.deeper(len(path))
            self.found.known.setdefault(path, line)
        if path in self.assigned and not self.repeated(path):
            self.found.twice.append(Twice(path=path, first=self.assigned[path], second=line, header=False))
        self.assigned.setdefault(path, line)
        self.expect("=")
        self.take(_BLANK)
        self.value(path)

    def value(self, path: Path) -> None:
        if self.passes("["):
            self.array(path)
        elif self.passes("{"):
            self.inline(path)
        else:
            for quote, pattern in _STRINGS:
                if self.sees(quote):
                    self.take(pattern)
                    return
            self.take(_SCALAR)

    def array(self, path: Path) -> None:
        number = 0
        self.take(_SPACE)
        while not self.passes("]"):
            inside = (*path, number)
            self.deeper(len(inside))
            self.found.known[inside] = self.line()
            self.value(inside)
            self.take(_SPACE)
            if not self.sees("]"):
                self.expect(",")
                self.take(_SPACE)
            number += 1

    def inline(self, path: Path) -> None:
        self.take(_SPACE)
        while not self.passes("}"):
            self.pair(path)
            self.take(_SPACE)
            if not self.sees("}"):
                self.expect(",")
                self.take(_SPACE)
