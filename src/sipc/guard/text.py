# SPDX-License-Identifier: Apache-2.0
"""Text of unknown origin on its way to a terminal or a picture: printable, of a known width, not too long.

Owns what a character may be and how many cells it takes; knows nothing of what the text says.
"""

from __future__ import annotations

import unicodedata

__all__ = ("cells", "clean", "elided", "fitted", "wrapped")

_LONGEST = 4096  # characters looked at; a path has at most as many


def clean(text: str, limit: int = _LONGEST) -> str:
    r"""The same with \x escapes for all that is not printable: controls, line ends, bidi marks, lone surrogates."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(
            char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in cut
        )
    return cut if len(text) <= limit else f"{cut}…"


def cells(text: str) -> int:
    """How many columns of a terminal, or of a monospaced font, a clean text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fitted(text: str, width: int) -> str:
    """As much of a clean text as goes into `width` cells; an ellipsis where it was cut."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += _cells(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…" if width > 0 else ""


def elided(text: str, width: int) -> str:
    """The same, cut in the middle: of a path both ends say something."""
    if cells(text) <= width:
        return text
    head = fitted(text, width // 2)
    tail: list[str] = []
    used = cells(head)
    for char in reversed(text):
        used += _cells(char)
        if used > width:
            break
        tail.append(char)
    return head + "".join(reversed(tail))


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """A clean text on at most so many lines, broken at spaces where there are any."""
    found: list[str] = []
    rest = text.strip()
    while rest and len(found) < lines:
        if cells(rest) <= width or len(found) == lines - 1:
            found.append(fitted(rest, width))
            break
        line = fitted(rest, width + 1)[:-1]
        cut = line.rfind(" ")
        if cut > width // 3 and rest[len(line) : len(line) + 1] != " ":
            line = line[:cut]
        found.append(line.rstrip())
        rest = rest[max(1, len(line)) :].lstrip()
    return found
