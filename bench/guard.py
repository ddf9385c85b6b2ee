# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.guard`: what a stage with a Python filter costs, against one channel alone, in the same run.

Source, stage and sink are processes, joined by real channels that the helper made; the filter's worker is one more.
Each round measures every way once, in an order shuffled anew; ratios are taken within rounds.  The ways:

    one channel      source -> sink
    copying stage    source -> receive_many, send_many -> sink: what a second hop costs that judges nothing
    filter           source -> receive_many, submit, collect, send_many -> sink
    one stage        source -> `sipc guard stage`, with all that it keeps on disk (docs/stages.md) -> sink
    three stages     all three are `sipc guard stage`, from a file on standard input to a pipe on standard output

Writes guard.json and prints a table; with --write-docs puts it into docs/stages.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import machine, report
from bench.contest import KIB, payload
from bench.harness import End, Failed, awaited, signals_held

from sipc import helper, open_receiver, open_sender
from sipc.errors import EndOfStream, Timeout
from sipc.guard.check import load as guard_of
from sipc.guard.filters import PythonFilter
from sipc.guard.framing import message as framed
from sipc.guard.policy import channel_specs
from sipc.guard.verdicts import Pass

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "bench" / "results"
ALONE, ONE = "one channel", "one stage"
_DEADLINE = 60.0
_LIST_BYTES = 256 * KIB  # as much as a slot has; what is there is handed to the filter in one list up to that
_FILTER = "from sipc.guard.verdicts import Pass\n\n\ndef same(message):\n    return Pass(message)\n"
_GUARD = """version = 1
[guard]
name = "bench"
on_violation = "stop-sender"
on_quarantine_full = "stop-stage"
enforcement = "dac"
[stage.source]
source = {{ stdin = true }}
[stage.filter]
filter = {{ python = "passing:same" }}
quarantine = {{ directory = "{folder}/quarantine" }}
[stage.sink]
sink = {{ stdout = true }}
[channel.raw]
from = "source"
to = "filter"
[channel.clean]
from = "filter"
to = "sink"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: messages of `size` bytes, `together` in one call (packed as records), or one by one."""

    name: str
    size: int
    together: int
    count: int
    wanted: str


LOADS = (
    Load(name="64 KiB", size=64 * KIB, together=1, count=24_000, wanted=">= 0.4 of one channel"),
    Load(name="1 KiB, packed", size=KIB, together=2048, count=600_000, wanted=">= 150,000/s; >= 0.15 of one channel"),
)


