# SPDX-License-Identifier: Apache-2.0
"""Taking blocks: the part of a receiving end that waits, judges and copies one block at a time.

Owns the block in hand, the cursor that moves when it is finished, and the segment that may come late.  What a
field may be is judged in `proto/receiver.py`; what blocks mean to a caller is `receiver.py`.
"""

from __future__ import annotations

import io
import os
import time
import zlib

from sipc.cursor import Cursor
from sipc.endpoint import COPY_PIECE, Endpoint, Parts
from sipc.errors import Broken, EndOfStream, RemoteProtocolError, SipcError, Timeout
from sipc.proto.control import CONTROL_SIZE, Flag
from sipc.proto.receiver import ReceiverEvent, ReceiverMachine
from sipc.proto.segment import Segment
from sipc.spec import Transport

__all__ = ("BlockReceiver",)

_MORE = int(Flag.MORE)
_BLOCK, _END = int(ReceiverEvent.BLOCK), int(ReceiverEvent.END)


class BlockReceiver(Endpoint):
    """What `Receiver` is built on."""

    def __init__(self, parts: Parts, cursor: str | os.PathLike[str] | None = None) -> None:
        super().__init__(parts)
        self._segment: Segment | None = None
        self._cursor: Cursor | None = None
        self._queue = parts.queue
        self._taken = False  # the caller has what the machine holds
        spec, epoch = parts.spec, parts.descriptor.epoch
        if cursor is not None:
            self._cursor = Cursor(cursor, epoch)
        kept = self._cursor.kept() if self._cursor is not None else []
        self._parts_of_message: list[bytes] = kept
        self._machine = ReceiverMachine(
            geometry=spec.geometry,
            epoch=epoch,
            segment=None,
            max_message=spec.max_message,
            cursor=self._cursor.seq if self._cursor is not None else None,
            record_bytes=sum(map(len, kept)) if kept else None,
        )
        self._waits_for_segment = spec.transport is Transport.SEGMENT
        self._attach()
        self._recover = cursor is not None

    def _attach(self) -> None:
        """Take up the segment as soon as its creator has finished it."""
        memory = self._parts.memory
        if not self._waits_for_segment or memory is None:
            return
        spec = self._parts.spec
        segment = Segment(memory.view, spec.geometry)
        try:
            segment.check(spec.geometry, self._parts.descriptor.epoch)
        except RemoteProtocolError:
            segment.release()
            if spec.segment_creator == "helper":
                raise
            return  # the sender has made it but not yet filled it
        self._segment = segment
        self._machine.attach(segment)
        self._waits_for_segment = False

    @property
    def last_seq(self) -> int | None:
        """Number of the last finished block; None when nothing is known yet."""
        return self._machine.cursor

    @property
    def sender_restarted(self) -> bool:
        """Whether, within this stream, a sender went away without closing and another took over."""
        return self._machine.restarted

    def _finish_block(self) -> None:
        """The caller is done with the block in hand: the cursor first, then the right to consume the next."""
        machine, cursor = self._machine, self._cursor
        if cursor is not None:
            cursor.seq = machine.seq
            if not machine.flags & _MORE:
                cursor.drop_kept()
        machine.finish()
        self._queue.done()
        self._taken = False

    def _next_block(self, deadline: float | None) -> None:
        """Have a block in hand that the caller has not seen.  Raises at the end of the stream."""
        machine = self._machine
        if machine.holding:
            if not self._taken:
                return  # a call before this one was interrupted after consuming it
            self._finish_block()
        if machine.ended:
            raise self._end()
        if machine.failure is not None:
            raise machine.failure  # at once: its message may have been consumed, so that waiting would be for ever
        self._taken = False  # again: an exception may have come between finishing a block and noting it
        if self._recover:
            self._recover = False
            event = machine.recover()
            if event == _END:
                raise self._end()
            if event:
                return
        receive = self._queue.receive
        while not self._consume(receive(None if deadline is None else max(0.0, deadline - time.monotonic()))):
            pass

    def _consume(self, got: tuple[bytes, int | None] | None) -> bool:
        """Judge the message received; whether it gave a block.  Raises at the end of the stream."""
        if got is None:
            raise Timeout(
                f"channel {self.name!r}: no message in time; if the sender is sending, its messages may be of a "
                "type or mode that this process may not read"
            )
        if self._waits_for_segment:
            self._look_for_segment(got[0])
        event = self._machine.feed(*got)
        if event == _BLOCK:
            return True
        self._queue.done()
        if event == _END:
            raise self._end()
        return False

    def _look_for_segment(self, message: bytes) -> None:
        self._parts.attach_late()
        self._attach()
        if self._waits_for_segment and message[1:2] != b"\x02":
            self._machine.fail(RemoteProtocolError("segment", "absent", "made and filled before the first block"))

    def _end(self) -> SipcError:
        if self._cursor is not None:
            self._cursor.seq = self._machine.seq
            self._cursor.drop_kept()
        if self._machine.cut:
            return Broken(
                f"channel {self.name!r}: the sender cut its stream before the end; open the channel again for its next"
            )
        return EndOfStream(f"channel {self.name!r}: the sender closed its stream")

    def _view(self) -> memoryview:
        """The block in hand, where it lies."""
        machine = self._machine
        if self._segment is not None:
            return self._segment.slots[machine.slot][: machine.length]
        got = self._queue.receive(0)
        if got is None:
            raise SipcError("the block in hand is gone; please report this as a bug")
        return memoryview(got[0])[CONTROL_SIZE:]

    def _copy(self) -> bytes:
        """A private copy of the block in hand, its checksum verified."""
        machine = self._machine
        length = machine.length
        if self._segment is None:
            with self._view() as view:
                copy = bytes(view)
        elif length > COPY_PIECE:
            # In pieces; and BytesIO hands out its buffer as bytes as it is, where a second copy would hold the
            # interpreter lock throughout.
            gathered, slot = io.BytesIO(), self._segment.slots[machine.slot]
            for start in range(0, length, COPY_PIECE):
                gathered.write(slot[start : min(start + COPY_PIECE, length)])
            copy = gathered.getvalue()
        else:
            copy = bytes(self._segment.slots[machine.slot][:length])
        if machine.crc:
            self._check_sum(zlib.crc32(copy))
        return copy

    def _check_sum(self, crc: int) -> None:
        if crc != self._machine.crc:
            self._machine.fail(RemoteProtocolError("crc32", crc, f"{self._machine.crc}, as the sender wrote"))

    def _let_go(self, why: str) -> None:
        if self._segment is not None:
            self._segment.release()
        if self._cursor is not None:
            self._cursor.close()
        super()._let_go(why)
