# SPDX-License-Identifier: Apache-2.0
"""The filter of the JSON guard: one spelling comes out, and nothing that two readers could read differently."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from examples.json_guard import json_guard
from examples.json_guard.json_guard import Item, Order, Refused, Why, canonical, parse, scrub
from hypothesis import example, given, settings
from tests.support.orders import BAD, CANONICAL, GOOD, changed, spelled

from sipc.guard.config import read
from sipc.guard.verdicts import Pass, Quarantine, check_reason

CALM = settings(deadline=None)  # other things run on this machine
GUARD = Path(__file__).parents[3] / "examples" / "json_guard" / "guard.toml"

# Every character that UTF-8 can say, the ones that are wide in UTF-16 more often: there the orders of keys part.
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('\uffee\U0001f600"\\/\x00\x1f\x7f')))
INTEGERS = st.integers(-json_guard.MAX_INTEGER, json_guard.MAX_INTEGER)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, TEXT),
    lambda inside: st.one_of(st.lists(inside, max_size=4), st.dictionaries(TEXT, inside, max_size=4)),
    max_leaves=20,
).filter(lambda value: depth(value) <= json_guard.MAX_DEPTH)
SPACE = st.text(st.sampled_from(" \t\n\r"), max_size=3)


def depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def refusal(data: bytes, **options: Any) -> Why:
    with pytest.raises(Refused) as caught:
        parse(data, **options)
    return caught.value.why


@CALM
@given(VALUES)
@example({"\ufb33": 1, "\U0001f600": 2, "\r": 3, "€": 4, "\x80": 5, "ö": 6, "1": 7})
def test_what_is_written_is_read_again_and_written_again(value: Any) -> None:
    """parse(canonical(x)) == x, types included, and canonical is idempotent."""
    data = canonical(value)
    again = parse(data)
    assert again == value
    assert json.dumps(again, sort_keys=True) == json.dumps(value, sort_keys=True)  # True is not 1
    assert canonical(again) == data


@CALM
@given(VALUES, st.randoms(use_true_random=False), SPACE, st.booleans())
def test_all_spellings_become_one(value: Any, random: Any, space: str, ascii_only: bool) -> None:
    """Order of keys, white space, escapes: nothing of them is left, and nothing got longer."""

    def shuffled(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: shuffled(one[key]) for key in random.sample(list(one), len(one))}
        return [shuffled(each) for each in one] if isinstance(one, list) else one

    separators = (f"{space},{space}", f"{space}:{space}")
    other = json.dumps(shuffled(value), ensure_ascii=ascii_only, separators=separators)
    spelled_otherwise = f"{space}{other}{space}".encode()
    assert canonical(parse(spelled_otherwise)) == canonical(value)
    assert len(canonical(value)) <= len(spelled_otherwise)


def test_keys_are_in_the_order_of_the_standard() -> None:
    """RFC 8785, 3.2.3: its own example, by UTF-16 code units, with numbers for the texts."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    expected = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(dict.fromkeys(names, 0)))) == expected


def test_escapes_are_those_of_the_standard() -> None:
    """RFC 8785, 3.2.2.2: the short ones, small hexadecimal for other controls, everything else as it is."""
    written = canonical('\x00\x08\t\n\x0b\x0c\r\x1f"\\/\x7f\u2028€')
    assert written == rb'"\u0000\b\t\n\u000b\f\r\u001f\"\\/' + "\x7f\u2028€".encode() + b'"'


@pytest.mark.parametrize("value", [1.5, float("nan"), {1, 2}, b"bytes", [1.0], {"a": 2.0}])
def test_what_parse_never_gives_has_no_canonical_form(value: Any) -> None:
    """A float would be written by rules that are not ours."""
    with pytest.raises(TypeError, match="has no canonical form"):
        canonical(value)


def test_a_good_order_passes_in_its_one_spelling() -> None:
    """However it is spelled; and its canonical form passes as it is."""
    for data in (
        json.dumps(GOOD).encode(),
        json.dumps(GOOD, indent=4, ensure_ascii=False).encode(),
        b"\r\n\t " + json.dumps(dict(reversed(GOOD.items()))).encode() + b"\n",
        spelled('"total"', '"\\u0074otal"'),
        CANONICAL,
    ):
        assert scrub(data) == Pass(CANONICAL)


