# SPDX-License-Identifier: Apache-2.0
"""Definitions that the helper is given for a guard's channels: read back, they are the guard's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.guards import GOOD, SMALL

from sipc.definitions import parse
from sipc.guard.channels import definitions
from sipc.guard.config import read
from sipc.guard.policy import channel_specs
from sipc.spec import Backend, ChannelSpec, Enforcement, Geometry, Principal, Tag, Transport

ids = st.none() | st.integers(0, 0xFFFFFFFE)
types = st.none() | st.sampled_from(("ingest_t", "scrub_t"))
principals = st.builds(Principal, uid=st.integers(0, 0xFFFFFFFE), gid=st.integers(0, 0xFFFFFFFE), type=types)
names = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,15}\.[a-z0-9][a-z0-9_-]{0,15}\Z")


@given(
    name=names, backend=st.sampled_from((Backend.SYSV, Backend.POSIX)), transport=st.sampled_from(Transport),
    geometry=st.builds(
        Geometry, slots=st.integers(1, 64), depth=st.integers(1, 8), slot_size=st.integers(64, 1 << 20)
    ),
    checked=st.sampled_from(((False, None), (True, None), (False, Tag.BLAKE2B))), max_message=st.integers(1, 1 << 40),
    enforcement=st.sampled_from(Enforcement), channel_type=types, sender=principals, receiver=principals,
)  # fmt: skip
def test_what_is_written_is_what_is_read(
    name: str, backend: Backend, transport: Transport, geometry: Geometry, checked: tuple[bool, Tag | None],
    max_message: int, enforcement: Enforcement, channel_type: str | None, sender: Principal, receiver: Principal,
) -> None:  # fmt: skip
    """Every key, under names with dots too."""
    if sender.uid != receiver.uid and sender.gid == receiver.gid:
        receiver = replace(receiver, uid=sender.uid)
    spec = ChannelSpec(
        name=name, backend=backend, transport=transport, geometry=geometry, checksum=checked[0], tag=checked[1],
        max_message=max_message, enforcement=enforcement, channel_type=channel_type, sender=sender, receiver=receiver,
    )  # fmt: skip
    other = Enforcement.DAC if enforcement is Enforcement.SELINUX else Enforcement.SELINUX
    assert parse(definitions([spec]), "F", enforcement=other) == {name: spec}


@pytest.mark.parametrize("text", [GOOD, SMALL], ids=["good", "small"])
def test_a_guards_channels_are_defined_together(text: str) -> None:
    """All of them in one file."""
    guard, _ = read(text, "F")
    assert guard is not None
    specs = list(channel_specs(guard, users=False).values())
    found = parse(definitions(specs), "F", enforcement=Enforcement.DAC)
    assert list(found.values()) == specs
