# SPDX-License-Identifier: Apache-2.0
r"""The filters of the log diode: lines of a log in, the same lines made harmless out, or a quarantine and why.

Owns what a line of a log may be behind the diode: RFC 5424, one line, UTF-8, at most `MAX_LINE` bytes, and no character
that a terminal or a viewer would obey.  `lines` takes RFC 5424 as syslog daemons write it to a file, `journal` takes
what `journalctl -o json` prints, and writes RFC 5424.

Two rules.  Text is made harmless: whoever can write to a log may put anything there, and a line that vanished would be
his success; so what does not print becomes visible (`\x1b`), and what is too long is cut, and says so.  Structure is
not repaired: a batch with one line that is no record is quarantined whole, for a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from sipc.guard.verdicts import Pass, Quarantine

__all__ = ("Entry", "Refused", "Why", "harmless", "journal", "lines")

MAX_SIZE = 1 << 20  # bytes of a batch
MAX_LINES = 4000  # lines of a batch
MAX_LINE = 2048  # bytes of a line: what RFC 5424, 6.1, says that every receiver should take
_CUT = "[cut]"


class Why(StrEnum):
    """Each reason for a quarantine."""

    SIZE = "batch-size"
    LINES = "batch-lines"
    TRUNCATED = "batch-truncated"  # the last line does not end
    STRUCTURE = "no-log-record"


class Refused(Exception):
    """A batch is refused: a reason that may be logged, and a detail that may not."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(f"{why}: {detail}")
        self.why, self.detail = why, detail


# RFC 5424, 6: header fields of printable ASCII, each of its length.  The message is what follows: any text.
# Possessive quantifiers: a line is read once, whatever is in it.
_RECORD = re.compile(
    r"<(?P<priority>0|[1-9][0-9]{0,2})>1 "
    r"(?P<time>-|[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])) "
    r"[!-~]{1,255}+ [!-~]{1,48}+ [!-~]{1,128}+ [!-~]{1,32}+ "
    r'(?P<data>-|(?:\[[!#-<>-\\^-~]{1,32}+(?: [!#-<>-\\^-~]{1,32}+="(?:[^"\\\]]++|\\.)*+")*+\])++)'
    r"(?: .*)?",
    re.DOTALL,
)
_FACILITIES = 24
_USER = 1  # facility of what names none


def lines(message: bytes) -> Pass | Quarantine:
    """The verdict on a batch of RFC 5424 lines."""
    return _batch(message, _line)


def journal(message: bytes) -> Pass | Quarantine:
    """The verdict on a batch of entries from `journalctl -o json`."""
    return _batch(message, _entry)


def _batch(message: bytes, read: Callable[[bytes], str]) -> Pass | Quarantine:
    try:
        if len(message) > MAX_SIZE:
            raise Refused(Why.SIZE, f"{len(message)} bytes, and at most {MAX_SIZE} may be")
        *whole, rest = message.split(b"\n", MAX_LINES)
        if rest:
            if len(whole) == MAX_LINES:
                raise Refused(Why.LINES, f"more than {MAX_LINES} lines")
            raise Refused(Why.TRUNCATED, f"{len(rest)} bytes after the last line feed")
        if not whole:
            raise Refused(Why.STRUCTURE, "not one line")
        return Pass("".join(_record(read, line, number) for number, line in enumerate(whole, 1)).encode())
    except Refused as refused:
        return Quarantine(refused.why, refused.detail)


def _record(read: Callable[[bytes], str], line: bytes, number: int) -> str:
    try:
        text = read(line)
        found = _RECORD.fullmatch(text)
        if found is None or int(found["priority"]) >= _FACILITIES * 8:
            raise ValueError("it is not RFC 5424")
        if found["time"] != "-":
            datetime.fromisoformat(found["time"])  # a month has its days
        text = _short(text, found.end("data"))
    except (ValueError, RecursionError) as error:  # msgspec's are of the first, but for what is nested too deep
        raise Refused(Why.STRUCTURE, f"line {number}: {error}") from error
    return text + "\n"


