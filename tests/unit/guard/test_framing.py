# SPDX-License-Identifier: Apache-2.0
"""Frames: what was framed comes out, whatever the pieces; nothing else does."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import SpecError
from sipc.guard.framing import ANSWER, MESSAGE, FramingError, MessageFrames, answer, message, read_answer, too_long
from sipc.guard.verdicts import Code

LIMIT = 50
payloads = st.binary(max_size=LIMIT)


def all_of(frames: MessageFrames) -> list[bytes]:
    found = []
    while (one := frames.next()) is not None:
        found.append(one)
    return found


@given(messages=st.lists(payloads, max_size=8), cuts=st.lists(st.integers(0, 500), max_size=8), tail=st.binary())
def test_messages_come_out_whatever_the_pieces(messages: list[bytes], cuts: list[int], tail: bytes) -> None:
    """Whole, bytewise, or cut anywhere; half a frame at the end is nothing, and said to be there."""
    stream = b"".join(map(message, messages))
    half = message(tail[:LIMIT])[:-1] if tail else b""
    data = stream + half
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for pieces in ([data[a:b] for a, b in itertools.pairwise(places)], [bytes([b]) for b in data]):
        frames, found = MessageFrames(LIMIT), []
        for piece in pieces:
            frames.feed(piece)
            found += all_of(frames)
        assert found == messages
        assert frames.partial == bool(half)


@given(data=st.binary(max_size=300))
def test_garbage_is_frames_or_an_error_and_nothing_is_invented(data: bytes) -> None:
    """What comes out, framed again, is what went in as far as it was taken."""
    frames, found = MessageFrames(LIMIT), []
    frames.feed(data)
    try:
        while (one := frames.next()) is not None:
            found.append(one)
    except FramingError:
        rest = data[sum(MESSAGE.size + len(one) for one in found) :]
        assert struct.unpack_from("<I", rest)[0] > LIMIT
    assert data.startswith(b"".join(map(message, found)))


def test_a_message_beyond_the_limit_is_refused_by_its_length_alone() -> None:
    """Before its bytes have come, and before memory was set aside for them."""
    frames = MessageFrames(LIMIT)
    frames.feed(struct.pack("<I", LIMIT + 1))
    with pytest.raises(FramingError, match="51 bytes"):
        frames.next()


@given(sent=st.lists(payloads, max_size=8), cut=st.integers(0, 500), most=st.integers(1, 120), count=st.integers(1, 5))
def test_the_rest_of_what_came_is_what_next_would_give(sent: list[bytes], cut: int, most: int, count: int) -> None:
    """Within its limits, at least one; what is left is still there, half frames and wrong ones too."""
    stream = (b"".join(map(message, sent)) + struct.pack("<I", LIMIT + 1))[:cut]
    whole, frames = MessageFrames(LIMIT), MessageFrames(LIMIT)
    whole.feed(stream)
    frames.feed(stream)
    while found := frames.rest(most, count):
        assert len(found) <= count
        assert sum(map(len, found[:-1])) < most
        assert found == [whole.next() for _ in found]
    assert frames._data == whole._data
    assert frames.rest(1, 0) == []


@given(code=st.sampled_from(Code), payload=payloads, extra=st.binary(min_size=1, max_size=20))
def test_an_answer_is_whole_or_not_yet_or_wrong(code: Code, payload: bytes, extra: bytes) -> None:
    """Every beginning of it is not yet one; with a byte more it is none."""
    frame = answer(code, payload)
    assert frame == struct.pack("<BI", code, len(payload)) + payload
    for end in range(len(frame)):
        assert read_answer(frame[:end], LIMIT) is None
    assert read_answer(frame, LIMIT) == (code, payload)
    with pytest.raises(FramingError, match="came after the answer"):
        read_answer(frame + extra, LIMIT)
    if payload:
        with pytest.raises(FramingError, match="and may have"):
            read_answer(frame[: ANSWER.size], len(payload) - 1)


@given(data=st.binary(max_size=80))
def test_an_answer_is_only_what_was_framed_as_one(data: bytes) -> None:
    """Any bytes: not yet, an error, or exactly the frame of what is returned."""
    try:
        found = read_answer(data, LIMIT)
    except FramingError:
        return
    assert found is None or data == answer(*found)


@pytest.mark.parametrize("code", sorted({*range(256)} - {0, 10, 20}))
def test_there_are_three_codes(code: int) -> None:
    """Any other first byte is refused at once."""
    with pytest.raises(FramingError, match="begins with"):
        read_answer(bytes([code]), LIMIT)


def test_what_no_frame_can_hold_is_refused() -> None:
    """By the sender, which can still say so."""
    with pytest.raises(SpecError, match="at most 10"):
        too_long(bytes(11), 10)
