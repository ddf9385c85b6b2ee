# SPDX-License-Identifier: Apache-2.0
"""A guard whose stages are killed: every message goes through exactly once, whatever the moment was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.channels import Child
from tests.support.stages import Built, build, forked, put, visible, wait_for_files

import sipc
from sipc.guard import filtering
from sipc.guard.chain import read_lines, verify

pytestmark = pytest.mark.host

KILLS = 100
STAGES = ("ingest", "scrub", "deliver")
SEEDS = (1, 2)
ROOT = Path(__file__).parents[3]


def three_stages(folder: Path, registry: Path, *, raw_slot: int = 4096) -> Built:
    """Spool, filter, spool; the second channel's slots are smaller, so that a message is several blocks there."""
    return build(
        folder,
        registry,
        f"""\
version = 1
[guard]
name = "g"
enforcement = "dac"
[stage.ingest]
source = {{ directory = "{folder}/in" }}
[stage.scrub]
filter = {{ python = "tests.support.judges:moody" }}
quarantine = {{ directory = "{folder}/quarantine", limit = "64 MiB" }}
[stage.deliver]
sink = {{ directory = "{folder}/out" }}
[channel.raw]
from = "ingest"
to = "scrub"
slot_size = {raw_slot}
[channel.clean]
from = "scrub"
to = "deliver"
slots = 2
slot_size = 4096
""",
    )


def message(number: int) -> bytes:
    """Of its own length, up to three blocks; every fifth is to be dropped, every seventh to be kept."""
    word = b"drop" if number % 5 == 0 else b"keep" if number % 7 == 0 else b"pass"
    return b"%s %06d " % (word, number) + b"x" * (number * 1237 % 9000)


@contextmanager
def killed(built: Built, stages: tuple[str, ...], chance: random.Random, feed: Callable[[], None]) -> Iterator[None]:
    """Feed a guard while its stages are killed; in the `with` all run, and are not killed any more."""
    running = {stage: forked(built, stage) for stage in stages}
    try:
        for _ in range(KILLS):
            feed()
            victim = chance.choice(stages)
            running[victim].kill()
            # As many die while they start as later, in the middle of a message.
            line = int(2 ** chance.uniform(4, 15)) if chance.random() < 0.8 else None
            running[victim] = forked(built, victim, line=line)
            if line is not None and chance.random() < 0.9:
                running[victim].ended_by_itself(0.3 * chance.random())
        for stage in stages:
            running[stage].kill()
            running[stage] = forked(built, stage)
        yield
    finally:
        for child in running.values():
            child.kill()


