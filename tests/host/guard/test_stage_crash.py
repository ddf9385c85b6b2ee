# SPDX-License-Identifier: Apache-2.0
"""A guard whose stages are killed: every message goes through exactly once, whatever the moment was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.support.channels import Child
from tests.support.stages import Built, build, forked, put, visible, wait_for_files

from sipc.guard.chain import read_lines, verify

pytestmark = pytest.mark.host

KILLS = 100
STAGES = ("ingest", "scrub", "deliver")
SEEDS = (1, 2)


def three_stages(folder: Path, registry: Path) -> Built:
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
slot_size = 4096
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


@pytest.mark.parametrize("seed", SEEDS)
def test_every_message_goes_through_exactly_once(
    seed: int, folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 SIGKILLs, before any line of our code or at any time, of any stage: nothing lost, nothing twice, in order."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    print(f"seed {seed}")
    chance = random.Random(seed)
    built = three_stages(folder, registry)
    running: dict[str, Child] = {}
    sent = 0
    try:
        for stage in STAGES:
            running[stage] = forked(built, stage)
        for _ in range(KILLS):
            for _ in range(3):
                sent += 1
                put(folder / "in", f"{sent:06d}", message(sent))
            victim = chance.choice(STAGES)
            if running[victim].done():
                running[victim].wait()
            else:
                running[victim].kill()
            # Lines that a start alone has are as likely as those of many messages.
            line = int(2 ** chance.uniform(4, 15)) if chance.random() < 0.8 else None
            running[victim] = forked(built, victim, line=line)
            if line is not None and chance.random() < 0.9:
                running[victim].ended_by_itself(0.3 * chance.random())
        for stage in STAGES:
            running[stage].kill()
            running[stage] = forked(built, stage)
        expected = [b"judged " + message(n) for n in range(1, sent + 1) if n % 5 and n % 7]
        wait_for_files(folder / "out", len(expected))
    finally:
        for child in running.values():
            child.kill()
    names = visible(folder / "out")
    assert [(folder / "out" / name).read_bytes().partition(b"|")[0] for name in names] == expected
    kept = [folder / "quarantine" / name / "payload" for name in visible(folder / "quarantine")]
    assert [path.read_bytes() for path in kept] == [message(n) for n in range(1, sent + 1) if n % 5 and not n % 7]
    with (built.place("scrub") / "state" / "audit.jsonl").open("rb") as file:
        assert verify(read_lines(file)).ok
    entries = [entry for entry in built.audit("scrub") if entry["verdict"] != "repair"]
    assert [entry["size"] for entry in entries] == [len(message(n)) for n in range(1, sent + 1)]
    assert visible(folder / "in") == []
