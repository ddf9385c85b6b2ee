# SPDX-License-Identifier: Apache-2.0
"""The asyncio ends: the same verbs, a loop that goes on, and cancellation that loses nothing."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.channels import Child, make
from tests.support.descriptors import descriptors

import sipc
import sipc.aio

pytestmark = pytest.mark.host

SLOT = 4096
KINDS: dict[str, dict[str, Any]] = {
    "sysv": {"backend": "sysv"},
    "posix": {"backend": "posix"},
    "queue": {"transport": "queue", "slot_size": 1024},
}


@pytest.fixture(params=sorted(KINDS))
def channel(request: pytest.FixtureRequest, registry: Path) -> Path:
    """A channel `c` of each kind; its registry."""
    make(registry, "c", **{"slot_size": SLOT} | KINDS[request.param])
    return registry


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on a loop that complains about anything left undone, at most half a minute."""

    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(limited(), debug=True)


async def both(registry: Path) -> tuple[sipc.aio.AsyncSender, sipc.aio.AsyncReceiver]:
    """Both ends of channel `c`."""
    return await sipc.aio.open_sender("c", registry=registry), await sipc.aio.open_receiver("c", registry=registry)


def test_messages_of_all_sizes_cross_in_order(channel: Path) -> None:
    """Sent one by one and together, from tasks of one loop."""
    messages = [os.urandom(size) for size in (0, 1, 1023, 1024, 1025, SLOT, SLOT + 1, 10 * SLOT + 7, 3)]

    async def main() -> None:
        async def send() -> None:
            async with sipc.aio.open_sender("c", registry=channel) as sender:
                for message in messages:
                    await sender.send(message)
                await sender.send_many(messages)
                await sender.flush()
                assert sender.pending is False

        async with sipc.aio.open_receiver("c", registry=channel) as receiver, asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            assert [message async for message in receiver] == messages * 2

    run(main)


def test_the_other_verbs(channel: Path) -> None:
    """reserve, receive_into, receive_many, unsafe_borrow, finish."""

    async def main() -> None:
        sender, receiver = await both(channel)
        assert (sender.name, sender.epoch, sender.spec) == (receiver.name, receiver.epoch, receiver.spec)
        async with sender.reserve(8) as slot:
            slot.view[:] = b"in place"
        buffer = bytearray(3 * SLOT)
        assert await receiver.receive_into(buffer) == 8
        assert buffer[:8] == b"in place"
        await sender.send_many([b"a", b"bb", b"ccc"])
        assert await receiver.receive_many() == [b"a", b"bb", b"ccc"]
        await sender.send_many([b"x", b"y"])
        assert await receiver.receive() == b"x"
        assert await receiver.receive_into(buffer) == 1
        await sender.send(b"borrowed")
        async with receiver.unsafe_borrow() as block:
            assert bytes(block.view) == b"borrowed"
            assert block.view.readonly
        await receiver.finish()
        assert receiver.last_seq == sender.last_seq == 4
        large = os.urandom(2 * SLOT + 5)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.send(large))
            assert await receiver.receive_into(buffer) == len(large)
        assert buffer[: len(large)] == large
        with pytest.raises(KeyError):
            async with sender.reserve(4):
                raise KeyError
        await sender.send(b"after")
        assert await receiver.receive() == b"after"
        closing = asyncio.ensure_future(sender.close())
        with pytest.raises(sipc.EndOfStream):
            await receiver.receive()
        await closing
        await receiver.close()
        with pytest.raises(sipc.Closed):
            await receiver.receive()
        with pytest.raises(sipc.Closed):
            await sender.send(b"")

    run(main)


