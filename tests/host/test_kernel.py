# SPDX-License-Identifier: Apache-2.0
"""One conformance kit over every backend: what `kernel/base.py` promises holds for System V, POSIX and the fake.

Owns the behaviour that the layers above rely on, and nothing that only one backend has (see `test_kernel_calls.py`).
A call that blocks runs in another process where the kernel keeps the objects, and in another thread for the fake;
what a signal or a released view could crash runs in a forked process, whose exit tells.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import select
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.channels import LONGEST, Child

from sipc import kernel
from sipc.errors import Broken, ChannelNotFound, Denied, KernelError, RemoteProtocolError
from sipc.kernel import KernelObjects, Keys, KeyTaken, Memory, Queue
from sipc.spec import Backend, Role

pytestmark = pytest.mark.host

SIZE = 32  # bytes of a message
PAGE = 4096
STRANGER = 54321  # a uid that is nobody's here
WAITS = pytest.mark.parametrize("timeout", [None, 30.0], ids=["for ever", "30 s"])
SEGMENTS = pytest.mark.parametrize("segment", [False, True], ids=["queue alone", "queue and segment"])


def message(number: int) -> bytes:
    """The message of this number, of the full size."""
    return number.to_bytes(8, "little") * (SIZE // 8)


def number_of(got: tuple[bytes, int | None] | None) -> int | None:
    """The number of a received message, None when none came."""
    if got is None:
        return None
    assert got[0] == message(int.from_bytes(got[0][:8], "little"))
    return int.from_bytes(got[0][:8], "little")


class Aside:
    """A function on the other side: in a forked process, or for the fake in a thread."""

    def __init__(self, function: Callable[[], Any], *, thread: bool) -> None:
        reading, writing = os.pipe()
        self._answer: list[Any] = []

        def run() -> Any:
            os.write(writing, threading.get_native_id().to_bytes(4, "little"))
            return function()

        def keep() -> None:
            try:
                self._answer.append(run())
            except BaseException as error:
                self._answer.append(error)

        self._child: Child | None = None
        if thread:
            self._thread = threading.Thread(target=keep, daemon=True)
            self._thread.start()
        else:
            self._child = Child(run)
        self._task = int.from_bytes(os.read(reading, 4), "little")
        os.close(reading)
        os.close(writing)

    def wait_until_asleep(self) -> None:
        """Return when the kernel has put it to sleep: it is in the call that blocks."""
        pid = os.getpid() if self._child is None else self._child.pid
        await_sleep(pid, self._task)

    def result(self, timeout: float = LONGEST) -> Any:
        """What the function returned; raises what it raised, or AssertionError when it takes too long."""
        if self._child is not None:
            return self._child.result(timeout)
        self._thread.join(timeout)
        assert self._answer, f"a thread took longer than {timeout} s"
        if isinstance(self._answer[0], BaseException):
            raise self._answer[0]
        return self._answer[0]


def await_sleep(pid: int, task: int) -> None:
    """Look at a task until it sleeps."""
    while Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()


@dataclass
class Kit:
    """One backend, and the keys that a test used."""

    which: Backend
    objects: KernelObjects
    used: list[Keys] = field(default_factory=list)
    opened: list[Channel] = field(default_factory=list)

    def keys(self, *, segment: bool = True) -> Keys:
        """New keys, whose objects are removed after the test."""
        keys = self.objects.new_keys(segment=segment)
        self.used.append(keys)
        return keys

    def channel(self, *, messages: int = 2, segment: bool = False) -> Channel:
        """A queue, perhaps a segment, and both ends of them."""
        keys = self.keys(segment=segment)
        self.objects.create_queue(keys.queue, messages=messages, message_size=SIZE)
        if keys.segment is not None:
            self.objects.create_segment(keys.segment, PAGE).close()
        return self.ends(keys)

    def ends(self, keys: Keys) -> Channel:
        """Both ends of a channel that exists."""
        memories: list[Memory | None] = [None, None]
        if keys.segment is not None:
            memories = [self.objects.open_segment(keys.segment, role, PAGE) for role in Role]
            assert None not in memories
        sender, receiver = (
            self.objects.open_queue(keys.queue, role, message_size=SIZE, memory=memory)
            for role, memory in zip(Role, memories, strict=True)
        )
        self.opened.append(Channel(keys, sender, receiver, [memory for memory in memories if memory is not None]))
        return self.opened[-1]

    def aside(self, function: Callable[[], Any]) -> Aside:
        """Run `function` on the other side."""
        return Aside(function, thread=self.which is Backend.MEMORY)


@dataclass
class Channel:
    """Both ends."""

    keys: Keys
    sender: Queue
    receiver: Queue
    memories: list[Memory]

    def take(self, timeout: float | None = 0) -> int | None:
        """Receive one message for good; its number."""
        number = number_of(self.receiver.receive(timeout))
        self.receiver.done()
        return number

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()
        for memory in self.memories:
            memory.close()


@pytest.fixture(params=list(Backend), ids=str)
def kit(request: pytest.FixtureRequest, registry: Path) -> Iterator[Kit]:
    """A backend; nothing of what its tests made is left (which the registry's fixture looks for)."""
    kit = Kit(request.param, kernel.backend(request.param))
    yield kit
    for channel in kit.opened:
        channel.close()
    for keys in kit.used:
        kit.objects.remove(keys)
        with pytest.raises(ChannelNotFound):
            kit.objects.open_queue(keys.queue, Role.SENDER, message_size=SIZE, memory=None)
        assert keys.segment is None or kit.objects.open_segment(keys.segment, Role.SENDER, PAGE) is None


def survives(function: Callable[[], None]) -> None:
    """The function ends as it should, in a process of its own: neither by an exception nor by a signal."""
    child = Child(function)
    try:
        child.result()
    finally:
        assert os.waitstatus_to_exitcode(child.wait()) == 0


# -- keys, creation, removal ----------------------------------------------------------------------------------


def test_keys_are_unique_and_a_segment_has_one_only_when_asked_for(kit: Kit) -> None:
    """Random keys: no two alike, queue and segment apart."""
    many = [kit.objects.new_keys(segment=True) for _ in range(2000)]
    assert len({keys.queue for keys in many} | {keys.segment for keys in many}) == 4000
    assert kit.objects.new_keys(segment=False).segment is None


def test_keys_can_not_be_predicted_from_the_state_of_a_generator(kit: Kit) -> None:
    """Two processes with one state of Python's and the C library's generator draw different keys."""

    def draw() -> Keys:
        random.seed(1)
        ctypes.CDLL(None).srand(1)
        return kit.objects.new_keys(segment=True)

    first, second = Child(draw).result(), Child(draw).result()
    assert len({first.queue, second.queue, first.segment, second.segment}) == 4


def test_creation_is_exclusive(kit: Kit) -> None:
    """A key in use is KeyTaken, and what is there is not touched."""
    channel = kit.channel(segment=True)
    channel.memories[0].view[:4] = b"here"
    assert channel.sender.send(message(7), 1, 0)
    with pytest.raises(KeyTaken):
        kit.objects.create_queue(channel.keys.queue, messages=1, message_size=SIZE)
    assert channel.keys.segment is not None
    with pytest.raises(KeyTaken):
        kit.objects.create_segment(channel.keys.segment, PAGE)
    assert bytes(channel.memories[1].view[:4]) == b"here"
    assert channel.take() == 7
    channel.close()


def test_remove_tells_whether_there_was_anything(kit: Kit) -> None:
    """Both, the queue alone, the segment alone, nothing."""
    keys = kit.keys()
    assert keys.segment is not None
    assert kit.objects.remove(keys) is False
    kit.objects.create_queue(keys.queue, messages=1, message_size=SIZE)
    assert kit.objects.remove(keys) is True
    kit.objects.create_segment(keys.segment, PAGE).close()
    assert kit.objects.remove(keys) is True
    kit.objects.create_queue(keys.queue, messages=1, message_size=SIZE)
    kit.objects.create_segment(keys.segment, PAGE).close()
    assert kit.objects.remove(Keys(queue=keys.queue, segment=None)) is True
    assert kit.objects.remove(keys) is True
    assert kit.objects.remove(keys) is False


def test_what_is_not_there_is_not_found(kit: Kit) -> None:
    """A missing queue is an error; a missing segment is None, since its sender may still make it."""
    keys = kit.keys()
    assert keys.segment is not None
    for role in Role:
        with pytest.raises(ChannelNotFound):
            kit.objects.open_queue(keys.queue, role, message_size=SIZE, memory=None)
        assert kit.objects.open_segment(keys.segment, role, PAGE) is None


def test_giving_leaves_the_objects_usable(kit: Kit) -> None:
    """None leaves owner and group; the mode of one user lets both ends open."""
    keys = kit.keys()
    assert keys.segment is not None
    kit.objects.create_queue(keys.queue, messages=1, message_size=SIZE)
    kit.objects.create_segment(keys.segment, PAGE).close()
    kit.objects.give_queue(keys.queue, None, None, 0o600)
    kit.objects.give_segment(keys.segment, None, None, 0o600)
    channel = kit.ends(keys)
    assert channel.sender.send(message(1), 1, 0)
    assert channel.take() == 1
    channel.close()


# -- the queue ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", [1, 2, 3, 10])
@SEGMENTS
def test_a_queue_holds_exactly_what_it_was_made_for(kit: Kit, messages: int, segment: bool) -> None:
    """One message more is refused, with and without waiting; one taken out makes room for one."""
    channel = kit.channel(messages=messages, segment=segment)
    for number in range(messages):
        assert channel.sender.send(message(number), 1, 0) is True
    for timeout in (0, 0.05):
        assert channel.sender.send(message(99), 1, timeout) is False
    assert channel.take() == 0
    assert channel.sender.send(message(messages), 1, 0.05) is True
    assert channel.sender.send(message(99), 1, 0) is False
    assert [channel.take() for _ in range(messages)] == list(range(1, messages + 1))
    assert channel.take() is None
    channel.close()


def test_order_is_kept_whatever_the_kind(kit: Kit) -> None:
    """First in, first out: a kind is no priority; it comes back where the backend carries one."""
    channel = kit.channel(messages=10)
    kinds = [3, 1, 2, 2, 1, 3, 1, 9, 4, 1]
    for number, kind in enumerate(kinds):
        assert channel.sender.send(message(number), kind, 0)
    for number, kind in enumerate(kinds):
        got = channel.receiver.receive(0)
        assert got is not None
        assert number_of(got) == number
        assert got[1] in (None, kind)
        assert (got[1] is None) == (kit.which is Backend.POSIX)
        channel.receiver.done()
    channel.close()


def test_a_message_has_the_length_it_was_sent_with(kit: Kit) -> None:
    """Shorter ones are not padded."""
    channel = kit.channel(messages=3)
    sent = [b"x", b"y" * (SIZE - 1), b"z" * SIZE]
    for data in sent:
        assert channel.sender.send(data, 1, 0)
    for data in sent:
        got = channel.receiver.receive(0)
        assert got is not None
        assert got[0] == data
        channel.receiver.done()
    channel.close()


def test_the_same_message_is_received_until_it_is_done(kit: Kit) -> None:
    """Whatever the timeout; `done` without one is harmless."""
    channel = kit.channel()
    channel.receiver.done()
    for number in (1, 2):
        assert channel.sender.send(message(number), 1, 0)
    for number in (1, 2):
        for timeout in (None, 0, 0.05, 0):
            assert number_of(channel.receiver.receive(timeout)) == number
        channel.receiver.done()
    for timeout in (0, 0.05):
        assert channel.receiver.receive(timeout) is None
    channel.close()


@WAITS
@SEGMENTS
def test_a_blocked_receiver_wakes_when_a_message_comes(kit: Kit, timeout: float | None, segment: bool) -> None:
    """And gets it."""
    channel = kit.channel(segment=segment)
    aside = kit.aside(lambda: number_of(channel.receiver.receive(timeout)))
    aside.wait_until_asleep()
    assert channel.sender.send(message(5), 1, 0)
    assert aside.result(20) == 5
    channel.close()


@WAITS
@SEGMENTS
def test_a_blocked_sender_wakes_when_there_is_room(kit: Kit, timeout: float | None, segment: bool) -> None:
    """And its message is last."""
    channel = kit.channel(segment=segment)
    for number in range(2):
        assert channel.sender.send(message(number), 1, 0)
    aside = kit.aside(lambda: channel.sender.send(message(2), 1, timeout))
    aside.wait_until_asleep()
    assert channel.take() == 0
    assert aside.result(20) is True
    assert [channel.take(), channel.take(), channel.take()] == [1, 2, None]
    channel.close()


def test_send_noted_notes_what_was_accepted(kit: Kit) -> None:
    """One item into the receipt, also after waiting for room."""
    channel = kit.channel(messages=1)
    receipt: list[None] = []
    channel.sender.send_noted(message(0), 1, receipt)
    assert receipt == [None]

    def send() -> list[None]:
        mine: list[None] = []
        channel.sender.send_noted(message(1), 1, mine)
        return mine

    aside = kit.aside(send)
    aside.wait_until_asleep()
    assert channel.take() == 0
    assert aside.result(20) == [None]
    assert channel.take(20) == 1
    channel.close()


def test_thousands_of_messages_keep_their_order_through_a_small_queue(kit: Kit) -> None:
    """Both sides at full speed, each waiting for the other."""
    channel = kit.channel(messages=2)

    def send() -> bool:
        return all(channel.sender.send(message(number), 1, None) for number in range(3000))

    aside = kit.aside(send)
    assert [channel.take(20) for _ in range(3000)] == list(range(3000))
    assert aside.result(20) is True
    channel.close()


def test_a_descriptor_is_ready_when_the_queue_is(kit: Kit) -> None:
    """Where there is one (POSIX): the receiver's polls readable with a message, the sender's writable with room."""
    channel = kit.channel(messages=1)
    readable, writable = channel.receiver.fileno(), channel.sender.fileno()
    if kit.which is not Backend.POSIX:
        assert (readable, writable) == (None, None)
    else:
        assert readable is not None
        assert writable is not None
        assert select.select([readable], [writable], [], 0) == ([], [writable], [])
        assert channel.sender.send(message(0), 1, 0)
        assert select.select([readable], [writable], [], 0) == ([readable], [], [])
    channel.close()


# -- removal --------------------------------------------------------------------------------------------------


def _broken(call: Callable[[], object]) -> str:
    """'Broken', or what happened instead."""
    try:
        return f"returned {call()!r}"
    except Broken:
        return "Broken"


@WAITS
@SEGMENTS
@pytest.mark.parametrize("role", list(Role), ids=str)
def test_removal_breaks_who_is_blocked(kit: Kit, role: Role, timeout: float | None, segment: bool) -> None:
    """Within a bounded time, whichever call it is in."""
    channel = kit.channel(segment=segment)
    if role is Role.SENDER:
        assert channel.sender.send(message(0), 1, 0)
        assert channel.sender.send(message(1), 1, 0)
        aside = kit.aside(lambda: _broken(lambda: channel.sender.send(message(2), 1, timeout)))
    else:
        aside = kit.aside(lambda: _broken(lambda: channel.receiver.receive(timeout)))
    aside.wait_until_asleep()
    assert kit.objects.remove(channel.keys)
    assert aside.result(10) == "Broken"
    channel.close()


@SEGMENTS
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_removal_breaks_later_calls(kit: Kit, segment: bool, replaced: bool) -> None:
    """Every call of both ends, again and again, also when the same keys lead to new objects."""
    channel = kit.channel(segment=segment)
    assert channel.sender.send(message(0), 1, 0)
    assert kit.objects.remove(channel.keys)
    fresh = None
    if replaced:
        kit.objects.create_queue(channel.keys.queue, messages=2, message_size=SIZE)
        if channel.keys.segment is not None:
            kit.objects.create_segment(channel.keys.segment, PAGE).close()
        fresh = kit.ends(channel.keys)
    for timeout in (0, 0.05, None, 30.0):
        with pytest.raises(Broken):
            channel.sender.send(message(1), 1, timeout)
        with pytest.raises(Broken):
            channel.receiver.receive(timeout)
    with pytest.raises(Broken):
        channel.sender.send_noted(message(1), 1, [])
    channel.close()
    if fresh is not None:
        assert fresh.take() is None
        assert fresh.sender.send(message(2), 1, 0)
        assert fresh.take() == 2
        fresh.close()


# -- signals --------------------------------------------------------------------------------------------------


class Signals:
    """SIGUSR1 for the main thread, sent by a second one, each after the one before was handled."""

    def __init__(self, *, raising: bool) -> None:
        self.count = 0
        self._raising = raising
        self._handled = threading.Semaphore(0)
        self._main = threading.get_native_id()
        signal.signal(signal.SIGUSR1, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        self.count += 1
        self._handled.release()
        if self._raising:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Wait until the main thread sleeps, signal it, and wait until its handler ran."""
        await_sleep(os.getpid(), self._main)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        assert self._handled.acquire(timeout=20)


@WAITS
@SEGMENTS
@pytest.mark.parametrize("role", list(Role), ids=str)
def test_a_handler_runs_during_a_wait_and_the_wait_goes_on(
    kit: Kit, role: Role, timeout: float | None, segment: bool
) -> None:
    """A call that a signal interrupted neither fails nor forgets what it waits for."""
    channel = kit.channel(messages=1, segment=segment)

    def main() -> tuple[object, object, int]:
        signals = Signals(raising=False)

        def meanwhile() -> None:
            for _ in range(5):
                signals.interrupt()
            answers.append(channel.take() if role is Role.SENDER else channel.sender.send(message(1), 1, 0))

        answers: list[object] = []
        peer = threading.Thread(target=meanwhile)
        if role is Role.SENDER:
            assert channel.sender.send(message(0), 1, 0)
            peer.start()
            got: object = channel.sender.send(message(1), 1, timeout)
        else:
            peer.start()
            got = number_of(channel.receiver.receive(timeout))
        peer.join()
        return got, answers[0], signals.count

    expected = (True, 0, 5) if role is Role.SENDER else (1, True, 5)
    assert Child(main).result(30) == expected
    channel.close()


@WAITS
@SEGMENTS
@pytest.mark.parametrize("role", list(Role), ids=str)
def test_a_handler_that_raises_gets_out_of_a_wait_and_nothing_is_lost_or_doubled(
    kit: Kit, role: Role, timeout: float | None, segment: bool
) -> None:
    """Ctrl-C ends the wait; afterwards the queue holds what was accepted, and the call can be made again."""
    channel = kit.channel(messages=1, segment=segment)

    def main() -> list[object]:
        signals = Signals(raising=True)
        peer = threading.Thread(target=signals.interrupt)
        log: list[object] = []
        if role is Role.SENDER:
            assert channel.sender.send(message(0), 1, 0)
        peer.start()
        try:
            if role is Role.SENDER:
                log.append(channel.sender.send(message(1), 1, timeout))
            else:
                log.append(channel.receiver.receive(timeout))
        except KeyboardInterrupt:
            log.append("interrupted")
        peer.join()
        if role is Role.SENDER:
            log += [channel.take(), channel.take(), channel.sender.send(message(1), 1, timeout), channel.take()]
        else:
            log += [channel.sender.send(message(1), 1, 0), channel.take(timeout), channel.take()]
        return log

    expected: list[object]
    expected = ["interrupted", 0, None, True, 1] if role is Role.SENDER else ["interrupted", True, 1, None]
    assert Child(main).result(30) == expected
    channel.close()


class Storm:
    """A signal every 0.7 ms whose handler raises KeyboardInterrupt, once each time `armed` is set."""

    def __init__(self) -> None:
        self.armed = False
        self.hits = 0
        signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)

    def _handle(self, number: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            self.hits += 1
            raise KeyboardInterrupt


@WAITS
def test_interruptions_at_any_moment_of_receiving_lose_and_double_nothing(kit: Kit, timeout: float | None) -> None:
    """Between the system call and the caller's next line too: what was received comes again until it is done."""
    channel = kit.channel(messages=2)
    total = 20_000

    def main() -> tuple[list[int | None], int]:
        sending = threading.Thread(
            target=lambda: [channel.sender.send(message(number), 1, None) for number in range(total)], daemon=True
        )
        sending.start()
        got: list[int | None] = []
        storm = Storm()
        while len(got) < total or storm.hits < 20:
            try:
                storm.armed = True
                number = number_of(channel.receiver.receive(timeout if len(got) < total else 0))
                if number != (got[-1] if got else None) and number is not None:
                    got.append(number)
                channel.receiver.done()
                storm.armed = False
            except KeyboardInterrupt:
                continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        return got, storm.hits

    got, hits = Child(main).result()
    assert got == list(range(total))
    assert hits >= 20
    channel.close()


def test_interruptions_at_any_moment_of_send_noted_leave_a_true_receipt(registry: Path) -> None:
    """System V: the receipt says exactly whether the message was accepted, so none comes twice and none is missing."""
    kit = Kit(Backend.SYSV, kernel.backend(Backend.SYSV))
    channel = kit.channel(messages=2)
    total = 20_000

    def send() -> int:
        storm = Storm()
        number = 0
        while number < total or storm.hits < 20:
            receipt: list[None] = []
            while not receipt:
                try:
                    storm.armed = True
                    channel.sender.send_noted(message(number), 1, receipt)
                    storm.armed = False
                except KeyboardInterrupt:
                    continue
            number += 1
        storm.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.sender.send(message(1 << 40), 1, None)
        return storm.hits

    aside = kit.aside(send)
    got: list[int | None] = []
    while (number := channel.take(20)) != 1 << 40:
        assert number == len(got)
        got.append(number)
    assert len(got) >= total
    assert aside.result() >= 20
    channel.close()
    assert kit.objects.remove(channel.keys)


# -- segments and their views ---------------------------------------------------------------------------------


def test_what_the_sender_writes_the_receiver_reads(kit: Kit) -> None:
    """Both views are flat bytes of exactly the size asked for, which may be less than the segment's."""
    keys = kit.keys()
    assert keys.segment is not None
    memory = kit.objects.create_segment(keys.segment, 3 * PAGE)
    assert (memory.view.nbytes, memory.view.format, memory.view.ndim, memory.view.readonly) == (3 * PAGE, "B", 1, False)
    assert bytes(memory.view) == bytes(3 * PAGE)
    sender = kit.objects.open_segment(keys.segment, Role.SENDER, 3 * PAGE)
    receiver = kit.objects.open_segment(keys.segment, Role.RECEIVER, PAGE + 1)
    assert sender is not None
    assert receiver is not None
    assert (sender.view.nbytes, receiver.view.nbytes, receiver.view.format) == (3 * PAGE, PAGE + 1, "B")
    sender.view[PAGE : PAGE + 1] = b"!"
    memory.view[0:3] = b"abc"
    assert bytes(receiver.view[0:3]) == b"abc"
    assert receiver.view[PAGE] == ord("!")
    for each in (memory, sender, receiver):
        each.close()


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_a_segment_smaller_than_promised_is_refused(kit: Kit, role: Role) -> None:
    """No view may reach past the end, even by less than a page."""
    keys = kit.keys()
    assert keys.segment is not None
    kit.objects.create_segment(keys.segment, PAGE).close()
    for size in (PAGE + 1, 100 * PAGE):
        with pytest.raises((RemoteProtocolError, KernelError)):
            kit.objects.open_segment(keys.segment, role, size)


def test_a_receivers_view_is_read_only(kit: Kit) -> None:
    """Every way of storing through it is an exception, never a signal."""
    channel = kit.channel(segment=True)

    def store() -> None:
        view = channel.memories[1].view
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1
        with pytest.raises(TypeError):
            view[:4] = b"abcd"
        with pytest.raises(TypeError):
            view.cast("Q")[0] = 1
        with pytest.raises(TypeError):
            view[8:16][0] = 1
        with pytest.raises(TypeError):
            ctypes.c_char.from_buffer(view)
        with pytest.raises(BufferError), Path("/dev/zero").open("rb", buffering=0) as zeros:
            os.readv(zeros.fileno(), [view])
        array = np.frombuffer(view, dtype=np.uint8)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        assert bytes(view) == bytes(PAGE)

    survives(store)
    channel.close()


@pytest.mark.parametrize("role", list(Role), ids=str)
@pytest.mark.parametrize("removed", [False, True], ids=["closed", "removed and closed"])
def test_a_view_used_after_close_is_an_error_and_no_crash(kit: Kit, role: Role, removed: bool) -> None:
    """ValueError from every use; closing twice is nothing."""
    channel = kit.channel(segment=True)

    def use() -> None:
        memory = channel.memories[list(Role).index(role)]
        view = memory.view
        if removed:
            assert kit.objects.remove(channel.keys)
        memory.close()
        memory.close()
        gc.collect()
        uses: list[Callable[[], object]] = [
            lambda: view[0],
            lambda: view[:10],
            lambda: bytes(view),
            lambda: len(view),
            lambda: view.cast("Q"),
            lambda: view.tobytes(),
            lambda: view.toreadonly(),
            lambda: memoryview(view),
            lambda: np.frombuffer(view, dtype=np.uint8),
            lambda: view.__setitem__(0, 1),
            lambda: memory.view[0],
        ]
        for each in uses:
            with pytest.raises(ValueError):
                each()

    survives(use)
    channel.close()


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_what_was_derived_from_a_view_outlives_the_channel_without_a_crash(kit: Kit, role: Role) -> None:
    """Slices, casts and arrays keep the mapping until the last of them is gone, and then it is gone too."""
    channel = kit.channel(segment=True)
    channel.memories[0].view[:16] = b"0123456789abcdef"

    def use() -> None:
        memory = channel.memories[list(Role).index(role)]
        part, words, array = memory.view[2:6], memory.view.cast("Q"), np.frombuffer(memory.view, dtype=np.uint8)
        channel.close()
        assert kit.objects.remove(channel.keys)
        del memory
        channel.memories.clear()
        gc.collect()
        if kit.which is Backend.POSIX:  # what is removed is marked in its first word
            assert array[1] == ord("I")
        else:
            assert bytes(part) == b"2345"
            assert array[:10].tobytes() == b"0123456789"
            assert words[1] == int.from_bytes(b"89abcdef", "little")
        if role is Role.SENDER:
            part[0] = 7
            assert array[2] == 7
        assert mappings(channel.keys) == (0 if kit.which is Backend.MEMORY else 1)
        part.release()
        words.release()
        del array
        gc.collect()
        assert mappings(channel.keys) == 0

    survives(use)
    channel.close()


def mappings(keys: Keys) -> int:
    """How often this process has the segment mapped."""
    assert keys.segment is not None
    names = (keys.segment, f"/SYSV{int(keys.segment):08x}" if keys.segment.isdecimal() else keys.segment)
    return sum(any(name in line for name in names) for line in Path("/proc/self/maps").read_text().splitlines())


# -- the sender's own segment ---------------------------------------------------------------------------------


def own(kit: Kit, key: str, known: int) -> tuple[Memory, int, bool]:
    """The sender's own segment of one page."""
    return kit.objects.own_segment(key, PAGE, gid=None, mode=0o600, known=known)


def test_a_senders_own_segment_is_made_once_and_found_again(kit: Kit) -> None:
    """The number that the first call returned leads to the same bytes; the receiver finds them by key."""
    key = kit.keys().segment
    assert key is not None
    memory, number, made = own(kit, key, 0)
    assert (made, number > 0, memory.view.nbytes, memory.view.readonly) == (True, True, PAGE, False)
    memory.view[:4] = b"mine"
    memory.close()
    again, same, made = own(kit, key, number)
    assert (made, same, again.view[:4].tobytes()) == (False, number, b"mine")
    receiver = kit.objects.open_segment(key, Role.RECEIVER, PAGE)
    assert receiver is not None
    assert bytes(receiver.view[:4]) == b"mine"
    receiver.close()
    again.close()


@pytest.mark.parametrize("by", ["nobody", "a stranger", "another of this user"])
def test_a_senders_own_segment_that_is_lost_is_not_made_anew(kit: Kit, by: str) -> None:
    """Its blocks are counted: neither a new one nor another that stands under the key takes its place."""
    keys = kit.keys()
    assert keys.segment is not None
    memory, number, _ = own(kit, keys.segment, 0)
    memory.close()
    assert kit.objects.remove(keys)
    if by != "nobody":
        kit.objects.create_segment(keys.segment, PAGE).close()
        if by == "a stranger":
            kit.objects.give_segment(keys.segment, STRANGER, STRANGER, 0o666)
    with pytest.raises((Broken, Denied)):
        own(kit, keys.segment, number)
    if by == "nobody":
        assert kit.objects.open_segment(keys.segment, Role.SENDER, PAGE) is None


def test_a_strangers_segment_under_the_senders_key_is_denied(kit: Kit) -> None:
    """However wide its mode: what is written there would be the stranger's."""
    key = kit.keys().segment
    assert key is not None
    kit.objects.create_segment(key, PAGE).close()
    kit.objects.give_segment(key, STRANGER, STRANGER, 0o666)
    with pytest.raises(Denied):
        own(kit, key, 0)
