# SPDX-License-Identifier: Apache-2.0
"""Guards run in the foreground for the tests, with stages that do as they are told or with the real ones."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sipc.cli.exits import code_of
from sipc.errors import SipcError
from sipc.guard.check import load
from sipc.guard.run import run_guard
from sipc.guard.supervise import Event, Settings

__all__ = ("CHAIN", "LONGEST", "SCRIPTED", "Run", "guard_file", "script")

LONGEST = 60.0
SCRIPTED = (sys.executable, str(Path(__file__).with_name("scripted_stage.py")))
CHAIN = """
[stage.a]
source = {{ directory = "{folder}/in" }}
[stage.f]
filter = {{ command = ["/bin/cat"] }}
[stage.b]
sink = {{ directory = "{folder}/out" }}
[channel.raw]
from = "a"
to = "f"
slot_size = 4096
[channel.clean]
from = "f"
to = "b"
slot_size = 4096
"""


def guard_file(folder: Path, name: str = "g", stages: str = CHAIN, **keys: str) -> Path:
    """A guard file, by default a -> f -> b, from the directory `in` to the directory `out`."""
    for place in ("in", "out"):
        (folder / place).mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    more = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
    path.write_text(f'version = 1\n[guard]\nname = "{name}"\nenforcement = "dac"\n{more}{stages.format(folder=folder)}')
    return path


def script(folder: Path, stage: str, *starts: Sequence[tuple[object, ...]]) -> None:
    """What a scripted stage does at its first start, its second, ..., and at every further one."""
    (folder / stage).write_text("".join(f"{list(acts)!r}\n" for acts in starts))


HEARS = ("env", "--default-signal=HUP,INT,TERM")  # whatever nohup(1), or a shell's background, made these tests ignore


class Run:
    """A guard that runs in a process of its own; use it in a `with`, which kills what the test has left."""

    def __init__(
        self, file: Path, *, registry: Path, command: Sequence[str] | None = SCRIPTED, before: Sequence[str] = (),
        **settings: Any,
    ) -> None:  # fmt: skip
        folder = file.parent
        given = {"state": str(folder / "state"), "registry": str(registry), "grace": 5.0, **settings}
        if command is not None:
            given["command"] = list(command)
        self.events: list[dict[str, Any]] = []
        self._text = b""
        self.process = subprocess.Popen(
            [*HEARS, *before, sys.executable, __file__, str(file), json.dumps(given)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def until(self, kind: str, **about: object) -> dict[str, Any]:
        """The next event of a kind that is about this; what came before it is in `events`."""
        while True:
            event = self._next()
            assert event is not None, (kind, about, self.events, self.process.communicate())
            if event["event"] == kind and about.items() <= event.items():
                return event

    def _next(self) -> dict[str, Any] | None:
        out = self.process.stdout
        assert out is not None
        deadline = time.monotonic() + LONGEST
        while b"\n" not in self._text:
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.events
            piece = os.read(out.fileno(), 65536)
            if not piece:
                return None
            self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; its exit code."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait for its end; its exit code."""
        while self._next() is not None:
            pass
        code = self.process.wait(LONGEST)
        assert self.process.stderr is not None
        self.words = self.process.stderr.read().decode()
        assert "Traceback" not in self.words, self.words
        return code

    def of(self, kind: str) -> list[Any]:
        """Which stages the events of a kind were about, so far."""
        return [event.get("stage") for event in self.events if event["event"] == kind]

    def pid(self, stage: str) -> int:
        """The process that a stage was started as last."""
        starts = [event for event in self.events if event["event"] == "started" and event["stage"] == stage]
        return int(starts[-1]["pid"])


def main(file: str, given: Mapping[str, Any]) -> int:
    """The process of a `Run`."""

    def report(event: Event) -> None:
        print(json.dumps({"event": event.kind, **event.about, "text": event.text}), flush=True)

    settings: dict[str, Any] = {
        key: Path(value) if key in ("state", "registry") else value for key, value in given.items()
    }
    if "command" in settings:
        settings["command"] = tuple(settings["command"])
    try:
        return int(run_guard(load(Path(file)), Path(file), Settings(**settings), report))
    except SipcError as error:
        print(error, file=sys.stderr)
        return int(code_of(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
