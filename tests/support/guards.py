# SPDX-License-Identifier: Apache-2.0
"""Guard files for the tests: two that are right, and what to make of them."""

from __future__ import annotations

from sipc.guard.config import read

GOOD = """\
version = 1
[guard]
name = "json"
on_violation = "stop-sender"
on_quarantine_full = "stop-guard"
enforcement = "selinux"
require = [
  "ingest -> deliver via scrub",
  "not deliver -> ingest",
  "only scrub -> deliver",
]
[stage.ingest]
user = "ingest"
group = "ingest"
source = { directory = "/var/spool/ingest" }
[stage.scrub]
user = 4242
type = "json_scrubber_t"
filter = { python = "json_guard:scrub", timeout = 2, decode = "json_guard:Order" }
quarantine = { directory = "/var/lib/sipc/json/scrub/quarantine", limit = "64 MiB" }
[stage.deliver]
user = "deliver"
sink = { directory = "/var/spool/deliver" }
[channel.raw]
from = "ingest"
to = "scrub"
slots = 6
[channel.clean]
from = "scrub"
to = "deliver"
slot_size = "64 KiB"
"""

SMALL = """\
version = 1
[guard]
name = "g"
enforcement = "dac"
[stage.a]
source = { stdin = true }
[stage.b]
sink = { stdout = true }
[channel.c]
from = "a"
to = "b"
"""


def changed(*changes: tuple[str, str]) -> str:
    """The good file with each first text put in place of the second; a text that is not there is the test's mistake."""
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def problems(text: str) -> list[str]:
    """All problems of a file called F, as messages."""
    guard, found = read(text, "F")
    assert (guard is None) == bool(found)
    return [problem.text("F") for problem in found]
