# SPDX-License-Identifier: Apache-2.0
"""Real stages under load, killed again and again: every message comes out exactly once, whole."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import sysv_ipc
from tests.host.guard.test_run import channels
from tests.support.foreground import CHAIN, LONGEST, Run, guard_file

from sipc.guard.held import blocks_in_hand
from sipc.registry import Registry

pytestmark = pytest.mark.host

KILLS = 100
STAGES = ("a", "f", "b")


class Load:
    """Messages put into the spool, and whether they came out of the other."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.sent: list[bytes] = []

    def feed(self, count: int) -> None:
        """Put more messages into the spool, from empty ones to such as take many blocks."""
        for _ in range(count):
            size = self.random.choice((0, 20, 4000, 20_000))
            data = b"%06d " % len(self.sent) + self.random.randbytes(size)
            new = self.folder / ".new"
            new.write_bytes(data)
            new.rename(self.folder / "in" / f"{len(self.sent):06d}")
            self.sent.append(data)

    def finish(self, file: Path, registry: Path) -> None:
        """Run the guard until everything is through; then compare."""
        for _ in range(3):
            with Run(file, registry=registry, command=None, burst=100_000, grace=60.0) as run:
                run.until("started", stage="a")
                until = time.monotonic() + LONGEST
                while time.monotonic() < until and not (self._is_through() and self._has_begun(run)):
                    time.sleep(0.02)  # the directories are others': nothing tells when they are as they should be
                assert run.stop() == 130
            if run.events[-1]["event"] == "channels-destroyed":
                break
        assert channels(registry) == [], run.events
        assert sorted(messages(self.folder)) == self.sent

    def _is_through(self) -> bool:
        return not os.listdir(self.folder / "in") and len(messages(self.folder)) >= len(self.sent)

    def _has_begun(self, run: Run) -> bool:
        """Whether every stage of this run takes signals: one that is told to end before that is killed by it."""
        places = [self.folder / "state" / "g" / stage / "run" / "status.json" for stage in STAGES]
        return all(
            place.exists() and json.loads(place.read_bytes())["pid"] == run.pid(stage)
            for stage, place in zip(STAGES, places, strict=True)
        )


@pytest.mark.timeout(500)
def test_a_hundred_kills_of_stages_lose_and_repeat_nothing(folder: Path, registry: Path) -> None:
    """SIGKILL of source, filter or sink at any moment, while more comes in than goes through."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    load = Load(folder, seed)
    file = guard_file(folder)
    with Run(file, registry=registry, command=None, burst=100_000, grace=60.0) as run:
        run.until("started", stage="a")
        for _ in range(KILLS):
            load.feed(30)
            stage = load.random.choice(STAGES)
            time.sleep(load.random.random() * 0.5)  # a random moment, from its start on
            os.kill(run.pid(stage), signal.SIGKILL)
            run.until("ended", stage=stage)
            run.until("started", stage=stage)
        assert run.stop() == 130
        assert run.of("started").count("a") + run.of("started").count("f") + run.of("started").count("b") == KILLS + 3
    load.finish(file, registry)


@pytest.mark.timeout(500)
def test_kills_of_the_supervisor_lose_and_repeat_nothing(folder: Path, registry: Path) -> None:
    """SIGKILL of the supervisor at any moment, or SIGTERM, and everything with it; the next run goes on."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    load = Load(folder, seed)
    file = guard_file(folder)
    for _ in range(12):
        load.feed(40)
        with Run(file, registry=registry, command=None, grace=0.2) as run:
            run.until("started", stage="a")
            time.sleep(load.random.random() * 1.5)  # a random moment
            run.process.send_signal(load.random.choice((signal.SIGKILL, signal.SIGTERM)))
            with suppress(AssertionError):
                run.until("channels-kept")  # or the end of its words
    load.finish(file, registry)


