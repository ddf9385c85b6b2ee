# SPDX-License-Identifier: Apache-2.0
"""The descriptor's JSON: it reads back as it was written, and is read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import channel_specs, corrupted

from sipc.descriptor import Descriptor
from sipc.errors import RegistryError, SpecError
from sipc.kernel import Keys
from sipc.spec import ChannelSpec, Principal, Transport

WHERE = "/run/sipc/c.json"
LAST_U64 = (1 << 64) - 1
_keys = st.text(st.characters(codec="utf-8"), max_size=30)


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    """Any descriptor that a helper could write."""
    spec = draw(channel_specs())
    segment = draw(_keys) if spec.transport is Transport.SEGMENT else draw(st.none() | _keys)
    return Descriptor(
        spec=spec,
        epoch=draw(st.integers(1, LAST_U64)),
        keys=Keys(queue=draw(_keys), segment=segment),
        creator_uid=draw(st.integers(0, 0xFFFFFFFE)),
        ipc_namespace=draw(st.integers(0, 0xFFFFFFFF)),
        created=draw(st.integers(0, 1 << 40)),
    )


def document() -> dict[str, Any]:
    """A good descriptor's JSON."""
    found: dict[str, Any] = json.loads(
        Descriptor(
            spec=ChannelSpec(name="c", sender=Principal(uid=7, gid=8, type="a_t")),
            epoch=5,
            keys=Keys(queue="1", segment="2"),
            creator_uid=0,
            ipc_namespace=0,
            created=0,
        ).to_json()
    )
    return found


def refusal(changed: object) -> str:
    """Read what must be refused; returns what was said, which begins with the place."""
    with pytest.raises(RegistryError) as caught:
        Descriptor.from_json(json.dumps(changed), WHERE)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: ")
    return message


@given(descriptors())
def test_a_descriptor_reads_back_as_it_was_written(descriptor: Descriptor) -> None:
    """Every field of every channel."""
    text = descriptor.to_json()
    again = Descriptor.from_json(text, WHERE)
    assert again == descriptor
    assert again.to_json() == text
    assert text.isascii()  # whatever the locale of its reader
    assert text.endswith("}\n")


def test_the_schema_is_these_keys() -> None:
    """A reader of another version knows by the number; keys never change within one."""
    found = document()
    assert found["schema"] == 2
    assert list(found) == [
        "schema", "name", "epoch", "wire", "transport", "backend", "keys", "geometry", "segment_creator",
        "enforcement", "checksum", "tag", "max_message", "key_path", "channel_type", "sender", "receiver",
        "creator_uid", "ipc_namespace", "created",
    ]  # fmt: skip
    assert list(found["keys"]) == ["queue", "segment"]
    assert list(found["geometry"]) == ["slots", "depth", "slot_size"]
    assert found["sender"] == {"uid": 7, "gid": 8, "type": "a_t"}
    assert found["receiver"] == {"uid": None, "gid": None, "type": None}


@pytest.mark.parametrize("schema", [0, 1, 3, -1, 1 << 70])
def test_another_schema_is_not_guessed_at(schema: int) -> None:
    """Even when all the rest looks right; the remedy is named."""
    message = refusal({**document(), "schema": schema})
    assert "schema is not 2" in message
    assert "create the channel anew" in message


@pytest.mark.parametrize("schema", ["2", 2.0, True, None, [2]], ids=repr)
def test_a_schema_that_is_no_number_is_refused(schema: object) -> None:
    """True is not 1."""
    assert "schema = " in refusal({**document(), "schema": schema})


PLACES = [(), ("keys",), ("geometry",), ("sender",), ("receiver",)]


