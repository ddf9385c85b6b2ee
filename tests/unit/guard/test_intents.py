# SPDX-License-Identifier: Apache-2.0
"""Intents: the newest whole one is read back, whatever a kill left of the one after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sipc.errors import SpecError
from sipc.guard.held import Held
from sipc.guard.intents import _HEADER, Intent, Intents, Mark, _sum
from sipc.guard.verdicts import Drop, Pass, Quarantine

FULL = Intent(
    channel="raw", epoch=2**64 - 1, seq=7, digest="d", first=3, end=8,
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


def test_what_passes_as_it_came_is_taken_from_the_batch(tmp_path: Path) -> None:
    """The very messages, among others; without the batch nothing is said of them."""
    held = Held(tmp_path)
    batch = held.begin("raw", 1)
    came = [b"%d" % number * number for number in range(9)]
    held.add(batch, 1, 0, came)
    given = batch.messages[2:9]
    verdicts = (Pass(given[0]), Pass(given[1]), Drop("no"), Pass(b"other"), Pass(given[4]), Pass(b""), Pass(given[6]))
    intent = Intent(batch=batch.number, epoch=1, first=2, end=9, given=given, verdicts=verdicts)
    intents = Intents(tmp_path, held)
    intents.write(intent)
    intents.close()
    held.close()
    for later in (Held(tmp_path), None):
        intents = Intents(tmp_path, later)
        assert intents.last is not None
        if later is not None:
            assert intents.last.payloads == intent.payloads == [*came[2:4], b"other", came[6], b"", came[8]]
            mine = later.pending[0].messages[2:9]
            pairs = zip(intents.last.verdicts, mine, strict=True)
            same = [one.payload is data for one, data in pairs if isinstance(one, Pass)]
            assert same == [True, True, False, True, False, True]
            later.close()
        else:
            assert intents.last.verdicts == ()
        intents.close()


def test_of_a_batch_of_another_epoch_or_with_less_in_it_an_intent_says_nothing(tmp_path: Path) -> None:
    """After a power failure the numbers of batches begin again: what was said of a message is not said of another."""
    held = Held(tmp_path)
    batch = held.begin("raw", 1)
    held.add(batch, 1, 0, [b"judged"])
    intents = Intents(tmp_path, held)
    for first, end in ((0, 1), (0, 2)):
        given = [*batch.messages, b"more"][first:end]
        verdicts = tuple(map(Pass, given))
        intents.write(Intent(batch=1, epoch=1, first=first, end=end, given=given, verdicts=verdicts))
        again = Intents(tmp_path, held)
        assert again.last is not None
        assert again.last.payloads == ([b"judged"] if end == 1 else [])
        again.close()
        (tmp_path / "later").mkdir(exist_ok=True)
        later = Held(tmp_path / "later")
        other = later.begin("raw", 2)
        later.add(other, 1, 0, [b"not judged"])
        assert other.number == batch.number or end == 2
        again = Intents(tmp_path, later)
        assert again.last is not None
        assert again.last.verdicts == ()
        again.close()
        later.close()
    intents.close()
    held.close()


def test_a_write_that_was_cut_leaves_the_intent_before(tmp_path: Path) -> None:
    """At any length, over any older content: the content is written first, and last the header that makes it count."""
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
    head, size = _HEADER.size, len(whole.rstrip(b"\0"))
    places = [*range(head, head + 400), *range(head, size, 97), size]
    cuts = [old[:head] + whole[head:cut] + old[cut:] for cut in places]
    cuts += [whole[:cut] + old[cut:head] + whole[head:] for cut in range(head)]
    for content in cuts:
        (tmp_path / "intent.0").write_bytes(content)
        intents = Intents(tmp_path)
        assert intents.last == before
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
    place.write_bytes(_HEADER.pack(magic, number, length, described, _sum(number, length, rest[:described])) + rest)
    with pytest.raises(SpecError, match="makes no sense"):
        Intents(tmp_path)
