# SPDX-License-Identifier: Apache-2.0
"""Statements become exactly the text they stand for, and nothing that is not a name gets into it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import SpecError
from sipc.selinux import cil
from sipc.selinux.cil import (
    Allow,
    AttributeMembers,
    Comment,
    Constrain,
    DontAudit,
    FileContext,
    Is,
    IsNot,
    Module,
    NeverAllow,
    Optional,
    Or,
    RoleType,
    Type,
    TypeTransition,
)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (Type("a_t"), "(type a_t)"),
        (cil.Attribute("some"), "(typeattribute some)"),
        (AttributeMembers("some", ("a_t", "b_t")), "(typeattributeset some (a_t b_t))"),
        (RoleType("object_r", "a_t"), "(roletype object_r a_t)"),
        (Allow("a_t", "self", "msgq", ("read", "write")), "(allow a_t self (msgq (read write)))"),
        (NeverAllow("a_t", "b_t", "file", ("write",)), "(neverallow a_t b_t (file (write)))"),
        (DontAudit("a_t", "b_t", "dir", ("search",)), "(dontaudit a_t b_t (dir (search)))"),
        (Constrain("sem", None, IsNot("t2", "c_t")), "(constrain (sem (all)) (neq t2 c_t))"),
        (TypeTransition("a_t", "b_t", "msg", "m_t"), "(typetransition a_t b_t msg m_t)"),
        (TypeTransition("a_t", "b_t", "dir", "m_t", "x.y"), '(typetransition a_t b_t dir "x.y" m_t)'),
        (
            FileContext("/run/a\\.b", "file", "a_t"),
            '(filecon "/run/a\\.b" file (system_u object_r a_t ((s0) (s0))))',
        ),
        (Comment("why"), "; why"),
        (Optional("o", (Allow("a_t", "b_t", "fd", ("use",)),)), "(optional o\n    (allow a_t b_t (fd (use)))\n)"),
    ],
)
def test_a_statement_is_its_text(statement: cil.Statement, text: str) -> None:
    """One statement, one form."""
    assert "\n".join(statement.lines()) == text
    assert Module("m", (statement,)).text() == text + "\n"


def test_or_is_written_as_a_binary_tree() -> None:
    """CIL's `or` takes exactly two."""
    tree = Or((IsNot("t2", "c"), Is("t1", "s"), Is("t1", "r")))
    assert str(tree) == "(or (neq t2 c) (or (eq t1 s) (eq t1 r)))"
    assert str(Or((Is("t1", "s"),))) == "(eq t1 s)"


BAD = ["", "a b", "a)", "a (allow x y (file (write)))", "1a", "a;b", 'a"', "a\n", "é_t", "self", "t1", "and", "a" * 129,
       "a.b", "object_r", "not"]  # fmt: skip
MAKERS: list[Callable[[str], object]] = [
    Type,
    cil.Attribute,
    lambda name: AttributeMembers(name, ("a_t",)),
    lambda name: AttributeMembers("some", ("a_t", name)),
    lambda name: RoleType("system_r", name),
    lambda name: Allow(name, "a_t", "file", ("read",)),
    lambda name: Allow("a_t", "b_t", "file", ("read", name)),
    lambda name: Constrain("msgq", (name,), Is("t1", "a_t")),
    lambda name: Is("t1", name),
    lambda name: IsNot("t2", name),
    lambda name: TypeTransition("a_t", name, "msg", "m_t"),
    lambda name: FileContext("/x", "file", name),
    lambda name: Optional(name, ()),
    lambda name: Module(name, ()),
]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("make", MAKERS)
def test_what_is_no_name_is_refused_everywhere(make: Callable[[str], object], name: str) -> None:
    """No statement takes text that could be more, or other, than a name."""
    with pytest.raises(SpecError):
        make(name)


@pytest.mark.parametrize("text", ["", 'a"b', "a\nb", "a\x00", "é", "a\tb"])
def test_quoted_text_can_not_end_its_quotes(text: str) -> None:
    """Paths and file names stand in quotes that nothing in them can close."""
    with pytest.raises(SpecError):
        FileContext(text, "file", "a_t")
    with pytest.raises(SpecError):
        TypeTransition("a_t", "b_t", "dir", "c_t", text)


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """What is taken contains nothing that structures CIL."""
    try:
        lines = Type(text).lines()
    except SpecError:
        return
    assert lines == [f"(type {text})"]
    assert not set(text) & set("() \t\n;\"'.$-")


def test_comments_are_one_line() -> None:
    """A comment can not open a second line, which would be a statement."""
    with pytest.raises(SpecError):
        Comment("why\n(allow a b (file (write)))")


def test_an_optional_block_holds_nothing_that_must_not_vanish() -> None:
    """Constraints and types never depend on what the base policy knows."""
    for statement in (Type("a_t"), Constrain("sem", None, Is("t1", "a_t")), NeverAllow("a", "b", "fd", ("use",))):
        with pytest.raises(SpecError):
            Optional("o", (statement,))


def test_empty_lists_are_refused() -> None:
    """A statement about nothing is a mistake of the caller's."""
    with pytest.raises(SpecError):
        AttributeMembers("some", ())
    with pytest.raises(SpecError):
        Allow("a_t", "b_t", "file", ())
    with pytest.raises(SpecError):
        Or(())


def test_a_constraint_compares_types_of_source_and_target_only() -> None:
    """No users, roles or levels: they are not what the direction hangs on."""
    with pytest.raises(SpecError):
        Is("u1", "system_u")
    with pytest.raises(SpecError):
        FileContext("/x", "door", "a_t")
