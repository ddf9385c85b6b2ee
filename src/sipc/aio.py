# SPDX-License-Identifier: Apache-2.0
"""Both ends of a channel for asyncio: the same verbs as coroutines, none of which blocks the event loop.

    async with sipc.aio.open_sender("feed") as sender:
        await sender.send(b"hello")

    async with sipc.aio.open_receiver("feed") as receiver:
        async for message in receiver:
            ...

Owns waiting, and nothing else: every step is the blocking end's own, taken without waiting, so the protocol has
one implementation.  Between steps the loop runs.  A POSIX queue has a descriptor that the loop watches; System V
has none, so a wait there looks again after a pause that grows to 2 ms (as `kernel/base.py` does for time-outs).
A thread that waits in msgrcv(2) would be woken sooner, and could not be cancelled.

Cancelling a call at any `await` loses and repeats nothing.  A message cancelled while it was sent was either not
sent, or, once its block is committed, counts as sent (`last_seq` tells) and is announced by the next call; of a
message larger than a slot the receiver drops what it got.  A second call while one is under way gets `Busy`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from sipc.channel import open_receiver as _open_receiver
from sipc.channel import open_sender as _open_sender
from sipc.endpoint import COPY_PIECE, Endpoint
from sipc.endpoint_policy import EndpointPolicy
from sipc.errors import Busy, ChannelNotFound, EndOfStream, Timeout
from sipc.proto.sender import Resumption
from sipc.receiver import Block, Receiver
from sipc.registry import search_path
from sipc.sender import Buffer, Reservation, Sender
from sipc.spec import ChannelSpec
from sipc.watch import watching

__all__ = ("AsyncReceiver", "AsyncSender", "open_receiver", "open_sender")

_T = TypeVar("_T")
_End = TypeVar("_End", bound="AsyncSender | AsyncReceiver")
_FIRST_PAUSE, _LONGEST_PAUSE = 50e-6, 2e-3  # seconds
_LOOK = 0.1  # seconds between looks at whether a POSIX channel still lives
_Deadline = float | None


class _Opening(AbstractAsyncContextManager[_End, None], Generic[_End]):
    """What `open_sender` and `open_receiver` return: await it for the end, or use it in `async with`."""

    def __init__(self, opening: Callable[[], Generator[object, None, _End]]) -> None:
        self._opening = opening
        self._end: _End | None = None

    def __await__(self) -> Generator[object, None, _End]:
        return self._opening()

    async def __aenter__(self) -> _End:
        self._end = await self
        return self._end

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end is not None:
            await self._end.__aexit__(kind, error, trace)


def open_sender(
    name: str,
    *,
    registry: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    key: str | os.PathLike[str] | None = None,
    policy: EndpointPolicy | None = None,
) -> _Opening[AsyncSender]:
    """Open the sending end: `await` it, or use it in `async with`.  Arguments and errors as `sipc.open_sender`."""

    def attempt() -> AsyncSender:
        return AsyncSender(_open_sender(name, registry=registry, timeout=0, key=key, policy=policy))

    return _Opening(lambda: _opened(name, registry, timeout, attempt).__await__())


def open_receiver(
    name: str,
    *,
    cursor: str | os.PathLike[str] | None = None,
    registry: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    key: str | os.PathLike[str] | None = None,
    policy: EndpointPolicy | None = None,
    peer: EndpointPolicy | None = None,
) -> _Opening[AsyncReceiver]:
    """Open the receiving end: `await` it, or use it in `async with`.  The rest as `sipc.open_receiver`."""

    def attempt() -> AsyncReceiver:
        end = _open_receiver(name, cursor=cursor, registry=registry, timeout=0, key=key, policy=policy, peer=peer)
        return AsyncReceiver(end)

    return _Opening(lambda: _opened(name, registry, timeout, attempt).__await__())


async def _opened(
    name: str, registry: str | os.PathLike[str] | None, timeout: float | None, attempt: Callable[[], _End]
) -> _End:
    """Open when the channel is there; until then the loop watches the registry."""
    deadline = None if timeout is None else time.monotonic() + timeout
    directories = search_path(registry)
    while True:
        with watching(directories) as fd:
            try:
                return attempt()
            except ChannelNotFound:
                left = _left(deadline)
                if left is not None and left <= 0:
                    if not timeout:
                        raise
                    raise Timeout(
                        f"channel {name!r} did not appear in {' or '.join(map(str, directories))} "
                        f"within {timeout} s: has its helper run?"
                    ) from None
            await _readable(fd, left)


def _left(deadline: _Deadline) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


async def _readable(fd: int, timeout: float | None, *, writing: bool = False) -> None:
    """Wait until a descriptor is ready, or the time is over."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, wake)
    try:
        await asyncio.wait((ready,), timeout=timeout)
    finally:
        remove(fd)


