# SPDX-License-Identifier: Apache-2.0
"""Which tests may run side by side, the guests with everything else; and no test is skipped.

The host tier looks at kernel objects, users and processes of the whole machine: its tests run one after the other in
one process, and so do those that share a guest.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from xdist.scheduler import LoadScopeScheduling

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


class Tiers(LoadScopeScheduling):  # type: ignore[misc]
    """Each of the tiers `host` and `vm` is one worker's; a test of `unit` goes to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        tier = nodeid.split("/")[1]
        return tier if tier in ("host", "vm") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Tiers:
    """Only with several workers (scripts/test.sh); in the order of the command line, the longest tier first."""
    config.option.loadscopereorder = False
    return Tiers(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped, or expected to fail, shows nothing: it fails."""
    return _ran((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file."""
    return _ran((yield))


def _ran(report: _Report) -> _Report:
    if report.skipped:
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)
        report.longrepr = f"skipped, which counts as failed: {report.longrepr}"
    return report