def below(found: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """The object of a document at a place."""
    for key in place:
        found = found[key]
    return found


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_no_key_may_be_missing_and_none_may_be_added(place: tuple[str, ...]) -> None:
    """Each is named."""
    for key in list(below(document(), place)):
        found = document()
        del below(found, place)[key]
        message = refusal(found)
        assert key in message
        assert "missing" in message or "not a JSON object" in message
    found = document()
    below(found, place)["surplus"] = 1
    assert "unknown keys ['surplus']" in refusal(found)


NONE = type(None)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("schema", "epoch", "max_message", "creator_uid", "ipc_namespace", "created"), (int,)),
    **dict.fromkeys(("slots", "depth", "slot_size"), (int,)),
    **dict.fromkeys(("name", "wire", "transport", "backend", "segment_creator", "enforcement", "queue"), (str,)),
    **dict.fromkeys(("keys", "geometry", "sender", "receiver"), (dict,)),
    **dict.fromkeys(("key_path", "channel_type", "segment", "tag", "type"), (str, NONE)),
    **dict.fromkeys(("uid", "gid"), (int, NONE)),
    "checksum": (bool,),
}


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_value_of_another_type_is_refused_by_name(place: tuple[str, ...]) -> None:
    """Numbers as text, lists, objects, true for 1: never converted."""
    values: tuple[object, ...] = ([], {}, 1.5, "1", 1, True, None)
    for key in below(document(), place):
        wrong = [value for value in values if type(value) not in TYPES[key]]
        assert len(wrong) >= 5
        for value in wrong:
            found = document()
            below(found, place)[key] = value
            assert key in refusal(found)


@pytest.mark.parametrize("epoch", [0, -1, LAST_U64 + 1])
def test_an_epoch_is_64_bits_and_not_zero(epoch: int) -> None:
    """It goes on the wire as u64, and 0 is what an empty segment holds."""
    assert "epoch is not a 64-bit number above 0" in refusal({**document(), "epoch": epoch})
    for good in (1, LAST_U64):
        assert Descriptor.from_json(json.dumps({**document(), "epoch": good}), WHERE).epoch == good


def test_a_segment_needs_a_key() -> None:
    """And the queue transport needs none."""
    found = {**document(), "keys": {"queue": "1", "segment": None}}
    assert "keys.segment is missing" in refusal(found)
    assert Descriptor.from_json(json.dumps({**found, "transport": "queue"}), WHERE).keys.segment is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../c"}, "channel name '../c'"),
        ({"wire": "sipc3"}, "'sipc3'"),
        ({"geometry": {"slots": 0, "depth": 2, "slot_size": 1}}, "slots = 0 is out of range"),
        ({"geometry": {"slots": 4, "depth": 513, "slot_size": 1}}, "depth = 513 is out of range"),
        ({"max_message": 0}, "max_message = 0 is out of range"),
        ({"sender": {"uid": -1, "gid": None, "type": None}}, "uid = -1 is out of range"),
        ({"key_path": "/x"}, "key_path belongs to wire = 'libsipc'"),
    ],
)
def test_the_channel_passes_the_checks_of_a_definition(change: dict[str, object], said: str) -> None:
    """A descriptor is no way around them; and it is no `SpecError`, as no definition of the caller's is wrong."""
    message = refusal({**document(), **change})
    assert said in message
    with pytest.raises(RegistryError) as caught:
        Descriptor.from_json(json.dumps({**document(), **change}), WHERE)
    assert not isinstance(caught.value, SpecError)


@given(st.one_of(st.text(max_size=100), corrupted(descriptors().map(lambda made: made.to_json().encode())).map(
    lambda data: data.decode("latin-1"))))  # fmt: skip
def test_any_text_is_a_descriptor_or_a_registry_error(text: str) -> None:
    """Cut, changed or followed by more; what is accepted is written again as the same value."""
    try:
        found = Descriptor.from_json(text, WHERE)
    except RegistryError:
        return
    assert Descriptor.from_json(found.to_json(), WHERE) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{} {}", "\ufeff{}", "[" * 100_000, "1" * 5000])
def test_what_is_no_object_is_refused(text: str) -> None:
    """Also what is nested or long beyond the reader's limits."""
    with pytest.raises(RegistryError):
        Descriptor.from_json(text, WHERE)
