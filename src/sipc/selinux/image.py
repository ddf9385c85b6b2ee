# SPDX-License-Identifier: Apache-2.0
"""A binary policy, read: the file secilc writes, or what the kernel shows in /sys/fs/selinux/policy.

Owns the format (the kernel's security/selinux/ss/policydb.c, avtab.c, conditional.c and ebitmap.c; versions 24 to
34), and only that: what follows from the rules is `verify.py`'s business.  Read here and not with setools, because
the setools on the Python package index is another project, the real one is compiled for each distribution's own
Python, and a verdict must be possible on any host.  A test compares every rule with what setools reads.

Sets of types are Python integers: bit n stands for type number n + 1, as in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from sipc.errors import SpecError

__all__ = ("ATTR_NAMES", "Condition", "Constraint", "ObjectClass", "Policy", "Rule", "bits", "read_policy")

_MAGIC = 0xF97CFF8C
_OLDEST, _NEWEST = 24, 34  # 24: bounds; 34: extended permissions in conditions
_MLS, _ALLOW_UNKNOWN = 1, 4
_ATTRIBUTE = 2
_ALLOWED, _XPERMS = 0x0001, 0x0700
_NAMES = 5
# What an operand of a constraint is (policydb constraint.h).
ATTR_NAMES = {1: "u1", 2: "r1", 4: "t1", 9: "u2", 10: "r2", 12: "t2", 17: "u3", 18: "r3", 20: "t3"}


def bits(value: int) -> Iterator[int]:
    """Positions of the ones."""
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low


@dataclass(frozen=True, slots=True)
class Condition:
    """One step of a constraint in postfix order: 'not', 'and', 'or', or an operand compared with names."""

    op: str  # not, and, or, names, same, other
    operand: str = ""
    equal: bool = True
    types: int = 0


@dataclass(frozen=True, slots=True)
class Constraint:
    """Permissions of a class, and what must hold to use them."""

    permissions: int
    steps: tuple[Condition, ...]


@dataclass(slots=True)
class ObjectClass:
    """A class, its permissions by name (as one bit each), its constraints."""

    name: str
    number: int
    permissions: dict[str, int]
    constraints: list[Constraint] = field(default_factory=list)

    def names(self, mask: int) -> tuple[str, ...]:
        """Names of the permissions in a mask, sorted; a bit without a name is called unknown."""
        named = {bit: name for name, bit in self.permissions.items()}
        return tuple(sorted(named.get(1 << n, f"unknown_{n}") for n in bits(mask)))


@dataclass(frozen=True, slots=True)
class Rule:
    """One allow rule as written: source and target may be attributes."""

    source: int
    target: int
    cls: int
    permissions: int
    conditional: bool


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


class Policy:
    """A policy's types, classes, allow rules, constraints and permissive domains.

    Type numbers count from 0 here (`type_names[n]`).  Attributes are types too, as in the file.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.version = 0
        self.mls = False
        self.allow_unknown = False
        self.permissive = 0
        self.classes: dict[str, ObjectClass] = {}
        self.type_names: list[str] = []
        self.aliases: dict[str, int] = {}
        self.attributes = 0  # which of the types are attributes
        self.rules: list[Rule] = []
        self.members: dict[int, int] = {}  # attribute -> its types
        self.attributes_of: list[int] = []  # type -> itself and its attributes
        self.transitions: list[tuple[int, int, int, int]] = []  # source, target, class, result

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Type (or attribute, or alias) by name."""
        return {name: n for n, name in enumerate(self.type_names)} | self.aliases

    @cached_property
    def class_by_number(self) -> dict[int, ObjectClass]:
        """Class by number."""
        return {cls.number: cls for cls in self.classes.values()}

    @cached_property
    def all_types(self) -> int:
        """Every type that is no attribute."""
        return ((1 << len(self.type_names)) - 1) & ~self.attributes

    @cached_property
    def by_source(self) -> dict[int, list[Rule]]:
        """Rules by their source as written."""
        return _index(self.rules, by_target=False)

    @cached_property
    def by_target(self) -> dict[int, list[Rule]]:
        """Rules by their target as written."""
        return _index(self.rules, by_target=True)

    def expand(self, number: int) -> int:
        """The types a name in a rule stands for, as a set."""
        return self.members[number] if self.attributes >> number & 1 else 1 << number

    def rules_from(self, number: int) -> Iterator[Rule]:
        """Rules whose source is this type, by name or through an attribute."""
        for name in bits(self.attributes_of[number]):
            yield from self.by_source.get(name, ())

    def rules_to(self, number: int) -> Iterator[Rule]:
        """Rules whose target is this type, by name or through an attribute."""
        for name in bits(self.attributes_of[number]):
            yield from self.by_target.get(name, ())

    @cached_property
    def _allowed(self) -> dict[tuple[int, int, int], int]:
        found: dict[tuple[int, int, int], int] = {}
        for rule in self.rules:
            key = (rule.source, rule.target, rule.cls)
            found[key] = found.get(key, 0) | rule.permissions
        return found

    def granted(self, source: int, target: int, cls: ObjectClass) -> int:
        """Permissions that the allow rules grant, every boolean taken as both on and off."""
        allowed, mask = self._allowed, 0
        targets = list(bits(self.attributes_of[target]))
        for left in bits(self.attributes_of[source]):
            for right in targets:
                mask |= allowed.get((left, right, cls.number), 0)
        return mask

    def sources_satisfying(self, constraint: Constraint, target: int) -> int:
        """Types t1 for which a constraint may hold on this target: not certainly false.

        What hangs on users, roles or levels counts as possibly true (and possibly false).
        """
        every = self.all_types
        stack: list[tuple[int, int]] = []  # (may be true, may be false), sets of t1
        for step in constraint.steps:
            if step.op == "not":
                may, may_not = stack.pop()
                stack.append((may_not, may))
            elif step.op in ("and", "or"):
                right, left = stack.pop(), stack.pop()
                if step.op == "and":
                    stack.append((left[0] & right[0], left[1] | right[1]))
                else:
                    stack.append((left[0] | right[0], left[1] & right[1]))
            elif step.op == "names" and step.operand == "t1":
                inside = step.types & every
                stack.append((inside, every & ~inside) if step.equal else (every & ~inside, inside))
            elif step.op == "same":
                mine = 1 << target & every
                stack.append((mine, every & ~mine) if step.equal else (every & ~mine, mine))
            elif step.op == "names" and step.operand == "t2":
                holds = bool(step.types >> target & 1) is step.equal
                stack.append((every, 0) if holds else (0, every))
            else:
                stack.append((every, every))
        return stack.pop()[0]

    def unconstrained(self, target: int, cls: ObjectClass, permission: int) -> int:
        """Types that no constraint stops from using one permission on this target."""
        key = (target, cls.number, permission)
        known = self._unconstrained
        if key not in known:
            sources = self.all_types
            for constraint in cls.constraints:
                if constraint.permissions & permission:
                    sources &= self.sources_satisfying(constraint, target)
            known[key] = sources
        return known[key]

    @cached_property
    def _unconstrained(self) -> dict[tuple[int, int, int], int]:
        return {}

    def effective(self, source: int, target: int, cls: ObjectClass) -> int:
        """Permissions granted and not certainly stopped by a constraint."""
        mask = self.granted(source, target, cls)
        for n in bits(mask):
            if not self.unconstrained(target, cls, 1 << n) >> source & 1:
                mask &= ~(1 << n)
        return mask


def _index(rules: list[Rule], *, by_target: bool) -> dict[int, list[Rule]]:
    found: dict[int, list[Rule]] = {}
    for rule in rules:
        found.setdefault(rule.target if by_target else rule.source, []).append(rule)
    return found


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
            operand = ATTR_NAMES.get(attribute, "")
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
        elif kind & 0x10:
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
