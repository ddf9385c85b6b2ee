# SPDX-License-Identifier: Apache-2.0
"""Guards whose stages are real processes: the file, the channels made by the helper, each stage started on its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any

from tests.support.channels import Child

from sipc import helper
from sipc.guard.check import load
from sipc.guard.model import Guard
from sipc.guard.places import Places
from sipc.guard.policy import channel_specs
from sipc.guard.stage import run_stage
from sipc.guard.status import read_status
from sipc.watch import watching

__all__ = (
    "LONGEST",
    "Built",
    "Process",
    "build",
    "forked",
    "put",
    "toml",
    "visible",
    "wait_for",
    "wait_for_files",
    "wait_for_status",
)

LONGEST = 60.0
_ROOT = Path(__file__).parents[2]


class Process:
    """One stage that runs."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen

    def ended(self, timeout: float = LONGEST) -> tuple[int, str]:
        """Exit code, or minus the signal, and what it said; no traceback may come out."""
        _, errors = self.popen.communicate(timeout=timeout)
        text = errors.decode(errors="replace")
        assert "Traceback" not in text, text
        return self.popen.returncode, text

    def kill(self) -> None:
        """SIGKILL it, if it still runs, and reap it."""
        self.popen.kill()
        self.popen.wait(LONGEST)
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()


class Built:
    """A guard whose channels are there."""

    def __init__(self, folder: Path, registry: Path, guard: Guard) -> None:
        self.folder, self.registry, self.guard = folder, registry, guard
        self.running: list[Process] = []

    def start(
        self, stage: str, *, stdin: int | IO[bytes] = subprocess.DEVNULL, stdout: int | IO[bytes] = subprocess.DEVNULL,
        **variables: str,
    ) -> Process:  # fmt: skip
        """Start one stage."""
        popen = subprocess.Popen(
            [sys.executable, "-m", "sipc.cli", "guard", "stage", self.guard.source, stage, "--state",
             str(self.folder / "states"), "--registry", str(self.registry)],
            stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT), **variables},
        )  # fmt: skip
        process = Process(popen)
        self.running.append(process)
        return process

    def place(self, stage: str) -> Path:
        """Where a stage's state and status are."""
        return self.folder / "states" / self.guard.name / stage

    def status(self, stage: str) -> dict[str, Any]:
        """What a stage says of itself."""
        found = read_status(self.place(stage) / "run" / "status.json")
        assert found is not None
        return found

    def audit(self, stage: str) -> list[dict[str, Any]]:
        """A stage's log."""
        return [json.loads(line) for line in (self.place(stage) / "state" / "audit.jsonl").read_bytes().splitlines()]

    def end(self) -> None:
        """Kill whatever runs."""
        for process in self.running:
            if process.popen.returncode is None:
                process.kill()


def build(folder: Path, registry: Path, text: str) -> Built:
    """Write a guard's file, and make its channels and the directories `in` and `out`."""
    path = folder / "guard.toml"
    path.write_text(text)
    for name in ("in", "out"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    guard = load(path)
    for spec in channel_specs(guard).values():
        helper.create(spec, registry)
    for stage in guard.stages:
        Places.below(folder / "states", guard.name, stage)
    return Built(folder, registry, guard)


def wait_for(folder: Path, holds: Callable[[], bool]) -> None:
    """Return when it is so; looked at again whenever something changes in the folder."""
    deadline = time.monotonic() + LONGEST
    with watching([folder]) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not holds():
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), sorted(os.listdir(folder))
            os.read(fd, 1 << 16)


def wait_for_files(folder: Path, count: int) -> None:
    """Return when that many are there whose names begin with no dot."""
    wait_for(folder, lambda: len(visible(folder)) >= count)


def visible(folder: Path) -> list[str]:
    """Names that begin with no dot, sorted."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def put(folder: Path, name: str, data: bytes) -> None:
    """Put a file into a spool, as one should."""
    (folder / f".{name}").write_bytes(data)
    (folder / f".{name}").rename(folder / name)


def forked(built: Built, stage: str, *, line: int | None = None, name: str = "") -> Child:
    """A stage in a forked process, which kills itself before the given line of the package that it comes to."""
    places = Places.below(built.folder / "states", built.guard.name, stage, registry=built.registry)

    def run() -> int:
        if line is not None:
            left = line

            def trace(frame: FrameType, event: str, argument: object) -> Any:
                nonlocal left
                if "/sipc/" not in frame.f_code.co_filename:
                    return None
                if event == "line":
                    left -= 1
                    if left <= 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            threading.settrace(trace)
            sys.settrace(trace)
        return run_stage(built.guard, stage, places, lambda text: print(stage, text, file=sys.stderr), run=name)

    return Child(run)


def wait_for_status(built: Built, stage: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status of a stage that is so."""
    folder = built.place(stage) / "run"
    seen: list[dict[str, Any]] = []

    def found() -> bool:
        status = read_status(folder / "status.json")
        seen.extend([status] if status is not None else [])
        return status is not None and holds(status)

    wait_for(folder, found)
    return seen[-1]


def toml(folder: Path, stages: dict[str, str], channels: dict[str, tuple[str, str]], *, slot_size: int = 4096) -> str:
    """A guard's file; `FOLDER` in a stage's lines stands for the folder."""
    lines = ["version = 1", "[guard]", 'name = "g"', 'enforcement = "dac"']
    for name, text in stages.items():
        lines += [f"[stage.{name}]", text.replace("FOLDER", str(folder))]
    for name, (start, end) in channels.items():
        lines += [f"[channel.{name}]", f'from = "{start}"', f'to = "{end}"', f"slot_size = {slot_size}"]
    return "\n".join(lines) + "\n"