class _AsyncEnd:
    """What both ends share: one call at a time, and waiting."""

    def __init__(self, end: Endpoint) -> None:
        self._endpoint = end
        self._busy = False

    async def __aenter__(self) -> Self:
        return self

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._endpoint.name

    @property
    def epoch(self) -> int:
        """The channel's epoch: a replaced channel has another."""
        return self._endpoint.epoch

    @property
    def spec(self) -> ChannelSpec:
        """The channel's description."""
        return self._endpoint.spec

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._endpoint.closed

    def confine(self) -> None:
        """Give up what this end's role has no use for, as the blocking ends' `confine`."""
        self._endpoint.confine()

    @contextmanager
    def _call(self) -> Iterator[None]:
        if self._busy:
            raise Busy("another task is in a call on this end: one at a time")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def _until(self, attempt: Callable[[], _T], deadline: _Deadline) -> _T:
        """Call `attempt`, which raises `Timeout` when it would have to wait, until it does not."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except Timeout:
                left = _left(deadline)
                if left is not None and left <= 0:
                    raise
            pause = await self._pause(pause, left)

    async def _pause(self, pause: float, left: float | None) -> float:
        """Let the loop run until it may be worth trying again; returns the next pause."""
        fd = self._endpoint.fileno()
        if fd is None:
            await asyncio.sleep(pause if left is None else min(pause, left))
            return min(pause * 1.5, _LONGEST_PAUSE)
        writing = isinstance(self._endpoint, Sender)
        await _readable(fd, _LOOK if left is None else min(_LOOK, left), writing=writing)
        return pause


class AsyncSender(_AsyncEnd):
    """The one sender of a channel, for asyncio; made by `open_sender`.  `timeout` in seconds, None for ever."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(sender)
        self._end = sender

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close in order, or, when the block raised, cut the stream without waiting."""
        if kind is None:
            await self.close()
        else:
            self.abort()

    @property
    def resumption(self) -> Resumption:
        """What this sender found of its predecessor."""
        return self._end.resumption

    @property
    def last_seq(self) -> int:
        """Number of the newest block that is real."""
        return self._end.last_seq

    @property
    def pending(self) -> bool:
        """Whether the newest block still waits for its announcement; any later call makes it."""
        return self._end.pending

    async def send(self, data: Buffer, timeout: float | None = None) -> None:
        """Send one message, as `Sender.send`."""
        with self._call():
            await self._send(memoryview(data).cast("B"), None if timeout is None else time.monotonic() + timeout)

    async def send_many(self, messages: Sequence[Buffer], timeout: float | None = None) -> None:
        """Send many messages at once, packed, as `Sender.send_many`."""
        with self._call():
            deadline = None if timeout is None else time.monotonic() + timeout
            sent = 0
            try:
                for end, data, flags in self._end._runs(messages):
                    if flags is None:
                        await self._send(memoryview(data), deadline)
                    else:
                        await self._put(data, flags, deadline)
                    sent = end
            except Timeout as error:
                error.sent = sent
                raise

    async def _send(self, view: memoryview, deadline: _Deadline) -> None:
        copied = 0
        for piece, flags in self._end._pieces(view):
            await self._put(piece, flags, deadline)
            copied += piece.nbytes
            if copied >= COPY_PIECE:
                copied = 0
                await asyncio.sleep(0)

    async def _put(self, view: Buffer, flags: int, deadline: _Deadline) -> None:
        await self._until(lambda: self._end._put_now(view, flags), deadline)
        await self._announced(deadline)

    async def _announced(self, deadline: _Deadline) -> None:
        """Wait until the queue has taken the announcement; when time runs out the next call makes it."""
        try:
            await self._until(self._end._announce_now, deadline)
        except Timeout:
            return

    @asynccontextmanager
    async def reserve(self, size: int, timeout: float | None = None) -> AsyncIterator[Reservation]:
        """Fill a slot in place: `async with sender.reserve(n) as slot`, as `Sender.reserve`."""
        with self._call():
            deadline = None if timeout is None else time.monotonic() + timeout
            with ExitStack() as stack:
                yield await self._until(lambda: stack.enter_context(self._end.reserve(size, 0)), deadline)
            await self._announced(deadline)

    async def flush(self, timeout: float | None = None) -> None:
        """Return once the receiver has finished every message, as `Sender.flush`."""
        with self._call():
            deadline = None if timeout is None else time.monotonic() + timeout
            await self._until(lambda: self._end.flush(0), deadline)

    async def close(self, timeout: float | None = None) -> None:
        """End the stream in order and let go of the channel, as `Sender.close`."""
        if self.closed:
            return
        with self._call():
            deadline = None if timeout is None else time.monotonic() + timeout
            try:
                await self._until(self._end._close_now, deadline)
            finally:
                self._end._let_go("you closed it")

    def abort(self) -> None:
        """Cut the stream, without waiting, and let go of the channel."""
        self._end.abort()


class AsyncReceiver(_AsyncEnd):
    """The one receiver of a channel, for asyncio; made by `open_receiver`.  Iterate it with `async for`."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver)
        self._end = receiver

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; when the block raised, the last message counts as not finished and comes again."""
        self._end.__exit__(kind, error, trace)

    @property
    def last_seq(self) -> int | None:
        """Number of the last finished block; None when nothing is known yet."""
        return self._end.last_seq

    @property
    def sender_restarted(self) -> bool:
        """Whether, within this stream, a sender went away without closing and another took over."""
        return self._end.sender_restarted

    async def receive(self, timeout: float | None = None) -> bytes:
        """The next whole message, as a private copy, as `Receiver.receive`."""
        with self._call():
            return await self._by_block(self._end._receive_block, timeout)

    async def receive_many(self, timeout: float | None = None) -> list[bytes]:
        """The rest of the records of one block, or one message alone, as `Receiver.receive_many`."""
        with self._call():
            first = await self._by_block(self._end._receive_block, timeout)
            return [first, *self._end._rest_of_records()]

    async def receive_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Copy the next whole message into `buffer`; returns its length in bytes, as `Receiver.receive_into`."""
        with self._call(), self._end._filling(buffer) as fill:
            return await self._by_block(fill, timeout)

    async def _by_block(self, take: Callable[[], _T | None], timeout: float | None) -> _T:
        """Take blocks until they make a message; the loop gets to run after every MiB."""
        deadline = None if timeout is None else time.monotonic() + timeout
        taken = 0
        while True:
            message = await self._until(take, deadline)
            if message is not None:
                return message
            taken += self._end.spec.geometry.slot_size
            if taken >= COPY_PIECE:
                taken = 0
                await asyncio.sleep(0)

    async def finish(self) -> None:
        """Count everything handed out so far as finished, as `Receiver.finish`."""
        with self._call():
            self._end.finish()

    @asynccontextmanager
    async def unsafe_borrow(self, timeout: float | None = None) -> AsyncIterator[Block]:
        """Look at the next block in place, without a copy, as `Receiver.unsafe_borrow`: unsafe in the same way."""
        with self._call(), ExitStack() as stack:
            deadline = None if timeout is None else time.monotonic() + timeout
            yield await self._until(lambda: stack.enter_context(self._end.unsafe_borrow(0)), deadline)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over messages until the stream is closed in order."""
        while True:
            try:
                message = await self.receive()
            except EndOfStream:
                return
            yield message

    async def close(self) -> None:
        """Let go of the channel, as `Receiver.close`."""
        self._end.close()
