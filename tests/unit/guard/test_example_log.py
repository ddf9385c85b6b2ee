# SPDX-License-Identifier: Apache-2.0
"""The filters of the log diode: what comes out is RFC 5424, one line a line, and nothing in it acts on a terminal."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from examples.log_diode import log_diode
from examples.log_diode.log_diode import Why, harmless, journal, lines
from hypothesis import example, given, settings

from sipc.guard.config import read
from sipc.guard.verdicts import Pass, Quarantine, check_reason

CALM = settings(deadline=None)  # other things run on this machine
GUARD = Path(__file__).parents[3] / "examples" / "log_diode" / "guard.toml"
HEAD = b"<34>1 2024-05-17T09:30:00.123456Z host.example su 77 ID47 - "
LINE = HEAD + b"a login that failed"
ENTRY: dict[str, Any] = {
    "__CURSOR": "s=1",
    "__REALTIME_TIMESTAMP": "1715938200123456",
    "_HOSTNAME": "sealed",
    "_PID": "77",
    "_COMM": "su",
    "PRIORITY": "4",
    "SYSLOG_FACILITY": "10",
    "SYSLOG_IDENTIFIER": "su",
    "MESSAGE": "a login that failed",
}
RENDERED = "<84>1 2024-05-17T09:30:00.123456Z sealed su 77 - - "

TEXT = st.one_of(st.binary(max_size=60), st.text(st.characters(exclude_categories=["Cs"])).map(str.encode))
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)  # the journal says other bytes as numbers
ANY = st.one_of(PLAIN, st.none(), st.lists(st.integers(0, 255)), st.lists(PLAIN, min_size=1))


def passed(verdict: Pass | Quarantine) -> str:
    assert isinstance(verdict, Pass), verdict
    return verdict.payload.decode()


def refused(verdict: Pass | Quarantine) -> str:
    assert isinstance(verdict, Quarantine), verdict
    return verdict.reason


def entry(**values: Any) -> bytes:
    return json.dumps({key: value for key, value in {**ENTRY, **values}.items() if value is not ...}).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        HEAD.rstrip(),
        HEAD,
        b"<0>1 - - - - - -",
        b'<191>1 2024-02-29T23:59:59+02:00 h a p m [x@1 k="v"][y] text',
        rb'<13>1 2024-05-17T09:30:00.1-11:30 h a p m [x k="a\"b\\c\]d e"] text',
        HEAD + "Größe \N{BICYCLE} 漢字".encode(),
    ],
)  # fmt: skip
def test_a_line_of_the_standard_passes_as_it_is(line: bytes) -> None:
    """RFC 5424, 6: optional fields, structured data, any text."""
    assert lines(line + b"\n") == Pass(line + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"May 17 09:30:00 host su: old style",
        b"<192>1 - - - - - -",
        b"<034>1 - - - - - -",
        b"<-1>1 - - - - - -",
        "<\u0663>1 - - - - - -".encode(),
        b"<34>2 - - - - - -",
        b"<34>1 2024-02-30T09:30:00Z - - - - -",
        b"<34>1 2024-05-17T24:00:00Z - - - - -",
        b"<34>1 2024-05-17T09:30:60Z - - - - -",
        b"<34>1 2024-05-17T09:30:00.1234567Z - - - - -",
        b"<34>1 2024-05-17T09:30:00 - - - - -",
        b"<34>1 0000-05-17T09:30:00Z - - - - -",
        b"<34>1 - - - - -",
        b"<34>1  - - - - - -",
        b"<34>1 - " + b"h" * 256 + b" - - - -",
        b"<34>1 - - " + b"a" * 49 + b" - - -",
        "<34>1 - höst - - - -".encode(),
        b'<34>1 - - - - - [x k="v] text',
        b"<34>1 - - - - - [x k=v] text",
        b"<34>1 - - - - - [] text",
        b'<34>1 - - - - - [x k="a]b"] text',
        b"<34>1 - - - - - -text",
        b'<34>1 - - - - - [x k="' + b"v" * 3000 + b'"] text',
        b"x" * 100_000,
        b"[" * 100_000,
        b"<34>1 - - - - - " + b'[x k="' * 20_000,
    ],
    ids=lambda line: repr(line[:50]),
)  # fmt: skip
def test_a_batch_with_a_line_that_is_no_record_is_refused_whole(line: bytes) -> None:
    """Structure is not repaired."""
    for batch in (line + b"\n", LINE + b"\n" + line + b"\n" + LINE + b"\n"):
        assert refused(lines(batch)) == Why.STRUCTURE


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (b"\x1b[2J\x1b[31mred", r"\x1b[2J\x1b[31mred"),
        (b"\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J".encode(), r"\x9b2J"),
        (b"\x9b2J", r"\x9b2J"),
        (b"over\rwritten\x08\x7f\x00", r"over\x0dwritten\x08\x7f\x00"),
        (b"a\tb\x0b\x0c", r"a\x09b\x0b\x0c"),
        (b"\xff\xfe \xc0\xaf \xed\xa0\x80", r"\xff\xfe \xc0\xaf \xed\xa0\x80"),
        ("\u202etxt.exe \u2066 \u200b \u2028".encode(), r"\u202etxt.exe \u2066 \u200b \u2028"),
        ("\U000e0041 \ue000 \ufffe".encode(), r"\U000e0041 \ue000 \ufffe"),
        ("\ufeffwith a mark".encode(), "with a mark"),
        (b"<34>1 forged", "<34>1 forged"),
    ],
)
def test_what_does_not_print_becomes_visible(text: bytes, seen: str) -> None:
    """Terminal escapes, 7-bit and 8-bit, controls, wrong UTF-8, direction, tags: nothing vanishes, nothing acts."""
    assert passed(lines(HEAD + text + b"\n")) == HEAD.decode() + seen + "\n"


def test_a_carriage_return_at_the_end_of_a_line_goes() -> None:
    """It belongs to the line feed."""
    assert lines(LINE + b"\r\n" + LINE + b"\n") == Pass((LINE + b"\n") * 2)


@pytest.mark.parametrize("text", [b"x" * 5000, "\N{BICYCLE}".encode() * 2000, b"\x1b" * 3000, b"x" * 900_000])
def test_a_long_line_is_cut_and_says_so(text: bytes) -> None:
    """In bytes, at a character, and only the message: header and structured data are whole or refused."""
    line = passed(lines(HEAD + text + b"\n")).removesuffix("\n")
    assert line.endswith("[cut]")
    assert log_diode.MAX_LINE - 4 < len(line.encode()) + 1 <= log_diode.MAX_LINE + 1
    assert line.startswith(HEAD.decode())


@CALM
@given(st.lists(TEXT.map(lambda text: HEAD + text.replace(b"\n", b"") + b"\n"), min_size=1, max_size=5))
@example([HEAD + b"x" * 4000 + b"\n"])
@example([HEAD + "\ufeff\ufeff".encode() + b"\n"])
def test_what_passes_passes_again_unchanged(batch: list[bytes]) -> None:
    """As many lines as came, each short, printable, and a fixed point."""
    out = passed(lines(b"".join(batch)))
    assert out.count("\n") == len(batch)
    for line in out.splitlines():
        assert line.isprintable()
        assert len(line.encode()) <= log_diode.MAX_LINE
    assert lines(out.encode()) == Pass(out.encode())


@CALM
@given(st.binary())
def test_no_bytes_raise(data: bytes) -> None:
    """Any bytes at all get a verdict of ours."""
    for judge in (lines, journal):
        assert isinstance(judge(data), Quarantine)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (b"", Why.STRUCTURE),
        (LINE, Why.TRUNCATED),
        (LINE + b"\n" + HEAD, Why.TRUNCATED),
        ((LINE + b"\n") * 20_000, Why.SIZE),
        (b"\n" * 4001, Why.LINES),
        (b"<0>1 - - - - - -\n" * 5000, Why.LINES),
        (b"\n" * 4000, Why.STRUCTURE),
        (b"\0" * (1 << 20), Why.TRUNCATED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_batch_has_an_end_and_limits(batch: bytes, why: Why) -> None:
    """Whatever is in it."""
    for judge in (lines, journal):
        assert refused(judge(batch)) == why


def test_as_many_lines_as_may_be_fit_the_channel_behind() -> None:
    """The largest batch that can come out of the filter, in the guard file's `clean`."""
    guard, problems = read(GUARD.read_text(), str(GUARD))
    assert not problems
    assert guard is not None
    assert guard.channels["clean"].spec.max_message >= log_diode.MAX_LINES * (log_diode.MAX_LINE + 1)
    assert guard.channels["raw"].spec.max_message > 100_000_000
    assert tomllib.loads(GUARD.read_text())["stage"]["scrub"]["filter"]["python"] == "log_diode:lines"


