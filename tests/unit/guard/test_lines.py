# SPDX-License-Identifier: Apache-2.0
"""Lines of keys: for any valid TOML, the line that is reported holds the key."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipc.guard.lines import Path, find_lines

bare = st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True)
# Whatever a quoted key may have; what looks like the rest of TOML most of all.
odd = st.text(st.sampled_from(list("ab.#=[]{},'\" \t\n\\é\x7f\u2028\x85")), max_size=4)
strings = st.sampled_from([
    '"""a\nb = 1\n[c]\n"""', "'''\n\"\"\"\n# no\n'''", '"""a""\\"""""', '""""""', "''''''", "''''a'''''", '"""\\\\"""',
    '"a # b = [\\"x\\"]"', "'\\'", '""', "''", '"""x\\\n  y"""', '"a\\tb\\u0041"',
])  # fmt: skip
scalars = st.sampled_from(["1", "-1_000", "0xff", "1.5e3", "inf", "-nan", "true", "1979-05-27 07:32:00", "07:32:00"])


class Writer:
    """Text with what is expected of it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.text = ""
        self.expected: dict[Path, int] = {}

    def line(self) -> int:
        return self.text.count("\n") + 1

    def gap(self) -> None:
        """What may stand between two elements of an array."""
        self.text += self.data.draw(st.sampled_from(["", " ", "\n", " # , ] x = 1\n\n", "\t"]))

    def name(self, part: str) -> str:
        if part and all(c.isascii() and (c.isalnum() or c in "_-") for c in part) and self.data.draw(st.booleans()):
            return part
        if "'" not in part and part.isprintable() and self.data.draw(st.booleans()):
            return f"'{part}'"
        return json.dumps(part, ensure_ascii=self.data.draw(st.booleans())).replace("\x7f", "\\u007f")

    def pair(self, table: Path, part: str, depth: int) -> None:
        path, line = (*table, part), self.line()
        self.expected.setdefault(path, line)
        self.text += self.name(part)
        if self.data.draw(st.integers(0, 4)) == 0:
            inner = self.data.draw(bare | odd)
            self.text += self.data.draw(st.sampled_from([".", " . "])) + self.name(inner)
            path = (*path, inner)
            self.expected.setdefault(path, line)
        self.text += self.data.draw(st.sampled_from(["=", " = ", "\t= "]))
        self.value(path, depth)

    def value(self, path: Path, depth: int) -> None:
        kind = self.data.draw(st.integers(0, 4 if depth else 1))
        if kind == 0:
            self.text += self.data.draw(scalars)
        elif kind == 1:
            self.text += self.data.draw(strings)
        elif kind in (2, 3):
            self.text += "["
            for number in range(self.data.draw(st.integers(0, 3))):
                self.gap()
                self.expected[(*path, number)] = self.line()
                self.value((*path, number), depth - 1)
                self.gap()
                self.text += ","
            self.gap()
            self.text += "]"
        else:
            keys = self.data.draw(st.lists(bare | odd, unique=True, max_size=3))
            self.text += "{"
            for number, key in enumerate(keys):
                self.text += ", " if number else " "
                self.pair(path, key, depth - 1)
            self.text += " }"


def paths(value: Any, path: Path = ()) -> list[Path]:
    """Every path of a document."""
    found: list[Path] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        found += [(*path, key), *paths(inside, (*path, key))]
    return found


