# SPDX-License-Identifier: Apache-2.0
"""A status file of a stage that may lie: read whole or not at all, and never about another stage."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.statuses import channel, report, status, written

from sipc.errors import SpecError
from sipc.guard.model import Kind
from sipc.guard.reported import LARGEST, Direction, State, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def refused(data: bytes, **places: str) -> str:
    """Why it was."""
    with pytest.raises(SpecError) as caught:
        parse(data, **({"guard": "json", "stage": "scrub"} | places))
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_what_a_stage_writes_is_read() -> None:
    """Every value of it."""
    found = report()
    assert (found.kind, found.pid, found.starts, found.restarts, found.state) == (Kind.FILTER, 12, 3, 2, State.RUNNING)
    assert (found.since, found.updated, found.reason) == (1_700_000_000.0, 1_700_000_001.0, "")
    raw = found.channels["raw"]
    assert (raw.direction, raw.messages, raw.bytes, raw.blocked_seconds) == (Direction.IN, 10, 1000, 0.5)
    assert (raw.last_seq, raw.epoch) == (10, 123)
    assert found.verdicts == {"pass": 9, "drop": 0, "quarantine": 1}
    assert found.quarantine is not None
    assert (found.quarantine.messages, found.quarantine.bytes, found.quarantine.limit) == (1, 4096, 64 << 20)
    assert report(quarantine=None).quarantine is None
    assert report(starts=0).restarts == 0


def test_what_a_later_release_adds_is_no_reason_to_refuse() -> None:
    """Keys that are not known are not read."""
    assert report(more={"a": 1}) == report()


@pytest.mark.parametrize(
    ("guard", "stage"), [("json", "ingest"), ("other", "scrub"), ("json", "Scrub"), ("json", "scrub\n")]
)
def test_a_stage_speaks_for_itself_alone(guard: str, stage: str) -> None:
    """What was found under one name and says another is of nobody."""
    assert "a stage speaks for itself alone" in refused(written(), guard=guard, stage=stage)
    assert "a stage speaks for itself alone" in refused(written(guard=guard, stage=stage))


@pytest.mark.parametrize("key", sorted(set(status()) - {"quarantine"}))
def test_nothing_may_be_missing(key: str) -> None:
    """Half a status is none; `quarantine` may be null, or not there."""
    document = status()
    del document[key]
    assert key in refused(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2), ("version", True), ("version", "1"), ("version", 1.0), ("kind", "relay"), ("kind", ["filter"]),
        ("pid", -1), ("pid", 1.0), ("pid", True), ("pid", 1 << 63), ("pid", None), ("starts", "3"), ("since", -1),
        ("since", "now"), ("since", True), ("since", 1e300), ("updated", 10**400), ("state", "fine"), ("state", None),
        ("state", {}), ("reason", None), ("reason", ["x"]), ("channels", []), ("channels", None), ("verdicts", [1]),
        ("verdicts", {"pass": -1}), ("verdicts", {"pass": 1.5}), ("verdicts", {"Pass": 1}), ("verdicts", {"a\nb": 1}),
        ("verdicts", {'a"} 1': 1}), ("verdicts", {"": 1}), ("verdicts", {f"v{at}": 1 for at in range(2000)}),
        ("quarantine", []), ("quarantine", {}), ("quarantine", {"messages": 1, "bytes": 1, "limit": -1}),
        ("channels", {"raw": None}), ("channels", {"raw": {}}), ("channels", {"RAW": channel("in")}),
        ("channels", {"": channel("in")}), ("channels", {"a" * 33: channel("in")}),
        ("channels", {"\x1b[2J": channel("in")}), ("channels", {'raw"} 1\nx': channel("in")}),
        ("channels", {f"c{at}": channel("in") for at in range(1025)}),
        ("channels", {"raw": channel("both")}), ("channels", {"raw": channel("in", messages=-1)}),
        ("channels", {"raw": channel("in", bytes=1 << 64)}), ("channels", {"raw": channel("in", blocked_seconds=-0.1)}),
        ("channels", {"raw": channel("in", epoch=1 << 64)}), ("channels", {"raw": channel("in", last_seq=False)}),
    ],
)  # fmt: skip
def test_a_value_that_is_none_of_its_kind_is_refused(key: str, value: Any) -> None:
    """With its key, and on one line."""
    reason = refused(written(**{key: value}))
    assert key in reason
    assert len(reason) < 400


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1" + "0" * 4000])
@pytest.mark.parametrize("key", ["since", "pid", "updated"])
def test_a_number_that_is_none_is_refused(key: str, word: str) -> None:
    """Not a number, not finite, or longer than any."""
    refused(written(**{key: "HERE"}).replace(b'"HERE"', word.encode()))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"{", b"[]", b"1", b'"x"', b"null", b"\xff\xfe", b"{}" * 2, b"[" * 100_000, b'{"a":' * 40_000,
     b"[" * 100_000 + b"]" * 100_000, b" " * (LARGEST + 1), b'{"version":1,"version":1}',
     written().replace(b'"pid": 12', b'"pid": 12, "pid": 13')],
)  # fmt: skip
def test_what_is_no_status_is_refused(data: bytes) -> None:
    """Nothing, garbage, other JSON, JSON as deep as a well, a file too large, a key that is there twice."""
    refused(data)


def test_a_reason_has_nothing_that_a_terminal_obeys() -> None:
    """It is the one free text in the file."""
    text = report(reason="\x1b]0;owned\x07\r\nnext\x9b2J\u202e\ud800" + "x" * 5000).reason
    assert text.isprintable()
    assert text.startswith("\\x1b]0;owned\\x07\\r\\nnext\\x9b2J\\u202e\\ud800xxx")
    assert len(text) < 300


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_in_the_file_there_is_a_refusal(data: bytes) -> None:
    """Not another error."""
    refused(data)


@given(st.sampled_from(sorted(status())), JSON)
def test_whatever_one_value_is_it_is_read_or_refused(key: str, value: Any) -> None:
    """And what is read is finite and printable."""
    try:
        found = parse(json.dumps(status(**{key: value})).encode(), guard="json", stage="scrub")
    except SpecError as error:
        words = str(error)
    else:
        words = found.reason + "".join(found.verdicts) + "".join(found.channels)
        assert math.isfinite(found.since + found.updated)
        assert all(count >= 0 for count in found.verdicts.values())
    assert words.isprintable()
