# SPDX-License-Identifier: Apache-2.0
"""A stage as a process: how it ends, what it says of itself, and what it does to others' faults."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.channels import Child
from tests.support.stages import Built, build, forked, put, toml, visible, wait_for, wait_for_files, wait_for_status

import sipc
from sipc import helper
from sipc.guard import filtering
from sipc.guard.audit import FileLog
from sipc.guard.chain import read_lines, verify
from sipc.guard.filtering import Judged
from sipc.guard.framing import MessageFrames, message
from sipc.guard.held import Held, blocks_in_hand
from sipc.guard.inputs import Inputs
from sipc.guard.intents import already_sent
from sipc.guard.outputs import Outputs
from sipc.guard.policy import channel_specs
from sipc.guard.stage import StageExit
from sipc.guard.status import read_status
from sipc.receiver import Receiver

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[3]
JUDGE = 'filter = { python = "tests.support.judges:judge" }\nquarantine = { directory = "FOLDER/quarantine" }'
SPOOLS = {
    "a": 'source = { directory = "FOLDER/in" }',
    "b": JUDGE,
    "c": 'sink = { directory = "FOLDER/out" }',
}
LINE = {"raw": ("a", "b"), "clean": ("b", "c")}
Making = Callable[..., Built]


@pytest.fixture
def making(folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Making]:
    """Makes a guard of three stages; kills what is left of it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made: list[Built] = []

    def make(
        stages: dict[str, str] | None = None, channels: dict[str, tuple[str, str]] | None = None, **options: Any
    ) -> Built:
        text = toml(folder, {**SPOOLS, **(stages or {})}, channels or LINE, **options)
        made.append(build(folder, registry, text))
        return made[-1]

    yield make
    for built in made:
        built.end()


def frames(data: bytes) -> list[bytes]:
    """What a stream of frames holds, to its end."""
    split = MessageFrames(1 << 30)
    split.feed(data)
    found = list(iter(split.next, None))
    assert not split.partial
    return found


# -- the end of a stream


def test_when_the_input_ends_every_stage_ends_in_order(making: Making, folder: Path) -> None:
    """From standard input to standard output, twice over the same channels: all of it, then exit code 0."""
    built = making({"a": "source = { stdin = true }", "c": "sink = { stdout = true }"})
    for turn in range(2):
        messages = [b"%d %d" % (turn, number) * number for number in range(1, 600)] + [b"drop", b"keep %d" % turn]
        (folder / "given").write_bytes(b"".join(map(message, messages)))
        with (folder / "given").open("rb") as given, (folder / "got").open("wb") as got:
            stages = [built.start("c", stdout=got), built.start("b"), built.start("a", stdin=given)]
        assert [stage.ended() for stage in stages] == [(0, "")] * 3
        assert frames((folder / "got").read_bytes()) == [b"judged " + one for one in messages[:-2]]
        for name, kind in (("a", "source"), ("b", "filter"), ("c", "sink")):
            status = built.status(name)
            assert (status["state"], status["reason"], status["kind"]) == ("stopped", "all input has ended", kind)
            assert status["starts"] == turn + 1
    assert len(visible(folder / "quarantine")) == 2


def test_a_stream_of_a_large_message_in_many_blocks(making: Making, folder: Path) -> None:
    """A message of several slots, as a file, to a file."""
    data = random.Random(1).randbytes(1_000_003)
    (folder / "given").write_bytes(data)
    built = making({"a": 'source = { file = "FOLDER/given" }', "c": 'sink = { file = "FOLDER/got" }'})
    stages = [built.start(name) for name in "abc"]
    assert [stage.ended() for stage in stages] == [(0, "")] * 3
    assert (folder / "got").read_bytes() == b"judged " + data


