# SPDX-License-Identifier: Apache-2.0
"""What a channel may be: defaults, bounds, and combinations that mean nothing."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import channel_names, channel_specs

from sipc.errors import SpecError
from sipc.spec import (
    Backend,
    ChannelSpec,
    Enforcement,
    Geometry,
    Principal,
    SegmentCreator,
    Tag,
    Transport,
    Wire,
    check_name,
    modes,
)

LAST_U63 = (1 << 63) - 1


def test_the_defaults_are_the_designs() -> None:
    """Slots for depth + 2, so that a stream needs no NOOP; System V, a helper's segment, and SELinux."""
    spec = ChannelSpec(name="c")
    assert dataclasses.asdict(spec.geometry) == {"slots": 4, "depth": 2, "slot_size": 256 * 1024}
    assert (spec.wire, spec.transport, spec.backend) == (Wire.SIPC2, Transport.SEGMENT, Backend.SYSV)
    assert (spec.segment_creator, spec.enforcement) == (SegmentCreator.HELPER, Enforcement.SELINUX)
    assert (spec.checksum, spec.max_message, spec.key_path, spec.channel_type) == (False, 1 << 30, None, None)
    assert spec.sender == spec.receiver == Principal(uid=None, gid=None, type=None)
    assert spec.label == "channel 'c'"


def test_every_choice_has_its_word() -> None:
    """Words of definitions and descriptors never change."""
    words = {kind.__name__: [member.value for member in kind] for kind in (
        Wire, Transport, Backend, SegmentCreator, Enforcement)}  # fmt: skip
    assert words == {
        "Wire": ["sipc2", "libsipc"],
        "Transport": ["segment", "queue"],
        "Backend": ["sysv", "posix", "memory"],
        "SegmentCreator": ["helper", "sender"],
        "Enforcement": ["selinux", "dac"],
    }


# -- bounds

BOUNDS = {"slots": (1, 0xFFFF), "depth": (1, 512), "slot_size": (1, 1 << 30)}


@pytest.mark.parametrize(("key", "bounds"), BOUNDS.items())
def test_a_bound_itself_is_allowed_and_the_next_number_is_not(key: str, bounds: tuple[int, int]) -> None:
    """The error names key, value and bounds."""
    for value in bounds:
        assert getattr(Geometry(**{key: value}), key) == value
    low, high = bounds
    for value in (low - 1, high + 1, -1, 1 << 64):
        with pytest.raises(SpecError) as caught:
            Geometry(**{key: value})
        assert str(caught.value) == f"{key} = {value} is out of range: give a whole number from {low} to {high}"


@given(st.sampled_from(sorted(BOUNDS)), st.one_of(st.integers(), st.integers(-5, 70_000)))
def test_any_number_makes_a_geometry_or_a_spec_error(key: str, value: int) -> None:
    """Exactly the numbers within the bounds."""
    low, high = BOUNDS[key]
    if low <= value <= high:
        assert getattr(Geometry(**{key: value}), key) == value
    else:
        with pytest.raises(SpecError, match=key):
            Geometry(**{key: value})


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], b"1"], ids=repr)
@pytest.mark.parametrize("key", ["slots", "depth", "slot_size", "max_message", "uid", "gid"])
def test_what_is_no_whole_number_is_refused(key: str, value: Any) -> None:
    """True is no 1, and 1.0 neither."""
    if value is None and key in ("uid", "gid"):
        assert getattr(Principal(**{key: value}), key) is None
        return
    with pytest.raises(SpecError, match=f"{key} = "):
        if key in BOUNDS:
            Geometry(**{key: value})
        elif key == "max_message":
            ChannelSpec(name="c", max_message=value)
        else:
            Principal(**{key: value})


@pytest.mark.parametrize("key", ["uid", "gid"])
def test_an_id_that_means_leave_it_is_refused(key: str) -> None:
    """(uid_t)-1 given to chown(2) changes nothing: the object would stay the helper's, silently."""

    def principal(value: int) -> Principal:
        return Principal(uid=value) if key == "uid" else Principal(gid=value)

    assert getattr(principal(0xFFFFFFFE), key) == 0xFFFFFFFE
    for value in (-1, 0xFFFFFFFF, 1 << 32):
        with pytest.raises(SpecError, match=f"{key} = {value} is out of range"):
            principal(value)


def test_max_message_is_bounded_by_what_any_sum_can_be() -> None:
    """1 to 2**63 - 1."""
    for value in (1, LAST_U63):
        assert ChannelSpec(name="c", max_message=value).max_message == value
    for value in (0, -1, LAST_U63 + 1):
        with pytest.raises(SpecError, match=f"max_message = {value} is out of range"):
            ChannelSpec(name="c", max_message=value)


# -- names


@given(channel_names)
def test_a_name_of_the_allowed_letters_is_returned(name: str) -> None:
    """[a-z0-9][a-z0-9._-]{0,63}."""
    assert check_name(name) == name


