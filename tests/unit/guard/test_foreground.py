# SPDX-License-Identifier: Apache-2.0
"""Foreign words in a log: whole lines, bounded, with nothing in them that a terminal would obey."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sipc.guard.foreground import lines_of

LONGEST = 2000


def fed(pieces: list[bytes]) -> list[str]:
    """Every line of a stream that came in these pieces."""
    found, held = list[str](), b""
    for piece in [*(piece for piece in pieces if piece), b""]:
        lines, held = lines_of(held, piece)
        found += lines
    assert held == b""
    return found


@given(text=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=8))
def test_lines_are_the_same_however_they_came(text: bytes, cuts: list[int]) -> None:
    """Whole, or byte by byte."""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert fed(pieces) == fed([text])


@given(text=st.binary(max_size=9000))
def test_no_line_has_what_a_terminal_obeys(text: bytes) -> None:
    """Nothing but printable characters, and no line without end."""
    for line in fed([text]):
        assert line.isprintable()
        assert len(line) <= 10 * LONGEST  # one character is spelled with at most ten


def test_a_line_without_end_is_cut() -> None:
    """Held are never more than one line's worth and a piece."""
    lines, held = lines_of(b"", b"x" * 3 * LONGEST)
    assert ([len(line) for line in lines], held) == ([LONGEST], b"")
