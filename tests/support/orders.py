# SPDX-License-Identifier: Apache-2.0
"""Orders for the JSON guard of the examples: good ones, and every kind of bad one with the reason it must have."""

from __future__ import annotations

import json
from typing import Any

__all__ = ("BAD", "CANONICAL", "GOOD", "changed", "spelled")

GOOD: dict[str, Any] = {
    "order": "A-1001",
    "customer": "C-17",
    "currency": "EUR",
    "items": [{"sku": "BOLT-8", "count": 200, "price": 15}, {"sku": "NUT-8", "count": 200, "price": 9}],
    "total": 4800,
    "note": "Größe M, 20 € \N{BICYCLE}",
}
CANONICAL = (
    b'{"currency":"EUR","customer":"C-17","items":[{"count":200,"price":15,"sku":"BOLT-8"},'
    b'{"count":200,"price":9,"sku":"NUT-8"}],"note":"' + "Größe M, 20 € \N{BICYCLE}".encode() + b'",'
    b'"order":"A-1001","total":4800}'
)


def changed(**values: Any) -> bytes:
    """The good order with other values, or (`...`) without a key."""
    return json.dumps({key: value for key, value in {**GOOD, **values}.items() if value is not ...}).encode()


def spelled(old: str, new: str) -> bytes:
    """The good order with one text put for another."""
    text = json.dumps(GOOD)
    assert text.count(old) == 1, old
    return text.replace(old, new).encode()


def _item(**values: Any) -> bytes:
    return changed(items=[{**GOOD["items"][0], **values}], total=3000)


_WHOLE = json.dumps(GOOD).encode()

BAD: dict[str, tuple[bytes, str]] = {
    "too large": (_WHOLE + b" " * (64 << 10), "size"),
    "a byte order mark": (b"\xef\xbb\xbf" + _WHOLE, "bom"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "bom"),
    "UTF-32, most significant first": (("\ufeff" + json.dumps(GOOD)).encode("utf-32-be"), "bom"),
    "UTF-16 without a mark": (json.dumps(GOOD).encode("utf-16-le"), "syntax"),
    "Latin-1": (_WHOLE.replace(b"C-17", b"C-\xfc"), "utf8"),
    "an overlong slash": (_WHOLE.replace(b"C-17", b"C\xc0\xaf17"), "utf8"),
    "a surrogate in UTF-8": (_WHOLE.replace(b"C-17", b"C\xed\xa0\x8017"), "utf8"),
    "half of a character's bytes": (_WHOLE.replace(b"C-17", b"C\xe2\x82"), "utf8"),
    "half a character": (changed(note="\ud800"), "surrogate"),
    "the other half": (changed(note="x\udfffy"), "surrogate"),
    "half a character as a key": (spelled('"note"', '"\\udead"'), "surrogate"),
    "deep arrays": (b"[" * 9 + b"]" * 9, "depth"),
    "deep objects": (b'{"a":' * 9 + b"1" + b"}" * 9, "depth"),
    "arrays that never end": (b"[" * 60_000, "depth"),
    "quotes that never end": (b'"\\' * 30_000, "syntax"),
    "nothing": (b"", "syntax"),
    "white space": (b" \n\t\r ", "syntax"),
    "a word": (b"hello", "syntax"),
    "half an order": (_WHOLE[: len(_WHOLE) // 2], "syntax"),
    "all but the last byte": (_WHOLE[:-1], "syntax"),
    "a comma too many": (spelled("4800,", "4800,,"), "syntax"),
    "a comment": (_WHOLE[:-1] + b"/* yes */}", "syntax"),
    "single quotes": (_WHOLE.replace(b'"', b"'"), "syntax"),
    "a form feed as white space": (b"\x0c" + _WHOLE, "syntax"),
    "a space that is no white space": ("\u00a0".encode() + _WHOLE, "syntax"),
    "digits of another script": (spelled("4800", "\u0664\u0668"), "syntax"),
    "a zero before": (spelled("4800", "04800"), "syntax"),
    "a plus": (spelled("4800", "+4800"), "syntax"),
    "hexadecimal": (spelled("4800", "0x12c0"), "syntax"),
    "a line feed in a string": (spelled("C-17", "C-1\n7"), "syntax"),
    "a NUL in a string": (spelled("C-17", "C-1\x007"), "syntax"),
    "two orders": (_WHOLE + _WHOLE, "trailing"),
    "a NUL behind": (_WHOLE + b"\0", "trailing"),
    "a word behind": (_WHOLE + b"\nDROP", "trailing"),
    "NaN": (spelled("4800", "NaN"), "constant"),
    "Infinity": (spelled("4800", "Infinity"), "constant"),
    "-Infinity": (spelled("4800", "-Infinity"), "constant"),
    "a fraction": (spelled("4800", "4800.5"), "float"),
    "a fraction that is none": (spelled("4800", "4800.0"), "float"),
    "an exponent": (spelled("4800", "48e2"), "float"),
    "a huge exponent": (spelled("4800", "1e999999999"), "float"),
    "a huge negative exponent": (spelled("4800", "1E-999999999"), "float"),
    "2 to the 53": (spelled("4800", str(1 << 53)), "number"),
    "2 to the 64": (spelled("4800", str(1 << 64)), "number"),
    "minus zero": (spelled("4800", "-0"), "number"),
    "a number of 50000 digits": (spelled("4800", "9" * 50_000), "number"),
    "a key twice": (spelled('"total": 4800', '"total": 4800, "total": 1'), "duplicate"),
    "a key twice, once in escapes": (spelled('"total": 4800', '"total": 4800, "tot\\u0061l": 1'), "duplicate"),
    "a key twice, deep": (spelled('"sku": "NUT-8"', '"sku": "NUT-8", "sku": "X"'), "duplicate"),
    "an array": (b"[" + _WHOLE + b"]", "schema"),
    "a number alone": (b"1", "schema"),
    "null": (b"null", "schema"),
    "a key too many": (changed(admin=True), "schema"),
    "a key that looks the same": (spelled('"total"', '"t\u043etal"'), "schema"),
    "a key missing": (changed(note=...), "schema"),
    "a number as text": (changed(total="4800"), "schema"),
    "true as a number": (changed(total=True), "schema"),
    "null for text": (changed(note=None), "schema"),
    "another currency": (changed(currency="BTC"), "schema"),
    "no items": (changed(items=[]), "schema"),
    "101 items": (changed(items=[GOOD["items"][0]] * 101), "schema"),
    "none of a thing": (_item(count=0), "schema"),
    "less than none": (_item(count=-200), "schema"),
    "a name with a line feed behind": (changed(order="A-1001\n"), "schema"),
    "a name in small letters": (changed(order="a-1001"), "schema"),
    "a path as a name": (changed(order="../A"), "schema"),
    "a name that looks the same": (changed(order="\u0410-1001"), "schema"),
    "a long note": (changed(note="x" * 501), "schema"),
    "a terminal's escape": (changed(note="\x1b[2J"), "text"),
    "text that runs backwards": (changed(note="\u202etxt.exe"), "text"),
    "an invisible character": (changed(note="a\u200bb"), "text"),
    "two lines": (changed(note="a\nb"), "text"),
    "a sum that is wrong": (changed(total=1), "sum"),
}  # fmt: skip
