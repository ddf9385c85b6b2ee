# SPDX-License-Identifier: Apache-2.0
"""The sending end: messages in, blocks in the segment, announcements on the queue.

Owns how messages become blocks.  Which slot, which order and which message is `proto/sender.py`; waiting is
`kernel/`.  A block goes in three steps, shared with the asyncio sender: `_prepare` (wait until its slot is free),
`_store` (copy and commit), `_announce` (wait until the queue takes its message).

A block is real from its commit on.  If the time given ends between commit and announcement, the call succeeds
and the announcement goes first in the next call; so a `Timeout` always means that nothing will be delivered.
"""

from __future__ import annotations

import time
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, chain
from types import TracebackType
from typing import TYPE_CHECKING, cast

from sipc.endpoint import _IN_USE, COPY_PIECE, Endpoint, Parts, copy_in_pieces, flat
from sipc.errors import Broken, SipcError, SpecError, Timeout
from sipc.kernel import limits
from sipc.proto import records as packing
from sipc.proto.control import CONTROL_SIZE, Flag
from sipc.proto.segment import Segment
from sipc.proto.sender import Resumption, SenderMachine, SenderState
from sipc.spec import TAG_SIZE, SegmentCreator, Transport

if TYPE_CHECKING:
    from sipc.proto.tags import Tags  # brings OpenSSL, which only those pay for who have tags

__all__ = ("Buffer", "Reservation", "Sender")

Buffer = bytes | bytearray | memoryview
_MORE, _RECORDS, _RESTART = int(Flag.MORE), int(Flag.RECORDS), int(Flag.RESTART)
_CLOSE, _CONTINUED = int(Flag.CLOSE), int(Flag.CONTINUED)


