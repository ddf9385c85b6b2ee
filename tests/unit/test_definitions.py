# SPDX-License-Identifier: Apache-2.0
"""Definitions as values: what TOML makes of a channel, and what any other input makes: a `SpecError` that says where.

The single mistakes a person makes, and what the helper does with them, are in `tests/host/test_definitions.py`.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.strategies import channel_names, channel_specs

from sipc.definitions import load, parse
from sipc.errors import SpecError
from sipc.spec import ChannelSpec, Enforcement, Geometry, Principal, SegmentCreator, Transport, Wire

one_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def toml(value: object) -> str:
    """A value as TOML has it; strings and numbers are JSON's, but for DEL, which TOML wants escaped."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def written(name: str, keys: dict[str, object]) -> str:
    """A definition file of one channel."""
    return f"[channel.{toml(name)}]\n" + "".join(f"{toml(key)} = {toml(value)}\n" for key, value in keys.items())


def keys_of(spec: ChannelSpec) -> dict[str, object]:
    """Every key of a channel's definition, as somebody would write it who leaves nothing out."""
    found: dict[str, object] = {
        "wire": spec.wire.value,
        "transport": spec.transport.value,
        "backend": spec.backend.value,
        "segment_creator": spec.segment_creator.value,
        "enforcement": spec.enforcement.value,
        "slots": spec.geometry.slots,
        "depth": spec.geometry.depth,
        "slot_size": spec.geometry.slot_size,
        "max_message": spec.max_message,
        "checksum": spec.checksum,
    }
    optional = {"key_path": spec.key_path, "type": spec.channel_type, "tag": spec.tag and spec.tag.value}
    found |= {key: value for key, value in optional.items() if value is not None}
    for role, who in (("sender", spec.sender), ("receiver", spec.receiver)):
        parts = {"user": who.uid, "group": who.gid, "type": who.type}
        found[role] = {key: part for key, part in parts.items() if part is not None}
    return found


def one(text: str, enforcement: Enforcement = Enforcement.DAC) -> ChannelSpec:
    """The one channel of a definition."""
    (spec,) = parse(text, "FILE", enforcement=enforcement).values()
    return spec


# -- round trip


@given(channel_specs())
def test_a_channel_reads_back_from_its_definition(spec: ChannelSpec) -> None:
    """Every key; and the place it was read from is kept for later messages."""
    again = one(written(spec.name, keys_of(spec)))
    assert again == spec
    assert again.label == f"FILE: [channel.{spec.name}]"


@given(channel_specs(), st.data())
def test_the_order_of_keys_does_not_matter(spec: ChannelSpec, data: st.DataObject) -> None:
    """A table is a table."""
    keys = keys_of(spec)
    shuffled = dict(data.draw(st.permutations(list(keys.items()))))
    assert one(written(spec.name, shuffled)) == spec


@pytest.mark.parametrize("enforcement", Enforcement)
def test_a_definition_of_nothing_is_the_defaults(enforcement: Enforcement) -> None:
    """Four slots of 256 KiB, depth 2; what enforces is the default of whoever reads."""
    spec = one("[channel.c]", enforcement)
    assert spec == ChannelSpec(name="c", enforcement=enforcement)
    assert spec.geometry == Geometry(slots=4, depth=2, slot_size=262_144)


def test_some_choices_bring_other_defaults() -> None:
    """The libsipc wire knows one slot; the queue transport has to fit a message of 8192 bytes."""
    spec = one("[channel.c]\nwire = 'libsipc'\nkey_path = '/etc/hosts'\nslot_size = 100")
    assert (spec.wire, spec.geometry) == (Wire.LIBSIPC, Geometry(slots=1, depth=1, slot_size=100))
    spec = one("[channel.c]\ntransport = 'queue'")
    assert (spec.transport, spec.geometry.slot_size) == (Transport.QUEUE, 8192 - 32)
    assert one("[channel.c]\ntransport = 'queue'\nslot_size = 5").geometry.slot_size == 5


# -- who


def test_a_user_brings_its_own_group() -> None:
    """By name or number; a group of the definition comes first."""
    me = pwd.getpwuid(0)
    for user in ("'root'", "0"):
        spec = one(f"[channel.c]\nsender = {{ user = {user} }}")
        assert spec.sender == Principal(uid=0, gid=me.pw_gid)
        spec = one(f"[channel.c]\nsender = {{ user = {user}, group = 77, type = 'a_t' }}")
        assert spec.sender == Principal(uid=0, gid=77, type="a_t")
        assert spec.receiver == Principal()
    group = grp.getgrgid(os.getegid())
    spec = one(f"[channel.c]\nreceiver = {{ user = 0, group = '{group.gr_name}' }}")
    assert spec.receiver.gid == group.gr_gid


