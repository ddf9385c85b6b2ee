# SPDX-License-Identifier: Apache-2.0
"""Verdicts: three of them, reasons that are words, and names that sort as messages came."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import SpecError
from sipc.guard.verdicts import Drop, MessageId, Pass, Quarantine, Reason, check_reason

u64 = st.integers(0, (1 << 64) - 1)
records = st.integers(0, 10**10 - 1)


@pytest.mark.parametrize("payload", [7, None, "text", [1], True])
def test_only_bytes_can_be_passed(payload: Any) -> None:
    """Nothing that would become bytes by accident."""
    with pytest.raises(SpecError, match="Pass takes bytes"):
        Pass(payload)


@pytest.mark.parametrize("payload", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_what_is_passed_is_a_copy_that_stays(payload: Any) -> None:
    """A buffer that the filter uses again does not change what it passed."""
    assert type(Pass(payload).payload) is bytes
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pass(payload).payload = b"y"  # type: ignore[misc]


@pytest.mark.parametrize("reason", ["", "Two Words", "UPPER", "a" * 41, "a\n", "7up", "a_b", "é", 7, None])
def test_a_reason_is_a_word(reason: Any) -> None:
    """It is logged, so there is no room for a message in it; the refusal does not repeat it either."""
    for make in (Drop, Quarantine, check_reason):
        with pytest.raises(SpecError, match="a reason must be") as caught:
            make(reason)
        assert len(str(reason)) < 5 or str(reason) not in str(caught.value)


def test_our_own_reasons_are_words() -> None:
    """Each passes its own check."""
    assert [check_reason(reason) for reason in Reason] == list(Reason)


def test_a_detail_is_text() -> None:
    """Bytes there would be a payload."""
    with pytest.raises(SpecError, match="must be text"):
        Quarantine("filter", b"bytes")  # type: ignore[arg-type]


@given(epoch=u64, seq=u64, record=records, other=st.tuples(u64, records))
def test_names_are_read_back_and_sort_as_the_messages_came(
    epoch: int, seq: int, record: int, other: tuple[int, int]
) -> None:
    """Within an epoch."""
    one, two = MessageId(epoch=epoch, seq=seq, record=record), MessageId(epoch=epoch, seq=other[0], record=other[1])
    assert MessageId.from_name(one.name) == one
    assert (one.name < two.name) == (one < two)


@pytest.mark.parametrize("name", ["", "x", "0" * 16 + "-" + "9" * 20 + "-" + "0" * 10, "../etc/passwd"])
def test_another_name_is_none(name: str) -> None:
    """Nothing is guessed."""
    assert MessageId.from_name(name) is None


@pytest.mark.parametrize("key", ["epoch", "seq", "record"])
@pytest.mark.parametrize("value", [-1, 1 << 64, True, 1.0, "1"])
def test_what_does_not_fit_a_name_is_refused(key: str, value: Any) -> None:
    """A hostile sender chooses some of these numbers."""
    with pytest.raises(SpecError, match=key):
        MessageId(**{"epoch": 1, "seq": 1, "record": 1, key: value})
