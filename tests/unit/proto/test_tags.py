# SPDX-License-Identifier: Apache-2.0
"""Tags: one value for everything that says what a block is, and another for whatever differs."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import seqs, u32, u64

from sipc.errors import RemoteProtocolError
from sipc.proto.tags import Tags
from sipc.spec import TAG_SIZE

SECRET = bytes(range(32))
payloads = st.binary(max_size=300)


def test_a_tag_is_what_the_protocol_page_says() -> None:
    """Computed here from the page's words alone: derived key, person strings, order and sizes of the fields."""
    key = hashlib.blake2b(SECRET, person=b"sipc2 key", digest_size=64).digest()
    said = struct.pack("<QQQI", 7, 8, 5, 17) + b"hello"
    golden = hashlib.blake2b(said, key=key, person=b"sipc2 block", digest_size=16).digest()
    assert Tags(SECRET, 7).make(8, 17, b"hello") == golden
    assert len(golden) == TAG_SIZE
    assert golden.hex() == "47074c25f1606107d9cad3a42c46bd66"


@given(epoch=u64, seq=seqs, flags=u32, payload=payloads)
def test_the_tag_of_a_block_is_accepted_for_that_block(epoch: int, seq: int, flags: int, payload: bytes) -> None:
    """By another holder of the key, from any kind of buffer."""
    for form in (payload, bytearray(payload), memoryview(payload)):
        Tags(SECRET, epoch).check(seq, flags, payload, Tags(SECRET, epoch).make(seq, flags, form))


@given(epoch=u64, seq=seqs, flags=u32, payload=payloads, data=st.data())
def test_one_bit_anywhere_is_refused(epoch: int, seq: int, flags: int, payload: bytes, data: st.DataObject) -> None:
    """In key, epoch, seq, flags, payload or tag."""
    tag = Tags(SECRET, epoch).make(seq, flags, payload)
    whole = bytearray(SECRET + struct.pack("<QQI", epoch, seq, flags) + payload + tag)
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[at // 8] ^= 1 << at % 8
    its_epoch, its_seq, its_flags = struct.unpack_from("<QQI", whole, 32)
    its_payload, its_tag = bytes(whole[52 : 52 + len(payload)]), bytes(whole[52 + len(payload) :])
    with pytest.raises(RemoteProtocolError, match="tag"):
        Tags(bytes(whole[:32]), its_epoch).check(its_seq, its_flags, its_payload, its_tag)


@given(seq=seqs, payload=payloads, cut=st.integers(1, 40), longer=st.booleans())
def test_a_block_cut_or_grown_or_its_tag_moved_is_refused(seq: int, payload: bytes, cut: int, longer: bool) -> None:
    """Payload and tag are split at another place, shortened, or followed by more."""
    tags = Tags(SECRET, 1)
    whole = payload + tags.make(seq, 0, payload)
    if longer:
        moved = [whole + bytes(cut), bytes(cut) + whole]
    else:
        moved = [whole[:-cut], whole[cut:], whole[-TAG_SIZE:] + payload + b"\0"]
    for other in moved:
        with pytest.raises(RemoteProtocolError, match="tag"):
            tags.check(seq, 0, other[:-TAG_SIZE], other[-TAG_SIZE:])


@given(seq=seqs, payload=payloads, other=st.one_of(st.binary(max_size=40)))
def test_only_the_tag_itself_is_accepted(seq: int, payload: bytes, other: bytes) -> None:
    """Not a part of it, none at all, or more."""
    tags = Tags(SECRET, 1)
    right = tags.make(seq, 0, payload)
    for wrong in (other, right[:-1], right + b"\0", b""):
        if wrong != right:
            with pytest.raises(RemoteProtocolError):
                tags.check(seq, 0, payload, wrong)


def test_a_refusal_does_not_tell_the_right_tag() -> None:
    """Who reads the log of a receiver can not make a block from it."""
    tags = Tags(SECRET, 1)
    right = tags.make(1, 0, b"x")
    with pytest.raises(RemoteProtocolError) as caught:
        tags.check(1, 0, b"x", bytes(TAG_SIZE))
    assert right.hex() not in str(caught.value)
    assert SECRET.hex() not in repr(tags)


def test_tags_are_compared_in_constant_time() -> None:
    """By `hmac.compare_digest`, and by no operator."""
    assert "compare_digest" in Tags.check.__code__.co_names
