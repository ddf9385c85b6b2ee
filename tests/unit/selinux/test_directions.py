# SPDX-License-Identifier: Apache-2.0
"""The direction table: no permission in two columns, none misspelt, and everything unknown both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.directions import READS, WRITES, both_ways, direction, flows
from sipc.selinux.image import ObjectClass, Policy, bits


@pytest.fixture(scope="module")
def debian(small: list[Path]) -> Policy:
    """Debian's classes and permissions."""
    return read_policy(compose(small), "base")


def test_no_permission_is_in_both_columns() -> None:
    """What reads and writes is in neither, and so both ways."""
    for cls in READS.keys() & WRITES.keys():
        assert not READS[cls] & WRITES[cls], cls


@pytest.mark.parametrize("cls", ["msgq", "shm", "sem", "msg", "process", "process2", "key", "bpf", "perf_event"])
def test_the_table_has_no_misspelt_permission(cls: str, debian: Policy) -> None:
    """Each name stands for a permission that a real policy knows."""
    known = debian.classes[cls].permissions.keys()
    assert READS.get(cls, frozenset()) | WRITES.get(cls, frozenset()) <= known


@pytest.mark.parametrize(
    ("cls", "permission", "way"),
    [
        ("msgq", "write", "write"), ("msgq", "unix_write", "write"), ("msgq", "read", "read"),
        ("msgq", "getattr", "read"), ("msgq", "enqueue", "write"), ("shm", "read", "read"), ("shm", "write", "write"),
        ("shm", "lock", "both"), ("msg", "send", "write"), ("msg", "receive", "read"), ("sem", "write", "write"),
        ("process", "signal", "write"), ("process", "ptrace", "both"), ("process", "share", "both"),
        ("process", "getsched", "read"), ("process", "fork", "none"), ("file", "lock", "both"),
        ("file", "ioctl", "read"), ("chr_file", "ioctl", "both"), ("file", "append", "write"), ("file", "map", "read"),
        ("fd", "use", "both"), ("unix_stream_socket", "connectto", "both"), ("dbus", "send_msg", "both"),
        ("file", "poke", "both"), ("evil_class", "read", "both"),
    ],
)  # fmt: skip
def test_direction_of(cls: str, permission: str, way: str) -> None:
    """Class by class: the same word means different things to a file and to a device."""
    assert direction(cls, permission) == way
    assert both_ways(cls, permission) is (way == "both")


def test_bits_without_a_name_count_as_both_ways() -> None:
    """A permission that only the kernel knows is not assumed to be harmless."""
    cls = ObjectClass("msgq", 1, {"read": 1, "write": 2})
    writes, reads = flows(cls)
    assert (writes & 3, reads & 3) == (2, 1)
    assert all(writes >> n & 1 and reads >> n & 1 for n in range(2, 32))
    assert cls.names(1 << 31) == ("unknown_31",)


def test_every_permission_of_every_class_has_a_direction(debian: Policy) -> None:
    """The masks cover all that a class has, however new the class is."""
    for cls in debian.classes.values():
        writes, reads = flows(cls)
        for name, bit in cls.permissions.items():
            way = direction(cls.name, name)
            assert bool(writes & bit) is (way in ("write", "both")), (cls.name, name)
            assert bool(reads & bit) is (way in ("read", "both")), (cls.name, name)


def test_bits_are_the_positions_of_ones() -> None:
    """The sets of types are integers."""
    assert list(bits(0)) == []
    assert list(bits(0b1011 << 70)) == [70, 71, 73]