def test_reasons_are_words() -> None:
    """They are logged."""
    assert all(check_reason(why) == why for why in Why)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, RENDERED + "a login that failed"),
        ({"MESSAGE": ...}, RENDERED.rstrip()),
        ({"MESSAGE": None}, RENDERED + "[journalctl leaves out what is longer than 4096 bytes; give it --all]"),
        ({"MESSAGE": "two\nlines"}, RENDERED + r"two\x0alines"),
        ({"MESSAGE": list(b"\x1b[31m\xff")}, RENDERED + r"\x1b[31m\xff"),
        ({"MESSAGE": ["one", list(b"tw\xff")]}, RENDERED + r"one tw\xff"),
        ({"MESSAGE": []}, RENDERED.rstrip()),
        ({"SYSLOG_IDENTIFIER": ...}, RENDERED + "a login that failed"),
        ({"SYSLOG_IDENTIFIER": "s u\n<0>1"}, RENDERED.replace(" su ", " s_u_<0>1 ") + "a login that failed"),
        ({"SYSLOG_IDENTIFIER": "x" * 99}, RENDERED.replace(" su ", f" {'x' * 48} ") + "a login that failed"),
        ({"PRIORITY": ..., "SYSLOG_FACILITY": ...}, RENDERED.replace("84", "14") + "a login that failed"),
        ({"PRIORITY": "9", "SYSLOG_FACILITY": "24"}, RENDERED.replace("84", "14") + "a login that failed"),
        ({"PRIORITY": "-1", "SYSLOG_FACILITY": ["1"]}, RENDERED.replace("84", "14") + "a login that failed"),
        ({"_PID": ..., "_HOSTNAME": ...}, RENDERED.replace("sealed su 77", "- su -") + "a login that failed"),
        ({"ANYTHING": {"else": [1.5]}}, RENDERED + "a login that failed"),
    ],
)
def test_an_entry_of_the_journal_becomes_a_line(values: dict[str, Any], line: str) -> None:
    """What the journal vouches for is kept; what the logging program says can be no more than text."""
    assert passed(journal(entry(**values))) == line + "\n"


