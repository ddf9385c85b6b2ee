# SPDX-License-Identifier: Apache-2.0
"""What real stages publish is what `sipc guard top` and `sipc guard metrics` read: killed and started again, too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.cli import sipc
from tests.support.stages import LONGEST, Built, build, put, wait_for_files

from sipc.guard.model import Kind
from sipc.guard.observe import observe
from sipc.guard.places import Places
from sipc.guard.reported import Direction, StageReport, State
from sipc.guard.status import StageState

pytestmark = pytest.mark.host

STAGES = ("ingest", "scrub", "deliver")
FILES = 12  # of 100 bytes; every third is refused


@pytest.fixture
def built(tmp_path: Path, registry: Path) -> Iterator[Built]:
    """Spool, filter, spool."""
    found = build(
        tmp_path, registry,
        f"""\
version = 1
[guard]
name = "g"
enforcement = "dac"
[stage.ingest]
source = {{ directory = "{tmp_path}/in" }}
[stage.scrub]
filter = {{ command = ["/bin/sh", "-c", "read -r line; case $line in keep*) exit 20;; esac; echo $line"] }}
quarantine = {{ directory = "{tmp_path}/quarantine", limit = "1 MiB" }}
[stage.deliver]
sink = {{ directory = "{tmp_path}/out" }}
[channel.raw]
from = "ingest"
to = "scrub"
[channel.clean]
from = "scrub"
to = "deliver"
""",
    )  # fmt: skip
    (tmp_path / "quarantine").mkdir(mode=0o700)
    for stage in STAGES:
        Places.below(tmp_path / "states", "g", stage)  # so that there is something to look at
    try:
        yield found
    finally:
        found.end()


def until(place: Path, done: Callable[[dict[str, StageReport]], bool]) -> dict[str, StageReport]:
    """Look until the stages say it; each look must be whole."""
    deadline = time.monotonic() + LONGEST
    while True:
        seen = observe([place], "g")
        assert [one.problem for one in seen if one.problem not in ("", "has published nothing yet")] == []
        reports = {one.stage: one.report for one in seen if one.report is not None}
        if len(reports) == len(STAGES) and done(reports):
            return reports
        assert time.monotonic() < deadline, reports
        time.sleep(0.02)  # between two looks


def test_stages_are_seen_as_they_are(built: Built) -> None:
    """Counters of both ends, verdicts, quarantine, restarts; as text, as an object, as metrics."""
    for stage in STAGES:
        built.start(stage)
    for number in range(FILES):
        put(built.folder / "in", f"{number:02}", (b"keep" if number % 3 == 0 else b"pass").ljust(99, b".") + b"\n")
    passed = FILES - FILES // 3
    wait_for_files(built.folder / "out", passed)
    place = built.folder / "states"
    reports = until(place, lambda all_: all_["deliver"].channels["clean"].messages == passed
                    and all_["scrub"].verdicts.get("quarantine") == FILES // 3)  # fmt: skip
    assert [reports[stage].kind for stage in STAGES] == [Kind.SOURCE, Kind.FILTER, Kind.SINK]
    assert {report.state for report in reports.values()} <= {State.RUNNING, State.WAITING}
    assert {report.restarts for report in reports.values()} == {0}
    raw = [reports[stage].channels["raw"] for stage in ("ingest", "scrub")]
    assert [(end.direction, end.messages) for end in raw] == [(Direction.OUT, FILES), (Direction.IN, FILES)]
    assert raw[0].last_seq == raw[1].last_seq > 0
    assert raw[0].epoch == raw[1].epoch
    kept = reports["scrub"].quarantine
    assert kept is not None
    assert (kept.messages, kept.limit) == (FILES // 3, 1 << 20)

    built.running[1].kill()
    built.start("scrub")
    put(built.folder / "in", "more", b"keep it\n")
    until(place, lambda all_: all_["scrub"].restarts == 1 and all_["scrub"].verdicts["quarantine"] == 1)

    document = json.loads(sipc("guard", "top", "g", "--json", "--state", place, "--interval", "0.1").stdout)
    assert [one["stage"] for one in document["stages"]] == sorted(STAGES)
    assert {one["problem"] for one in document["stages"]} == {None}
    metrics = sipc("guard", "metrics", "g", "--state", place).stdout
    assert 'sipc_guard_stage_restarts_total{guard="g",stage="scrub"} 1\n' in metrics
    deliver = 'guard="g",stage="deliver",channel="clean",direction="in"'
    assert f"sipc_guard_channel_messages_total{{{deliver}}} {passed}\n" in metrics
    assert f'sipc_guard_quarantine_messages{{guard="g",stage="scrub"}} {FILES // 3 + 1}\n' in metrics


def test_a_stage_that_ends_says_so(built: Built) -> None:
    """Its last word stays, as long as its directory does."""
    for stage in STAGES:
        built.start(stage)
    place = built.folder / "states"
    until(place, lambda all_: all_["scrub"].state is not State.STOPPED)
    built.running[1].popen.terminate()
    built.running[1].ended()
    until(place, lambda all_: all_["scrub"].state is State.STOPPED)


def test_the_states_that_are_read_are_those_that_are_written() -> None:
    """A state that only one side knew would make every such status unreadable."""
    assert [state.value for state in State] == [state.value for state in StageState]