def _line(line: bytes) -> str:
    text = line.removesuffix(b"\r").decode(errors="backslashreplace")
    return harmless(text.replace(" \ufeff", " ", 1))  # RFC 5424, 6.4: a BOM may say that the message is UTF-8


def harmless(text: str) -> str:
    """The text, with each character that does not print made visible: controls, escapes, changes of direction.

    What stands there as visible text already is not told apart from that.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _visible(ord(one)) for one in text)


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _short(text: str, fixed: int) -> str:
    data = text.encode()
    if len(data) <= MAX_LINE:
        return text
    if len(text[:fixed].encode()) >= MAX_LINE - len(_CUT):
        raise ValueError(f"its header and structured data alone have {MAX_LINE - len(_CUT)} bytes or more")
    return data[: MAX_LINE - len(_CUT)].decode(errors="ignore") + _CUT


# The journal says a number as a string; a text that is not UTF-8, or does not print, as a list of its bytes; a field
# that was given more than once as a list of those; and one of more than 4096 bytes, without --all, as null.
_Number = Annotated[str, Meta(pattern=r"\A[0-9]{1,16}\Z")]
_Byte = Annotated[int, Meta(ge=0, le=255)]
_Text = str | list[_Byte | str | list[_Byte]] | None


class Entry(msgspec.Struct, frozen=True):
    """What is taken of an entry; whatever else it has stays behind.

    The fields that begin with an underscore are the journal's own word: an entry in which they are wrong is none.  The
    others are the word of who logged, and nothing may depend on him: what is wrong there becomes a default.
    """

    realtime: _Number = msgspec.field(name="__REALTIME_TIMESTAMP")  # microseconds
    message: _Text = msgspec.field(name="MESSAGE", default="")
    priority: _Text = msgspec.field(name="PRIORITY", default=None)
    facility: _Text = msgspec.field(name="SYSLOG_FACILITY", default=None)
    identifier: _Text = msgspec.field(name="SYSLOG_IDENTIFIER", default=None)
    command: _Text = msgspec.field(name="_COMM", default=None)
    process: _Number | None = msgspec.field(name="_PID", default=None)
    host: _Text = msgspec.field(name="_HOSTNAME", default=None)


_ENTRY = msgspec.json.Decoder(Entry)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_A_NAME = re.compile(r"[^!-~]")
# Else who logs 5000 bytes at once would log nothing.
_LEFT_OUT = "[journalctl leaves out what is longer than 4096 bytes; give it --all]"
_INFORMATION = 6  # severity of what names none


def _entry(line: bytes) -> str:
    entry = _ENTRY.decode(line)
    time = (_EPOCH + timedelta(microseconds=int(entry.realtime))).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    priority = _number(entry.facility, _FACILITIES, _USER) * 8 + _number(entry.priority, 8, _INFORMATION)
    name = _name(entry.identifier, 48) if entry.identifier else _name(entry.command, 48)
    text = _LEFT_OUT if entry.message is None else harmless(_text(entry.message))
    return f"<{priority}>1 {time} {_name(entry.host, 255)} {name} {entry.process or '-'} - -{' ' if text else ''}{text}"


def _text(value: str | Sequence[int | str | Sequence[int]] | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    numbers = [one for one in value if isinstance(one, int)]
    if numbers and len(numbers) < len(value):
        raise ValueError("a list of bytes has texts in it")
    if numbers:
        return bytes(numbers).decode(errors="backslashreplace")
    return " ".join(_text(one) for one in value if not isinstance(one, int))


def _number(value: _Text, end: int, default: int) -> int:
    numbers = [str(number) for number in range(end)]
    return int(value) if isinstance(value, str) and value in numbers else default


def _name(value: _Text, longest: int) -> str:
    return _NOT_A_NAME.sub("_", _text(value))[:longest] or "-"
