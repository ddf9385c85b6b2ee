# SPDX-License-Identifier: Apache-2.0
"""One role's side of a channel on the libsipc wire: how its calls wait, and how long a view lives.

Must not know what a message means: `proto/libsipc` does.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Never, Self

from sipc.errors import (
    Busy,
    Closed,
    LocalProtocolError,
    RemoteProtocolError,
    SpecError,
    Timeout,
)
from sipc.kernel import Memory, Queue
from sipc.libsipc.names import BLOCK, CREATOR, RECEIVER, SENDER, SYSV_SHM, IpcType, Request, Role
from sipc.libsipc.objects import chunk, member
from sipc.proto.libsipc import (
    QueueReceiver,
    QueueReceiverState,
    QueueSender,
    ShmReceiver,
    ShmReceiverState,
    ShmSender,
)

__all__ = ("Handle",)

_IN_USE, _CLOSED = "in use", "closed"


class Handle:
    """One role's side of a channel: what the C library calls `sipc_t`.  Made by `open`, not by hand."""

    def __init__(
        self,
        role: Role,
        ipc_type: IpcType,
        size: int,
        *,
        queue: Queue | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.role = role
        self.ipc_type = ipc_type
        self.size = size
        self._queue = queue
        self._memory = memory
        self._sender: ShmSender | QueueSender | None = None
        self._receiver: ShmReceiver | QueueReceiver | None = None
        if role is SENDER:
            self._sender = ShmSender() if ipc_type is SYSV_SHM else QueueSender(chunk())
        elif role is RECEIVER:
            self._receiver = ShmReceiver(size) if ipc_type is SYSV_SHM else QueueReceiver(size)
        # Which message was tried last; not empty once it was accepted.
        self._receipt: tuple[int, list[None]] = (-1, [])
        self._wait: float | None = None
        self._data: memoryview | None = None  # what get_data_ptr gave last
        self._buffer: bytearray | None = None  # what it is a view of, in SYSV_MQUEUES
        self._block: memoryview | None = None  # what recv_data gave last, until shm_recv_done
        self._barred: str | None = None  # why no call may begin, None when one may

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._barred is _CLOSED

    @property
    def pending(self) -> bool:
        """Whether a `send_data` that raised is under way: its first message was accepted, its last was not.

        Then do not send that data again; the next `get_data_ptr` or `send_data` completes it first.  When it
        is not pending, `sent` tells whether all of it was sent or nothing.
        """
        sender = self._sender
        if sender is None:
            return False
        self._settle(sender)
        return sender.pending

    @property
    def sent(self) -> int:
        """How many `send_data` were completed, counting one that raised at the very end."""
        sender = self._sender
        if sender is None:
            return 0
        self._settle(sender)
        return sender.sent

    def close(self) -> None:
        """Let go of the objects, which go on existing; release every view given out.  Again: do nothing.

        Never waits: what is `pending` stays so, and the peer waits for it in vain.
        """
        self._barred = _CLOSED
        self._buffer = None
        for view in (self._data, self._block):
            if view is not None:
                # Lent out: the memory stays mapped for as long as the borrower lives.
                with suppress(BufferError):
                    view.release()
        if self._memory is not None:
            self._memory.close()
        if self._queue is not None:
            self._queue.close()

    def ioctl(self, request: int) -> None:
        """Let `recv_data` wait (BLOCK, as at first) or not (NOBLOCK).  Nothing else is affected.

        Raises `SpecError` for any other request, `Closed`.
        """
        request = member(Request, "request", request)
        self._check()
        self._wait = None if request is BLOCK else 0

    def get_data_ptr(self) -> memoryview:
        """Return a view of `size` bytes: for a sender to fill before `send_data`, read-only for a receiver.

        It is the segment, or in SYSV_MQUEUES a buffer of this handle's own (a receiver's is never filled: use
        what `recv_data` returns).  It is the same view until the handle is closed, you release it, or a
        `send_data` into the segment is interrupted half-way: then the receiver may be reading, so the view is
        released, and this call first waits until the receiver has finished.

        Raises `LocalProtocolError` for a creator (C: NULL), `Broken` from completing a send, `Closed`.
        """
        self._check()
        if self.role is CREATOR:
            raise LocalProtocolError("a creator has no data: open the channel as SENDER or RECEIVER")
        self._barred = _IN_USE
        try:
            if self.pending and self._sender is not None:
                self._complete(self._sender)
            return self._view()
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def send_data(self, length: int) -> None:
        """Send the first `length` bytes of `get_data_ptr()`; 0 is a message too.

        SYSV_SHM: returns when the receiver has finished with the block, so the segment may be written again.
        SYSV_MQUEUES: returns when all of it is in the queue.  Waits for as long as that takes, whatever
        `ioctl` said.  A signal handler may raise out of it: see `pending`.

        Raises `SpecError` for a length that is not 0 to `size` (C: ENOMEM), `LocalProtocolError` for another
        role (C: EBADF), `Broken` when the queue was removed, `Closed`, `KernelError`.
        """
        self._check()
        sender = self._sender
        if sender is None:
            raise LocalProtocolError(f"send_data on a handle opened as {self.role.name}: open one as SENDER")
        if not isinstance(length, int) or not 0 <= length <= self.size:
            raise SpecError(
                f"length = {length!r} is out of range: this handle was opened for {self.size} bytes"
            )
        self._barred = _IN_USE
        try:
            if self.pending:
                self._complete(sender)
            if isinstance(sender, ShmSender):
                sender.begin(length)
            else:
                # A copy: what is written into the buffer after an interruption is not of this message.
                sender.begin(bytes(self._view()[:length]))
            self._complete(sender)
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def recv_data(self) -> memoryview | bytes:
        """Return the next message, of at most `size` bytes.

        SYSV_SHM: a read-only view into the segment.  It is yours until `shm_recv_done`, which releases it;
        copy what you keep, for slices and arrays of it go on showing whatever is there.  A hostile sender can
        write there at any time: what you check, check in a copy.
        SYSV_MQUEUES: bytes.

        Raises `Timeout` after `ioctl(NOBLOCK)` when nothing, or only the beginning, is there (C: EAGAIN);
        the next call goes on where this one stopped.  `RemoteProtocolError` when the sender broke the
        protocol, now and at every later call: nothing of that message is handed on.  `LocalProtocolError`
        for another role (C: EBADF), or before `shm_recv_done`; `Broken` when the queue was removed; `Closed`.
        """
        self._check()
        receiver = self._receiver
        if receiver is None:
            raise LocalProtocolError(
                f"recv_data on a handle opened as {self.role.name}: open one as RECEIVER"
            )
        if receiver.failure is not None:
            raise receiver.failure
        self._barred = _IN_USE
        try:
            if isinstance(receiver, ShmReceiver):
                return self._receive_block(receiver)
            while receiver.state is not QueueReceiverState.COMPLETE:
                self._take(receiver, self._wait)
            return receiver.take()
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def shm_recv_done(self) -> None:
        """Release the view that `recv_data` gave, and let the sender write again.

        Waits for the sender's two messages even after `ioctl(NOBLOCK)`: an honest sender sends them at once.
        Call it again when a signal handler raised out of it.

        Raises `LocalProtocolError` when no block is held or this is not a SYSV_SHM receiver (C: EINVAL), or
        when the view is lent out (a `PickleBuffer`): let go of that and call again.
        `RemoteProtocolError`, `Broken`, `Closed`.
        """
        self._check()
        receiver = self._receiver
        if not isinstance(receiver, ShmReceiver):
            raise LocalProtocolError("shm_recv_done is for a receiver of SYSV_SHM: this handle is another")
        if receiver.failure is not None:
            raise receiver.failure
        if receiver.state is ShmReceiverState.WAITING and self._block is None:
            raise LocalProtocolError("shm_recv_done without a block: call recv_data first")
        self._barred = _IN_USE
        try:
            if self._block is not None:
                self._release_block(self._block)
            if receiver.state is ShmReceiverState.HOLDING:
                receiver.finish()
            while receiver.state in (ShmReceiverState.RELEASING, ShmReceiverState.FINISHING):
                self._take(receiver, None)
            self._block = None  # last: until then, calling again is right
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def _check(self) -> None:
        if self._barred is _CLOSED:
            raise Closed("this handle was closed: open the channel again")
        if self._barred is not None:
            raise Busy(
                "this handle is in a call already, in another thread or under a signal handler: one at a time"
            )

    def _complete(self, sender: ShmSender | QueueSender) -> None:
        """Send what is due until nothing is."""
        queue = self._open_queue()
        try:
            while (due := sender.due) is not None:
                self._receipt = sender.count, []
                queue.send_noted(*due, self._receipt[1])
                self._settle(sender)
        except BaseException:
            if isinstance(sender, ShmSender) and self.pending and self._data is not None:
                with suppress(BufferError):
                    self._data.release()
            raise

    def _settle(self, sender: ShmSender | QueueSender) -> None:
        """Tell the machine of a message that was accepted just before a signal handler raised."""
        count, accepted = self._receipt
        if accepted and count == sender.count:
            sender.accepted()

    def _take(self, receiver: ShmReceiver | QueueReceiver, timeout: float | None) -> None:
        """Have one message judged."""
        queue = self._open_queue()
        try:
            message = queue.receive(timeout)
        except RemoteProtocolError as error:
            receiver.fail(error)
        if message is None:
            raise Timeout(
                "no message is there (EAGAIN), and NOBLOCK was asked for: call again later, or use BLOCK"
            )
        receiver.feed(message)
        queue.done()

    def _receive_block(self, receiver: ShmReceiver) -> memoryview:
        if receiver.state is ShmReceiverState.WAITING:
            self._block = None
            while receiver.state is ShmReceiverState.WAITING:
                self._take(receiver, self._wait)
        elif receiver.state is not ShmReceiverState.HOLDING or self._block is not None:
            raise LocalProtocolError("the block before this one is still held: call shm_recv_done first")
        self._block = self._segment()[: receiver.length]
        return self._block

    def _release_block(self, block: memoryview) -> None:
        try:
            block.release()
        except BufferError as error:
            raise LocalProtocolError(
                "recv_data's view is lent to another object: let go of that, then call shm_recv_done again"
            ) from error

    def _view(self) -> memoryview:
        if self._data is not None:
            try:
                len(self._data)
            except ValueError:  # released
                self._data = None
        if self._data is None:
            self._data = self._segment()[:] if self.ipc_type is SYSV_SHM else self._private()
        return self._data

    def _private(self) -> memoryview:
        if self._buffer is None:
            self._buffer = bytearray(self.size)
        view = memoryview(self._buffer)
        return view if self.role is SENDER else view.toreadonly()

    def _segment(self) -> memoryview:
        if self._memory is None or self.closed:
            self._gone()
        return self._memory.view

    def _open_queue(self) -> Queue:
        if self._queue is None or self.closed:
            self._gone()
        return self._queue

    def _gone(self) -> Never:
        raise Closed("this handle was closed, by another thread or a signal handler: open the channel again")
