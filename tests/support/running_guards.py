# SPDX-License-Identifier: Apache-2.0
"""A guard of the examples that runs in the foreground, and what comes out of it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from sipc.watch import watching

__all__ = ("EXAMPLES", "LONGEST", "RunningGuard", "await_change")

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 100.0


def await_change(folders: list[Path], reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something that happens in the folders makes it true, or the process ends: then it must be."""
    while not reached():
        with watching(folders) as fd:
            if reached():
                return
            pidfd = os.pidfd_open(process.pid)
            try:
                ready, _, _ = select.select([fd, pidfd], [], [], LONGEST)
            finally:
                os.close(pidfd)
            assert ready, [os.listdir(folder) for folder in folders]
            assert fd in ready or reached(), f"ended with {process.wait()}"


class RunningGuard:
    """The guard file of an example for a folder of one's own, and `sipc guard run` with it."""

    def __init__(self, name: str, folder: Path, registry: Path, *, function: str | None = None) -> None:
        """Make the directories and the guard file."""
        self.name, self.folder = name, folder
        text = re.sub(r'^user = ".*"\n', "", (EXAMPLES / name / "guard.toml").read_text(), flags=re.MULTILINE)
        text = text.replace('"selinux"', '"dac"').replace(f"/var/spool/{name.replace('_', '-')}", str(folder))
        if function is not None:
            text, count = re.subn(r'python = "[^"]*"', f'python = "{function}"', text)
            assert count == 1
        self.source, self.sink, self.quarantine = (folder / place for place in ("in", "out", "quarantine"))
        for place in (self.source, self.sink, self.quarantine):
            place.mkdir(mode=0o700)
        (folder / "guard.toml").write_text(text)
        self.environment = {**os.environ, "PYTHONPATH": str(EXAMPLES / name), "SIPC_REGISTRY": str(registry)}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sipc.cli", "guard", "run", self.folder / "guard.toml",
                 "--state", self.folder / "state", "--burst", "100", "--json"],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if exc[0] else signal.SIGTERM)
            self.process.wait(LONGEST)

    def stop(self) -> int:
        """Ctrl-C; the exit code.  No traceback may have come out."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(LONGEST)
        assert "Traceback" not in self.log.read_text()
        return code

    def put(self, name: str, data: bytes) -> None:
        """One file into the spool, whole."""
        (self.source / f".{name}").write_bytes(data)
        (self.source / f".{name}").rename(self.source / name)

    def out(self) -> list[bytes]:
        """What was delivered, in its order."""
        return [path.read_bytes() for path in sorted(self.sink.iterdir()) if not path.name.startswith(".")]

    def kept(self) -> list[tuple[bytes, str]]:
        """What was quarantined, in its order, and the reasons."""
        places = sorted(place for place in self.quarantine.iterdir() if not place.name.startswith("."))
        return [
            ((place / "payload").read_bytes(), json.loads((place / "meta.json").read_bytes())["reason"])
            for place in places
        ]

    def counted(self) -> int:
        """How many messages came out at one of the two."""
        return sum(not name.startswith(".") for place in (self.sink, self.quarantine) for name in os.listdir(place))

    def wait_for(self, count: int) -> None:
        """Until so many messages came out."""
        assert self.process is not None
        await_change([self.sink, self.quarantine], lambda: self.counted() >= count, self.process)

    def audit(self, stage: str) -> Path:
        """The log of a stage."""
        return self.folder / "state" / self.guard / stage / "state" / "audit.jsonl"

    @property
    def guard(self) -> str:
        """The guard's name."""
        (name,) = re.findall(r'^name = "(.*)"$', (self.folder / "guard.toml").read_text(), re.MULTILINE)
        assert isinstance(name, str)
        return name

    def pids(self, stage: str) -> list[int]:
        """Every process that this stage has had, as the supervisor tells it."""
        events = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event["pid"] for event in events if event["event"] == "started" and event["stage"] == stage]
