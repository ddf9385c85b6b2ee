# SPDX-License-Identifier: Apache-2.0
"""Guards whose stages are real processes: the file, the channels made by the helper, each stage started on its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from sipc import helper
from sipc.guard.check import load
from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs
from sipc.guard.status import read_status

__all__ = ("LONGEST", "Built", "Process", "build")

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
    return Built(folder, registry, guard)
