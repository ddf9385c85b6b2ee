# SPDX-License-Identifier: Apache-2.0
"""A signal handler that raises, at any point: the handle goes on, nothing is lost, doubled or torn."""

from __future__ import annotations

import linecache
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
import sysv_ipc

from sipc import libsipc
from sipc.kernel import Memory, Queue
from sipc.libsipc import CREATOR, RECEIVER, SENDER, SYSV_MQUEUES, SYSV_SHM, handle
from sipc.proto.libsipc import QueueSender, ShmSender, queue, shm

if TYPE_CHECKING:
    from tests.host.libsipc.conftest import Lab

pytestmark = pytest.mark.host

SIZE = 40000  # more than a queue holds


def create(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    libsipc.open(lab.path, CREATOR, ipc_type, SIZE).close()
    lab.note()


def fill(handle: libsipc.Handle, data: bytes) -> int:
    handle.get_data_ptr()[: len(data)] = data
    return len(data)


def accepted(handle: libsipc.Handle) -> int:
    assert handle._sender is not None
    return handle._sender.count


def test_a_block_that_was_announced_is_completed_before_anything_else(lab: Lab) -> None:
    """The view of before is dead: writing there would tear the block that is being read."""
    create(lab, SYSV_SHM)
    with libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE) as sender:
        length = fill(sender, b"first")
        view = sender.get_data_ptr()
        with lab.interrupt(lambda: sender.pending):
            sender.send_data(length)
        assert (sender.pending, sender.sent) == (True, 0)
        with pytest.raises(ValueError, match="released"):
            view[:5] = b"tears"
        receiving = lab.start("c", "receive", "shm", SIZE, 2)
        length = fill(sender, b"second")  # waits for the receiver
        assert (sender.pending, sender.sent) == (False, 1)
        sender.send_data(length)
        assert sender.sent == 2
        assert receiving.finish() == lab.frame([b"first", b"second"])


def test_the_next_send_completes_the_block_too(lab: Lab) -> None:
    create(lab, SYSV_SHM)
    with libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE) as sender:
        length = fill(sender, b"twice")
        with lab.interrupt(lambda: sender.pending):
            sender.send_data(length)
        receiving = lab.start("c", "receive", "shm", SIZE, 2)
        sender.send_data(length - 1)
        assert receiving.finish() == lab.frame([b"twice", b"twic"])


def test_a_block_that_nobody_took_was_not_sent(lab: Lab) -> None:
    """The queue had no room for 3."""
    create(lab, SYSV_SHM)
    other = sysv_ipc.MessageQueue(lab.key)
    other.send(bytes(8), True, 99)
    with libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE) as sender:
        view = sender.get_data_ptr()
        length = fill(sender, b"old")
        with lab.interrupt():
            sender.send_data(length)
        assert (sender.pending, sender.sent) == (False, 0)
        assert other.receive() == (bytes(8), 99)
        view[:3] = b"new"
        receiving = lab.start("c", "receive", "shm", SIZE, 1)
        sender.send_data(length)
        assert receiving.finish() == lab.frame([b"new"])


