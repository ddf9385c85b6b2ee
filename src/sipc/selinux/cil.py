# SPDX-License-Identifier: Apache-2.0
"""CIL statements as values, and their text.

Owns the syntax of the part of CIL (common intermediate language, secilc's reference guide) that this project's
policy needs, and the refusal of every name that could be more than a name.  Must not know channels: `policy.py`
says which statements make one.  A statement validates when it is made, so text that comes out of here can not
contain anything but the statements that went in.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sipc.errors import SpecError

__all__ = (
    "Allow",
    "Attribute",
    "AttributeMembers",
    "Comment",
    "Constrain",
    "DontAudit",
    "Expression",
    "FileContext",
    "Is",
    "IsNot",
    "Module",
    "NeverAllow",
    "Optional",
    "Or",
    "RoleType",
    "Statement",
    "Type",
    "TypeTransition",
    "check_identifier",
)

# Letters, digits and underscores.  CIL would also take '.', '-' and '$'; a dot means a namespace there.
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
# Words that mean something where a name could stand (libsepol cil.c, cil_keys).
_RESERVED = frozenset(
    (
        "all", "and", "any", "block", "char", "dir", "dom", "domby", "eq", "false", "file", "incomp", "neq", "not",
        "object_r", "or", "pipe", "range", "self", "socket", "symlink", "true", "xor",
        "h1", "h2", "l1", "l2", "r1", "r2", "r3", "t1", "t2", "t3", "u1", "u2", "u3",
    )
)  # fmt: skip
# Inside "...": no quote, no line end, nothing that is not printable ASCII.  CIL knows no escapes.
_QUOTED = re.compile(r"[ !#-~]+")
_KINDS = frozenset(("any", "file", "dir", "char", "block", "socket", "pipe", "symlink"))


def check_identifier(name: str, what: str = "name") -> str:
    """Return `name` if it can be an SELinux identifier and nothing else, else raise `SpecError`."""
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or name in _RESERVED:
        raise SpecError(
            f"{what} {name!r} can not be used in an SELinux policy: start with a letter, go on with letters, digits "
            "and _, at most 128 characters, and no word of the policy language; for example 'sensor_feed_t'"
        )
    return name


def _check_class(name: str) -> str:
    # Three object classes are called like kinds of file contexts.
    return name if name in ("file", "dir", "socket") else check_identifier(name, "class")


def _quoted(text: str, what: str) -> str:
    if not isinstance(text, str) or not _QUOTED.fullmatch(text):
        raise SpecError(f"{what} {text!r} can not be quoted in a policy: use printable ASCII without double quotes")
    return f'"{text}"'


class Statement(abc.ABC):
    """One statement; `lines()` is its text."""

    __slots__ = ()

    @abc.abstractmethod
    def lines(self) -> list[str]:
        """Text, one entry per line."""


@dataclass(frozen=True, slots=True)
class Comment(Statement):
    """A line for the reader."""

    text: str

    def __post_init__(self) -> None:
        if "\n" in self.text or "\r" in self.text or not self.text.isprintable():
            raise SpecError(f"comment {self.text!r} must be one printable line")

    def lines(self) -> list[str]:
        return [f"; {self.text}" if self.text else ""]


@dataclass(frozen=True, slots=True)
class Type(Statement):
    """A new type."""

    name: str

    def __post_init__(self) -> None:
        check_identifier(self.name, "type")

    def lines(self) -> list[str]:
        return [f"(type {self.name})"]


@dataclass(frozen=True, slots=True)
class Attribute(Statement):
    """A new, empty set of types."""

    name: str

    def __post_init__(self) -> None:
        check_identifier(self.name, "attribute")

    def lines(self) -> list[str]:
        return [f"(typeattribute {self.name})"]


@dataclass(frozen=True, slots=True)
class AttributeMembers(Statement):
    """Types that join an attribute."""

    attribute: str
    members: tuple[str, ...]

    def __post_init__(self) -> None:
        check_identifier(self.attribute, "attribute")
        _some(self.members, "members")

    def lines(self) -> list[str]:
        return [f"(typeattributeset {self.attribute} ({' '.join(self.members)}))"]


@dataclass(frozen=True, slots=True)
class RoleType(Statement):
    """A role that may be seen with a type."""

    role: str
    type: str

    def __post_init__(self) -> None:
        check_identifier(self.type, "type")
        if self.role != "object_r":
            check_identifier(self.role, "role")

    def lines(self) -> list[str]:
        return [f"(roletype {self.role} {self.type})"]


def _some(names: Iterable[str], what: str) -> tuple[str, ...]:
    found = tuple(names)
    if not found:
        raise SpecError(f"a policy statement without {what} would say nothing")
    for name in found:
        check_identifier(name, what)
    return found


@dataclass(frozen=True, slots=True)
class _Rule(Statement):
    source: str
    target: str
    cls: str
    permissions: tuple[str, ...]

    keyword = ""

    def __post_init__(self) -> None:
        check_identifier(self.source, "type")
        if self.target != "self":
            check_identifier(self.target, "type")
        _check_class(self.cls)
        _some(self.permissions, "permissions")

    def lines(self) -> list[str]:
        return [f"({self.keyword} {self.source} {self.target} ({self.cls} ({' '.join(self.permissions)})))"]


class Allow(_Rule):
    """What a source type may do to a target type."""

    __slots__ = ()
    keyword = "allow"


class NeverAllow(_Rule):
    """What no rule of any module may grant; checked where the policy is built, if it is built with checks."""

    __slots__ = ()
    keyword = "neverallow"


class DontAudit(_Rule):
    """What is refused without a line in the log."""

    __slots__ = ()
    keyword = "dontaudit"


class Expression:
    """A condition over the types of source (t1) and target (t2)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Is(Expression):
    """`operand` (t1 or t2) is exactly this type."""

    operand: str
    type: str

    word = "eq"

    def __post_init__(self) -> None:
        if self.operand not in ("t1", "t2"):
            raise SpecError(f"a constraint compares t1 or t2, not {self.operand!r}")
        check_identifier(self.type, "type")

    def __str__(self) -> str:
        return f"({self.word} {self.operand} {self.type})"