class Course:
    """A source, what is between, and a sink, once."""

    def __init__(self, load: Load, count: int, last: str) -> None:
        """`last`: the channel that the sink takes from."""
        self.load, self.last = load, last
        self.calls = -(-count // load.together)
        self.count = self.calls * load.together
        self.folder = Path(tempfile.mkdtemp(prefix="sipc-bench-"))
        self.registry = self.folder / "registry"
        self.registry.mkdir(mode=0o700)
        (self.folder / "passing.py").write_text(_FILTER)
        self.file = self.folder / "guard.toml"
        self.file.write_text(_GUARD.format(folder=self.folder))
        self.names: list[str] = []

    def create(self) -> None:
        """Make both channels."""
        for spec in channel_specs(guard_of(self.file)).values():
            self.names.append(spec.name)
            helper.create(spec, self.registry)

    def destroy(self) -> None:
        """Remove the channels and the directory."""
        for name in self.names:
            argv = [sys.executable, "-I", "-m", "sipc.helper", "--registry", str(self.registry), "destroy", name]
            subprocess.run(argv, check=True, timeout=20, capture_output=True)
        subprocess.run(["rm", "-rf", str(self.folder)], check=True, timeout=20)

    def source(self) -> None:
        """Send everything, and close."""
        message = payload(self.load.size)
        messages = [bytes(bytearray(message)) for _ in range(self.load.together)]
        with open_sender("bench.raw", registry=self.registry) as sender:
            for _ in range(self.calls):
                if self.load.together == 1:
                    sender.send(message)
                else:
                    sender.send_many(messages)

    def sink(self) -> float:
        """Messages per second, from the first eighth on; raises when one is missing."""
        done, warm, start, counted = 0, self.count // 8, 0.0, 0
        with open_receiver(self.last, registry=self.registry) as receiver:
            while done < self.count:
                done += len(got := receiver.receive_many())
                if not start and done >= warm:
                    start, counted = time.perf_counter(), done
            took = time.perf_counter() - start
            if got[-1] != payload(self.load.size):
                raise ValueError("the last message came changed")
            for _ in receiver:
                raise ValueError("a message more than was sent")
        return (done - counted) / took

    def copying(self) -> None:
        """A stage that judges nothing."""
        with (
            open_receiver("bench.raw", registry=self.registry) as receiver,
            open_sender("bench.clean", registry=self.registry) as sender,
        ):
            try:
                while True:
                    sender.send_many(receiver.receive_many())
            except EndOfStream:
                return

    def filtering(self) -> None:
        """A stage with a Python filter, and nothing else."""
        with (
            PythonFilter("passing:same", path=[self.folder]) as judge,
            open_receiver("bench.raw", registry=self.registry) as receiver,
            open_sender("bench.clean", registry=self.registry) as sender,
        ):

            def pass_on() -> None:
                sender.send_many([one.payload for one in judge.collect() if isinstance(one, Pass)])

            def more() -> bool:
                """Hand over what is there, in one list; whether anything was."""
                messages, size = list[bytes](), 0
                try:
                    while size < _LIST_BYTES:
                        got = receiver.receive_many(0 if messages or judge.pending else None)
                        messages += got
                        size += sum(map(len, got))
                except Timeout:
                    pass
                except EndOfStream:
                    if not messages:
                        raise  # else it comes again
                if messages:
                    judge.submit(messages)
                return bool(messages)

            try:
                while True:
                    if not more() or judge.pending > 1:
                        pass_on()
            except EndOfStream:
                while judge.pending:
                    pass_on()

    def guarding(self) -> None:
        """`sipc guard stage`, until the stream ends."""
        self._run_stage("filter")

    def _run_stage(self, name: str, stdin: int | None = None) -> None:
        process = self._stage(name, stdin=stdin)
        if process.wait(_DEADLINE):
            raise ValueError(f"stage {name} ended with {process.returncode}")

    def _stage(self, name: str, *, stdin: int | None = None, stdout: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "sipc.cli", "guard", "stage", str(self.file), name, "--state",
             str(self.folder / "states"), "--registry", str(self.registry)],
            env={**os.environ, "PYTHONPATH": str(self.folder)}, stdin=stdin, stdout=stdout,
        )  # fmt: skip

    def source_stage(self) -> None:
        """The guard's source, given everything as a file in memory."""
        fd = os.memfd_create("frames")
        piece = framed(payload(self.load.size)) * self.load.together
        for _ in range(self.calls):
            os.write(fd, piece)
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            self._run_stage("source", stdin=fd)
        finally:
            os.close(fd)

    def sink_stage(self) -> float:
        """The guard's sink, read at the other end of its pipe; as `sink`."""
        frame = len(framed(payload(self.load.size)))
        done, warm, start, counted = 0, self.count * frame // 8, 0.0, 0
        process = self._stage("sink", stdout=subprocess.PIPE)
        if process.stdout is None:
            raise ValueError("no pipe")
        with process.stdout as out:
            while piece := os.read(out.fileno(), 1 << 20):
                done += len(piece)
                if not start and done >= warm:
                    start, counted = time.perf_counter(), done
            took = time.perf_counter() - start
        if process.wait(_DEADLINE) or done != self.count * frame:
            raise ValueError(f"stage sink ended with {process.returncode} after {done} bytes")
        return (done - counted) / frame / took


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What carries the messages; `share` is how many of a load's messages it gets."""

    name: str
    stage: Callable[[Course], None] | None
    source: Callable[[Course], None] = Course.source
    sink: Callable[[Course], float] = Course.sink
    share: float = 1.0