@settings(max_examples=300)
@given(st.data())
def test_every_key_of_a_valid_file_has_the_line_it_is_on(data: st.DataObject) -> None:
    """Headers, dotted and quoted keys, inline tables, arrays over many lines, strings that look like TOML."""
    writer = Writer(data)
    for key in data.draw(st.lists(bare | odd, unique=True, max_size=3)):
        writer.pair((), key, 2)
        writer.text += data.draw(st.sampled_from(["\n", " # comment = 1\n", "\r\n\n"]))
    tops = data.draw(st.lists(bare | odd, unique=True, max_size=4))
    many = set(data.draw(st.lists(st.sampled_from(tops), max_size=2))) if tops else set()
    for top in tops:
        if (top,) in writer.expected:
            continue
        for number in range(data.draw(st.integers(1, 2)) if top in many else 1):
            table: Path = (top, number) if top in many else (top,)
            writer.expected.setdefault((top,), writer.line())
            writer.expected[table] = writer.line()
            writer.text += f"[[ {writer.name(top)} ]]\n" if top in many else f"  [{writer.name(top)}] # [x]\n"
            for key in data.draw(st.lists(bare | odd, unique=True, max_size=3)):
                writer.pair(table, key, 2)
                writer.text += data.draw(st.sampled_from(["\n", "\n\n"]))
            if data.draw(st.booleans()):
                inner = (*table, "in.side")
                if inner not in writer.expected:
                    writer.expected[inner] = writer.line()
                    writer.text += f'[{writer.name(top)}."in.side"]\n'
    document = tomllib.loads(writer.text)
    lines = find_lines(writer.text)
    assert lines.known == writer.expected
    assert set(paths(document)) == set(lines.known)
    assert lines.twice == []


_PIECES = ["a", "b", '"c"', "'d'", ".", "=", " = ", "1", "[", "]", "[[", "]]", "{", "}", ",", "\n", "\r\n", " ", "# x",
           '"""', "'''", '"', "'", "\\", "true", "1979-05-27 07:32:00", "\t", "[a]\n", "[a.b]\n", "[[a]]\n", "b = 1\n",
           "a = [1,\n2]\n", "a = { b = 1 }\n", "\u2028", "\0"]  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(_PIECES), max_size=14).map("".join) | st.text(max_size=30))
def test_any_text_is_scanned_and_a_valid_one_to_its_end(text: str) -> None:
    """Never an exception; and where tomllib finds a key, a line is known."""
    lines = find_lines(text)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(paths(document)) == set(lines.known)
    count = text.replace("\r\n", "\n").count("\n") + 1
    assert all(1 <= line <= count for line in lines.known.values())
    assert lines.twice == []


def test_a_table_has_the_line_of_its_own_header() -> None:
    """Not of one inside it that came first."""
    lines = find_lines("[a.b]\nx = 1\n[a]\ny = 2\n")
    assert (lines.of(("a",)), lines.of(("a", "b")), lines.of(("a", "y"))) == (3, 1, 4)


def test_what_is_not_there_has_the_line_of_what_is_around_it() -> None:
    """A missing key is missing in a table; a missing table in the file."""
    lines = find_lines("\n[a]\nx = { y = 1 }\n")
    assert lines.of(("a", "x", "z")) == 3
    assert lines.of(("a", "nothing")) == 2
    assert lines.of(("b", "c")) == 1
    assert lines.of(()) == 1


@pytest.mark.parametrize(
    ("text", "path", "first", "second"),
    [
        ("a = 1\nb = 2\na = 3\n", ("a",), 1, 3),
        ("[a]\nx = 1\n\n[a]\nx = 2\n", ("a",), 1, 4),
        ("[a]\nx = [\n1,\n]\nx = 2\n", ("a", "x"), 2, 5),
        ("a = { b = 1, c = 2, b = 3 }\n", ("a", "b"), 1, 1),
        ("a.b = 1\n'a'.\"\\u0062\" = 2\n", ("a", "b"), 1, 2),
    ],
)
def test_what_is_given_twice_is_found_with_both_lines(text: str, path: Path, first: int, second: int) -> None:
    """However it is written; what stands inside a table that is given twice is not told again."""
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    (twice,) = find_lines(text).twice
    assert (twice.path, twice.first, twice.second) == (path, first, second)


def test_a_text_too_deep_ends_the_scan_and_nothing_else() -> None:
    """What came before is known."""
    assert find_lines("a = 1\nb = " + "[" * 100_000).known[("a",)] == 1