def test_the_loop_goes_on_while_an_end_waits(channel: Path) -> None:
    """Other tasks get their turns, and a wait ends by time or by another task's message."""

    async def main() -> None:
        sender, receiver = await both(channel)
        waiting = asyncio.ensure_future(receiver.receive())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        with pytest.raises(sipc.Busy):
            await receiver.receive()
        await sender.send(b"now")
        assert await waiting == b"now"
        with pytest.raises(sipc.Timeout):
            await receiver.receive(timeout=0.01)
        with pytest.raises(sipc.Timeout):
            while True:  # until slots and queue are full
                await sender.send(b"x" * 1000, timeout=0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await sender.flush()
        sender.abort()
        await receiver.close()

    run(main)


def test_a_large_message_lets_other_tasks_run(registry: Path) -> None:
    """Between pieces of a message that is always ready the loop turns."""
    make(registry, "c")
    size = 64 << 20

    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with sipc.aio.open_receiver("c", registry=registry) as receiver:
            counting = asyncio.ensure_future(count())
            buffer = bytearray(size)
            assert await receiver.receive_into(buffer) == size
            seen = turns
            assert len(await receiver.receive()) == size
            assert seen > size >> 21
            assert turns - seen > size >> 21
            counting.cancel()
            with pytest.raises(sipc.EndOfStream):
                await receiver.receive()

    def send() -> None:
        with sipc.open_sender("c", registry=registry) as sender:
            sender.send(bytes(size))
            sender.send(bytes(size))

    child = Child(send)
    run(main)
    child.result()


def test_ends_wait_for_a_channel_without_blocking_the_loop(registry: Path) -> None:
    """Opened before the helper ran; or not opened in time."""

    async def main() -> None:
        opening = asyncio.ensure_future(_opened(registry))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not opening.done()
        make(registry, "c")
        receiver = await opening
        await receiver.close()
        with pytest.raises(sipc.Timeout):
            await sipc.aio.open_sender("other", registry=registry, timeout=0.01)
        with pytest.raises(sipc.ChannelNotFound):
            await sipc.aio.open_sender("other", registry=registry, timeout=0)

    async def _opened(place: Path) -> sipc.aio.AsyncReceiver:
        return await sipc.aio.open_receiver("c", registry=place, timeout=30)

    run(main)


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_a_channel_destroyed_under_a_waiting_end_breaks_it(backend: str, registry: Path) -> None:
    """Both ends, whichever call they are in."""
    make(registry, "c", backend=backend, slot_size=SLOT)

    async def main() -> None:
        sender, receiver = await both(registry)
        waiting = asyncio.ensure_future(receiver.receive())
        await asyncio.sleep(0)
        make(registry, "c", backend=backend, slot_size=SLOT, replacing=True)
        with pytest.raises(sipc.Broken):
            await waiting
        with pytest.raises(sipc.Broken):
            await sender.send(b"x")
        await sender.close()
        await receiver.close()

    run(main)


def test_a_call_cancelled_at_any_turn_loses_and_repeats_nothing(channel: Path) -> None:
    """Every turn of the loop in turn, on both ends, for messages of one block and of several."""

    async def main() -> None:
        sender, receiver = await both(channel)
        got: list[int] = []
        number = 0

        async def take(until: int) -> None:
            while not got or got[-1] < until:
                message = await receiver.receive()
                got.append(struct.unpack_from("<Q", message)[0])
                assert message == _filled(got[-1])

        for turns in range(60):
            # The sender is cancelled after so many turns; what it committed arrives, what it did not never does.
            taking = asyncio.ensure_future(take(1 << 62))
            before = sender.last_seq
            sending = asyncio.ensure_future(sender.send(_filled(number)))
            for _ in range(turns % 30):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait((sending,))
            # Committed to its last block, it counts as sent, although its call was cancelled.
            blocks = -(-len(_filled(number)) // sender.spec.geometry.slot_size)
            whole = not sending.cancelled() or sender.last_seq - before == blocks
            number += whole
            # The receiver too, wherever it is.
            taking.cancel()
            await asyncio.wait((taking,))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(take(number))
            tasks.create_task(sender.send(_filled(number)))
        assert got == list(range(number + 1))
        sender.abort()
        await receiver.close()

    run(main)


def _filled(number: int) -> bytes:
    """Message `number`: one block for even numbers, several for odd ones."""
    return struct.pack("<Q", number) * (1 if number % 2 == 0 else 2000)


def test_a_storm_of_cancellations(channel: Path) -> None:
    """Both ends in tasks that are cancelled at random; the sender goes on from `last_seq`."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    total = 300

    async def main() -> None:
        sender, receiver = await both(channel)
        got: list[int] = []

        async def take() -> None:
            while len(got) < total:
                got.append(struct.unpack("<Q", await receiver.receive())[0])

        async def send() -> None:
            while sender.last_seq < total or sender.pending:
                if sender.last_seq < total:
                    await sender.send(struct.pack("<Q", sender.last_seq))
                else:
                    await sender.flush(timeout=0.001)

        async def stormed(act: Callable[[], Awaitable[None]], done: Callable[[], bool]) -> None:
            while not done():
                task = asyncio.ensure_future(act())
                for _ in range(chance.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait((task,))
                assert task.cancelled() or task.exception() is None or isinstance(task.exception(), sipc.Timeout)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stormed(send, lambda: sender.last_seq >= total and not sender.pending))
            tasks.create_task(stormed(take, lambda: len(got) >= total))
        assert got == list(range(total))
        sender.abort()
        await receiver.close()

    run(main)


def test_nothing_is_left_behind(channel: Path) -> None:
    """No thread and no descriptor survives the ends."""
    before = descriptors(), threading.active_count()

    async def main() -> None:
        sender, receiver = await both(channel)
        await sender.send(b"x")
        assert await receiver.receive() == b"x"
        sender.abort()
        await receiver.close()

    run(main)
    assert (descriptors(), threading.active_count()) == before


def test_receive_into_makes_no_copy_of_its_own(registry: Path) -> None:
    """A large message costs the caller's buffer and nothing like it."""
    make(registry, "c")
    size = 32 << 20

    def send() -> None:
        with sipc.open_sender("c", registry=registry) as sender:
            sender.send(bytes(size))

    async def main() -> None:
        buffer = bytearray(size)
        async with sipc.aio.open_receiver("c", registry=registry) as receiver:
            tracemalloc.start()
            try:
                assert await receiver.receive_into(buffer) == size
                assert tracemalloc.get_traced_memory()[1] < 4 << 20
            finally:
                tracemalloc.stop()
            with pytest.raises(sipc.EndOfStream):
                await receiver.receive()

    child = Child(send)
    run(main)
    child.result()
