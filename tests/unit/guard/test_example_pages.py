# SPDX-License-Identifier: Apache-2.0
"""The examples' pages say what the examples do: their guard files, their reasons, their limits."""

from __future__ import annotations

import tomllib

import pytest
from examples.json_guard import demo, json_guard
from examples.log_diode import feeder, log_diode
from tests.unit.test_docs import ROOT, blocks, rows

from sipc.guard.config import read

PAGES = {name: ROOT / "docs" / f"example-{name.replace('_', '-')}.md" for name in ("json_guard", "log_diode")}
JSON, LOG = (page.read_text() for page in PAGES.values())


@pytest.mark.parametrize("name", PAGES)
def test_the_page_shows_the_guard_file(name: str) -> None:
    """As it is, whole; and the file names the page."""
    text = (ROOT / "examples" / name / "guard.toml").read_text()
    assert blocks(PAGES[name], "toml") == [text]
    assert f"docs/{PAGES[name].name}" in text


def test_the_page_has_every_reason_in_the_order_of_the_checks() -> None:
    """And no other."""
    assert [reason.strip("`") for reason, *_ in rows(JSON, "reason")] == list(json_guard.Why)
    assert [reason.strip("`") for reason, _ in rows(LOG, "reason")] == list(log_diode.Why)


def test_the_pages_have_the_limits() -> None:
    """The numbers are the code's."""
    assert f"more than {json_guard.MAX_SIZE >> 10} KiB" in JSON
    assert f"more than {json_guard.MAX_DEPTH} arrays and objects" in JSON
    assert f"beyond 2^{json_guard.MAX_INTEGER.bit_length()} - 1" in JSON
    assert f"more than {log_diode.MAX_SIZE >> 20} MiB" in LOG
    assert f"more than {log_diode.MAX_LINES} lines" in LOG
    assert f"more than {log_diode.MAX_LINE} bytes in a line" in LOG
    assert f"at most {feeder.BATCH >> 10} KiB at once" in LOG


@pytest.mark.parametrize("name", PAGES)
def test_the_page_makes_a_guard_of_ones_own_by_three_changes(name: str) -> None:
    """What its `sed` and the demo change: users, SELinux, paths; the guard file has nothing else of the host."""
    (line,) = (line for body in blocks(PAGES[name], "sh") for line in body.splitlines() if line.startswith("sed "))
    spool = f"/var/spool/{name.replace('_', '-')}"
    expected = (
        f'sed -e \'/^user = /d\' -e \'s/"selinux"/"dac"/\' -e "s,{spool},$PWD," examples/{name}/guard.toml > guard.toml'
    )
    assert line == expected
    if name == "json_guard":
        guard, problems = read(demo.local(ROOT / 'a "name"'), "demo")
        assert not problems
        assert guard is not None
        whole = tomllib.loads((ROOT / "examples" / name / "guard.toml").read_text())
        assert list(guard.stages) == list(whole["stage"])
        assert all(stage.user is None for stage in guard.stages.values())


def test_what_the_demo_shows_is_what_the_filter_says() -> None:
    """Each document of the demo becomes what stands beside it."""
    for data, reason in demo.DOCUMENTS.values():
        verdict = json_guard.scrub(data)
        assert getattr(verdict, "reason", None) == reason
    assert len({data for data, _ in demo.DOCUMENTS.values()}) == len(demo.DOCUMENTS)
