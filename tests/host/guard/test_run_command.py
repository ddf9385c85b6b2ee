# SPDX-License-Identifier: Apache-2.0
"""`sipc guard run` as its users run it: log, JSON lines, streams, exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.host.guard.test_run import channels
from tests.support.cli import PROGRAM, sipc
from tests.support.foreground import guard_file

from sipc.guard.framing import message

pytestmark = pytest.mark.host

FILES = """
[stage.a]
source = {{ file = "{folder}/from" }}
[stage.b]
sink = {{ file = "{folder}/to" }}
[channel.c]
from = "a"
to = "b"
"""
STREAMS = FILES.replace('file = "{folder}/from"', "stdin = true").replace('file = "{folder}/to"', "stdout = true")


def test_events_are_json_lines(folder: Path, registry: Path) -> None:
    """One object each, of one version, on standard output; nothing on standard error."""
    (folder / "from").write_bytes(b"x")
    file = guard_file(folder, stages=FILES)
    done = sipc("guard", "run", file, "--json", "--state", folder / "state", registry=registry)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(event["version"], event["guard"]) for event in events} == {(1, "g")}
    assert [event["event"] for event in events] == [
        "channel-made", "started", "started", "ended", "ended", "channels-destroyed"
    ]  # fmt: skip
    assert (folder / "to").read_bytes() == b"x"


def test_the_log_is_on_standard_error(folder: Path, registry: Path) -> None:
    """One line for each event, under the guard's name; standard output is for results, and there is none."""
    (folder / "from").write_bytes(b"x")
    file = guard_file(folder, stages=FILES)
    done = sipc("guard", "run", file, "--state", folder / "state", registry=registry)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(line.startswith("g: ") for line in done.stderr.splitlines())
    assert done.stderr.count("\n") == 6


def test_streams_pass_through(folder: Path, registry: Path) -> None:
    """Standard input is the source's, standard output the sink's, and nobody else's."""
    file = guard_file(folder, stages=STREAMS)
    frames = message(b"one") + message(b"two")
    done = sipc("guard", "run", file, "--state", folder / "state", registry=registry, data=frames)
    assert done.returncode == 0, done
    assert done.stdout.encode() == frames
    assert channels(registry) == []


def test_a_closed_standard_stream_is_no_file_of_the_supervisors(folder: Path, registry: Path) -> None:
    """What it opens next would have that number, and the stage would read from it, or write into it."""
    file = guard_file(folder, stages=STREAMS)
    run = [*PROGRAM, "guard", "run", str(file), "--state", str(folder / "state"), "--registry", str(registry)]
    closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *run], capture_output=True, check=False, timeout=60)
    assert closed.returncode == 4
    assert b"a: read on descriptor 0: Bad file descriptor" in closed.stderr
    unread = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *run], input=message(b"one"), capture_output=True, check=False, timeout=60
    )
    assert unread.returncode == 4
    assert b"b: write on descriptor 1: Bad file descriptor" in unread.stderr
    done = sipc("guard", "run", file, "--state", folder / "state", registry=registry, data=b"")
    assert done.stdout.encode() == message(b"one")
    assert channels(registry) == []


def test_json_and_a_stream_do_not_share_standard_output(folder: Path, registry: Path) -> None:
    """Usage: whoever reads could not tell one from the other."""
    file = guard_file(folder, stages=STREAMS)
    done = sipc("guard", "run", file, "--json", "--state", folder / "state", registry=registry, data=b"")
    assert done.returncode == 2
    assert "stage b's" in done.stderr
    assert channels(registry) == []


def test_a_bad_file_is_not_run(folder: Path, registry: Path) -> None:
    """Exit code 3, with the line; nothing was made."""
    file = guard_file(folder, stages=FILES.replace('to = "b"', 'to = "x"'))
    done = sipc("guard", "run", file, "--state", folder / "state", registry=registry)
    assert done.returncode == 3
    assert f"{file}:" in done.stderr
    assert not (folder / "state").exists()