def test_data_that_was_begun_is_completed_as_it_was(lab: Lab) -> None:
    """Whatever is written into the buffer meanwhile belongs to the next message."""
    create(lab, SYSV_MQUEUES)
    with libsipc.open(lab.path, SENDER, SYSV_MQUEUES, SIZE) as sender:
        view = sender.get_data_ptr()
        view[:] = first = bytes(range(250)) * (SIZE // 250)
        with lab.interrupt(lambda: accepted(sender) == 3):  # 9 and two chunks
            sender.send_data(SIZE)
        assert (sender.pending, sender.sent) == (True, 0)
        view[:6] = b"second"
        receiving = lab.start("c", "receive", "mq", SIZE, 2)
        sender.send_data(6)
        assert sender.sent == 2
        assert receiving.finish() == lab.frame([first, b"second"])


@pytest.mark.parametrize("ipc_type", [SYSV_SHM, SYSV_MQUEUES])
def test_a_receiver_that_waited_in_vain_waits_again(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    create(lab, ipc_type)
    with libsipc.open(lab.path, RECEIVER, ipc_type, SIZE) as receiver:
        with lab.interrupt():
            receiver.recv_data()
        transport = "shm" if ipc_type is SYSV_SHM else "mq"
        sending = lab.start("c", "send", transport, SIZE, stdin=lab.frame([b"late"]))
        assert bytes(receiver.recv_data()) == b"late"
        if ipc_type is SYSV_SHM:
            receiver.shm_recv_done()
        sending.finish()


def test_a_receiver_in_the_middle_of_data_keeps_what_came(lab: Lab) -> None:
    create(lab, SYSV_MQUEUES)
    lab.put("py", [(b"10\x00", 9), (b"hello", 3)])
    with libsipc.open(lab.path, RECEIVER, SYSV_MQUEUES, SIZE) as receiver:
        with lab.interrupt(lambda: lab.rows("msg")[0]["qnum"] == "0"):
            receiver.recv_data()
        lab.put("py", [(b"world", 3), (b"\x01", 12)])
        assert receiver.recv_data() == b"helloworld"


def test_a_receiver_that_is_giving_a_block_back_goes_on(lab: Lab) -> None:
    """4 was consumed, 5 is not there yet."""
    create(lab, SYSV_SHM)
    lab.put("py", [((5).to_bytes(8, sys.byteorder), 3)])
    with libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE) as receiver:
        receiver.recv_data()
        lab.put("py", [(bytes(8), 4)])
        with lab.interrupt(lambda: lab.rows("msg")[0]["qnum"] == "0"):
            receiver.shm_recv_done()
        lab.put("py", [(bytes(8), 5)])
        receiver.shm_recv_done()
        sending = lab.start("c", "send", "shm", SIZE, stdin=lab.frame([b"next"]))
        assert bytes(receiver.recv_data()) == b"next"
        receiver.shm_recv_done()
        sending.finish()


# At every line: a queue that never waits, and a tracer that raises at the n-th line


class FakeMemory(Memory):
    def __init__(self, content: bytearray, *, writable: bool) -> None:
        view = memoryview(content)
        self.view = view if writable else view.toreadonly()

    def close(self) -> None:
        self.view.release()


class FakeQueue(Queue):
    """Takes everything; gives what it was filled with, the same object until `done`."""

    def __init__(self, messages: list[tuple[bytes, int]] | None = None) -> None:
        self.taken: list[tuple[bytes, int]] = []
        self._waiting: deque[tuple[bytes, int]] = deque(messages or [])
        self._inbox: list[tuple[bytes, int]] = []

    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        self.taken.append((message, kind))
        return True

    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        if not self._inbox:
            body, mtype = self._waiting.popleft()
            self._inbox.append((body, mtype))
        return self._inbox[0]

    def done(self) -> None:
        self._inbox.clear()

    def close(self) -> None:
        self._inbox.clear()


class Raised(Exception):
    """What the tracer raises."""


SOURCES = (handle.__file__, shm.__file__, queue.__file__)
# The interpreter runs signal handlers where a function begins, after a call, and where a loop goes round.
# Before these lines there is none of that.
UNREACHABLE = ("self._barred = ", "if self._barred is _IN_USE", "try:", "return self._block", "return data")


def run_with_raise_at(number: int, call: Callable[[], Any]) -> tuple[Any, bool]:
    """Run `call`, raising at its `number`-th line; returns its result and whether it got that far."""
    count = 0

    def tracer(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in SOURCES:
            return None
        if event in ("call", "line"):
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            if event == "call" or not line.startswith(UNREACHABLE):
                count += 1
                if count == number:
                    raise Raised
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        result = call()
    except Raised:
        return None, True
    finally:
        sys.settrace(before)
    return result, False


def messages_of(ipc_type: libsipc.IpcType, datas: list[bytes]) -> list[tuple[bytes, int]]:
    messages = []
    for data in datas:
        of_shm, of_queue = ShmSender(), QueueSender(8184)
        machine: ShmSender | QueueSender = of_shm if ipc_type is SYSV_SHM else of_queue
        of_shm.begin(len(data))
        of_queue.begin(data)
        while (due := machine.due) is not None:
            messages.append(due)
            machine.accepted()
    return messages


@pytest.mark.parametrize("ipc_type", [SYSV_SHM, SYSV_MQUEUES])
def test_a_send_interrupted_at_any_line_is_neither_lost_nor_doubled(ipc_type: libsipc.IpcType) -> None:
    """`pending` and `sent` say what became of it."""
    number, raised = 0, True
    while raised:
        number += 1
        queue, content = FakeQueue(), bytearray(9)
        memory = FakeMemory(content, writable=True) if ipc_type is SYSV_SHM else None
        with libsipc.Handle(SENDER, ipc_type, 9, queue=queue, memory=memory) as sender:
            length = fill(sender, b"first")
            _, raised = run_with_raise_at(number, lambda: sender.send_data(length))  # noqa: B023
            if not sender.pending and sender.sent == 0:
                assert queue.taken == []
                sender.send_data(length)
            length = fill(sender, b"second")
            assert (sender.pending, sender.sent) == (False, 1)
            sender.send_data(length)
            assert queue.taken == messages_of(ipc_type, [b"first", b"second"]), number
    assert number > 20


def test_data_received_with_an_interruption_at_any_line_is_whole() -> None:
    datas = [b"one", b"", b"second"]
    number, raised = 0, True
    while raised:
        number += 1
        queue = FakeQueue(messages_of(SYSV_MQUEUES, datas))
        with libsipc.Handle(RECEIVER, SYSV_MQUEUES, 9, queue=queue) as receiver:
            got = []
            for _ in datas:
                data, raised = run_with_raise_at(number, receiver.recv_data)
                got.append(receiver.recv_data() if raised else data)
            assert got == datas, number
    assert number > 20


@pytest.mark.parametrize("which", ["recv_data", "shm_recv_done"])
def test_blocks_received_with_an_interruption_at_any_line_are_whole(which: str) -> None:
    datas = [b"abc", b"", b"abcdef"]
    number, raised = 0, True
    while raised:
        number += 1
        queue = FakeQueue(messages_of(SYSV_SHM, datas))
        memory = FakeMemory(bytearray(b"abcdefghi"), writable=False)
        with libsipc.Handle(RECEIVER, SYSV_SHM, 9, queue=queue, memory=memory) as receiver:
            got = []
            for _ in datas:
                at = number if which == "recv_data" else 0
                view, failed = run_with_raise_at(at, receiver.recv_data)
                got.append(bytes(receiver.recv_data() if failed else view))
                at = number if which == "shm_recv_done" else 0
                _, failed_later = run_with_raise_at(at, receiver.shm_recv_done)
                if failed_later:
                    receiver.shm_recv_done()
                raised = failed or failed_later
            assert got == datas, number
    assert number > 20