class IsNot(Is):
    """`operand` is any other type."""

    __slots__ = ()
    word = "neq"


@dataclass(frozen=True, slots=True)
class Or(Expression):
    """At least one of them; written as the binary tree that CIL wants."""

    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise SpecError("an empty condition would forbid everything by accident")

    def __str__(self) -> str:
        *rest, text = map(str, self.parts)
        for part in reversed(rest):
            text = f"(or {part} {text})"
        return text


@dataclass(frozen=True, slots=True)
class Constrain(Statement):
    """What the kernel demands on top of every allow rule; `permissions` None: all of the class."""

    cls: str
    permissions: tuple[str, ...] | None
    condition: Expression

    def __post_init__(self) -> None:
        _check_class(self.cls)
        if self.permissions is not None:
            _some(self.permissions, "permissions")

    def lines(self) -> list[str]:
        permissions = "all" if self.permissions is None else " ".join(self.permissions)
        return [f"(constrain ({self.cls} ({permissions})) {self.condition})"]


@dataclass(frozen=True, slots=True)
class TypeTransition(Statement):
    """The type of what `source` makes in (or by executing, or queueing on) `target`; `name`: of that name only."""

    source: str
    target: str
    cls: str
    result: str
    name: str | None = None

    def __post_init__(self) -> None:
        for value in (self.source, self.target, self.result):
            check_identifier(value, "type")
        _check_class(self.cls)
        if self.name is not None:
            _quoted(self.name, "file name")

    def lines(self) -> list[str]:
        name = "" if self.name is None else f" {_quoted(self.name, 'file name')}"
        return [f"(typetransition {self.source} {self.target} {self.cls}{name} {self.result})"]


@dataclass(frozen=True, slots=True)
class FileContext(Statement):
    """The label of the files whose path matches."""

    pattern: str
    kind: str
    type: str

    def __post_init__(self) -> None:
        _quoted(self.pattern, "path")
        check_identifier(self.type, "type")
        if self.kind not in _KINDS:
            raise SpecError(f"kind of file {self.kind!r} is not one of {', '.join(sorted(_KINDS))}")

    def lines(self) -> list[str]:
        context = f"(system_u object_r {self.type} ((s0) (s0)))"
        return [f"(filecon {_quoted(self.pattern, 'path')} {self.kind} {context})"]


@dataclass(frozen=True, slots=True)
class Optional(Statement):
    """Statements that count only where every name in them is known: for what some base policies lack."""

    name: str
    statements: tuple[Statement, ...]

    def __post_init__(self) -> None:
        check_identifier(self.name, "optional block")
        for statement in self.statements:
            if isinstance(statement, (Type, Attribute, Constrain, NeverAllow)):
                raise SpecError(f"an optional block must not hold {statement}: it could vanish without a word")

    def lines(self) -> list[str]:
        inner = [f"    {line}" for statement in self.statements for line in statement.lines()]
        return [f"(optional {self.name}", *inner, ")"]


@dataclass(frozen=True, slots=True)
class Module:
    """A policy module: its name (of the file, and in the module store) and its statements, in order."""

    name: str
    statements: tuple[Statement, ...]

    def __post_init__(self) -> None:
        check_identifier(self.name, "module name")

    def text(self) -> str:
        """The module as CIL."""
        return "".join(f"{line}\n" for statement in self.statements for line in statement.lines())

    def declared(self) -> tuple[str, ...]:
        """Names of the types it makes."""
        return tuple(statement.name for statement in self.statements if isinstance(statement, Type))
