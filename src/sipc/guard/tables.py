# SPDX-License-Identifier: Apache-2.0
"""Tables of a guard file: values of the wanted kind out of them, and every problem with its line.

Owns how a problem reads (`FILE:LINE: [table] key: reason: fix`) and the kinds of values that keys can have.  Must not
know which keys there are: `config.py` does.  Reading goes on after a problem, so that one run finds all of them.
"""

from __future__ import annotations

import keyword
import os
import posixpath
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, TypeVar

from sipc.errors import SpecError
from sipc.guard.lines import Lines, Path
from sipc.selinux.cil import check_identifier

__all__ = ("File", "Problem", "Table", "listed", "named", "shown", "title")

_E = TypeVar("_E", bound=StrEnum)

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB|TiB)?")
_UNITS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
# What useradd(8) and systemd take: a name goes into unit files, where a line end or a colon would say something else.
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_ACCOUNT_RULE = "give a name (a letter or _, then letters, digits, _ . -, at most 32 characters) or a number"
_LARGEST_ID = 0xFFFFFFFE  # (uid_t)-1 means "leave as it is" to chown(2)
# Linux: PATH_MAX counts the NUL, NAME_MAX does not; MAX_ARG_STRLEN counts it too.
_LONGEST_PATH, _LONGEST_PART, _LONGEST_ARGUMENT = 4095, 255, 131071
_LONGEST_REFERENCE = 255
# More is a mistake in the unit; a filter that takes an hour for one record holds up everything before it.
_LONGEST_TIMEOUT = 3600.0


def shown(value: object) -> str:
    """A value as a message shows it: on one line, printable, not longer than a line."""
    try:
        text = repr(value) if not isinstance(value, bool) else str(value).lower()
    except (ValueError, RecursionError):  # a number of more digits than Python prints; tables in tables
        return f"a value too large to show ({type(value).__name__})"
    size = len(value) if isinstance(value, str) else len(text)
    return text if len(text) <= 80 else f"{text[:60]}... ({size} characters)"


def listed(names: Collection[str]) -> str:
    """Names as a message shows them: the first few."""
    first = [named(name) for name in list(names)[:12]]
    return ", ".join([*first, *(["..."] if len(names) > len(first) else [])]) or "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where it stands, why it is wrong, and what would do."""

    line: int
    table: str  # "[stage.ingest]"; empty for the file as a whole
    key: str  # empty for the table as a whole
    reason: str
    fix: str

    def text(self, source: str) -> str:
        """The problem as a message, on one line."""
        place = " ".join(part for part in (self.table, self.key) if part)
        return f"{source}:{self.line}: {place + ': ' if place else ''}{self.reason}: {self.fix}"


@dataclass(slots=True, kw_only=True)
class File:
    """What is known of one file while it is read: its lines, and the problems so far."""

    source: str
    lines: Lines
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path, key: str | None, reason: str, fix: str, *, within: Path = ()) -> None:
        """Note a problem with a key of the table at `path`, or (None) with the table; `within`: inside its value."""
        self.problems.append(Problem(
            line=self.lines.of((*path, *([key] if key is not None else ()), *within)),
            table=title(path) if path else "",
            key=named(key) if key is not None else "",
            reason=reason,
            fix=fix,
        ))  # fmt: skip

    def table(self, path: Path, value: Any) -> Table | None:
        """The table at `path`; None, and a problem, when something else stands there."""
        if isinstance(value, dict):
            return Table(self, path, value)
        self.problem(path[:-1], str(path[-1]), f"is {shown(value)}, not a table", "write { KEY = ... }")
        return None


def title(path: Path) -> str:
    """A table as its header names it: [stage.ingest]."""
    return f"[{'.'.join(map(named, path))}]"


def named(part: str | int) -> str:
    """A key as a message shows it: as it is, or quoted where it could be taken for something else."""
    return part if isinstance(part, str) and _PLAIN.fullmatch(part) else shown(part)


