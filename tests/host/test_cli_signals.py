# SPDX-License-Identifier: Apache-2.0
"""A signal that comes in the last moment before a command waits is acted upon, not when the wait happens to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.host.guard.test_top import LEAVE, terminal
from tests.support.channels import make
from tests.support.cli import PROGRAM
from tests.support.statuses import publish, written

from sipc.cli.exits import Exit

pytestmark = pytest.mark.host

SOURCE = Path(__file__).parents[1] / "support" / "late_signal.c"


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload that sends this process SIGTERM there."""
    library = tmp_path_factory.mktemp("late") / "late.so"
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-o", library, SOURCE], check=True)
    return library


@pytest.mark.parametrize("what", ["recv", "send"])
def test_an_end_that_is_about_to_wait_is_terminated(what: str, late: Path, registry: Path) -> None:
    """On a channel where nothing comes, or that is full: exit code 130."""
    make(registry, "c", slot_size=4096)
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(
            [*PROGRAM, what, "c", "--registry", registry], stdin=endless, capture_output=True, check=False,
            timeout=60, env={**os.environ, "LD_PRELOAD": str(late)},
        )  # fmt: skip
    assert done.returncode == Exit.INTERRUPTED
    assert b"Traceback" not in done.stderr


def test_a_table_that_is_about_to_wait_is_terminated(
    late: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sipc guard top`, however long it has between two looks; the terminal is given back."""
    publish(tmp_path, "json", "scrub", written())
    monkeypatch.setenv("LD_PRELOAD", str(late))
    with terminal("--state", tmp_path, "--interval", "3600") as screen:
        screen.until(lambda text: LEAVE in text)
        assert screen.process.wait(60) == 128 + signal.SIGINT


def test_the_timer_ends_before_its_handler_does(registry: Path) -> None:
    """Python's own end takes a while on a slow machine, and has no handlers any more: SIGALRM would kill."""
    make(registry, "c")
    code = (
        "import atexit, signal, sys\n"
        "atexit.register(lambda: print(signal.getitimer(signal.ITIMER_REAL)))\n"  # behind what was registered later
        "from sipc.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-c", code, "recv", "c", "--timeout", "0.1", "--registry", str(registry)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (Exit.TIMEOUT, "(0.0, 0.0)\n")


def test_an_alarm_that_was_set_for_it_ends_it(registry: Path) -> None:
    """`perl -e 'alarm 10; exec @ARGV' sipc recv ...`: the alarm outlives exec(2), and is left as it is."""
    make(registry, "c")
    code = "import os, signal, sys; signal.setitimer(signal.ITIMER_REAL, 3); os.execv(sys.executable, sys.argv[1:])"
    argv = [sys.executable, "-c", code, *PROGRAM, "recv", "c", "--registry", str(registry)]
    assert subprocess.run(argv, check=False, timeout=60).returncode == -signal.SIGALRM