def test_a_number_that_no_user_has_is_taken_as_it_is() -> None:
    """Containers and remote directories have users that this host can not name; their group is the same number."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    free = next(uid for uid in range(60_000, 70_000) if uid not in taken)
    assert one(f"[channel.c]\nsender = {{ user = {free} }}").sender == Principal(uid=free, gid=free)


def test_two_users_in_one_group_are_refused() -> None:
    """Each could look at the other's files; one user twice is allowed."""
    with pytest.raises(SpecError, match=r"FILE: \[channel.c\]: sender and receiver are two users in one group \(9\)"):
        one("[channel.c]\nsender = { user = 1, group = 9 }\nreceiver = { user = 2, group = 9 }")
    one("[channel.c]\nsender = { user = 1, group = 9 }\nreceiver = { user = 1, group = 9 }")
    one("[channel.c]\nsender = { user = 1, group = 9 }\nreceiver = { user = 2, group = 8 }")


# -- anything else


scalars = st.one_of(
    st.integers(-5, 5), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.sampled_from(["sipc2", "libsipc", "segment", "queue", "sysv", "posix", "helper", "sender", "dac", "root"]),
)  # fmt: skip
tables = st.dictionaries(
    st.sampled_from(["user", "group", "type", "name"]) | st.text(st.characters(codec="utf-8"), max_size=3),
    scalars | st.lists(scalars, max_size=2), max_size=3,
)  # fmt: skip
values = st.one_of(scalars, st.lists(scalars, max_size=3), tables)
known = st.sampled_from(sorted({*keys_of(ChannelSpec(name="c")), "key_path", "type"}))
any_channel = st.dictionaries(known | st.text(st.characters(codec="utf-8"), max_size=4), values, max_size=6)


@settings(max_examples=400)
@given(channel_names | st.text(st.characters(codec="utf-8"), max_size=6), any_channel)
def test_any_table_is_a_channel_or_a_spec_error_that_says_where(name: str, keys: dict[str, object]) -> None:
    """Never another error; the message begins with file and channel; what is accepted is what was written."""
    try:
        spec = one(written(name, keys))
    except SpecError as error:
        message = str(error)
    else:
        for key, value in keys_of(spec).items():
            assert keys.get(key, value) == value or key in ("sender", "receiver")
        return
    assert message.startswith("FILE: [channel.")


@given(channel_specs(), known, values)
def test_one_wrong_value_is_refused_by_its_key(spec: ChannelSpec, key: str, value: object) -> None:
    """In an otherwise good definition the message names the key that is wrong, or the one it contradicts."""
    keys = keys_of(spec)
    keys[key] = value
    try:
        one(written(spec.name, keys))
    except SpecError as error:
        message = str(error).removeprefix(f"FILE: [channel.{spec.name}]: ")
    else:
        return
    named = {key, *({"wire", "slots", "depth", "checksum", "backend", "key_path"} & set(keys)), "segment_creator"}
    assert any(part in message for part in named)


@one_directory
@given(data=st.binary(max_size=200))
def test_any_file_is_channels_or_a_spec_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no text, text that is no TOML, TOML that is no channel."""
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=str(path)):
        load([path], enforcement=Enforcement.DAC)


@one_directory
@given(spec=channel_specs(), cut=st.integers(0, 400), junk=st.binary(max_size=4))
def test_a_damaged_file_is_channels_or_a_spec_error_that_names_it(
    tmp_path: Path, spec: ChannelSpec, cut: int, junk: bytes
) -> None:
    """A good definition with bytes put in, or cut off."""
    data = written(spec.name, keys_of(spec)).encode()
    path = tmp_path / "c.toml"
    path.write_bytes(data[:cut] + junk + (data[cut:] if junk else b""))
    try:
        found = load([path], enforcement=Enforcement.DAC)
    except SpecError as error:
        message = str(error)
    else:
        assert all(isinstance(channel, ChannelSpec) for channel in found.values())
        return
    assert message.startswith(str(path))


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000])
@pytest.mark.parametrize("key", ["slots", "max_message", "sender.user", "type"])
def test_a_number_of_thousands_of_digits_is_a_spec_error(key: str, number: str) -> None:
    """Python refuses to read one that is decimal, and to print any."""
    with pytest.raises(SpecError, match=r"^FILE: "):
        one(f"[channel.c]\n{key} = {number}\n")


def test_a_directory_is_its_toml_files_in_order(tmp_path: Path) -> None:
    """Other files are nobody's; files and directories may be mixed; a name is defined once."""
    folder = tmp_path / "channels.d"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.toml").write_text(f"[channel.{name}]")
    (folder / "c.toml.bak").write_text("no TOML")
    (tmp_path / "z.toml").write_text("[channel.z]\nsegment_creator = 'sender'")
    found = load([folder, tmp_path / "z.toml"], enforcement=Enforcement.SELINUX)
    assert list(found) == ["a", "b", "z"]
    assert found["z"].segment_creator is SegmentCreator.SENDER
    assert {spec.enforcement for spec in found.values()} == {Enforcement.SELINUX}
    assert found["a"].label == f"{folder / 'a.toml'}: [channel.a]"
    with pytest.raises(SpecError, match="already defined"):
        load([folder, folder], enforcement=Enforcement.DAC)