class Table:
    """One table.  Each reading method gives the key's value, or None when it is missing or wrong."""

    def __init__(self, file: File, path: Path, values: Mapping[str, Any]) -> None:
        self.file = file
        self.path = path
        self.values = values

    def problem(self, key: str | None, reason: str, fix: str, *, within: Path = ()) -> None:
        """Note a problem with one key, or (None) with the table as a whole."""
        self.file.problem(self.path, key, reason, fix, within=within)

    def only(self, known: Collection[str], elsewhere: Mapping[str, str] | None = None) -> None:
        """Refuse every other key; `elsewhere` says of some what to do instead."""
        for key in self.values:
            if key in known:
                continue
            near = get_close_matches(key, known, n=1) if len(key) <= 64 else []
            fix = f"write {near[0]}" if near else f"known are {', '.join(known)}"
            self.problem(key, "is no key of this table", (elsewhere or {}).get(key, fix))

    def one_of(self, keys: Collection[str], what: str) -> str | None:
        """The one of these keys that is there; a problem when there is none or more than one."""
        there = [key for key in self.values if key in keys]
        if not there:
            self.problem(None, f"has no {what}", f"give one of {', '.join(keys)}")
            return None
        for key in there[1:]:
            self.problem(key, f"a second {what}, after {there[0]}", "remove one of them")
        return there[0]

    def table(self, key: str, example: str) -> Table | None:
        """A table inside this one."""
        if key not in self.values:
            return None
        value = self.values[key]
        if isinstance(value, dict):
            return Table(self.file, (*self.path, key), value)
        self.problem(key, f"is {shown(value)}, not a table", f"write {key} = {example}")
        return None

    def choice(self, key: str, kind: type[_E], *, without: Collection[_E] = ()) -> _E | None:
        """One of the words of an enumeration."""
        if key not in self.values:
            return None
        value = self.values[key]
        words = [member.value for member in kind if member not in without]
        if isinstance(value, str) and value in words:
            return kind(value)
        self.problem(key, f"{shown(value)} is not known", f"give one of {', '.join(map(repr, words))}")
        return None

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value = self.values.get(key)
        if value is not None and type(value) is not bool:
            self.problem(key, f"is {shown(value)}", "write true or false")
            return None
        return value

    def integer(self, key: str, low: int, high: int) -> int | None:
        """A whole number."""
        if key not in self.values:
            return None
        value = self.values[key]
        if type(value) is int and low <= value <= high:
            return value
        self.problem(key, f"{shown(value)} is no whole number from {low} to {high}", f"write {key} = {max(low, 1)}")
        return None

    def size(self, key: str, low: int, high: int) -> int | None:
        """Bytes: a whole number, or "64 MiB"."""
        if key not in self.values:
            return None
        value = self.values[key]
        number = value if type(value) is int else None
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)) is not None:
            number = int(match[1]) << _UNITS[match[2] or "B"]
        if number is None:
            self.problem(key, f"{shown(value)} is no size", 'write bytes, or a string like "64 MiB"')
        elif not low <= number <= high:
            self.problem(key, f"{shown(value)} is out of range", f"give {low} to {high} bytes")
            return None
        return number

    def seconds(self, key: str) -> float | None:
        """A time greater than nothing."""
        if key not in self.values:
            return None
        value = self.values[key]
        if type(value) in (int, float) and 0 < value <= _LONGEST_TIMEOUT:
            return float(value)
        fix = f"give more than 0 and at most {_LONGEST_TIMEOUT:g}"
        self.problem(key, f"{shown(value)} is no number of seconds to wait", fix)
        return None

    def account(self, key: str) -> str | int | None:
        """A user or a group, by name or number."""
        if key not in self.values:
            return None
        value = self.values[key]
        if _is_account(value):
            return value  # type: ignore[no-any-return]
        self.problem(key, f"{shown(value)} can not be a {key}", _ACCOUNT_RULE)
        return None

    def groups(self, key: str) -> tuple[str | int, ...] | None:
        """A list of groups, by name or number; it may be empty."""
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, list):
            self.problem(key, f"is {shown(value)}, not a list", f'write {key} = ["NAME"]')
            return None
        wrong = [number for number, one in enumerate(value) if not _is_account(one)]
        for number in wrong:
            self.problem(key, f"{shown(value[number])} can not be a group", _ACCOUNT_RULE, within=(number,))
        return None if wrong else tuple(value)

    def matching(self, key: str, right: Callable[[object], bool], what: str, fix: str) -> str | None:
        """A string that is right."""
        if key not in self.values:
            return None
        value = self.values[key]
        if isinstance(value, str) and right(value):
            return value
        self.problem(key, f"{shown(value)} is no {what}", fix)
        return None

    def identifier(self, key: str) -> str | None:
        """An SELinux type: a name that says nothing but itself in a policy."""
        if key not in self.values:
            return None
        value = self.values[key]
        try:
            return check_identifier(value, key)
        except SpecError:
            rule = "start with a letter, go on with letters, digits and _, at most 128 characters, no word of CIL"
            self.problem(key, f"{shown(value)} can not be an SELinux type", rule)
            return None

    def file_path(self, key: str, longest: int = _LONGEST_PATH) -> str | None:
        """An absolute path that says what it says: nothing to follow upwards, nothing that ends a line elsewhere."""
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, str):
            self.problem(key, f"is {shown(value)}, not a path", f'write {key} = "/an/absolute/path"')
            return None
        if found := _wrong_path(value, longest):
            self.problem(key, *found)
            return None
        return value.rstrip("/")

    def reference(self, key: str) -> str | None:
        """A Python object: "module:name", dots on both sides allowed."""
        if key not in self.values:
            return None
        value = self.values[key]
        if isinstance(value, str) and len(value) <= _LONGEST_REFERENCE and _refers(value):
            return value
        self.problem(key, f"{shown(value)} names nothing in Python", 'write "module:name", as in "json_guard:scrub"')
        return None

    def arguments(self, key: str) -> tuple[str, ...] | None:
        """A program by its absolute path, and its arguments.  No shell reads them."""
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, list) or not value:
            self.problem(key, f"is {shown(value)}, not a list", f'write {key} = ["/usr/bin/jq", "."]')
            return None
        good = True
        for number, argument in enumerate(value):
            if not isinstance(argument, str):
                found = (f"{shown(argument)} is no string", "put it in quotes")
            elif "\0" in argument or len(os.fsencode(argument)) > _LONGEST_ARGUMENT:
                found = (
                    f"{shown(argument)} can not be an argument of a program",
                    f"use no NUL, and at most {_LONGEST_ARGUMENT} bytes",
                )
            elif number == 0 and (wrong := _wrong_path(argument, _LONGEST_PATH)):
                found = wrong
            else:
                continue
            good = False
            self.problem(key, *found, within=(number,))
        return tuple(value) if good else None


