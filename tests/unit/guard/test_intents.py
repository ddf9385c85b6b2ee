# SPDX-License-Identifier: Apache-2.0
"""Intents: the newest whole one is read back, whatever a kill left of the one after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import SpecError
from sipc.guard.intents import _HEADER, Intent, Intents, Mark, _sum, digest_of
from sipc.guard.verdicts import Drop, Pass, Quarantine

FULL = Intent(
    channel="raw", epoch=2**64 - 1, seq=7, digest="d", first=3, end=6,
    verdicts=(Pass(b"one"), Drop("no"), Quarantine("odd", "\0 \ud7ff"), Pass(b""), Pass(b"\xff" * 5000)),
    marks={"clean": Mark(epoch=1, before=2, start=3)}, over={"raw": (4, 5)}, ended=True, run="r",
)  # fmt: skip


def test_an_intent_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Every field; and by the process that wrote it as well."""
    intents = Intents(tmp_path)
    assert intents.last is None
    intents.write(FULL)
    assert intents.last == FULL
    intents.close()
    intents = Intents(tmp_path)
    assert intents.last == FULL
    assert intents.last.payloads == [b"one", b"", b"\xff" * 5000]
    intents.close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_write_that_was_cut_leaves_the_intent_before(tmp_path: Path) -> None:
    """At any length, over any older content."""
    before = Intent(channel="raw", epoch=1, seq=1, digest="a")
    intents = Intents(tmp_path)
    for number in range(4):
        intents.write(Intent(channel="raw", epoch=1, seq=number, digest="x" * 7000))
    intents.write(before)
    old = (tmp_path / "intent.0").read_bytes()
    intents.write(FULL)
    intents.close()
    whole = (tmp_path / "intent.0").read_bytes()
    assert old != whole
    size = len(whole.rstrip(b"\0"))
    for cut in [*range(_HEADER.size + 3), *range(_HEADER.size + 3, size - 2000, 97)]:
        (tmp_path / "intent.0").write_bytes(whole[:cut] + old[cut:])
        intents = Intents(tmp_path)
        assert intents.last == before, cut
        intents.close()


def test_an_intent_of_another_form_is_refused(tmp_path: Path) -> None:
    """A right sum over what makes no sense: an error, not a message sent twice or never."""
    intents = Intents(tmp_path)
    intents.write(FULL)
    intents.close()
    place = tmp_path / "intent.1"
    text = place.read_bytes()
    magic, number, length, described, _ = _HEADER.unpack_from(text)
    rest = text[_HEADER.size :].replace(b'"marks"', b'"makrs"')
    place.write_bytes(_HEADER.pack(magic, number, length, described, _sum(number, described, rest)) + rest)
    with pytest.raises(SpecError, match="makes no sense"):
        Intents(tmp_path)


@given(st.lists(st.lists(st.binary(max_size=3))), st.lists(st.binary(max_size=3)))
def test_blocks_of_other_content_have_other_digests(others: list[list[bytes]], records: list[bytes]) -> None:
    """Also where only the bounds between records differ."""
    for other in others:
        assert (digest_of(other) == digest_of(records)) == (other == records)