def check(built: Built, expected: list[bytes], sent: int) -> None:
    """What came through the guard of three stages: all in order, once, and the same in quarantine and log."""
    folder = built.folder
    names = visible(folder / "out")
    assert [(folder / "out" / name).read_bytes().partition(b"|")[0] for name in names] == expected
    kept = [folder / "quarantine" / name / "payload" for name in visible(folder / "quarantine")]
    assert [path.read_bytes() for path in kept] == [message(n) for n in range(1, sent + 1) if n % 5 and not n % 7]
    with (built.place("scrub") / "state" / "audit.jsonl").open("rb") as file:
        assert verify(read_lines(file)).ok
    entries = [entry for entry in built.audit("scrub") if entry["verdict"] != "repair"]
    assert [size for entry in entries for size in entry["sizes"]] == [len(message(n)) for n in range(1, sent + 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_message_goes_through_exactly_once(
    seed: int, folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 SIGKILLs, before any line of our code or at any time, of any stage: nothing lost, nothing twice, in order.

    What the filter passes on is another each time it is asked: so nothing of which a part was sent is judged again.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    print(f"seed {seed}")
    built = three_stages(folder, registry)
    sent = 0

    def feed() -> None:
        nonlocal sent
        for _ in range(3):
            sent += 1
            put(folder / "in", f"{sent:06d}", message(sent))

    with killed(built, STAGES, random.Random(seed), feed):
        expected = [b"judged " + message(n) for n in range(1, sent + 1) if n % 5 and n % 7]
        wait_for_files(folder / "out", len(expected))
    check(built, expected, sent)
    assert visible(folder / "in") == []


def diamond(folder: Path, registry: Path) -> Built:
    """Two sources; a filter with two inputs and two outputs; a sink with two inputs, one past the filter."""
    for name in ("in2", "out2"):
        (folder / name).mkdir(mode=0o700)
    channels = "".join(
        f'[channel.{name}]\nfrom = "{start}"\nto = "{end}"\nslots = {slots}\nslot_size = 4096\n'
        for name, start, end, slots in (
            ("first", "a", "f", 2), ("second", "b", "f", 3), ("direct", "b", "s", 4), ("one", "f", "s", 1),
            ("two", "f", "t", 4),
        )
    )  # fmt: skip
    return build(
        folder,
        registry,
        f"""\
version = 1
[guard]
name = "g"
enforcement = "dac"
[stage.a]
source = {{ directory = "{folder}/in" }}
[stage.b]
source = {{ directory = "{folder}/in2" }}
[stage.f]
filter = {{ python = "tests.support.judges:judge" }}
quarantine = {{ directory = "{folder}/quarantine", limit = "64 MiB" }}
[stage.s]
sink = {{ directory = "{folder}/out" }}
[stage.t]
sink = {{ directory = "{folder}/out2" }}
{channels}""",
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_many_inputs_and_outputs_are_exactly_once_each(
    seed: int, folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where streams meet and part: each output has all, and each stream is in order."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    print(f"seed {seed}")
    chance = random.Random(seed)
    built = diamond(folder, registry)
    sent = 0

    def feed() -> None:
        nonlocal sent
        for _ in range(3):
            sent += 1
            put(folder / "in", f"{sent:06d}", b"a" + message(sent))
            put(folder / "in2", f"{sent:06d}", b"b" + message(sent))

    with killed(built, ("a", "b", "f", "s", "t"), chance, feed):
        wait_for_files(folder / "out", 3 * sent)
        wait_for_files(folder / "out2", 2 * sent)
    streams = {start: [start + message(n) for n in range(1, sent + 1)] for start in (b"judged a", b"judged b", b"b")}
    for place, starts in (("out", (b"judged a", b"judged b", b"b")), ("out2", (b"judged a", b"judged b"))):
        came = [(folder / place / name).read_bytes() for name in visible(folder / place)]
        assert len(came) == len(starts) * sent
        for start in starts:
            # Names sort as the messages came within a channel; channels of one sink have epochs of their own.
            assert [data for data in came if data.startswith(start)] == streams[start]
    entries = [entry for entry in built.audit("f") if entry["verdict"] != "repair"]
    for channel in ("g.first", "g.second"):
        sizes = [size for entry in entries if entry["channel"] == channel for size in entry["sizes"]]
        assert sizes == [1 + len(message(n)) for n in range(1, sent + 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_records_of_one_block_are_exactly_once_each(
    seed: int, folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of many records, judged and passed on in parts, some larger than a slot of the output."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(filtering, "_PART_RECORDS", 7)  # for the forked stages; else each block would be one part
    print(f"seed {seed}")
    chance = random.Random(seed)
    built = three_stages(folder, registry, raw_slot=65536)
    sent = 0
    # Its end is the test's own, and lives in a process that is not killed.
    reading, writing = os.pipe()

    def send() -> None:
        os.close(writing)
        first = 1
        with sipc.open_sender("g.raw", registry=registry) as sender:
            while os.read(reading, 1):
                sender.send_many([message(n) for n in range(first, first + 20)])
                first += 20

    sender = Child(send)
    os.close(reading)

    def feed() -> None:
        nonlocal sent
        sent += 20
        os.write(writing, b".")

    try:
        with killed(built, ("scrub", "deliver"), chance, feed):
            expected = [b"judged " + message(n) for n in range(1, sent + 1) if n % 5 and n % 7]
            wait_for_files(folder / "out", len(expected))
        os.close(writing)
        sender.result()
    finally:
        sender.kill()
    check(built, expected, sent)
