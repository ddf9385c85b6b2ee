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
from typing import TYPE_CHECKING

from sipc.cursor import Cursor
from sipc.endpoint import COPY_PIECE, Endpoint, Parts
from sipc.endpoint_policy import EndpointPolicy, Verdict
from sipc.errors import Broken, EndOfStream, RemoteProtocolError, SipcError, SpecError, Timeout
from sipc.last_sender import LastSender, Memory, Vouched
from sipc.proto.control import CONTROL_SIZE, Flag
from sipc.proto.receiver import ReceiverEvent, ReceiverMachine
from sipc.proto.segment import Segment
from sipc.spec import TAG_SIZE, Backend, Enforcement, Transport

if TYPE_CHECKING:
    from sipc.proto.tags import Tags  # brings OpenSSL, which only those pay for who have tags

__all__ = ("BlockReceiver",)

_MORE = int(Flag.MORE)
_BLOCK, _END = int(ReceiverEvent.BLOCK), int(ReceiverEvent.END)


class BlockReceiver(Endpoint):
    """What `Receiver` is built on."""

    def __init__(
        self,
        parts: Parts,
        cursor: str | os.PathLike[str] | None = None,
        tags: Tags | None = None,
        peer: EndpointPolicy | None = None,
        vouched: Vouched | None = None,
    ) -> None:
        super().__init__(parts)
        self._tags = tags
        self._verified = b""  # where blocks have tags: the copy that was verified, which alone is handed on
        self._segment: Segment | None = None
        self._cursor: Cursor | None = None
        self._queue = parts.queue
        self._peer = None if peer is None else self._last_sender(peer, cursor, vouched)
        self._looks = peer is not None
        self._judged = 0  # the block that was last in hand when its sender was judged
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
            verify=None if tags is None else self._verify,
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
    def at_end(self) -> bool:
        """Whether the last finished block closed its stream in order, by this process or, with a cursor, by another."""
        return self._cursor.at_end if self._cursor is not None else self._machine.ended and not self._machine.cut

    @property
    def violated(self) -> bool:
        """Whether the sender broke the protocol: this receiver is finished."""
        return isinstance(self._machine.failure, RemoteProtocolError)

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

    def _finish_unseen(self) -> None:
        """Finish the block after the cursor, if it is still there: who opened this end has it from a predecessor."""
        self._recover = False
        event = self._machine.recover()
        if event == _BLOCK:
            self._parts_of_message = []
            self._finish_block()
        elif event == _END:
            self._end()

    def _next_block(self, deadline: float | None) -> None:
        """Have a block in hand that the caller has not seen.  Raises at the end of the stream."""
        machine = self._machine
        if machine.holding:
            if not self._taken:
                if self._peer is not None:
                    self._judge_sender()
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
                if self._peer is not None:
                    self._judge_sender()
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
            if self._peer is not None:
                self._judge_sender()
            return True
        self._queue.done()
        if event == _END:
            raise self._end()
        return False

    def _last_sender(
        self, policy: EndpointPolicy, cursor: str | os.PathLike[str] | None = None, vouched: Vouched | None = None
    ) -> LastSender:
        """Who sent last, to be judged.  Raises `SpecError` where that may not be asked or can not be told."""
        spec = self._parts.spec
        if spec.enforcement is not Enforcement.DAC:
            raise SpecError(
                f"channel {self.name!r}: who sent last is shown by IPC_STAT, which no end may call under "
                "enforcement = 'selinux': there the policy says who may send; leave the peer policy out"
            )
        if spec.backend is not Backend.SYSV:
            raise SpecError(
                f"channel {self.name!r}: only System V queues tell who sent last: use backend = 'sysv', or tags"
            )
        return LastSender(policy, self._queue, Memory(policy, self._parts.descriptor.epoch, cursor), vouched)

    def check_peer(self, policy: EndpointPolicy) -> Verdict:
        """Judge the process that put the last message on the queue; raises `Denied`, naming every rule that it failed.

        For `enforcement = "dac"` and System V alone, else `SpecError`: it looks at the queue (IPC_STAT).
        """
        if self._barred is not None:
            raise self._refuse()
        sender = self._last_sender(policy)
        try:
            verdict = sender.verdict()
        finally:
            sender.close()
        verdict.require(f"channel {self.name!r}: the process that sent last")
        return verdict

    def _judge_sender(self) -> None:
        """Before a block is handed on: whoever sent last must be whom the peer policy allows."""
        machine = self._machine
        if self._peer is None or self._judged == machine.seq:
            return
        verdict = self._peer.verdict()
        if not verdict.allowed:
            machine.fail(
                RemoteProtocolError(
                    "last sender", verdict.pid, f"a process that the peer policy allows ({'; '.join(verdict.refusals)})"
                )
            )
        self._judged = machine.seq

    def _look_for_segment(self, message: bytes) -> None:
        self._parts.attach_late()
        self._attach()
        if self._waits_for_segment and message[1:2] != b"\x02":
            self._machine.fail(RemoteProtocolError("segment", "absent", "made and filled before the first block"))

    def _end(self) -> SipcError:
        if self._cursor is not None:
            if self._machine.cut:
                self._cursor.seq = self._machine.seq
            else:
                self._cursor.ended(self._machine.seq)
            self._cursor.drop_kept()
        if self._machine.cut:
            return Broken(
                f"channel {self.name!r}: the sender cut its stream before the end; open the channel again for its next"
            )
        return EndOfStream(f"channel {self.name!r}: the sender closed its stream")

    def _verify(self, seq: int, slot: int, length: int, flags: int) -> None:
        """Copy a block and its tag out of shared memory, where they can still change, then judge the copy."""
        end = length + TAG_SIZE
        if self._segment is not None:
            whole = self._segment.slots[slot]
            payload, tag = _gathered(whole, length), bytes(whole[length:end])
        else:
            message = self._in_queue()
            payload, tag = message[CONTROL_SIZE : CONTROL_SIZE + length], message[CONTROL_SIZE + length :]
        if self._tags is not None:
            self._tags.check(seq, flags, payload, tag)
        self._verified = payload

    def _in_queue(self) -> bytes:
        """The message last received, in the queue transport."""
        got = self._queue.receive(0)
        if got is None:
            raise SipcError("the block in hand is gone; please report this as a bug")
        return got[0]

    def _view(self) -> memoryview:
        """The block in hand, where it lies; with tags: the verified copy of it."""
        machine = self._machine
        if self._tags is not None:
            return memoryview(self._verified)
        if self._segment is not None:
            return self._segment.slots[machine.slot][: machine.length]
        return memoryview(self._in_queue())[CONTROL_SIZE:]

    def _copy(self) -> bytes:
        """A private copy of the block in hand, its checksum verified."""
        machine = self._machine
        if self._tags is not None:
            copy = self._verified
        elif self._segment is None:
            with self._view() as view:
                copy = bytes(view)
        elif machine.length > COPY_PIECE:
            copy = _gathered(self._segment.slots[machine.slot], machine.length)
        else:
            copy = bytes(self._segment.slots[machine.slot][: machine.length])
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
        if self._peer is not None:
            self._peer.close()
        super()._let_go(why)


def _gathered(slot: memoryview, length: int) -> bytes:
    """A private copy of the first bytes of a slot."""
    if length <= COPY_PIECE:
        return bytes(slot[:length])
    # In pieces; and BytesIO hands out its buffer as bytes as it is, where a second copy would hold the interpreter
    # lock throughout.
    gathered = io.BytesIO()
    for start in range(0, length, COPY_PIECE):
        gathered.write(slot[start : min(start + COPY_PIECE, length)])
    return gathered.getvalue()