@pytest.mark.parametrize(
    "batch",
    [
        b"{}\n",
        b"[]\n",
        b"not JSON\n",
        entry(__REALTIME_TIMESTAMP=1715938200123456),
        entry(__REALTIME_TIMESTAMP="99999999999999999"),
        entry(__REALTIME_TIMESTAMP="1715938200123456\n"),
        entry(_PID="77 x"),
        entry(MESSAGE=5),
        entry(MESSAGE=[256]),
        entry(MESSAGE=[1, "x"]),
        entry(MESSAGE={"a": 1}),
        entry(MESSAGE="\ud800"),
        b"[" * 500_000 + b"\n",
        b'{"a":' * 100_000 + b"\n",
        entry()[:-3] + b"\n",
        entry(MESSAGE="é").replace(b"\\u00e9", b"\xff"),
        b"\xef\xbb\xbf" + entry(),
    ],
    ids=lambda batch: repr(batch[:40]),
)
def test_what_the_journal_does_not_print_is_refused(batch: bytes) -> None:
    """Not JSON, not an entry, or not the journal's word for what only the journal says."""
    assert refused(journal(batch)) == Why.STRUCTURE
    assert refused(journal(entry() + batch)) == Why.STRUCTURE


@CALM
@given(ANY, ANY, ANY, ANY, ANY)
def test_no_program_can_stop_the_log_or_forge_a_line(
    message: Any, name: Any, priority: Any, facility: Any, command: Any
) -> None:
    """Whatever it gives as its fields, one entry is one line, with the journal's time, host and process."""
    out = passed(journal(entry(
        MESSAGE=message, SYSLOG_IDENTIFIER=name, PRIORITY=priority, SYSLOG_FACILITY=facility, _COMM=command,
    )))  # fmt: skip
    assert re.fullmatch(r"<\d+>1 2024-05-17T09:30:00\.123456Z sealed [!-~]{1,48} 77 - -( .*)?\n", out)
    assert lines(out.encode()) == Pass(out.encode())


@CALM
@given(PLAIN)
def test_harmless_text_is_printable_and_stays_as_it_is(text: str) -> None:
    """And text that prints is not touched."""
    once = harmless(text)
    assert once.isprintable()
    assert harmless(once) == once
    assert (once == text) == text.isprintable()
