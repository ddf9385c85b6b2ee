# SPDX-License-Identifier: Apache-2.0
"""Who sent last, when that process has ended: remembered, vouched for, or nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipc.endpoint_policy import EndpointPolicy, Failed
from sipc.errors import SpecError
from sipc.last_sender import LastSender, Memory, Vouched

ME = EndpointPolicy(uid=os.geteuid())
EPOCH = 7


class Queue:
    """A queue whose note can be set."""

    def __init__(self, pid: int, second: int) -> None:
        self.note = (pid, second)

    def last_sender(self) -> tuple[int, int] | None:
        """As it was set."""
        return self.note


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process to end."""
    with subprocess.Popen(["/bin/sleep", "1000"]) as one:
        yield one
        one.kill()


def end(process: subprocess.Popen[bytes]) -> None:
    """Reaped: its number is nobody's."""
    process.kill()
    process.wait()


def judged(
    queue: Queue, memory: Memory | None = None, vouched: Vouched | None = None, policy: EndpointPolicy = ME
) -> Failed:
    """One judgement by a receiver that begins now."""
    sender = LastSender(policy, queue, memory, vouched)
    try:
        return sender.verdict().failed
    finally:
        sender.close()


def test_who_passed_and_ended_is_believed_for_what_it_sent_while_it_was_seen(
    process: subprocess.Popen[bytes],
) -> None:
    """Up to the kernel's clock of whole seconds; a later message is nobody's, or another's with the same number."""
    now = int(time.time())
    queue, memory = Queue(process.pid, now), Memory(ME, EPOCH)
    assert judged(queue, memory) == Failed.NONE
    end(process)
    seen = int(time.time())
    assert judged(queue, memory) == Failed.NONE
    queue.note = (process.pid, seen + 5)
    assert judged(queue, memory) & Failed.PROCESS
    queue.note = (1 << 22, now)  # a number that no process can have
    assert judged(queue, memory) & Failed.PROCESS
    assert judged(Queue(process.pid, now)) & Failed.PROCESS  # by somebody who has not seen it


def test_who_did_not_pass_is_not_remembered(process: subprocess.Popen[bytes]) -> None:
    """Refused while it lived, refused after."""
    stranger = EndpointPolicy(uid=54321)
    queue, memory = Queue(process.pid, int(time.time())), Memory(stranger, EPOCH)
    assert judged(queue, memory, policy=stranger) == Failed.UID
    end(process)
    assert judged(queue, memory, policy=stranger) & Failed.PROCESS


def test_a_sender_that_is_held_is_remembered_as_long_as_it_was_seen(process: subprocess.Popen[bytes]) -> None:
    """Each look that finds it alive moves the time on."""
    queue, memory = Queue(process.pid, int(time.time())), Memory(ME, EPOCH)
    sender = LastSender(ME, queue, memory)
    assert sender.verdict().allowed
    memory.note(process.pid, 1)  # as if that had been long ago
    assert sender.verdict().allowed
    end(process)
    assert sender.verdict().allowed
    sender.close()


def test_the_memory_outlives_the_receiver_with_its_cursor(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """For the same channel and the same rules; of a callback nobody knows later what it asked."""
    cursor = tmp_path / "cursor"
    queue = Queue(process.pid, int(time.time()))
    assert judged(queue, Memory(ME, EPOCH, cursor)) == Failed.NONE
    end(process)
    assert judged(queue, Memory(ME, EPOCH, cursor)) == Failed.NONE
    more = EndpointPolicy(uid=os.geteuid(), only_groups=frozenset({"a", "b", 3}))
    assert judged(queue, Memory(more, EPOCH, cursor), policy=more) & Failed.PROCESS
    assert judged(queue, Memory(ME, EPOCH, cursor)) & Failed.PROCESS  # the rules between asked something else


@pytest.mark.parametrize("change", ["epoch", "callback"])
def test_another_channel_or_a_callback_begins_anew(
    change: str, process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Nothing is carried over."""
    policy = EndpointPolicy(callback=lambda _: True) if change == "callback" else ME
    queue = Queue(process.pid, int(time.time()))
    assert judged(queue, Memory(policy, EPOCH, tmp_path / "c"), policy=policy) == Failed.NONE
    end(process)
    epoch = EPOCH + 1 if change == "epoch" else EPOCH
    assert judged(queue, Memory(policy, epoch, tmp_path / "c"), policy=policy) & Failed.PROCESS


def test_rules_are_the_same_whatever_the_order_of_their_groups(tmp_path: Path) -> None:
    """Python orders a set of strings differently in each process."""
    code = (
        "import sys; from sipc.endpoint_policy import EndpointPolicy; from sipc.last_sender import Memory\n"
        "memory = Memory(EndpointPolicy(only_groups=frozenset('abcdefgh')), 7, sys.argv[1])\n"
        "print(memory.covers(9, 100)); memory.note(9, 100)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "c"], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]  # fmt: skip
    assert said == ["False\n", "True\n", "True\n"]


@pytest.mark.parametrize("mode", [0o602, 0o620])
def test_a_memory_that_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    """They could make it say that somebody passed."""
    Memory(ME, EPOCH, tmp_path / "c")
    (tmp_path / "c.peer").chmod(mode)
    with pytest.raises(SpecError, match=r"peer .*c.peer .* can be changed by others"):
        Memory(ME, EPOCH, tmp_path / "c")


def test_who_is_vouched_for_passes_and_only_then(process: subprocess.Popen[bytes]) -> None:
    """Asked of who has ended, with number and second; True and nothing else; not asked while it can be judged."""
    asked: list[tuple[int, int]] = []

    def vouch(pid: int, second: int) -> bool:
        asked.append((pid, second))
        return True

    queue = Queue(process.pid, int(time.time()))
    assert judged(queue, vouched=vouch, policy=EndpointPolicy(uid=54321)) == Failed.UID
    assert asked == []
    end(process)
    assert judged(queue, vouched=vouch) == Failed.NONE
    assert asked == [queue.note]
    for answer in (False, None, 1, "yes"):
        assert judged(queue, vouched=lambda *_, said=answer: said) & Failed.PROCESS