@given(st.text(max_size=70))
def test_any_other_text_is_no_name(name: str) -> None:
    """Nothing that a path, a shell or a policy could read otherwise; the error shows it quoted, and what would do."""
    letters = string.ascii_lowercase + string.digits
    allowed = 0 < len(name) <= 64 and name[0] in letters and set(name) <= set(letters + "._-")
    if allowed:
        assert check_name(name) == name
    else:
        with pytest.raises(SpecError) as caught:
            check_name(name)
        assert repr(name) in str(caught.value)
        assert "for example" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "_a", "A", "a/b", "a\0", "a\n", "é", "a" * 65, "٣"])
def test_names_that_would_be_paths_options_or_worse_are_refused(name: str) -> None:
    """Also one that ends with a newline, and digits that are not ASCII."""
    with pytest.raises(SpecError):
        check_name(name)
    with pytest.raises(SpecError):
        ChannelSpec(name=name)


@pytest.mark.parametrize("name", [None, 7, b"c", ["c"]], ids=repr)
def test_what_is_no_text_is_no_name(name: Any) -> None:
    """A `SpecError`, not a TypeError out of a regular expression."""
    with pytest.raises(SpecError):
        check_name(name)


# -- combinations


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"key_path": "/etc/hosts"}, "key_path belongs to wire = 'libsipc'"),
        ({"transport": Transport.QUEUE, "segment_creator": SegmentCreator.SENDER}, "has no segment"),
        ({"wire": Wire.LIBSIPC}, "give key_path"),
        ({"wire": Wire.LIBSIPC, "key_path": "/x", "backend": Backend.POSIX}, "System V only: backend = 'posix'"),
        ({"wire": Wire.LIBSIPC, "key_path": "/x"}, "set slots = 1, depth = 1"),
        ({"wire": Wire.LIBSIPC, "key_path": "/x", "geometry": Geometry(slots=1, depth=2)}, "set slots = 1, depth = 1"),
        (
            {"wire": Wire.LIBSIPC, "key_path": "/x", "geometry": Geometry(slots=1, depth=1), "checksum": True},
            "remove checksum",
        ),
        (
            {"wire": Wire.LIBSIPC, "key_path": "/x", "geometry": Geometry(slots=1, depth=1), "tag": Tag.BLAKE2B},
            "remove tag",
        ),
        ({"tag": Tag.BLAKE2B, "checksum": True}, "remove checksum or tag"),
        ({"tag": Tag.BLAKE2B, "geometry": Geometry(slot_size=16)}, "give at least 17 bytes"),
    ],
)
def test_what_means_nothing_together_is_refused(keys: dict[str, Any], said: str) -> None:
    """The error says which key to change, and how."""
    with pytest.raises(SpecError, match=said):
        ChannelSpec(name="c", **keys)


@given(channel_specs(), st.data())
def test_a_change_of_one_key_makes_a_valid_spec_or_a_spec_error(spec: ChannelSpec, data: st.DataObject) -> None:
    """Nothing else is ever raised, and `replace` checks as making does."""
    key, values = data.draw(st.sampled_from([
        ("name", st.text(max_size=5)),
        ("max_message", st.integers()),
        ("key_path", st.none() | st.text()),
        ("wire", st.sampled_from(Wire)),
        ("transport", st.sampled_from(Transport)),
        ("backend", st.sampled_from(Backend)),
        ("segment_creator", st.sampled_from(SegmentCreator)),
        ("checksum", st.booleans()),
        ("geometry", st.sampled_from([Geometry(), Geometry(slots=1, depth=1)])),
    ]))  # fmt: skip
    value = data.draw(values)
    try:
        changed = dataclasses.replace(spec, **{key: value})
    except SpecError:
        return
    assert getattr(changed, key) == value
    assert changed == ChannelSpec(**{field.name: getattr(changed, field.name) for field in dataclasses.fields(changed)})


# -- shape


@pytest.mark.parametrize("value", [ChannelSpec(name="c"), Geometry(), Principal()], ids=lambda v: type(v).__name__)
def test_a_spec_can_not_be_changed(value: Any) -> None:
    """Frozen and slotted: checked once is checked for good; and keyword-only."""
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 1)
    assert not hasattr(value, "__dict__")
    with pytest.raises(TypeError):
        type(value)("c")


def test_where_a_channel_was_defined_is_for_messages_alone() -> None:
    """Two definitions of one channel are equal wherever they stand."""
    here = ChannelSpec(name="c", source="a.toml: [channel.c]")
    assert here == ChannelSpec(name="c")
    assert here.label == "a.toml: [channel.c]"


# -- owners and modes


@given(channel_specs())
def test_no_mode_is_wider_than_the_roles_need(spec: ChannelSpec) -> None:
    """Nothing for others; two users: the owner may write the queue, the group read; never the other way round."""
    uid, gid, queue, segment = modes(spec)
    sender, receiver = spec.sender, spec.receiver
    two = None not in (sender.uid, receiver.uid) and sender.uid != receiver.uid
    assert queue & 0o007 == segment & 0o007 == 0
    if two:
        assert (uid, gid, queue, segment) == (sender.uid, receiver.gid, 0o240, 0o640)
    else:
        assert (gid, queue, segment) == (None, 0o600, 0o600)
        assert uid == (sender.uid if sender.uid is not None else receiver.uid)
