# SPDX-License-Identifier: Apache-2.0
"""What a hostile stage leaves for its supervisor to read: nothing of it is believed that makes no sense."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.channels import Child

from sipc.guard.audit import Audit, FileLog
from sipc.guard.intents import END, Intent, Intents, Mark, end_of
from sipc.guard.places import Places
from sipc.guard.traces import accused
from sipc.guard.verdicts import Code, MessageId

pytestmark = pytest.mark.host

HEADER = struct.Struct("<8sQQII")
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(("channel", "epoch", "seq", "digest", "first", "end", "verdicts", "marks", "over", "x"))


def framed(number: int, description: bytes) -> bytes:
    """A file with a right sum."""
    return HEADER.pack(b"SIPCINT1", number, len(description), len(description), zlib.crc32(description)) + description


def ending(marks: dict[str, Mark]) -> Intent:
    """The intent of a stage that has ended."""
    return Intent(channel="", epoch=0, seq=0, digest=END, marks=marks)


def test_an_end_is_found_when_it_is_the_newest_intent(folder: Path) -> None:
    """Not before, and not when the stage has gone on."""
    assert end_of(folder) is None
    end = ending({"c": Mark(epoch=1, before=2)})
    other = Intent(channel="c", epoch=1, seq=3, digest="d")
    intents = Intents(folder)
    for last, expected in ((other, None), (end, end), (other, None), (end, end)):
        intents.write(last)
        assert end_of(folder) == expected
    intents.close()


@given(data=st.binary(max_size=200), more=st.binary(max_size=200))
@one_folder
def test_garbage_is_no_end(folder: Path, data: bytes, more: bytes) -> None:
    """Any two files."""
    (folder / "intent.0").write_bytes(data)
    (folder / "intent.1").write_bytes(more)
    assert end_of(folder) is None


@given(document=anything | st.dictionaries(keys, anything), number=st.integers(0, (1 << 64) - 1))
@one_folder
def test_a_right_sum_makes_no_sense_of_nonsense(folder: Path, document: object, number: int) -> None:
    """Whatever it says, reading it raises nothing."""
    (folder / "intent.0").write_bytes(framed(number, json.dumps(document).encode()))
    found = end_of(folder)
    assert found is None or found.digest == END


@pytest.mark.parametrize(
    "description", [b"[" * 60_000, b"[" * 60_000 + b"]" * 5, b'{"a":' * 10_000], ids=["deep", "closed", "objects"]
)
def test_depth_is_no_end(folder: Path, description: bytes) -> None:
    """A description that would exhaust a parser."""
    (folder / "intent.0").write_bytes(framed(1, description))
    assert end_of(folder) is None


def test_an_end_under_a_newer_intent_that_is_too_large_is_none(folder: Path) -> None:
    """A file of a terabyte is not read; it is newer, and so the stage has not ended."""
    intents = Intents(folder)
    intents.write(ending({}))
    intents.close()
    huge = folder / "intent.0"
    huge.write_bytes(HEADER.pack(b"SIPCINT1", 99, 1 << 40, 10, 0))
    os.truncate(huge, 1 << 40)

    def look() -> bool:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return end_of(folder) is None

    assert Child(look).result()


def test_links_and_pipes_are_no_traces(folder: Path) -> None:
    """Nothing outside is read, and nobody waits."""
    place = Places(state=folder, run=folder)
    (folder / "secret").write_bytes(b"x")
    for name in ("audit.jsonl", "intent.0"):
        (folder / name).symlink_to(folder / "secret")
    assert accused(place) == ""
    with pytest.raises(OSError, match="symbolic links"):
        end_of(folder)
    for name in ("audit.jsonl", "intent.0"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    assert accused(place) == ""
    assert end_of(folder) is None


def test_who_is_accused_stands_in_the_last_entry(folder: Path) -> None:
    """A whole entry, untouched, that is an accusation; what was said before it is over."""
    place, identity = Places(state=folder, run=folder), MessageId(epoch=1, seq=1)
    log = FileLog(folder / "audit.jsonl")
    audit = Audit(log, stage="f")
    audit.violation(identity, channel="g.one", reason="magic")
    assert accused(place) == "g.one"
    audit.record(b"x", identity, channel="g.two", verdict=Code.DROP, reason="no")
    assert accused(place) == ""
    audit.violation(identity, channel="g.two", reason="magic")
    log.close()
    assert accused(place) == "g.two"
    text = (folder / "audit.jsonl").read_bytes()
    for forged in (text.replace(b"g.two", b"g.one"), text[:-1], text + b"x", b"", b"\n", b"[" * 5000):
        (folder / "audit.jsonl").write_bytes(forged)
        assert accused(place) == "", forged[-50:]