def test_what_a_filter_has_in_hand_keeps_the_channels_and_comes_in_the_next_run(folder: Path, registry: Path) -> None:
    """Told to end with blocks that are finished towards their sender and not judged: they are not lost, nor twice."""
    slow = '["/bin/sh", "-c", "test -e {folder}/go || sleep 1; cat"]'
    stages = CHAIN.replace('["/bin/cat"]', slow)
    assert slow in stages
    load = Load(folder, 1)
    file = guard_file(folder, stages=stages)
    load.feed(12)
    state = folder / "state" / "g" / "f" / "state"
    with Run(file, registry=registry, command=None, grace=0.0) as run:
        run.until("started", stage="a")
        until = time.monotonic() + LONGEST
        while not (state.is_dir() and blocks_in_hand(state) > 1):
            assert time.monotonic() < until
            time.sleep(0.02)  # the file is the stage's: nothing tells when it is as it should be
        assert run.stop() == 130
    kept = run.events[-1]
    assert kept["event"] == "channels-kept"
    assert kept["left"]["f"] == blocks_in_hand(state) > 0
    (folder / "go").touch()
    load.finish(file, registry)
    assert blocks_in_hand(state) == 0


def test_a_guard_of_files_ends_by_itself(folder: Path, registry: Path) -> None:
    """A file in, a file out, through a filter: exit code 0 and nothing left."""
    stages = """
[stage.a]
source = {{ file = "{folder}/from" }}
[stage.f]
filter = {{ command = ["/usr/bin/tr", "a-z", "A-Z"] }}
[stage.b]
sink = {{ file = "{folder}/to" }}
[channel.raw]
from = "a"
to = "f"
[channel.clean]
from = "f"
to = "b"
"""
    (folder / "from").write_bytes(b"some words\n" * 100_000)
    with Run(guard_file(folder, stages=stages), registry=registry, command=None) as run:
        assert run.end() == 0
    assert (folder / "to").read_bytes() == b"SOME WORDS\n" * 100_000
    assert channels(registry) == []


def messages(folder: Path) -> list[bytes]:
    """What came out, in no order."""
    out = folder / "out"
    return [(out / name).read_bytes() for name in os.listdir(out) if not name.startswith(".")]


def test_a_source_that_had_ended_sends_nothing_again_for_what_is_left(folder: Path, registry: Path) -> None:
    """The supervisor is killed when the file is sent and not yet through: it comes out once, not twice."""
    stages = """
[stage.a]
source = {{ file = "{folder}/from" }}
[stage.f]
filter = {{ command = ["/bin/sh", "-c", "while [ -e {folder}/wait ]; do sleep 0.05; done; cat"], timeout = 60 }}
[stage.b]
sink = {{ directory = "{folder}/out" }}
[channel.raw]
from = "a"
to = "f"
[channel.clean]
from = "f"
to = "b"
"""
    (folder / "from").write_bytes(b"once")
    (folder / "wait").touch()
    file = guard_file(folder, stages=stages)
    with Run(file, registry=registry, command=None) as run:
        run.until("ended", stage="a")
        run.process.kill()
    (folder / "wait").unlink()
    with Run(file, registry=registry, command=None) as run:
        assert run.end() == 0
    assert messages(folder) == [b"once"]
    assert channels(registry) == []
    for keep, expected in ((True, 2), (True, 3), (False, 4)):  # these are runs of their own
        with Run(file, registry=registry, command=None, keep=keep) as run:
            assert run.end() == 0
        assert messages(folder) == [b"once"] * expected
    assert channels(registry) == []


def test_a_forged_announcement_stops_its_sender_alone(folder: Path, registry: Path) -> None:
    """Real stages: the filter finds the forgery on raw, its log names raw, and of all stages the source is stopped."""
    with Run(guard_file(folder, on_violation="stop-sender"), registry=registry, command=None, grace=1.0) as run:
        run.until("started", stage="a")
        with Registry(registry) as opened:
            key = opened.read("g.raw").keys.queue
        sysv_ipc.MessageQueue(int(key), mode=0o200).send(b"\xff" * 32, type=1)
        assert run.until("ended", stage="f")["why"] == "violation"
        run.until("ended", stage="a")
        assert run.of("told") == ["a"]
        os.kill(run.pid("b"), 0)
        assert run.stop() == 1
    assert len(run.of("started")) == 3
