# SPDX-License-Identifier: Apache-2.0
"""The hash chain: every edit, gap, swap and insertion is found; a cut or rewritten end with a head noted before."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import SpecError
from sipc.guard.chain import GENESIS, MAX_LINE, MOST, PREFIX, Entry, decode, read_lines, verify

BASE = Entry(
    number=1, time="2026-01-02T03:04:05.000006Z", stage="scrub", channel="raw", epoch="00000000000000aa",
    blocks=((1, 0, 1),), verdict="quarantine", reason="type", sizes=(3,), digests=("0" * 64,),
)  # fmt: skip


def log_of(count: int, start: int = 1, previous: str = GENESIS, reason: str = "type") -> list[bytes]:
    """A right log, from any place on."""
    lines = []
    for number in range(start, start + count):
        entry = dataclasses.replace(
            BASE, number=number, blocks=((number * 3, 0, 1),), previous=previous, reason=reason
        )
        previous = entry.hash
        lines.append(entry.line())
    return lines


def head_of(lines: list[bytes]) -> str:
    return decode(lines[-1]).hash


counts = st.integers(2, 12)


@given(count=st.integers(1, 12), earlier=st.integers(1, 12))
def test_a_log_as_it_was_written_is_right(count: int, earlier: int) -> None:
    """And any head noted on the way is found in it, also when the log has grown since."""
    lines = log_of(count)
    report = verify(lines)
    assert (report.ok, report.entries, report.head) == (True, count, head_of(lines))
    at = min(count, earlier)
    noted = verify(lines, head=head_of(lines[:at]))
    assert (noted.ok, noted.head_found_at) == (True, at)


@given(count=counts, data=st.data())
def test_any_byte_that_is_changed_is_found(count: int, data: st.DataObject) -> None:
    """Also spaces, and also in the last entry: a line has one spelling, and carries its own hash."""
    stream = bytearray(b"".join(log_of(count)))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    assert not verify(read_lines(io.BytesIO(bytes(stream)))).ok


@given(count=counts, data=st.data(), extra=st.binary(min_size=1, max_size=20))
def test_any_bytes_put_in_or_taken_out_are_found(count: int, data: st.DataObject, extra: bytes) -> None:
    """Anywhere, at the end too, but for whole entries taken from the end."""
    stream = b"".join(log_of(count))
    at = data.draw(st.integers(0, len(stream)))
    assert not verify(read_lines(io.BytesIO(stream[:at] + extra + stream[at:]))).ok
    end = data.draw(st.integers(at, len(stream)))
    if end - at > 0 and end < len(stream):
        assert not verify(read_lines(io.BytesIO(stream[:at] + stream[end:]))).ok
    if end == len(stream) and 0 < at < end and not stream[:at].endswith(b"\n"):
        assert not verify(read_lines(io.BytesIO(stream[:at]))).ok


@given(count=counts, data=st.data())
def test_a_missing_entry_is_found_and_named(count: int, data: st.DataObject) -> None:
    """One or several, from the beginning too."""
    lines = log_of(count)
    start = data.draw(st.integers(0, count - 2))
    end = data.draw(st.integers(start + 1, count - 1))
    report = verify(lines[:start] + lines[end:])
    what = f"entry {end} is" if end == start + 1 else f"entries {start + 1} to {end} are"
    assert report.problems == [(start + 1, f"{what} missing")]


@given(count=counts, data=st.data())
def test_a_swap_and_a_double_are_found(count: int, data: st.DataObject) -> None:
    """Entries in any other order; an entry twice."""
    lines = log_of(count)
    order = data.draw(st.permutations(range(count)))
    assert verify([lines[i] for i in order]).ok == (order == sorted(order))
    at = data.draw(st.integers(0, count - 1))
    assert not verify([*lines[: at + 1], *lines[at:]]).ok


@given(count=counts, data=st.data())
def test_an_edit_with_its_own_hash_put_right_is_found_by_the_next_entry(count: int, data: st.DataObject) -> None:
    """Unless it is the last: then by the head."""
    lines = log_of(count)
    at = data.draw(st.integers(0, count - 1))
    lines[at], head = dataclasses.replace(decode(lines[at]), reason="edited").line(), head_of(lines)
    assert verify(lines).ok == (at == count - 1)
    assert not verify(lines, head=head).ok


@given(count=counts, data=st.data())
def test_an_end_cut_off_or_written_anew_is_found_by_the_head(count: int, data: st.DataObject) -> None:
    """A log that hangs together in itself, and is not the one that was."""
    lines = log_of(count)
    at = data.draw(st.integers(1, count - 1))
    anew = [*lines[:at], *log_of(count - at + 3, at + 1, head_of(lines[:at]), "edited")]
    for forged in (lines[:at], anew, log_of(count, reason="edited")):
        assert verify(forged).ok
        report = verify(forged, head=head_of(lines))
        assert "cut off, or rewritten" in report.problems[-1][1]
        assert report.head_found_at is None


def test_nothing_is_not_right() -> None:
    """An empty log is an error, or with a head, a log whose end is missing."""
    with pytest.raises(SpecError, match="nothing to verify"):
        verify([])
    assert not verify([], head=head_of(log_of(1))).ok


def test_a_line_that_comes_twice_at_once_is_allowed_from_the_journal_alone() -> None:
    """And counted; further away it is out of its place."""
    lines = log_of(3)
    assert not verify([lines[0], *lines]).ok
    report = verify([lines[0], lines[0], *lines], repeats=True)
    assert (report.ok, report.entries, report.repeats) == (True, 3, 2)
    assert not verify([*lines, lines[1]], repeats=True).ok


@given(data=st.binary(max_size=400))
def test_garbage_is_a_problem_of_its_line_and_no_exception(data: bytes) -> None:
    """Any bytes."""
    lines = list(read_lines(io.BytesIO(data)))
    assert b"".join(lines) == data
    if lines:
        assert len(verify(lines).problems) >= 1


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    """It comes in pieces, none of which is an entry."""
    lines = list(read_lines(io.BytesIO(b"x" * 400_000)))
    assert max(map(len, lines)) == MAX_LINE + 1
    assert len(verify(lines).problems) == len(lines)
    assert not verify([b"[" * 4000 + b"\n"]).ok


HOSTILE: list[dict[str, Any]] = [
    {"reason": "payload bytes"}, {"reason": "x" * 41}, {"verdict": "perhaps"}, {"channel": "UPPER"}, {"channel": "a\n"},
    {"stage": ""}, {"time": "now"}, {"digests": ("00",)}, {"number": -1}, {"number": True}, {"sizes": (1 << 64,)},
    {"epoch": 7}, {"passed_sizes": (1,)}, {"passed_digests": ("0" * 64,)}, {"previous": None}, {"digests": "0" * 64},
    {"passed_sizes": (-1,), "passed_digests": ("0" * 64,)}, {"passed_sizes": (1,), "passed_digests": ("secret",)},
    {"passed_sizes": (1, 2), "passed_digests": ("0" * 64,) * 2}, {"digests": (b"0" * 64,)}, {"digests": ("0" * 63,)},
    {"digests": ("0" * 63 + "\n",)}, {"sizes": (True,)}, {"sizes": [3]}, {"sizes": ()}, {"digests": ()},
    {"blocks": ()}, {"blocks": ((1, 0, 2),)}, {"blocks": ((1, 0),)}, {"blocks": ((1, 0, "1"),)},
    {"blocks": ([1, 0, 1],)}, {"blocks": ((-1, 0, 1),)}, {"blocks": ((1, 0, 1),) * (MOST + 1)}, {"blocks": "secret"},
    {"blocks": ((1, 0, MOST + 1),), "sizes": (1,) * (MOST + 1), "digests": ("0" * 64,) * (MOST + 1)},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_an_entry_has_no_room_for_a_payload(change: dict[str, Any]) -> None:
    """Every field has a form that can hold nothing but its meaning."""
    with pytest.raises(SpecError, match="audit: "):
        dataclasses.replace(BASE, **change)


def test_the_longest_entry_is_far_shorter_than_a_line_may_be() -> None:
    """So a torn line is found at the end of a file; and lines begin as the reader expects."""
    most = (1 << 64) - 1
    entry = dataclasses.replace(
        BASE, number=most, blocks=((most, most, 1),) * MOST, sizes=(most,) * MOST, digests=("f" * 64,) * MOST,
        passed_sizes=(most,) * MOST, passed_digests=("f" * 64,) * MOST, stage="s" * 64, channel="c" * 64,
        reason="r" * 40,
    )  # fmt: skip
    assert len(entry.line()) * 2 < MAX_LINE
    assert entry.line().startswith(PREFIX)
    assert decode(entry.line()) == entry


@given(change=st.sampled_from(["version", "hash", "extra", "spaces", "order", "double"]))
def test_another_spelling_of_an_entry_is_none(change: str) -> None:
    """Equal to a JSON reader is not equal."""
    line = BASE.line()
    found = json.loads(line)
    if change == "version":
        found["version"] = 3
    elif change == "hash":
        found["hash"] = "0" * 64
    elif change == "extra":
        found["more"] = 1
    elif change == "order":
        found = dict(reversed(found.items()))
    text = json.dumps(found, separators=(", ", ": ") if change == "spaces" else (",", ":"))
    if change == "double":
        text = '{"version":2,' + text[1:]
    with pytest.raises(SpecError):
        decode(text.encode() + b"\n")


def test_a_head_of_another_form_is_refused() -> None:
    """It would never be found, and that would be called a cut."""
    with pytest.raises(SpecError, match="64 hexadecimal digits"):
        verify(log_of(1), head="HEAD")