class Reservation:
    """A slot being filled in place: write to `view`; set `length` lower to send less than was reserved."""

    __slots__ = ("length", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.length = view.nbytes


class Sender(Endpoint):
    """The one sender of a channel; made by `sipc.open_sender`.

    `timeout` is in seconds everywhere: None waits for ever, 0 does not wait.
    """

    def __init__(self, parts: Parts, tags: Tags | None = None, *, linger: bool = False) -> None:
        super().__init__(parts)
        self._tags = tags
        self._linger = linger
        spec, epoch = parts.spec, parts.descriptor.epoch
        self._segment: Segment | None = None
        if spec.transport is Transport.SEGMENT and parts.memory is not None:
            self._segment = Segment(parts.memory.view, spec.geometry)
            if parts.made_segment or (spec.segment_creator is SegmentCreator.SENDER and self._segment.blank):
                self._segment.format(spec.geometry, epoch)
            self._segment.check(spec.geometry, epoch)
        # Words of the role's state file: epoch; for the queue transport last block and whether closed in order;
        # then the id of a segment of the sender's own; then the newest block whose announcement was accepted.
        self._state = parts.files.state
        known = self._state[0] == epoch
        self._machine = SenderMachine(
            geometry=spec.geometry,
            epoch=epoch,
            segment=self._segment,
            last=self._state[1] if known else 0,
            in_order=not known or self._state[1] == 0 or self._state[2] == 1,
            accepted=self._state[4] if known else 0,
        )
        if not known:
            self._state[1] = self._state[2] = self._state[4] = 0
        self._state[0] = epoch
        self._queue = parts.queue
        self._block_size = spec.block_size
        self._one_block = min(spec.block_size, spec.max_message)
        self._padding = b"" if self._segment is not None else bytes(limits.message_size(spec) - CONTROL_SIZE)
        self._noop = self._machine.noop + self._padding
        self._interrupted = False
        self._first_flags = 0 if self._machine.resumption.in_order else _RESTART
        self._note_accepted = partial(self._state.__setitem__, 4)
        self._plain = self._is_plain()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close in order, or, when the block raised, cut the stream without waiting."""
        if kind is None:
            self.close()
        else:
            self.abort()

    @property
    def resumption(self) -> Resumption:
        """What this sender found of its predecessor: which block survived, and whether a message was cut."""
        return self._machine.resumption

    @property
    def last_seq(self) -> int:
        """Number of the newest block that is real: the receiver gets it even if this process dies now.

        After a call that an exception interrupted (Ctrl-C) it tells whether that call's block was committed.
        """
        self._settle()
        return self._machine.last

    @property
    def pending(self) -> bool:
        """Whether the newest block still waits for its announcement; any later call makes it."""
        self._settle()
        return self._machine.pending is not None

    def send(self, data: Buffer, timeout: float | None = None) -> None:
        """Send one message: any contiguous bytes-like object, of any size up to `max_message` bytes.

        Returns once the channel holds the whole message: it survives this process.  Raises `Timeout` (nothing
        of it will be delivered), `Broken`, `SpecError` when it is too large.  Larger than a slot, it spans
        blocks; if the time runs out midway, the receiver drops what it got.
        """
        if self._barred is not None:
            raise self._refuse()
        try:
            self._barred = _IN_USE
            view = data if type(data) is bytes else flat(data)
            size = len(view)
            if timeout is None and self._plain:
                self._run(((view, 0),) if size <= self._one_block else self._pieces(memoryview(view)))
            elif size <= self._one_block:
                self._put(view, size, 0, None if timeout is None else time.monotonic() + timeout)
            else:
                self._send_large(memoryview(view), timeout)
        except SipcError as error:
            self._note(error)
            raise
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def _run(self, blocks: Iterable[tuple[Buffer, int]]) -> None:
        """The usual case, blocks that wait as long as it takes, in one loop: see `SenderMachine.run`."""
        if self._interrupted or self._machine.pending is not None:
            self._prepare(None)
        self._interrupted = True
        self._machine.run(blocks, self._queue.send, self._note_accepted)
        self._interrupted = False

    def _put(self, view: Buffer, size: int, flags: int, deadline: float | None) -> None:
        self._place(view, size, flags, None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._announce(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _place(self, view: Buffer, size: int, flags: int, timeout: float | None) -> None:
        if not self._prepare(timeout):
            raise Timeout(
                f"channel {self.name!r}: the receiver did not free a slot in time; nothing of this message was sent"
            )
        self._store(view, size, flags)

    def _pieces(self, view: memoryview) -> Iterator[tuple[memoryview, int]]:
        """The blocks of a message larger than a slot, with their flags."""
        size, step = view.nbytes, self._block_size
        if size > self._parts.spec.max_message:
            raise SpecError(
                f"a message of {size} bytes is larger than max_message = {self._parts.spec.max_message} "
                f"of channel {self.name!r}: send it in parts, or raise max_message in the definition"
            )
        for start in range(0, size or 1, step):
            more = _MORE if start + step < size else 0
            yield view[start : start + step], more | (_CONTINUED if start else 0)

    def _send_large(self, view: memoryview, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        for piece, flags in self._pieces(view):
            self._put(piece, piece.nbytes, flags, deadline)

    # -- steps that do not wait, for `sipc.aio`: each raises `Timeout` when it would have to -------------------

    def _put_now(self, view: Buffer, flags: int) -> None:
        with self._exclusive():
            self._place(view, len(view), flags, 0.0)

    def _announce_now(self) -> None:
        with self._exclusive():
            if self._interrupted:
                self._resync()
            if self._machine.pending is not None and not self._announce(0.0):
                raise Timeout(f"channel {self.name!r}: the queue is full")

    def _close_now(self) -> None:
        with self._exclusive():
            if not self._broken:
                self._close_stream(_CLOSE, 0.0)

    # -- the three steps of a block ------------------------------------------------------------------------

    def _prepare(self, timeout: float | None) -> bool:
        """Get ready to write the next block; False when time ran out first."""
        machine = self._machine
        if self._interrupted:
            self._resync()
        if machine.pending is not None and not self._announce(timeout):
            return False
        while not machine.free:
            if not self._send_noop(timeout):
                return False
        return True

    def _store(self, view: Buffer, size: int, flags: int) -> None:
        """Copy a block into its slot and commit it.  After an interruption anywhere, `_resync` finds the truth."""
        machine, segment = self._machine, self._segment
        if self._first_flags and not flags & _CONTINUED:
            flags |= self._first_flags
        self._interrupted = True
        slot = machine.begin()
        crc = 0
        if segment is not None:
            target = segment.slots[slot]
            if size <= COPY_PIECE:
                target[:size] = view
            else:
                copy_in_pieces(target, memoryview(view), size)
            if self._parts.spec.checksum:
                crc = zlib.crc32(view)
            if self._tags is not None:
                # Of the caller's bytes, never of those in the slot, which a squatter may have changed by now.
                end = size + TAG_SIZE
                target[size:end] = self._tags.make(machine.last + 1, flags, view)
                size = end
            machine.commit(size, flags, crc)
        else:
            if self._tags is not None:
                view = bytes(view) + self._tags.make(machine.last + 1, flags, view)
                size += TAG_SIZE
            self._state[1], self._state[2] = machine.last + 1, int(bool(flags & _CLOSE))
            machine.commit(size, flags, 0, view)
        self._committed()

    def _committed(self) -> None:
        """A block is real: what comes next is only its announcement."""
        self._interrupted = False
        if self._first_flags:
            self._first_flags = 0
            self._plain = self._is_plain()

    def _is_plain(self) -> bool:
        """Whether blocks can go in `_run`: small enough to copy at once, without checksum, tag or RESTART."""
        spec = self._parts.spec
        plain = self._segment is not None and not spec.checksum and not self._first_flags
        return plain and self._tags is None and self._block_size <= COPY_PIECE

    def _announce(self, timeout: float | None) -> bool:
        """Transmit the pending message; False when the queue took it not in time (it stays pending)."""
        message = self._machine.pending
        self._interrupted = True
        taken = message is not None and self._queue.send(message, message[1], timeout)
        if taken:
            self._machine.accepted()
            self._state[4] = self._machine.last
        self._interrupted = False
        return taken

    def _send_noop(self, timeout: float | None) -> bool:
        self._interrupted = True
        taken = self._queue.send(self._noop, 2, timeout)
        if taken:
            self._machine.noop_accepted()
        self._interrupted = False
        return taken

    def _settle(self) -> None:
        if self._interrupted and self._barred is None:
            self._resync()

    def _resync(self) -> None:
        """An exception came in the middle of a step (Ctrl-C): read back what is real, as a restart would."""
        self._machine.resync()
        self._interrupted = False

    # -- everything else -----------------------------------------------------------------------------------

    def send_many(self, messages: Sequence[Buffer], timeout: float | None = None) -> None:
        """Send many messages at once, packed into as few blocks as possible.

        The receiver gets the same messages as from `send`.  On `Timeout` its `sent` tells how many were
        accepted, all of them before the rest, of which nothing will be delivered.
        """
        with self._exclusive():
            deadline = None if timeout is None else time.monotonic() + timeout
            sent = 0
            try:
                for end, data, flags in self._runs(messages):
                    if flags is None:
                        left = None if deadline is None else max(0.0, deadline - time.monotonic())
                        self._send_large(memoryview(data), left)
                    else:
                        self._put(data, len(data), flags, deadline)
                    sent = end
            except Timeout as error:
                error.sent = sent
                raise

    def _runs(self, messages: Sequence[Buffer]) -> Iterator[tuple[int, bytes, int | None]]:
        """The blocks of many messages: (messages up to here, bytes, flags); flags None for one larger than a slot."""
        # The types are looked at first: copying bytes into bytes would cost more than all the rest.
        plain = set(map(type, messages)) <= {bytes}
        items = cast("Sequence[bytes]", messages) if plain else [bytes(memoryview(item)) for item in messages]
        for first, end, packed in self._batches(items):
            if packed:
                yield end, packing.pack(items[first:end]), _RECORDS
            else:
                yield end, items[first], 0 if len(items[first]) <= self._one_block else None

    def _batches(self, items: Sequence[bytes]) -> Iterator[tuple[int, int, bool]]:
        """Cut `items` into (first, end, packed) runs that fill a slot each."""
        room = self._one_block - packing.RECORD_OVERHEAD
        costs = list(accumulate(chain((0,), map(len, items))))
        overhead = packing.RECORD_OVERHEAD
        first, count = 0, len(items)
        while first < count:
            base = costs[first] + overhead * first
            end = bisect_right(range(count + 1), base + room, first, key=lambda i: costs[i] + overhead * i) - 1
            if end <= first:
                yield first, first + 1, False
                first += 1
            else:
                yield first, end, True
                first = end

    @contextmanager
    def reserve(self, size: int, timeout: float | None = None) -> Iterator[Reservation]:
        """Fill a slot in place: `with sender.reserve(n) as slot: file.readinto(slot.view)`.

        `size` is at most `spec.block_size` bytes.  Leaving the block sends `slot.length` bytes of `slot.view` as one
        message; an exception inside sends nothing.  The view is unusable afterwards.
        """
        with self._exclusive():
            if not 0 <= size <= self._one_block:
                raise SpecError(f"reserve({size}): one block holds {self._one_block} bytes; send() takes any size")
            deadline = None if timeout is None else time.monotonic() + timeout
            if not self._prepare(timeout):
                raise Timeout(f"channel {self.name!r}: the receiver did not free a slot in time")
            if self._tags is not None:
                # In private: whatever a squatter wrote into a slot while it was filled would be tagged as ours.
                buffer = bytearray(size)
                with memoryview(buffer) as private:
                    held = Reservation(private)
                    yield held
                self._check_length(held.length, size)
                self._store(memoryview(buffer)[: held.length], held.length, 0)
                self._announce(None if deadline is None else max(0.0, deadline - time.monotonic()))
                return
            self._interrupted = True
            slot = self._machine.begin()
            segment = self._segment
            view = memoryview(bytearray(size)) if segment is None else segment.slots[slot][:size]
            held = Reservation(view)
            try:
                yield held
            except BaseException:
                view.release()
                self._machine.abandon()
                self._interrupted = False
                raise
            self._commit_reserved(held, size)
            self._announce(None if deadline is None else max(0.0, deadline - time.monotonic()))

    @staticmethod
    def _check_length(length: int, size: int) -> None:
        if not 0 <= length <= size:
            raise SpecError(f"reservation length {length} is not within the {size} bytes reserved")

    def _commit_reserved(self, held: Reservation, size: int) -> None:
        length, machine = held.length, self._machine
        try:
            self._check_length(length, size)
        except SpecError:
            held.view.release()
            machine.abandon()
            self._interrupted = False
            raise
        crc = 0
        if self._parts.spec.checksum and self._segment is not None:
            crc = zlib.crc32(held.view[:length])
        payload = b""
        if self._segment is None:
            payload = bytes(held.view[:length])
            self._state[1], self._state[2] = machine.last + 1, 0
        held.view.release()
        machine.commit(length, self._first_flags, crc, payload)
        self._committed()

    def flush(self, timeout: float | None = None) -> None:
        """Return once the receiver has finished every message; only the queue tells, by having had room.

        Raises `Timeout`; calling again goes on waiting.
        """
        with self._exclusive():
            self._drain(None if timeout is None else time.monotonic() + timeout)

    def _drain(self, deadline: float | None) -> None:
        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        if self._interrupted:
            self._resync()
        done = self._machine.pending is None or self._announce(left())
        while done and not self._machine.drained:
            done = self._send_noop(left())
        if not done:
            raise Timeout(f"channel {self.name!r}: the receiver has not finished everything in time")

    def close(self, timeout: float | None = None) -> None:
        """End the stream in order and let go of the channel; a second call does nothing.

        Waits until the queue takes the CLOSE message; opened with `linger`, until everything was finished too.
        Whatever happens this end is closed afterwards; after a `Timeout` the end of the stream is announced by the next
        sender that opens.
        """
        if self.closed:
            return
        if self._barred is not None:
            raise self._refuse()
        try:
            with self._exclusive():
                if not self._broken:
                    self._close_stream(_CLOSE, timeout)
        finally:
            self._let_go("you closed it")

    def abort(self) -> None:
        """Cut the stream, without waiting, and let go of the channel: the receiver gets `Broken` if it can be told."""
        if self.closed:
            return
        if self._barred is not None:
            raise self._refuse()
        try:
            with self._exclusive():
                if not self._broken and self._machine.state is not SenderState.CLOSED:
                    self._close_stream(_CLOSE | _MORE, 0.0)
        except (Timeout, Broken):
            pass  # it could not be told; the next sender's first block says that this one never closed
        finally:
            self._let_go("you closed it")

    def _close_stream(self, flags: int, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._interrupted:
            self._resync()
        if self._machine.state is SenderState.CLOSING:  # an earlier close() was interrupted
            self._announce(timeout)
        elif self._machine.state is not SenderState.CLOSED:
            if self._linger and flags == _CLOSE:
                self._drain(deadline)
            self._put(b"", 0, flags, deadline)
        if self._machine.pending is not None:
            raise Timeout(f"channel {self.name!r}: the queue did not take the end of the stream in time")

    def _let_go(self, why: str) -> None:
        if self._segment is not None:
            self._segment.release()
        super()._let_go(why)