@pytest.mark.parametrize("seed", range(3))
def test_a_file_comes_once_and_all_end_whenever_they_are_killed(seed: int, making: Making, folder: Path) -> None:
    """Killed before any line, also while the end is passed on: each stage ends with 0 at last, in this run."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    (folder / "given").write_bytes(b"m" * 9000)
    built = making({"a": 'source = { file = "FOLDER/given" }'})
    kills = 0
    for run in ("one", "two"):
        running = {name: forked(built, name, line=300, name=run) for name in "abc"}
        while running:
            name, child = next(iter(running.items()))
            if not child.ended_by_itself(chance.random()):
                child.kill()
            status = os.waitstatus_to_exitcode(child.wait())
            del running[name]
            if status == 0:
                continue
            assert status == -signal.SIGKILL
            kills += 1
            line = int(2 ** chance.uniform(4, 12)) if kills < 60 else None
            running[name] = forked(built, name, line=line, name=run)
    assert kills > 5
    names = visible(folder / "out")
    assert [(folder / "out" / name).read_bytes() for name in names] == [b"judged " + b"m" * 9000] * 2
    assert [entry["sizes"] for entry in built.audit("b") if entry["verdict"] != "repair"] == [[9000], [9000]]


def test_a_file_is_sent_once_as_it_is(making: Making, folder: Path) -> None:
    """Where runs have no names: started again, only what has changed is sent."""
    (folder / "given").write_bytes(b"one")
    built = making({"a": 'source = { file = "FOLDER/given" }'})
    for count, data in enumerate((b"one", b"two", b"three"), 1):
        (folder / "given").write_bytes(data)
        stages = [built.start(name) for name in "abc"]
        assert [stage.ended() for stage in stages] == [(0, "")] * 3
        assert built.start("a").ended() == (0, "")
        assert len(visible(folder / "out")) == count


def test_a_block_that_a_killed_stage_had_not_announced_comes_without_another(making: Making) -> None:
    """Its successor has nothing to send, and announces it all the same."""
    built = making()
    with sipc.open_receiver("g.raw", registry=built.registry) as receiver:
        sender = sipc.open_sender("g.raw", registry=built.registry)
        while not sender.pending:
            sender.send(b"%d" % sender.last_seq, 0)
        count = sender.last_seq
        sender._let_go("as by SIGKILL")
        successor = built.start("a")
        assert [receiver.receive(30) for _ in range(count)] == [b"%d" % number for number in range(count)]
        successor.popen.send_signal(signal.SIGTERM)
        assert successor.ended() == (130, "")


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_waits_stops_at_once_and_goes_on_later(number: int, making: Making, folder: Path) -> None:
    """Exit code 130, and nothing is lost or comes twice."""
    built = making()
    for turn in range(2):
        stages = {name: built.start(name) for name in "abc"}
        put(folder / "in", f"{turn}", b"message %d" % turn)
        wait_for_files(folder / "out", turn + 1)
        for name, stage in stages.items():
            wait_for_status(built, name, lambda status: status["state"] == "waiting")
            stage.popen.send_signal(number)
            assert stage.ended() == (130, "")
            status = built.status(name)
            assert (status["state"], status["starts"]) == ("stopped", turn + 1)
            assert status["reason"] == "asked to stop"
    assert [(folder / "out" / name).read_bytes() for name in visible(folder / "out")] == [
        b"judged message 0", b"judged message 1",
    ]  # fmt: skip


def test_a_stage_that_judges_finishes_what_it_has_in_hand(making: Making, folder: Path) -> None:
    """The message is judged, and then the stage stops; the next one gets it, or it is out already."""
    built = making({"b": 'filter = { python = "tests.support.judges:held", timeout = 60.0 }'})
    judge = built.start("b")
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send(str(folder / "go").encode())
        wait_for_status(built, "b", lambda status: status["channels"]["raw"]["messages"] == 1)
        judge.popen.send_signal(signal.SIGTERM)
        (folder / "go").touch()
        assert judge.ended() == (130, "")
        again = built.start("b")
        sender.send(str(folder).encode())
        assert [receiver.receive(30), receiver.receive(30)] == [str(folder / "go").encode(), str(folder).encode()]
        again.popen.send_signal(signal.SIGTERM)
        assert again.ended() == (130, "")
        with pytest.raises(sipc.Timeout):
            receiver.receive(0)


def test_a_stage_that_can_not_send_stops_all_the_same(making: Making, folder: Path) -> None:
    """Nobody takes what it sends: it stops in the middle, and its successor sends the rest."""
    built = making()
    judge = built.start("b")
    messages = [b"%03d " % number + b"x" * 9000 for number in range(20)]
    sender = Child(lambda: _send_all(built, messages))
    # The queue holds two announcements, and the first message has three blocks.
    wait_for_status(built, "b", lambda status: status["verdicts"]["pass"] > 0)
    judge.popen.send_signal(signal.SIGTERM)
    assert judge.ended() == (130, "")
    judge = built.start("b")
    with sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:
        assert [receiver.receive(30) for _ in messages] == [b"judged " + one for one in messages]
        sender.result()
        assert judge.ended() == (0, "")
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(30)


def _send_all(built: Built, messages: list[bytes]) -> None:
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        for one in messages:
            sender.send(one)


def test_stages_with_many_inputs_and_outputs_stop_and_end_as_others_do(making: Making, folder: Path) -> None:
    """A filter and a sink with two inputs each: everything comes; stopped they go on later, and all end with 0."""
    (folder / "other").write_bytes(b"other")
    two = {"first": ("a", "b"), "second": ("d", "b"), "one": ("b", "c"), "two": ("b", "e"), "direct": ("d", "c")}
    built = making(
        {"a": "source = { stdin = true }", "d": 'source = { file = "FOLDER/other" }',
         "e": 'sink = { directory = "FOLDER/out2" }'}, two,
    )  # fmt: skip
    (folder / "out2").mkdir()
    stages = {name: built.start(name) for name in "bcde"}
    assert stages["d"].ended() == (0, "")
    wait_for_files(folder / "out", 2)
    wait_for_files(folder / "out2", 1)
    for name in "bce":
        stages[name].popen.send_signal(signal.SIGTERM)
        assert stages[name].ended() == (130, "")
        assert built.status(name)["state"] == "stopped"
    stages = {name: built.start(name) for name in "bce"}
    (folder / "given").write_bytes(b"".join(map(message, (b"x", b"drop", b"z"))))
    with (folder / "given").open("rb") as given:
        stages["a"] = built.start("a", stdin=given)
    assert {name: stage.ended() for name, stage in stages.items()} == dict.fromkeys("abce", (0, ""))
    judged = [b"judged other", b"judged x", b"judged z"]
    for place, expected in (("out", [*judged, b"other"]), ("out2", judged)):
        assert sorted((folder / place / name).read_bytes() for name in visible(folder / place)) == expected
    assert built.status("c")["channels"]["direct"]["direction"] == "in"


# -- faults of others


def _violate(built: Built) -> None:
    """Send a good message, then announce a block that is not there."""
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        sender.send(b"good")
        sender.flush(30)
        queue, message = sender._queue, bytearray(sender._machine.noop)
        message[1] = 77
        queue.send(bytes(message), 1, None)
        sender._let_go("it is hostile")


@pytest.mark.parametrize("stage", ["b", "c"])
def test_a_sender_that_breaks_the_protocol_ends_the_stage(stage: str, making: Making, folder: Path) -> None:
    """Exit code 76, an entry in the log, status violated; what came before it went through, once."""
    rest = {"clean": ("b", "c")} if stage == "b" else {"x": ("a", "b"), "y": ("b", "c")}
    built = making(channels={"raw": ("a", stage), **rest})
    process = built.start(stage)
    sink = built.start("c") if stage == "b" else None
    Child(lambda: _violate(built)).result()
    code, said = process.ended()
    assert (code, int(StageExit.VIOLATED)) == (76, 76), said
    assert "the sender broke the protocol: kind" in said
    status = built.status(stage)
    assert status["state"] == "violated"
    assert "kind" in status["reason"]
    assert status["channels"]["raw"]["last_seq"] == 1
    entry = built.audit(stage)[-1]
    assert (entry["verdict"], entry["reason"], entry["channel"]) == ("violation", "kind", "g.raw")
    assert entry["blocks"] == [[2, 0, 0]]
    assert entry["sizes"] == []
    with (built.place(stage) / "state" / "audit.jsonl").open("rb") as file:
        assert verify(read_lines(file)).ok
    wait_for_files(folder / "out", 1)
    assert len(visible(folder / "out")) == 1
    if sink is not None:
        sink.popen.send_signal(signal.SIGTERM)
        assert sink.ended() == (130, "")


def test_a_block_that_changes_after_it_was_taken_changes_nothing(making: Making, folder: Path) -> None:
    """A hostile sender changes its block between a kill and the next start: what was taken is passed on, once."""
    built = making(channels={"clean": ("b", "c"), "raw": ("a", "b")})
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        sender.send(b"harmless")
        _kill_with_a_message_in_hand(built)
        segment = sender._segment
        assert segment is not None
        slot = segment.slots[0]
        at = bytes(slot).index(b"harmless")
        slot[at : at + 8] = b"hostile!"
        process = built.start("b")
        with sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:
            assert receiver.receive(30) == b"judged harmless"
            sender.close()
            assert process.ended() == (0, "")
            with pytest.raises(sipc.EndOfStream):
                receiver.receive(30)
    assert blocks_in_hand(built.place("b") / "state") == 0
    (entry,) = built.audit("b")
    assert entry["digests"] == [hashlib.sha256(b"harmless").hexdigest()]
    assert entry["passed_digests"] == [hashlib.sha256(b"judged harmless").hexdigest()]


def _kill_with_a_message_in_hand(built: Built) -> None:
    """Before anything is passed on."""
    for line in range(400, 100_000, 10):
        child = forked(built, "b", line=line)
        assert os.waitstatus_to_exitcode(child.wait()) == -signal.SIGKILL
        if blocks_in_hand(built.place("b") / "state"):
            return
    raise AssertionError("it was never in hand")


def test_what_was_in_hand_of_a_channel_made_anew_is_given_up_and_said(making: Making, folder: Path) -> None:
    """With the rest of what was in that channel; it does not come out of the new one."""
    built = making()
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        sender.send(b"old")
        _kill_with_a_message_in_hand(built)
    helper.destroy("g.raw", built.registry)
    helper.create(channel_specs(built.guard)["raw"], built.registry)
    process = built.start("b")
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send(b"new")
        assert receiver.receive(30) == b"judged new"
        sender.close()
        code, said = process.ended()
        assert (code, "1 messages of raw were in hand when that channel was made anew" in said) == (0, True)
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(30)
    assert blocks_in_hand(built.place("b") / "state") == 0


def _killed_in(built: Built, monkeypatch: pytest.MonkeyPatch, kind: type, method: str, *, after: int = 0) -> None:
    """The filter runs until it calls this once more than so often."""
    whole, calls = getattr(kind, method), itertools.count()

    def called(*arguments: object) -> object:
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, called)
        assert os.waitstatus_to_exitcode(forked(built, "b").wait()) == -signal.SIGKILL


def test_a_batch_in_hand_outlives_two_kills(making: Making, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the batch after it had no message yet, and again when the next had: both are still there.

    The first one is passed on in parts, of which a kill left some.
    """
    monkeypatch.setattr(filtering, "_PART_RECORDS", 1)
    built = making()
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send_many([b"1", b"2", b"3"])
        _killed_in(built, monkeypatch, Judged, "collect")
        sender.send(b"4")
        _killed_in(built, monkeypatch, Held, "add")
        _killed_in(built, monkeypatch, Outputs, "send", after=1)
        process = built.start("b")
        assert [receiver.receive(30) for _ in range(4)] == [b"judged %d" % number for number in (1, 2, 3, 4)]
        sender.close()
        assert process.ended() == (0, "")