def _is_account(value: object) -> bool:
    if isinstance(value, str):
        return _ACCOUNT.fullmatch(value) is not None
    return type(value) is int and 0 <= value <= _LARGEST_ID


def _wrong_path(value: str, longest: int) -> tuple[str, str] | None:
    """Reason and fix, when this is no usable path."""
    plain = value.rstrip("/")
    if not value.isprintable():
        return f"{shown(value)} has a character that can not be printed", "use printable characters only"
    if not value.startswith("/"):
        return f"{shown(value)} depends on where a stage is started", "give an absolute path"
    if not plain:
        return "the root directory holds every other path", "give a directory of its own"
    if ".." in plain.split("/"):
        return f"{shown(value)} leads upwards", f"write where it ends, without '..': {shown(posixpath.normpath(value))}"
    if posixpath.normpath(plain) != plain:
        better = posixpath.normpath("/" + plain.lstrip("/"))
        return f"{shown(value)} has parts that say nothing", f"write {shown(better)}"
    if len(value.encode()) > longest or any(len(part.encode()) > _LONGEST_PART for part in plain.split("/")):
        limits = f"at most {longest} bytes, and {_LONGEST_PART} between two slashes"
        return f"{shown(value)} is longer than the kernel takes", f"give {limits}"
    return None


def _refers(value: str) -> bool:
    module, colon, name = value.partition(":")
    parts = [*module.split("."), *name.split(".")]
    plain = bool(colon) and value.isascii()
    return plain and all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
