# SPDX-License-Identifier: Apache-2.0
"""Text of unknown origin: printable, of known width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.guard.text import cells, clean, elided, fitted, wrapped

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=80)


@given(TEXT)
def test_whatever_comes_is_made_printable(text: str) -> None:
    """Controls, line ends, bidi marks, lone surrogates: none is left, and all can be encoded."""
    shown = clean(text)
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2Jb", "a\\x1b[2Jb"), ("a\nb", "a\\nb"), ("\x9b1m", "\\x9b1m"), ("\u202eab", "\\u202eab"),
     ("\ud800", "\\ud800"), ("ünï", "ünï")],
)  # fmt: skip
def test_what_is_not_printable_is_shown_as_what_it_is(text: str, shown: str) -> None:
    """Escaped, not dropped."""
    assert clean(text) == shown


def test_a_long_text_is_cut() -> None:
    """And that it was is seen."""
    assert clean("a" * 10, 4) == "aaaa…"


@given(TEXT.map(clean), st.integers(1, 60))
def test_what_is_cut_fits(text: str, width: int) -> None:
    """In cells, of which some characters take two."""
    assert cells(fitted(text, width)) <= width
    assert cells(elided(text, width)) <= width
    if cells(text) <= width:
        assert fitted(text, width) == elided(text, width) == text


def test_a_path_is_cut_in_its_middle() -> None:
    """Both ends say something."""
    assert elided("/var/lib/some/where/quarantine", 16) == "/var/li…arantine"
    assert fitted("日本語", 4) == "日…"


@given(TEXT.map(clean), st.integers(8, 60), st.integers(1, 5))
def test_wrapped_text_fits_its_lines(text: str, width: int, lines: int) -> None:
    """Neither more lines nor longer ones."""
    found = wrapped(text, width, lines)
    assert len(found) <= lines
    assert all(cells(line) <= width for line in found)


def test_text_is_wrapped_at_spaces_and_loses_no_word() -> None:
    """Unless it is too long, which is seen."""
    text = "information goes from json_deliver_t to json_ingest_t through drop_t"
    found = wrapped(text, 24, 9)
    assert " ".join(found) == text
    assert wrapped(text, 24, 2)[1].endswith("…")
    assert wrapped("", 10, 3) == []
