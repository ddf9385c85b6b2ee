# SPDX-License-Identifier: Apache-2.0
"""What a hostile stage leaves for its supervisor to read: nothing of it is believed that makes no sense."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sipc.guard.audit import Audit, FileLog
from sipc.guard.model import AuditPlace
from sipc.guard.places import Places
from sipc.guard.traces import accused
from sipc.guard.verdicts import Code, MessageId

pytestmark = pytest.mark.host

def test_links_and_pipes_are_no_traces(folder: Path) -> None:
    """Nothing outside is read, and nobody waits."""
    place = Places(state=folder, run=folder)
    (folder / "secret").write_bytes(b"x")
    (folder / "audit.jsonl").symlink_to(folder / "secret")
    assert accused(place, AuditPlace.FILE) == ""
    (folder / "audit.jsonl").unlink()
    os.mkfifo(folder / "audit.jsonl")
    assert accused(place, AuditPlace.FILE) == ""


def test_who_is_accused_stands_in_the_last_entry(folder: Path) -> None:
    """A whole entry, untouched, that is an accusation; what was said before it is over."""
    place, identity = Places(state=folder, run=folder), MessageId(epoch=1, seq=1)
    log = FileLog(folder / "audit.jsonl")
    audit = Audit(log, stage="f")
    audit.violation(identity, channel="g.one", reason="magic")
    assert accused(place, AuditPlace.FILE) == "g.one"
    audit.record([b"x"], [(1, 0, 1)], channel="g.two", epoch=1, verdict=Code.DROP, reason="no")
    assert accused(place, AuditPlace.FILE) == ""
    audit.violation(identity, channel="g.two", reason="magic")
    log.close()
    assert accused(place, AuditPlace.FILE) == "g.two"
    text = (folder / "audit.jsonl").read_bytes()
    for forged in (text.replace(b"g.two", b"g.one"), text[:-1], text + b"x", b"", b"\n", b"[" * 5000):
        (folder / "audit.jsonl").write_bytes(forged)
        assert accused(place, AuditPlace.FILE) == "", forged[-50:]
