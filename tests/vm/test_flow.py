# SPDX-License-Identifier: Apache-2.0
"""Every mechanism of docs/ipc-and-information-flow.md, with every permission that matters, in the enforcing kernel.

The document is made from what happened; a run whose document differs from the one that is there fails, and leaves its
own in build/vm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.vm.emulator import ROOT
from tests.vm.flow import Row, judge, judge_revoked, policy, refusals, rows
from tests.vm.flow_page import Happened, page
from tests.vm.flow_table import MECHANISMS
from tests.vm.guest import Guest

from sipc.selinux.denials import Denial, parse

pytestmark = pytest.mark.vm

ROWS = rows(MECHANISMS)
PAGE = ROOT / "docs" / "ipc-and-information-flow.md"
MODULE = "acts.flow"


def logged(guest: Guest, before: int) -> list[Denial]:
    """The refusals since then, all of them: the log is written in order, so up to one that is made now."""
    end = f"end{before}"
    told = guest.call(MODULE, "sentinel", end, domain=ROWS[0].domains["writer"])
    assert told.value == "EACCES", told
    for _ in range(100):
        found = list(parse(guest.denials()[before:]))
        if any(denial.comm == end for denial in found):
            return found
    raise AssertionError("the kernel does not log what it refuses")


def by_mechanism() -> Iterator[list[Row]]:
    """Rows in parts, so that none takes longer than a guest may."""
    for _, group in itertools.groupby(ROWS, key=lambda row: row.mechanism.title):
        yield list(group)


@pytest.fixture(scope="module")
def happened(booted: Guest) -> Happened:
    """One run of everything: each row, then the least of each mechanism under a policy that takes it away."""
    before = len(booted.denials())
    booted.load({"flow": policy(ROWS)}, dontaudit=False)
    said: list[dict[str, str]] = []
    for group in by_mechanism():
        done = booted.call(MODULE, "measure", [row.request() for row in group])
        assert done.value is not None, done.output
        said += done.value
    refused = refusals(logged(booted, before), ROWS)

    live = [next(row for row in ROWS if row.mechanism is one) for one in MECHANISMS if one.revoked is not None]
    pid = booted.start(MODULE, "revoke", [row.request(probes=False) for row in live])
    ready = booted.line(pid)
    assert ready == "ready\n", ready + booted.wait(pid).output
    before = len(booted.denials())
    booted.load({"flow": policy(ROWS, granting=False)}, dontaudit=False)
    assert booted.call(MODULE, "go").code == 0
    done = booted.wait(pid)
    assert done.value is not None, done.output
    after = refusals(logged(booted, before), ROWS)
    revoked = {row.number: outcome for row, outcome in zip(live, done.value, strict=True)}
    return Happened(rows=ROWS, said=said, refused=refused, revoked=revoked, refused_after=after)


def test_each_row_does_what_its_permissions_say(happened: Happened, guest: Guest) -> None:
    """Forward and back; what must be refused is refused by SELinux, for the permission that is missing."""
    wrong = [line for row, said in zip(ROWS, happened.said, strict=True) for line in judge(row, said, happened.refused)]
    assert wrong == [], "\n".join(wrong)


def test_revoking_ends_what_is_asked_again_and_nothing_else(happened: Happened, guest: Guest) -> None:
    """What is open when the rules go: the next call is refused, or the right stays as long as the mapping."""
    wrong = [
        line for row in ROWS if row.number in happened.revoked
        for line in judge_revoked(row, happened.revoked[row.number], happened.refused_after)
    ]  # fmt: skip
    assert wrong == [], "\n".join(wrong)


def test_the_document_is_what_happened(happened: Happened, guest: Guest) -> None:
    """At least forty rows; the committed document is this run's."""
    assert len(ROWS) >= 40
    text = page(happened)
    (ROOT / "build" / "vm").mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "vm" / PAGE.name).write_text(text)
    assert PAGE.read_text() == text, f"it changed: compare build/vm/{PAGE.name} with docs/, and copy it"


def test_a_run_that_differs_is_told() -> None:
    """The judgement itself: what works and must not, is refused and must not be, or is refused by another part."""
    least = next(row for row in ROWS if row.mechanism.title == "pipe")
    lacking = ROWS[least.number + 1]
    right = {"forward": "flows"} | {
        f"back{i}": "writer: EACCES" if back.gates - least.granted else "seen"
        for i, back in enumerate(least.mechanism.back)
    }
    log = {
        (least.number, f"back{i}"): back.gates - least.granted
        for i, back in enumerate(least.mechanism.back)
        if back.gates - least.granted
    }
    assert judge(least, right, log) == []
    assert len(judge(least, right | {"forward": "writer: EACCES"}, log)) == 1
    assert len(judge(least, dict.fromkeys(right, "seen") | {"forward": "flows"}, log)) == len(log)
    assert len(judge(least, right, {})) == len(log)
    assert len(judge(least, right, log | {(least.number, "forward"): least.granted})) == 1
    assert len(judge(lacking, {"forward": "flows"}, {(lacking.number, "forward"): lacking.missing})) == 1
    assert len(judge(lacking, {"forward": "reader: EACCES"}, {(lacking.number, "forward"): least.granted})) == 1
    assert judge(lacking, {"forward": "reader: EACCES"}, {(lacking.number, "forward"): lacking.missing}) == []

    kept = {"reader": "works", "writer": "works", "flows on": "True", "again": "works"}
    assert len(judge_revoked(least, kept, {})) == 4
