# SPDX-License-Identifier: Apache-2.0
"""Prometheus text: of the format, with the names its practices ask for, and one stage's words apart from another's."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.support.statuses import channel, report

from sipc.guard.metrics import exposition
from sipc.guard.observe import Seen
from sipc.guard.reported import State

# prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} ([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
SCRUB = Seen(guard="json", stage="scrub", owner="scrub", report=report())
INGEST = Seen(
    guard="json", stage="ingest", owner="ingest",
    report=report(stage="ingest", kind="source", channels={"raw": channel("out", messages=12)}, verdicts={},
                  quarantine=None, starts=1),
)  # fmt: skip
BROKEN = Seen(guard="json", stage="deliver", problem="is no JSON")


def read(text: str) -> dict[str, dict[str, str]]:
    """Values by labels by metric; the text has the format or this fails."""
    assert text.endswith("\n")
    families: dict[str, dict[str, str]] = {}
    helped: list[str] = []
    current = ""
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            current, words = line.removeprefix("# HELP ").split(" ", 1)
            assert words
            assert current not in helped, "a family is in one piece"
            helped.append(current)
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == current
            assert (kind == "counter") == name.endswith("_total")
            assert kind in ("counter", "gauge")
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample[1] == current
            values = families.setdefault(current, {})
            assert sample[2] not in values, "a sample is there once"
            values[sample[2]] = sample[3]
    assert set(helped) == set(families)
    return families


def test_every_number_that_a_stage_publishes_is_a_metric() -> None:
    """Messages, bytes, blocked time, last seq, quarantine, restarts, state, verdicts."""
    found = read(exposition([BROKEN, INGEST, SCRUB]))
    scrub, raw = 'guard="json",stage="scrub"', 'guard="json",stage="scrub",channel="raw",direction="in"'
    assert {name: values.get(scrub) or values.get(raw) for name, values in found.items()} == {
        "sipc_guard_stage_status_valid": "1",
        "sipc_guard_stage_info": None,
        "sipc_guard_stage_state": None,
        "sipc_guard_stage_restarts_total": "2",
        "sipc_guard_stage_start_time_seconds": "1700000000",
        "sipc_guard_stage_updated_time_seconds": "1700000001",
        "sipc_guard_channel_messages_total": "10",
        "sipc_guard_channel_bytes_total": "1000",
        "sipc_guard_channel_blocked_seconds_total": "0.5",
        "sipc_guard_channel_last_seq": "10",
        "sipc_guard_verdicts_total": None,
        "sipc_guard_quarantine_messages": "1",
        "sipc_guard_quarantine_bytes": "4096",
        "sipc_guard_quarantine_limit_bytes": "67108864",
    }
    assert found["sipc_guard_stage_info"][f'{scrub},kind="filter",owner="scrub"'] == "1"
    assert found["sipc_guard_verdicts_total"][f'{scrub},verdict="pass"'] == "9"
    states = {key: value for key, value in found["sipc_guard_stage_state"].items() if key.startswith(scrub)}
    assert len(states) == len(State)
    assert [key for key, value in states.items() if value == "1"] == [f'{scrub},state="running"']


def test_a_stage_without_a_status_is_told_and_has_no_numbers() -> None:
    """That it is not there must be seen, and no zero must stand for it."""
    text = exposition([BROKEN, SCRUB])
    assert [line for line in text.splitlines() if "deliver" in line] == [
        'sipc_guard_stage_status_valid{guard="json",stage="deliver"} 0'
    ]
    assert "is no JSON" not in text


def test_two_stages_that_claim_one_end_are_told_apart() -> None:
    """A liar adds samples of its own, and changes none."""
    liar = Seen(guard="json", stage="ingest", owner="ingest",
                report=report(stage="ingest", channels={"clean": channel("out", messages=10**18)}))  # fmt: skip
    honest = {line for line in exposition([SCRUB]).splitlines() if not line.startswith("#")}
    both = exposition([liar, SCRUB]).splitlines()
    assert honest <= set(both)
    assert all('stage="ingest"' in line for line in both if line not in honest and not line.startswith("#"))


def test_large_numbers_are_written_out() -> None:
    """A 64-bit counter, a fraction."""
    stage = report(channels={"raw": channel("in", messages=(1 << 63) - 1, blocked_seconds=0.001)})
    text = exposition([Seen(guard="json", stage="scrub", owner="x", report=stage)])
    assert f"}} {(1 << 63) - 1}\n" in text
    assert "} 0.001\n" in text


@given(st.text(st.characters(codec="utf-8")))
def test_whatever_a_label_is_it_ends_where_it_ends(owner: str) -> None:
    """Quotes, backslashes, line ends; names of users come from elsewhere."""
    found = read(exposition([Seen(guard="json", stage="scrub", owner=owner, report=report())]))
    (labels,) = found["sipc_guard_stage_info"]
    value = labels.split('owner="', 1)[1][:-1]
    assert re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), value) == owner


def test_every_metric_is_explained() -> None:
    """The page has them all, and no other."""
    page = (Path(__file__).resolve().parents[3] / "docs/guards.md").read_text()
    assert sorted(re.findall(r"^\| `(sipc_guard_\w+)` \|", page, re.MULTILINE)) == sorted(read(exposition([SCRUB])))
