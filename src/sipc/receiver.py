# SPDX-License-Identifier: Apache-2.0
"""The receiving end: blocks out of the segment, messages to the caller.

Owns how blocks become messages, and when a message counts as finished: when the caller asks for the next one,
calls `finish()`, or leaves the `with` block without an exception.  Only then the cursor moves and the block's
slot may be used again.  What a field may be is judged in `proto/receiver.py`.

Messages are private copies: a sender that keeps writing to the segment can change what is copied, never what
was handed on.  `unsafe_borrow` is the one way to look at the shared bytes in place; where blocks have tags there is
none, and it shows the verified copy.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from sipc.blocks import BlockReceiver
from sipc.endpoint import _IN_USE, COPY_PIECE, Parts, copy_in_pieces, flat
from sipc.endpoint_policy import EndpointPolicy
from sipc.errors import EndOfStream, RemoteProtocolError, SipcError, SpecError
from sipc.last_sender import Vouched
from sipc.proto import records as packing
from sipc.proto.control import Flag
from sipc.proto.receiver import ReceiverEvent

if TYPE_CHECKING:
    from sipc.proto.tags import Tags  # brings OpenSSL, which only those pay for who have tags

__all__ = ("Block", "Receiver")

_MORE, _RECORDS, _CONTINUED = int(Flag.MORE), int(Flag.RECORDS), int(Flag.CONTINUED)
_BLOCK, _END = int(ReceiverEvent.BLOCK), int(ReceiverEvent.END)


class Block:
    """One block, borrowed in place: `view` shows memory that the sender can still change."""

    __slots__ = ("continued", "more", "records", "seq", "view")

    def __init__(self, view: memoryview, seq: int, flags: int) -> None:
        self.view = view
        self.seq = seq
        self.more = bool(flags & _MORE)
        self.continued = bool(flags & _CONTINUED)
        self.records = bool(flags & _RECORDS)


class Receiver(BlockReceiver):
    """The one receiver of a channel; made by `sipc.open_receiver`.  Iterate it for whole messages.

    `timeout` is in seconds everywhere: None waits for ever, 0 does not wait.  A `Timeout` loses nothing: what
    arrived of a large message is kept, and the next call goes on.
    """

    def __init__(
        self,
        parts: Parts,
        cursor: str | os.PathLike[str] | None = None,
        tags: Tags | None = None,
        peer: EndpointPolicy | None = None,
        vouched: Vouched | None = None,
    ) -> None:
        super().__init__(parts, cursor, tags, peer, vouched)
        self._records: list[bytes] = []  # records of the block in hand
        self._next_record = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; when the block raised, the last message counts as not finished and comes again."""
        if kind is None and not self.closed and self._machine.failure is None:
            self.finish()
        self.close()

    @property
    def record(self) -> int:
        """Which record of its block the message is that was handed out last; 0 for a message alone."""
        return self._next_record - 1 if self._records else 0

    def _keep_part(self, part: bytes) -> None:
        """Store one block of a message that goes on, and let its slot go."""
        machine = self._machine
        if not machine.flags & _CONTINUED:
            self._parts_of_message = []  # what came before was given up by its sender
            if self._cursor is not None:
                self._cursor.drop_kept()
        if self._cursor is not None:
            self._cursor.keep(machine.seq, part)
        self._parts_of_message = [*self._parts_of_message, part] if machine.flags & _CONTINUED else [part]
        self._taken = True
        self._finish_block()

    def _message(self, deadline: float | None) -> bytes | None:
        """The next whole message; None when the block holds records (then `_records` has them)."""
        while True:
            self._next_block(deadline)
            part = self._take_block()
            if part is not None or not self._machine.flags & _MORE:
                return part

    def _take_block(self) -> bytes | None:
        """Copy the block in hand: the message that it completes, else None (it goes on, or has records)."""
        machine = self._machine
        flags = machine.flags
        part = self._copy()
        if flags & _RECORDS:
            self._take_records(part)
            return None
        if flags & _MORE:
            self._keep_part(part)
            return None
        if flags & _CONTINUED:
            part = b"".join((*self._parts_of_message, part))
        if flags:
            self._parts_of_message = []
        self._taken = True
        return part

    def _take_records(self, block: bytes) -> None:
        try:
            records = packing.unpack(block)
        except RemoteProtocolError as error:
            self._machine.fail(error)
        self._next_record = self._cursor.records if self._cursor is not None else 0
        self._records = records
        self._taken = True

    def _record(self) -> bytes | None:
        """The next record of the block in hand, if there is one left."""
        index = self._next_record
        if self._cursor is not None:
            self._cursor.finished_records(index)
        if index < len(self._records):
            self._next_record = index + 1
            return self._records[index]
        self._records = []
        return None

    # -- steps that do not wait, for `sipc.aio`: each raises `Timeout` when it would have to -------------------

    def _receive_block(self) -> bytes | None:
        """One block's worth of `receive`: a message, or None when it takes another step."""
        with self._exclusive():
            if self._records and (record := self._record()) is not None:
                return record
            self._next_block(0.0)
            return self._take_block()

    def _rest_of_records(self) -> list[bytes]:
        with self._exclusive():
            rest = self._records[self._next_record :]
            self._next_record = len(self._records)
            return rest

    @contextmanager
    def _filling(self, buffer: bytearray | memoryview) -> Iterator[Callable[[], int | None]]:
        """One block's worth of `receive_into` at a time: the length, or None when it takes another step."""
        target = memoryview(buffer).cast("B")
        done = 0

        def fill() -> int | None:
            nonlocal done
            with self._exclusive():
                if self._next_record < len(self._records):
                    return self._record_into(target)
                self._records = []
                self._next_block(0.0)
                if self._machine.flags & _RECORDS:
                    self._take_records(self._copy())
                    return None
                if not self._machine.flags & _CONTINUED:
                    done = 0
                start, done = done, self._block_into(target, done)
                return None if self._pass_part(target[start:done]) else done

        try:
            for part in self._parts_of_message:
                done = self._put_into(target, done, memoryview(part))
            yield fill
        except BaseException:
            self._save_parts(target, done)
            raise

    # -- the caller's side ---------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> bytes:
        """The next whole message, as a private copy.

        Raises `EndOfStream` after the last one, `Broken` when the stream was cut or the channel removed,
        `Timeout`, `RemoteProtocolError` (terminal).

        A signal handler that raises while this waits loses nothing.  One that raises at the very moment of the
        return can keep the message from the caller, as with any call: then leave the `with` block by that
        exception and open again (with a cursor the message comes again), or use `unsafe_borrow`.
        """
        if self._barred is not None:
            raise self._refuse()
        try:
            self._barred = _IN_USE
            deadline = None if timeout is None else time.monotonic() + timeout
            while True:
                if self._records and (record := self._record()) is not None:
                    return record
                message = self._message(deadline)
                if message is not None:
                    return message
        except SipcError as error:
            self._note(error)
            raise
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def receive_many(self, timeout: float | None = None) -> list[bytes]:
        """The rest of the records of one block, or one message alone; at least one.  Faster than one by one.

        All of them count as finished together, when the next is asked for.
        """
        with self._exclusive():
            deadline = None if timeout is None else time.monotonic() + timeout
            while True:
                if self._records:
                    index, batch = self._next_record, self._records
                    if index < len(batch):
                        self._next_record = len(batch)
                        return batch[index:]
                    self._records = []
                message = self._message(deadline)
                if message is not None:
                    return [message]

    def receive_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Copy the next whole message into `buffer` (writable, contiguous bytes); returns its length in bytes.

        Nothing is lost when it does not fit: `SpecError` is raised and `receive()` returns the message.
        """
        if self._barred is not None:
            raise self._refuse()
        try:
            self._barred = _IN_USE
            deadline = None if timeout is None else time.monotonic() + timeout
            target = flat(buffer)
            machine, queue, size = self._machine, self._queue, target.nbytes
            plain = deadline is None and self._cursor is None and self._tags is None
            plain = plain and self.spec.geometry.slot_size <= COPY_PIECE
            done = 0
            try:
                for part in self._parts_of_message:
                    done = self._put_into(target, done, memoryview(part))
                while True:
                    if self._next_record < len(self._records):
                        return self._record_into(target)
                    self._records = []
                    self._next_block(deadline)
                    slots = self._segment.slots if plain and self._segment is not None else None
                    flags = machine.flags
                    if flags & _RECORDS:
                        self._take_records(self._copy())
                        continue
                    while slots is not None and not flags & _RECORDS and not machine.crc:
                        # The usual block of a large message and the wait for the next, in few calls.
                        if not flags & _CONTINUED:
                            done = 0
                        end = done + machine.length
                        if end > size:
                            break
                        target[done:end] = slots[machine.slot][: machine.length]
                        done = end
                        self._parts_of_message = []
                        self._taken = True
                        if not flags & _MORE:
                            return done
                        machine.finish()
                        queue.done()
                        self._taken = False
                        if not self._consume(queue.receive(None)):
                            break
                        flags = machine.flags
                    if not machine.holding or flags & _RECORDS:
                        continue
                    if not flags & _CONTINUED:
                        done = 0
                    start, done = done, self._block_into(target, done)
                    if not self._pass_part(target[start:done]):
                        return done
            except BaseException:
                self._save_parts(target, done)
                raise
        except SipcError as error:
            self._note(error)
            raise
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def _block_into(self, target: memoryview, start: int) -> int:
        """Copy the block in hand into the caller's buffer from `start` on; returns where it ends."""
        view = self._view()
        end = self._put_into(target, start, view)
        view.release()
        if self._machine.crc:
            self._check_sum(zlib.crc32(target[start:end]))
        return end

    def _pass_part(self, part: memoryview) -> bool:
        """Count the block, which lies in the caller's buffer already; whether its message goes on."""
        machine, cursor = self._machine, self._cursor
        more = bool(machine.flags & _MORE)
        if more and cursor is not None:
            if not machine.flags & _CONTINUED:
                cursor.drop_kept()
            cursor.keep(machine.seq, bytes(part))
        if not more or not machine.flags & _CONTINUED:
            self._parts_of_message = []
        self._taken = True
        if more:
            self._finish_block()
        return more

    def _save_parts(self, target: memoryview, done: int) -> None:
        """The call did not get its whole message: keep what only the caller's buffer holds."""
        kept = self._machine.record_bytes or 0
        if self._machine.holding and self._machine.flags & _CONTINUED:
            kept -= self._machine.length  # the block in hand was not finished; it is copied anew
        if 0 < kept <= done:
            self._parts_of_message = [bytes(target[:kept])]

    def _record_into(self, target: memoryview) -> int:
        index = self._next_record
        if self._cursor is not None:
            self._cursor.finished_records(index)
        size = self._put_into(target, 0, memoryview(self._records[index]))
        self._next_record = index + 1
        return size

    def _put_into(self, target: memoryview, start: int, view: memoryview) -> int:
        end = start + view.nbytes
        if end > target.nbytes:
            raise SpecError(
                f"receive_into: the buffer has {target.nbytes} bytes and the message at least {end}: "
                "receive() returns it whole"
            )
        if view.nbytes <= COPY_PIECE:
            target[start:end] = view
        else:
            copy_in_pieces(target[start:end], view, view.nbytes)
        return end

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over messages until the stream is closed in order."""
        while True:
            try:
                message = self.receive()
            except EndOfStream:
                return
            yield message
            # Without a cursor to move, what is left of a block's records needs no call; a loop that is left before
            # its end leaves them to the next.
            while self._cursor is None and self._barred is None and self._next_record < len(self._records):
                index = self._next_record
                self._next_record = index + 1
                yield self._records[index]

    def finish(self) -> None:
        """Count everything handed out so far as finished, now instead of at the next call: the cursor moves."""
        with self._exclusive():
            if self._records:
                if self._cursor is not None:
                    self._cursor.finished_records(self._next_record)
                if self._next_record < len(self._records):
                    return
                self._records = []
            if self._machine.holding and self._taken:
                self._finish_block()

    @contextmanager
    def unsafe_borrow(self, timeout: float | None = None) -> Iterator[Block]:
        """Look at the next block in place, without a copy: `with receiver.unsafe_borrow() as block`.

        Unsafe against a hostile sender: the bytes of `block.view` can change while they are looked at, so they
        must not be checked and used afterwards.  The view is read-only and unusable after the `with`.  Leaving
        it finishes the block; an exception inside does not, and the block comes again.
        """
        with self._exclusive():
            if self._records and self._next_record < len(self._records):
                raise SpecError("unsafe_borrow: records of the block before are left: take them with receive_many()")
            self._records = []
            self._next_block(None if timeout is None else time.monotonic() + timeout)
            machine = self._machine
            view = self._view()
            try:
                if machine.crc:
                    self._check_sum(zlib.crc32(view))
                yield Block(view, machine.seq, machine.flags)
            finally:
                view.release()
            self._taken = True
            self._finish_block()

    def close(self) -> None:
        """Let go of the channel; a second call does nothing.  A message not yet finished comes again (cursor)."""
        if self.closed:
            return
        if self._barred is not None:
            raise self._refuse()
        self._let_go("you closed it")
