# SPDX-License-Identifier: Apache-2.0
"""A policy's types, classes, rules and constraints, and what follows for one type and one permission.

Owns the questions "which permissions do the rules grant" and "whom does no constraint stop"; `binary.py` fills it.
Sets of types are Python integers: bit n stands for type n, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

__all__ = ("Condition", "Constraint", "ObjectClass", "Policy", "Rule", "bits")

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

    def _possible(self, constraint: Constraint, fixed: str, number: int) -> int:
        """Types of the other operand for which a constraint may hold, when `fixed` (t1 or t2) is this type.

        What hangs on users, roles or levels counts as possibly true (and possibly false).
        """
        every = self.all_types
        stack: list[tuple[int, int]] = []  # (may be true for, may be false for)
        for step in constraint.steps:
            if step.op == "not":
                stack.append(stack.pop()[::-1])
                continue
            if step.op in ("and", "or"):
                right, left = stack.pop(), stack.pop()
                if step.op == "and":
                    stack.append((left[0] & right[0], left[1] | right[1]))
                else:
                    stack.append((left[0] | right[0], left[1] & right[1]))
                continue
            if step.op == "same":
                inside = 1 << number & every
            elif step.op != "names":
                stack.append((every, every))
                continue
            elif step.operand == fixed:
                inside = every if step.types >> number & 1 else 0
            else:
                inside = step.types & every
            outside = every & ~inside
            stack.append((inside, outside) if step.equal else (outside, inside))
        return stack.pop()[0]

    def unconstrained(self, target: int, cls: ObjectClass, permission: int) -> int:
        """Types that no constraint certainly stops from using one permission on this target."""
        return self._free("t2", target, cls, permission)

    def reachable(self, source: int, cls: ObjectClass, permission: int) -> int:
        """Types on which no constraint certainly stops this source from using one permission."""
        return self._free("t1", source, cls, permission)

    def _free(self, fixed: str, number: int, cls: ObjectClass, permission: int) -> int:
        key = (fixed, number, cls.number, permission)
        known = self._answers
        if key not in known:
            others = self.all_types
            for constraint in cls.constraints:
                if constraint.permissions & permission:
                    others &= self._possible(constraint, fixed, number)
            known[key] = others
        return known[key]

    def forget(self) -> None:
        """Drop answers about constraints: for who changes them."""
        self._answers.clear()

    @cached_property
    def _answers(self) -> dict[tuple[str, int, int, int], int]:
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