# What a guarded stage does for each message takes longer: so it gets fewer, but enough for many batches.
WAYS = (
    Way(name=ALONE, stage=None),
    Way(name="copying stage", stage=Course.copying),
    Way(name="filter", stage=Course.filtering),
    Way(name=ONE, stage=Course.guarding, share=0.7),
    Way(name="three stages", stage=Course.guarding, source=Course.source_stage, sink=Course.sink_stage, share=0.4),
)


def measure(load: Load, way: Way, count: int) -> float:
    """Messages per second."""
    course = Course(load, count, "bench.raw" if way.stage is None else "bench.clean")
    until = time.monotonic() + _DEADLINE
    ends: list[End] = []
    try:
        with signals_held():
            course.create()
        bodies: list[tuple[str, Callable[[], object]]] = [("sink", partial(way.sink, course))]
        if way.stage is not None:
            bodies.append(("stage", partial(way.stage, course)))
        bodies.append(("source", partial(way.source, course)))
        for role, body in bodies:
            ends.append(End(role, set(), _nothing, body, _nothing))
        awaited(ends, "ready", until)
        for end in ends:
            end.go()
        rate = awaited(ends, "done", until)[0]
        for end in ends:
            end.go()
        if not isinstance(rate, float):
            raise Failed("the sink gave no rate")
        return rate
    finally:
        left = time.monotonic() + 5.0
        for end in ends:
            end.finish(max(0.0, left - time.monotonic()))
        with signals_held():
            course.destroy()


def rounds(number: int, scale: float, seed: int) -> dict[str, dict[str, list[float]]]:
    """Rates by load and way, one for each round."""
    order = random.Random(seed)
    rates: dict[str, dict[str, list[float]]] = {one.name: {way.name: [] for way in WAYS} for one in LOADS}
    for turn in range(number):
        print(f"round {turn + 1} of {number}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        for load in LOADS:
            for way in order.sample(WAYS, len(WAYS)):
                rates[load.name][way.name].append(measure(load, way, int(load.count * scale * way.share)))
    return rates


def _spread(values: list[float], form: str) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def markdown(rates: dict[str, dict[str, list[float]]], facts: dict[str, object]) -> str:
    """The table."""
    head = (
        f"Measured {facts['made']} on {facts['machine']}; load average of the machine {facts['load']}. "
        f"{facts['rounds']} rounds, everything interleaved; median and (lowest-highest)."
    )
    lines = [head, "", "| messages | way | messages/s | of one channel | wanted |", "| --- | --- | ---: | ---: | --- |"]
    for load in LOADS:
        alone = rates[load.name][ALONE]
        for name, values in rates[load.name].items():
            ratios = [value / base for value, base in zip(values, alone, strict=True)]
            wanted = load.wanted if name == ONE else ""
            ratio = "" if name == ALONE else _spread(ratios, ".2f")
            lines.append(f"| {load.name} | {name} | {_spread(values, ',.0f')} | {ratio} | {wanted} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run; 0 when everything was measured, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of messages")
    parser.add_argument("--seed", type=int, default=20250101, help="of the order within the rounds")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/stages.md")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    try:
        rates = rounds(arguments.rounds, arguments.scale, arguments.seed)
    except Failed as failure:
        print(f"bench: not measured: {failure}", file=sys.stderr)
        return 1
    found = machine.describe()
    kind = "virtual machine, " if found["virtual"] == "yes" else ""
    facts: dict[str, object] = {
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{found['cpu']} ({kind}{found['cores']} cores), Linux {found['kernel']}, Python {found['python']}",
        "load": f"{before:.1f} before, {os.getloadavg()[0]:.1f} after (this program makes about 4)",
        "rounds": arguments.rounds,
    }
    table = markdown(rates, facts)
    report.write(RESULTS / "guard.json", json.dumps({**facts, "messages_per_second": rates}, indent=1) + "\n")
    if arguments.write_docs:
        report.into_page(TOP / "docs" / "stages.md", table)
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
