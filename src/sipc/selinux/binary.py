# SPDX-License-Identifier: Apache-2.0
"""The binary form of a policy: the file secilc writes, or what the kernel shows in /sys/fs/selinux/policy.

Owns the format (the kernel's security/selinux/ss/policydb.c, avtab.c, conditional.c and ebitmap.c; versions 24 to
34), and only that.  Read here and not with setools, because the setools on the Python package index is another
project, the real one is compiled for each distribution's own Python, and a verdict must be possible on any host.
A test compares every rule with what setools reads.
"""

from __future__ import annotations

import struct

from sipc.errors import SpecError
from sipc.selinux.image import Condition, Constraint, ObjectClass, Policy, Rule, bits

__all__ = ("read_policy",)

_MAGIC = 0xF97CFF8C
_OLDEST, _NEWEST = 24, 34  # 24: bounds; 34: extended permissions in conditions
_MLS, _ALLOW_UNKNOWN = 1, 4
_ATTRIBUTE = 2
_ALLOWED, _TRANSITION, _XPERMS = 0x0001, 0x0010, 0x0700
_NAMES = 5
# What an operand of a constraint is (policydb constraint.h).
_OPERANDS = {4: "t1", 12: "t2"}


class _Reader:
    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.at = 0
        self.source = source

    def words(self, count: int) -> tuple[int, ...]:
        values = struct.unpack_from(f"<{count}I", self.data, self.at)
        self.at += 4 * count
        return values

    def word(self) -> int:
        return self.words(1)[0]

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise struct.error("past the end")

    def text(self, length: int) -> str:
        start = self.at
        self.skip(length)
        return self.data[start : self.at].decode("utf-8")

    def ebitmap(self) -> int:
        _, _, count = self.words(3)
        value = 0
        for start, part in struct.iter_unpack("<IQ", self.data[self.at : self.at + 12 * count]):
            value |= part << start
        self.skip(12 * count)
        return value