@pytest.mark.parametrize("name", BAD)
def test_each_bad_order_is_refused_for_what_is_wrong_with_it(name: str) -> None:
    """One word that may be logged; never a pass."""
    data, reason = BAD[name]
    verdict = scrub(data)
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == reason


def test_every_reason_has_a_bad_order() -> None:
    """But the one for two parsers that differ, which needs a parser that is wrong."""
    assert {reason for _, reason in BAD.values()} == set(Why) - {Why.DIFFER}


def test_a_reason_is_a_word_and_no_part_of_a_key() -> None:
    """Else it would stand in every order, and be logged as `filter`."""
    keys = [field.name for kind in (Order, Item) for field in msgspec.structs.fields(kind)]
    for why in Why:
        assert check_reason(why) == why
        assert not any(why in key for key in keys)


@CALM
@given(st.integers(0, len(CANONICAL) - 1))
def test_nothing_that_was_cut_off_passes(at: int) -> None:
    """No beginning of an order is one."""
    assert isinstance(scrub(CANONICAL[:at]), Quarantine)


@CALM
@given(st.binary())
@example(b'"' * 1000)
@example(b"\\" * 1000)
def test_no_bytes_raise(data: bytes) -> None:
    """Any bytes at all get a verdict of ours."""
    assert isinstance(scrub(data), Quarantine)


@CALM
@given(st.integers(0, len(CANONICAL) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_an_order_with_a_few_bytes_changed_is_refused_or_canonical(at: int, put: bytes, cut: int) -> None:
    """Whatever passes is a fixed point: passing it again changes nothing, and msgspec reads the same."""
    verdict = scrub(CANONICAL[:at] + put + CANONICAL[at + cut :])
    if isinstance(verdict, Pass):
        assert scrub(verdict.payload) == verdict
        assert canonical(msgspec.to_builtins(msgspec.json.decode(verdict.payload, type=Order))) == verdict.payload


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[" * 1_000_000 + b"]" * 1_000_000, Why.DEPTH),
        (b'{"a":' * 1_000_000, Why.DEPTH),
        (b"[{" * 1_000_000, Why.DEPTH),
        (b"9" * 10_000_000, Why.NUMBER),
        (b"-" + b"9" * 10_000_000, Why.NUMBER),
        (b"1." + b"0" * 10_000_000, Why.FLOAT),
        (b"1e" + b"9" * 10_000_000, Why.FLOAT),
        (b'"\\' * 5_000_000, Why.SYNTAX),
        (b'"' + b"\\\\" * 5_000_000, Why.SYNTAX),
        (b'"' + b'\\"' * 5_000_000, Why.SYNTAX),
        (b"[" + b"1," * 1_000_000, Why.SYNTAX),
        (b"1" + b" " * 10_000_000 + b"1", Why.TRAILING),
    ],
    ids=lambda value: f"{value[:6]!r}" if isinstance(value, bytes) else str(value),
)
def test_the_size_is_not_all_that_holds(data: bytes, why: Why) -> None:
    """Without its limit the same documents are refused for what they are, in a time that grows with their size."""
    assert refusal(data) is Why.SIZE
    assert refusal(data, max_size=1 << 30) is why


def test_a_value_that_only_one_parser_sees_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first parser were wrong, as msgspec's is about equal keys, the second would not agree."""
    twice = spelled('"total": 4800', '"total": 1, "total": 4800')
    assert msgspec.json.decode(twice, type=Order).total == 4800
    first = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    monkeypatch.setattr(json_guard, "_DECODER", first)
    assert scrub(twice) == Quarantine(Why.DIFFER, "two parsers read two orders")
    monkeypatch.setattr(json_guard, "_DECODER", json.JSONDecoder(strict=False))
    verdict = scrub(changed(note="ab").replace(b"ab", b"a\nb"))
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == Why.DIFFER


def test_the_guard_file_is_right_and_lets_through_no_more_than_the_filter() -> None:
    """It is checked as any other; its limits are the filter's."""
    guard, problems = read(GUARD.read_text(), str(GUARD))
    assert not problems
    assert guard is not None
    assert str(guard.require[0]) == "ingest -> deliver via scrub"
    assert guard.channels["clean"].spec.max_message == json_guard.MAX_SIZE
    assert guard.channels["raw"].spec.max_message > 100_000_000
    assert "decode" not in tomllib.loads(GUARD.read_text())["stage"]["scrub"]["filter"]