@pytest.mark.parametrize("left", [0, 4096, 4100])
def test_after_a_power_failure_a_filter_goes_on_by_itself(
    left: int, making: Making, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in hand is torn, and gone with its channel; what was intended of it is not done with new messages."""
    built = making()
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        sender.send_many([b"drop", b"drop"])
        _killed_in(built, monkeypatch, Outputs, "send")
    helper.destroy("g.raw", built.registry)
    helper.create(channel_specs(built.guard)["raw"], built.registry)
    os.truncate(built.place("b") / "state" / "held.1", left)
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send_many([b"one", b"two"])
        _killed_in(built, monkeypatch, Judged, "collect")
        process = built.start("b")
        assert [receiver.receive(30) for _ in range(2)] == [b"judged one", b"judged two"]
        sender.close()
        assert process.ended() == (0, "")


def test_a_block_that_was_not_finished_is_taken_once_however_late_it_comes(
    making: Making, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread is slow, another input's blocks take its place in the files of batches, and a kill comes again."""
    wait = Inputs._wait
    channels = {"raw": ("a", "b"), "more": ("d", "b"), "clean": ("b", "c")}
    (folder / "more").mkdir()
    built = making({"d": 'source = { directory = "FOLDER/more" }'}, channels)
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_sender("g.more", registry=built.registry) as other, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send_many([b"1", b"2"])
        _killed_in(built, monkeypatch, Inputs, "finish")
        other.send(b"3")
        other.send(b"4")
        with monkeypatch.context() as patch:
            patch.setattr(Inputs, "_wait", lambda self, name: wait(self, name) if name == "more" else None)
            _killed_in(built, monkeypatch, Outputs, "send", after=2)
        process = built.start("b")
        assert [receiver.receive(30) for _ in range(4)] == [b"judged %d" % number for number in (1, 2, 3, 4)]
        sender.send(b"5")
        assert receiver.receive(30) == b"judged 5"
        sender.close()
        other.close()
        assert process.ended() == (0, "")
    assert [size for entry in built.audit("b") for size in entry["sizes"]] == [1] * 5


def test_what_was_taken_is_passed_on_before_a_violation_is_told(
    making: Making, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile sender spoils the slot of a block that was taken and not finished: that block came before it did so."""
    built = making()
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send(b"harmless")
        _killed_in(built, monkeypatch, Inputs, "finish")
        segment = sender._segment
        assert segment is not None
        segment.words[6 + 3] = 1  # the reserved word of slot 0
        process = built.start("b")
        assert receiver.receive(30) == b"judged harmless"
        assert process.ended()[0] == StageExit.VIOLATED
    assert [entry["verdict"] for entry in built.audit("b")] == ["pass", "violation"]


def test_a_block_that_is_in_hand_and_not_finished_is_taken_once(
    making: Making, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, again and again: the channel gives the block again, and it is not taken a second time."""
    built = making()
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send_many([b"one", b"two"])
        for kind, method in ((Inputs, "finish"), (Receiver, "_finish_unseen"), (Receiver, "_finish_block")):
            _killed_in(built, monkeypatch, kind, method)
            assert blocks_in_hand(built.place("b") / "state") <= 1
        process = built.start("b")
        sender.send(b"three")
        assert [receiver.receive(30) for _ in range(3)] == [b"judged one", b"judged two", b"judged three"]
        sender.close()
        assert process.ended() == (0, "")
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(30)
    assert [size for entry in built.audit("b") for size in entry["sizes"]] == [3, 3, 5]


def test_nothing_is_sent_before_its_log_is_on_the_disk(
    making: Making, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses the log: the stage ends, and the message stays in hand until it can be logged."""
    built = making()
    with sipc.open_sender("g.raw", registry=built.registry) as sender, \
            sipc.open_receiver("g.clean", registry=built.registry, cursor=folder / "cursor") as receiver:  # fmt: skip
        sender.send(b"message")

        def refused(log: FileLog) -> None:
            raise sipc.KernelError(errno.EIO, "the disk is broken", syscall="fsync", obj=str(log.path))

        with monkeypatch.context() as patch:
            patch.setattr(FileLog, "sync", refused)
            for _ in range(2):  # with an intent and without
                assert os.waitstatus_to_exitcode(forked(built, "b").wait()) == 0
                assert "the disk is broken" in built.status("b")["reason"]
                with pytest.raises(sipc.Timeout):
                    receiver.receive(0)
        process = built.start("b")
        assert receiver.receive(30) == b"judged message"
        sender.close()
        assert process.ended() == (0, "")
    assert [entry["sizes"] for entry in built.audit("b")] == [[7]]


def test_a_quarantine_without_room_stops_the_stage_and_loses_nothing(making: Making, folder: Path) -> None:
    """Exit code 77; the message comes again when there is room, and what was kept is not kept twice."""
    quarantine = 'quarantine = { directory = "FOLDER/quarantine", limit = "32 KiB" }'
    built = making({"b": JUDGE.splitlines()[0] + "\n" + quarantine})
    stages = [built.start(name) for name in "ac"]
    total = 7
    for number in range(total):
        put(folder / "in", f"{number}", b"keep %d" % number)
    put(folder / "in", "9", b"the last")
    kept: list[bytes] = []
    for start in range(1, 5):
        process = built.start("b")
        if start < 4:
            code, said = process.ended()
            assert (code, int(StageExit.FULL)) == (77, 77)
            assert "the message is not finished" in said
            status = built.status("b")
            assert status["state"] == "full"
            assert status["quarantine"] == {"messages": 2, "bytes": 24576, "limit": 32768}
        else:
            wait_for_files(folder / "out", 1)
        for name in visible(folder / "quarantine"):
            place = folder / "quarantine" / name
            kept.append((place / "payload").read_bytes())
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
    assert kept == [b"keep %d" % number for number in range(total)]
    logged = [(entry["verdict"], size) for entry in built.audit("b") for size in entry["sizes"]]
    assert logged == [("quarantine", 6)] * total + [("pass", 8)]
    for stage in (*stages, process):
        stage.popen.send_signal(signal.SIGTERM)
        assert stage.ended() == (130, "")


def test_a_filter_without_a_quarantine_has_no_room(making: Making) -> None:
    """What it refuses is not finished."""
    built = making({"b": JUDGE.splitlines()[0]})
    process = built.start("b")
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        sender.send(b"keep")
        code, said = process.ended()
        assert (code, "no quarantine" in said) == (77, True)
        assert built.status("b")["quarantine"] is None
        sender.abort()


def test_a_channel_that_goes_away_is_a_reason_to_start_again(making: Making) -> None:
    """Exit code 75, for a stage that waits in it."""
    built = making()
    process = built.start("c")
    wait_for_status(built, "c", lambda status: status["channels"]["clean"]["epoch"] > 0)
    helper.destroy("g.clean", built.registry)
    code, said = process.ended()
    assert (code, "removed" in said) == (75, True)
    assert built.status("c")["state"] == "failed"


def test_a_filter_that_can_not_be_loaded_is_a_reason_to_start_again(making: Making) -> None:
    """Exit code 75: no message was judged."""
    built = making({"b": 'filter = { python = "tests.support.judges:absent" }'})
    code, said = built.start("b").ended()
    assert (code, "can not be loaded" in said) == (75, True)


def test_a_filter_that_is_still_loading_does_not_keep_the_stage(making: Making, folder: Path) -> None:
    """Told to end while the module is imported: 130, at once, and nothing of it is left."""
    (folder / "slow.py").write_text(
        f"import os, time\nopen({str(folder / 'loading')!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n"
    )
    built = making({"b": 'filter = { python = "slow:judge" }'})
    process = built.start("b", PYTHONPATH=f"{ROOT}:{folder}")
    wait_for(folder, lambda: (folder / "loading").exists() and (folder / "loading").read_text() != "")
    process.popen.send_signal(signal.SIGTERM)
    assert process.ended(20) == (130, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "loading").read_text()), 0)


def test_a_second_process_of_a_stage_is_told_so(making: Making) -> None:
    """And leaves the status of the first alone."""
    built = making()
    first = built.start("c")
    before = wait_for_status(built, "c", lambda status: status["channels"]["clean"]["epoch"] > 0)
    code, said = built.start("c").ended()
    assert (code, "runs already" in said) == (75, True)
    assert built.status("c")["pid"] == before["pid"] == first.popen.pid


def test_a_stage_that_is_not_in_the_file_is_a_mistake(making: Making) -> None:
    """Exit code 3, and the names that there are."""
    code, said = making().start("d").ended()
    assert (code, "it has a, b, c" in said) == (3, True)


def test_a_process_of_another_user_than_the_files_is_no_stage(making: Making, folder: Path) -> None:
    """Exit code 4, by the endpoint policy, before the channel is touched."""
    other = os.geteuid() + 1
    built = making({"c": f'sink = {{ directory = "FOLDER/out" }}\nuser = {other}\ngroup = {os.getegid() + 1}',
                    "a": SPOOLS["a"] + f"\nuser = {os.geteuid()}\ngroup = {os.getegid()}",
                    "b": SPOOLS["b"] + f"\nuser = {other + 1}\ngroup = {os.getegid() + 2}"})  # fmt: skip
    code, said = built.start("c").ended()
    assert (code, "the endpoint policy refuses" in said) == (4, True)
    assert f"not all {other}" in said
    assert built.status("c")["state"] == "failed"


# -- the status


def test_the_status_says_what_went_through(making: Making, folder: Path) -> None:
    """Every key of the form, with true numbers, half a second after the last message."""
    built = making()
    before = time.time()
    stages = [built.start(name) for name in "abc"]
    for name, data in (("1", b"one"), ("2", b"drop it"), ("3", b"keep it"), ("4", b"four")):
        put(folder / "in", name, data)
    wait_for_files(folder / "out", 2)
    status = wait_for_status(built, "b", lambda found: found["verdicts"]["pass"] == 2 and found["state"] == "waiting")
    assert set(status) == {
        "version", "guard", "stage", "kind", "pid", "starts", "since", "updated", "state", "reason", "channels",
        "verdicts", "quarantine",
    }  # fmt: skip
    assert (status["version"], status["guard"], status["stage"], status["kind"]) == (1, "g", "b", "filter")
    assert (status["pid"], status["starts"], status["reason"]) == (stages[1].popen.pid, 1, "")
    assert before <= status["since"] <= status["updated"] <= time.time()
    raw, clean = status["channels"]["raw"], status["channels"]["clean"]
    assert set(raw) == set(clean) == {"direction", "messages", "bytes", "blocked_seconds", "last_seq", "epoch"}
    assert (raw["direction"], raw["messages"], raw["bytes"]) == ("in", 4, 21)
    assert (clean["direction"], clean["messages"], clean["bytes"], clean["last_seq"]) == ("out", 2, 21, 2)
    assert raw["blocked_seconds"] > 0
    sender = wait_for_status(built, "a", lambda found: found["channels"]["raw"]["epoch"] > 0)
    assert raw["epoch"] == sender["channels"]["raw"]["epoch"]
    assert status["verdicts"] == {"pass": 2, "drop": 1, "quarantine": 1}
    assert status["quarantine"] == {"messages": 1, "bytes": 12288, "limit": 64 << 20}
    assert built.status("a")["quarantine"] is None
    assert (built.place("b") / "run" / "status.json").stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_no_status_is_refused(folder: Path) -> None:
    """None where there is none; an error for what is not of this version."""
    assert read_status(folder / "absent") is None
    for text in ("", "[]", "{}", '{"version": 2}', "\xff"):
        (folder / "status.json").write_text(text)
        with pytest.raises(sipc.SpecError, match="no status"):
            read_status(folder / "status.json")


# -- what systemd says


def test_the_directories_of_a_service_are_used(making: Making, folder: Path) -> None:
    """STATE_DIRECTORY and RUNTIME_DIRECTORY, without --state; one alone is a mistake."""
    built = making()
    state, run = folder / "svc-state", folder / "svc-run"
    state.mkdir(0o700)
    run.mkdir()
    command = [sys.executable, "-m", "sipc.cli", "guard", "stage", built.guard.source, "c"]
    both = {
        **os.environ,
        "SIPC_REGISTRY": str(built.registry),
        "STATE_DIRECTORY": str(state),
        "RUNTIME_DIRECTORY": str(run),
    }
    with subprocess.Popen(command, env=both, stderr=subprocess.PIPE) as process:
        wait_for(run, (run / "status.json").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert (state / "g").exists() is False
    assert (state / "starts").read_text() == "1\n"
    del both["RUNTIME_DIRECTORY"]
    done = subprocess.run(command, env=both, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "RUNTIME_DIRECTORY is ''" in done.stderr) == (3, True)


# -- what a stage gives up


def test_sources_and_sinks_are_confined_and_filters_are_not(making: Making, folder: Path) -> None:
    """Seccomp filters on the stage's process: for the one direction that it has, where it has one."""
    built = making()
    stages = {name: built.start(name) for name in "abc"}
    put(folder / "in", "1", b"message")
    modes = {}
    for name, stage in stages.items():
        # A message went through it: so its ends are open, and the filter is installed, if there is one.
        wait_for_status(built, name, lambda status: all(one["messages"] for one in status["channels"].values()))
        lines = Path(f"/proc/{stage.popen.pid}/status").read_text().splitlines()
        modes[name] = next(line.split()[1] for line in lines if line.startswith("Seccomp:"))
    assert modes == {"a": "2", "b": "0", "c": "2"}


@pytest.mark.parametrize("count", [1, 20, 700])
def test_what_is_sent_already_is_what_the_numbers_say(count: int, making: Making, folder: Path) -> None:
    """`already_sent` and the sender's own blocks agree, after every block of messages of all sizes."""
    built = making()
    chance = random.Random(count)
    sizes = [chance.choice((0, 1, 60, 900, 4000, 4096, 4097, 9000)) for _ in range(count)]
    messages = [number.to_bytes(2) * (size // 2 + 1) for number, size in enumerate(sizes)]
    receiving = Child(lambda: _count_by_block(built, folder / "cursor"))
    with sipc.open_sender("g.raw", registry=built.registry) as sender:
        sender.send_many(messages)
        whole = [already_sent(sender, messages, blocks) for blocks in range(sender.last_seq + 1)]
    assert whole == [0, *receiving.result()]
    assert whole[-1] == count


def _count_by_block(built: Built, cursor: Path) -> list[int]:
    """How many whole messages had come after each block."""
    after: list[int] = []
    came = 0
    with sipc.open_receiver("g.raw", registry=built.registry, cursor=cursor) as receiver:
        while True:
            try:
                batch = receiver.receive_many(30)
            except sipc.EndOfStream:
                return after
            seq = (receiver.last_seq or 0) + 1
            after += [came] * (seq - len(after) - 1)
            came += len(batch)
            after.append(came)