def read_policy(data: bytes, source: str) -> Policy:
    """Read a binary policy.  Raises `SpecError` when it is none, or of a version not known here."""
    reader = _Reader(data, source)
    try:
        return _read(reader)
    except (struct.error, UnicodeDecodeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise SpecError(f"{source}: cut off or not a binary policy ({error} near byte {reader.at})") from error


def _read(reader: _Reader) -> Policy:
    policy = Policy(reader.source)
    magic, length = reader.words(2)
    if magic != _MAGIC or length != 8 or reader.text(8) != "SE Linux":
        raise SpecError(
            f"{reader.source}: not a binary policy: give a file made by secilc or semodule (policy.33), or "
            "/sys/fs/selinux/policy"
        )
    policy.version, config, symbols, contexts = reader.words(4)
    if not _OLDEST <= policy.version <= _NEWEST:
        raise SpecError(
            f"{reader.source}: policy version {policy.version} is not known here ({_OLDEST} to {_NEWEST} are): "
            f"build it for another one (secilc -c {min(_NEWEST, 33)})"
        )
    policy.mls, policy.allow_unknown = bool(config & _MLS), bool(config & _ALLOW_UNKNOWN)
    reader.ebitmap()  # capabilities of the policy
    policy.permissive = reader.ebitmap() >> 1  # the one map that counts types from 1
    commons = _commons(reader)
    _classes(reader, policy, commons)
    _roles(reader)
    _types(reader, policy)
    for skip in (_users, _booleans, _levels, _categories)[: symbols - 4]:
        skip(reader)
    _rules(reader, policy)
    _transitions_of_roles_and_names(reader, policy)
    _contexts(reader, contexts)
    _type_attributes(reader, policy)
    if reader.at != len(reader.data):
        raise SpecError(f"{reader.source}: {len(reader.data) - reader.at} bytes follow the policy: refusing to guess")
    return policy


def _permissions(reader: _Reader, count: int) -> dict[str, int]:
    found = {}
    for _ in range(count):
        length, value = reader.words(2)
        found[reader.text(length)] = 1 << (value - 1)
    return found


def _commons(reader: _Reader) -> dict[str, dict[str, int]]:
    found = {}
    _, count = reader.words(2)
    for _ in range(count):
        length, _, _, permissions = reader.words(4)
        name = reader.text(length)
        found[name] = _permissions(reader, permissions)
    return found


def _classes(reader: _Reader, policy: Policy, commons: dict[str, dict[str, int]]) -> None:
    _, count = reader.words(2)
    for _ in range(count):
        length, common_length, number, _, permissions, constraints = reader.words(6)
        name = reader.text(length)
        inherited = commons[reader.text(common_length)] if common_length else {}
        cls = ObjectClass(name, number, inherited | _permissions(reader, permissions))
        cls.constraints += [_constraint(reader, policy) for _ in range(constraints)]
        for _ in range(reader.word()):
            _constraint(reader, policy)  # validatetrans: about relabelling, not about access
        if policy.version >= 27:
            reader.words(3)  # defaults of new objects
        if policy.version >= 28:
            reader.words(1)
        policy.classes[name] = cls


def _constraint(reader: _Reader, policy: Policy) -> Constraint:
    permissions, count = reader.words(2)
    steps = []
    for _ in range(count):
        kind, attribute, operator = reader.words(3)
        if kind == _NAMES:
            names = reader.ebitmap()
            if policy.version >= 29:
                reader.ebitmap()
                reader.ebitmap()
                reader.word()
            operand = _OPERANDS.get(attribute, "")
            if operand in ("t1", "t2") and operator in (1, 2):
                steps.append(Condition("names", operand, operator == 1, names))
            else:
                steps.append(Condition("other"))
        elif kind == 4 and attribute == 4 and operator in (1, 2):  # t1 with t2
            steps.append(Condition("same", equal=operator == 1))
        else:
            steps.append(Condition({1: "not", 2: "and", 3: "or"}.get(kind, "other")))
    return Constraint(permissions, tuple(steps))


def _roles(reader: _Reader) -> None:
    _, count = reader.words(2)
    for _ in range(count):
        length, _, _ = reader.words(3)
        reader.skip(length)
        reader.ebitmap()
        reader.ebitmap()


def _types(reader: _Reader, policy: Policy) -> None:
    total, count = reader.words(2)
    policy.type_names = [""] * total
    for _ in range(count):
        length, value, properties, _ = reader.words(4)
        name = reader.text(length)
        if properties & _ATTRIBUTE:
            policy.attributes |= 1 << (value - 1)
            policy.type_names[value - 1] = name
        elif properties & 1:
            policy.type_names[value - 1] = name
        else:
            policy.aliases[name] = value - 1


def _level(reader: _Reader) -> None:
    reader.word()
    reader.ebitmap()


def _range(reader: _Reader) -> None:
    items = reader.word()
    reader.words(items)
    for _ in range(items):
        reader.ebitmap()


def _users(reader: _Reader) -> None:
    _, count = reader.words(2)
    for _ in range(count):
        length, _, _ = reader.words(3)
        reader.skip(length)
        reader.ebitmap()
        _range(reader)
        _level(reader)


def _booleans(reader: _Reader) -> None:
    _, count = reader.words(2)
    for _ in range(count):
        _, _, length = reader.words(3)
        reader.skip(length)


def _levels(reader: _Reader) -> None:
    _, count = reader.words(2)
    for _ in range(count):
        length, _ = reader.words(2)
        reader.skip(length)
        _level(reader)


def _categories(reader: _Reader) -> None:
    _, count = reader.words(2)
    for _ in range(count):
        length, _, _ = reader.words(3)
        reader.skip(length)


_ITEM = struct.Struct("<HHHHI")


def _vectors(reader: _Reader, policy: Policy, *, conditional: bool) -> None:
    """Access vectors and type transitions; only allow rules and transitions are kept."""
    data, at, rules = reader.data, reader.at + 4, policy.rules
    unpack, size = _ITEM.unpack_from, _ITEM.size
    for _ in range(reader.word()):
        source, target, cls, kind, value = unpack(data, at)
        if kind & _XPERMS:
            at += 8 + 2 + 32  # ioctl numbers: they only narrow what an allow rule gives
            continue
        at += size
        if kind & _ALLOWED:
            rules.append(Rule(source - 1, target - 1, cls, value, conditional))
        elif kind & _TRANSITION:
            policy.transitions.append((source - 1, target - 1, cls, value - 1))
    reader.at = at


def _rules(reader: _Reader, policy: Policy) -> None:
    _vectors(reader, policy, conditional=False)
    for _ in range(reader.word()):
        _, steps = reader.words(2)
        reader.words(2 * steps)
        # Either side of every boolean counts: somebody may switch it.
        _vectors(reader, policy, conditional=True)
        _vectors(reader, policy, conditional=True)


def _transitions_of_roles_and_names(reader: _Reader, policy: Policy) -> None:
    reader.words((4 if policy.version >= 26 else 3) * reader.word())
    reader.words(2 * reader.word())
    if policy.version < 25:
        return
    for _ in range(reader.word()):
        reader.skip(reader.word())
        if policy.version < 33:
            reader.words(4)
            continue
        _, _, count = reader.words(3)
        for _ in range(count):
            reader.ebitmap()
            reader.word()


def _context(reader: _Reader) -> None:
    reader.words(3)
    _range(reader)


def _contexts(reader: _Reader, kinds: int) -> None:
    """Labels of initial SIDs, file systems, ports, interfaces, nodes, InfiniBand: passed over."""
    before = {2: 12, 4: 8, 6: 32, 7: 16}  # bytes of port, node, node6, pkey
    for kind in range(kinds):
        for _ in range(reader.word()):
            if kind == 0:
                reader.word()
            elif kind in (1, 3):
                reader.skip(reader.word())
                _context(reader)
            elif kind == 5:
                _, length = reader.words(2)
                reader.skip(length)
            elif kind == 8:
                length, _ = reader.words(2)
                reader.skip(length)
            else:
                reader.skip(before[kind])
            _context(reader)
    for _ in range(reader.word()):
        reader.skip(reader.word())
        for _ in range(reader.word()):
            reader.skip(reader.word())
            reader.word()
            _context(reader)
    for _ in range(reader.word()):
        reader.words(3)
        _range(reader)


def _type_attributes(reader: _Reader, policy: Policy) -> None:
    policy.members = dict.fromkeys(bits(policy.attributes), 0)
    for number in range(len(policy.type_names)):
        attributes = reader.ebitmap() | 1 << number
        policy.attributes_of.append(attributes)
        if not policy.attributes >> number & 1:
            for attribute in bits(attributes & policy.attributes):
                policy.members[attribute] |= 1 << number
