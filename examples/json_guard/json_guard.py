# SPDX-License-Identifier: Apache-2.0
"""The filter of the JSON guard: one order in, the same order in its only spelling out, or a quarantine and why.

Owns what an order is and what of JSON is let through.  What is passed on is written anew from the values, never copied
from the message: of all the spellings of one order, who reads behind the guard sees one (RFC 8785: keys sorted by their
UTF-16, no white space, the shortest escapes).  JSON leaves much to its readers (RFC 8259: the same key twice, numbers
of any size, half a character), and two readers that differ are how data gets past a guard.  So all of that is refused,
and two parsers that share no code, the standard library's and msgspec's, must have read the same.

Limits come first and each check has bounded work: nothing here recurses, converts or compares before the size and the
depth are known.  A reason is one of `Why`, because it is logged; what says more goes into the detail.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Never

import msgspec
from msgspec import Meta

from sipc.guard.verdicts import Pass, Quarantine

__all__ = ("Item", "Order", "Refused", "Why", "canonical", "parse", "scrub")

MAX_SIZE = 64 << 10  # bytes of a document; an order of 100 items has about 6 KiB
MAX_DEPTH = 8  # arrays and objects inside each other; an order has 3
MAX_INTEGER = (1 << 53) - 1  # RFC 8785, 3.2.2.3: beyond it, readers that keep numbers as doubles see another one
_DIGITS = len(str(-MAX_INTEGER))

# UTF-8, UTF-16 and UTF-32, both ways round.  None may stand before JSON (RFC 8259, 8.1).
_BOMS = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe", b"\x00\x00\xfe\xff")
# A whole string, one that never ends, or a bracket.  Possessive, and any quote begins a match: linear for any text.
_SHAPE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*+")


class Why(StrEnum):
    """Each reason for a quarantine.  None is a part of a key of an order: such a word would be logged as `filter`."""

    SIZE = "size"
    BOM = "bom"
    UTF8 = "utf8"
    DEPTH = "depth"
    SYNTAX = "syntax"  # truncated too
    TRAILING = "trailing"  # a document, and then something
    CONSTANT = "constant"  # NaN, Infinity
    FLOAT = "float"  # any fraction or exponent: an order has none
    NUMBER = "number"  # an integer that not all readers have, or in a second spelling (-0)
    DUPLICATE = "duplicate"
    SURROGATE = "surrogate"  # half a character, which UTF-8 can not say
    SCHEMA = "schema"
    TEXT = "text"  # characters that do not print: they move a terminal's cursor, or the direction of writing
    SUM = "sum"
    DIFFER = "differ"  # two parsers read two things


class Refused(Exception):
    """A document is refused: a reason that may be logged, and a detail that may not."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(f"{why}: {detail}")
        self.why, self.detail = why, detail


# `\Z`, not `$`: that would let a line feed stand behind.
_Name = Annotated[str, Meta(pattern=r"\A[A-Z0-9](?:[A-Z0-9-]{0,30}[A-Z0-9])?\Z")]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an order."""

    sku: _Name
    count: Annotated[int, Meta(ge=1, le=10_000)]
    price: Annotated[int, Meta(ge=0, le=100_000_000)]  # cents, for one


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order.  Each key must be there, and no other: a default would be a second spelling."""

    order: _Name
    customer: _Name
    currency: Literal["EUR", "USD"]
    items: Annotated[list[Item], Meta(min_length=1, max_length=100)]
    total: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]  # cents
    note: Annotated[str, Meta(max_length=500)]


_ORDER = msgspec.json.Decoder(Order)


def scrub(message: bytes) -> Pass | Quarantine:
    """The verdict on one message: called by the stage for each."""
    try:
        return Pass(canonical(_order(message, parse(message))))
    except Refused as refused:
        return Quarantine(refused.why, refused.detail)


def _order(message: bytes, value: Any) -> Any:
    try:
        order = _ORDER.decode(message)
    except msgspec.ValidationError as error:
        raise Refused(Why.SCHEMA, str(error)) from error
    except msgspec.DecodeError as error:
        raise Refused(Why.DIFFER, f"only one parser reads it: {error}") from error
    written: Any = msgspec.to_builtins(order)
    if written != value:
        raise Refused(Why.DIFFER, "two parsers read two orders")
    if not order.note.isprintable():
        raise Refused(Why.TEXT, f"note: {order.note!a}")
    total = sum(item.count * item.price for item in order.items)
    if total != order.total:
        raise Refused(Why.SUM, f"total is {order.total}, and the items make {total}")
    return written


def parse(data: bytes, *, max_size: int = MAX_SIZE) -> Any:
    """The value of a JSON document of at most `max_size` bytes: `dict`, `list`, `str`, `int`, `bool` and None.

    Raises `Refused` for whatever could be read in two ways, and for what is nested more than `MAX_DEPTH` deep.
    """
    if len(data) > max_size:
        raise Refused(Why.SIZE, f"{len(data)} bytes, and at most {max_size} may be")
    if data.startswith(_BOMS):
        raise Refused(Why.BOM, f"begins with {data[:4].hex(' ')}")
    try:
        text = data.decode()  # strict: no overlong forms, no surrogates; and never UTF-16, which json.loads would guess
    except UnicodeDecodeError as error:
        raise Refused(Why.UTF8, f"{error.reason} at byte {error.start}") from error
    _check_depth(text)
    begin = _SPACE.match(text)
    try:
        value, end = _DECODER.raw_decode(text, begin.end() if begin else 0)
    except json.JSONDecodeError as error:
        raise Refused(Why.SYNTAX, f"{error.msg} at character {error.pos}") from error
    behind = _SPACE.match(text, end)
    end = behind.end() if behind else end
    if end != len(text):
        raise Refused(Why.TRAILING, f"{len(text) - end} characters after the document")
    if "\\u" in text:  # only an escape can have made one
        _check_characters(value)
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for found in _SHAPE.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Refused(Why.DEPTH, f"more than {MAX_DEPTH} levels, at character {found.start()}")
        elif found[0] in "]}":
            depth -= 1


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused(Why.SURROGATE, f"half a character: {error.object[error.start]!a}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Here the keys have lost their escapes: "a" and "\u0061" are one.
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise Refused(Why.DUPLICATE, f"twice: {next(name for name in made if names.count(name) > 1)!a}")
    return made


def _integer(digits: str) -> int:
    # The length first: int() of many digits takes time with their square.
    if len(digits) > _DIGITS:
        raise Refused(Why.NUMBER, f"an integer of {len(digits)} characters")
    value = int(digits)
    if abs(value) > MAX_INTEGER or str(value) != digits:
        raise Refused(Why.NUMBER, f"{digits}: must be from -{MAX_INTEGER} to {MAX_INTEGER}, in its shortest form")
    return value


def _float(digits: str) -> Never:
    raise Refused(Why.FLOAT, f"{digits[:40]}: write an integer")


def _constant(name: str) -> Never:
    raise Refused(Why.CONSTANT, f"{name} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
)


def canonical(value: Any) -> bytes:
    """The one spelling of a value that `parse` gives (RFC 8785; there is no other number than an integer)."""
    return json.dumps(_sorted(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        # RFC 8785, 3.2.3: by UTF-16 code units, which is another order than Python's as soon as there are emoji.
        return {name: _sorted(value[name]) for name in sorted(value, key=lambda name: name.encode("utf-16-be"))}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if value is None or type(value) in (str, int, bool):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form here")
