# SPDX-License-Identifier: Apache-2.0
"""The API of the C library libsipc 1.2, and its wire: either side may be a C program, and so may the helper.

Owns the names of that API, how its objects are found, made and let go, and how long a view lives.  Must not
know what a message means: `proto/libsipc.py` does.  Nothing here asks SELinux or a registry: this module is
for talking to programs that exist.  Two Python programs are better off with the sipc2 wire.

    receiver = libsipc.open("/etc/sensor.key", libsipc.RECEIVER, libsipc.SYSV_SHM, 4096)
    block = receiver.recv_data()
    ...
    receiver.shm_recv_done()

A handle is for one thread at a time.  A forked child may go on with it, as C programs do, if its parent does
not.  Source: DESIGN section 4, docs/libsipc.md.
"""

from __future__ import annotations

import enum
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import Final, Never, Self, TypeVar

import sysv_ipc

from sipc import spec
from sipc.errors import (
    Busy,
    ChannelExists,
    ChannelNotFound,
    Closed,
    LocalProtocolError,
    RemoteProtocolError,
    SipcError,
    SpecError,
    Timeout,
)
from sipc.kernel import Keys, KeyTaken, Memory, Queue, backend, limits
from sipc.proto.libsipc import (
    CONTROL_SIZE,
    LONGEST_LENGTH,
    QueueReceiver,
    QueueReceiverState,
    QueueSender,
    ShmReceiver,
    ShmReceiverState,
    ShmSender,
    chunk_size,
)

__all__ = (
    "BLOCK",
    "CREATOR",
    "NOBLOCK",
    "RECEIVER",
    "SENDER",
    "SYSV_MQUEUES",
    "SYSV_SHM",
    "Handle",
    "IpcType",
    "Request",
    "Role",
    "open",
    "unlink",
)


class Role(enum.IntEnum):
    """What a handle is for: to make the objects, to write, to read."""

    CREATOR = 0
    SENDER = 1
    RECEIVER = 2


class IpcType(enum.IntEnum):
    """Where the data travels: in a shared segment, or inside the queue's messages."""

    SYSV_SHM = 0
    SYSV_MQUEUES = 1


class Request(enum.IntEnum):
    """What `Handle.ioctl` sets: whether `recv_data` waits."""

    BLOCK = 0
    NOBLOCK = 1


CREATOR: Final = Role.CREATOR
SENDER: Final = Role.SENDER
RECEIVER: Final = Role.RECEIVER
SYSV_SHM: Final = IpcType.SYSV_SHM
SYSV_MQUEUES: Final = IpcType.SYSV_MQUEUES
BLOCK: Final = Request.BLOCK
NOBLOCK: Final = Request.NOBLOCK

_Enum = TypeVar("_Enum", bound=enum.IntEnum)
_PROJECT = ord("a")  # ftok(3)'s second argument
_PERMISSIONS = 0o666  # the bits that System V IPC knows
_FILL = bytes(1 << 20)
_IN_USE, _CLOSED = "in use", "closed"
# Where /proc is not mounted: the values Linux starts with (linux/ipc_namespace.h, uapi/linux/msg.h).
_MSGSIZE_MAX, _MSGMAX, _MSGMNB = 8192, 8192, 16384


def open(  # noqa: A001 - the C name; used as libsipc.open
    key: str | os.PathLike[str], role: int, ipc_type: int, size: int, *, mode: int = 0o600
) -> Handle:
    """Make (CREATOR) or open (SENDER, RECEIVER) the channel that belongs to the file `key`.

    `size` is the longest message in bytes, the same for all three; a CREATOR of SYSV_MQUEUES may say 0.
    `mode` is for CREATOR alone: permission bits of queue and segment, octal.  The default 0600 admits one
    user.  The C library makes them 0666, which admits everybody in both directions unless SELinux says no;
    if your peers run as other users, say what they need (0o660 for a group).

    The caller closes the handle; closing never removes objects, `unlink` does.  Open the ends after the
    creator has returned: a C creator's queue holds more than one message until its limit is set.

    Raises `SpecError` for an argument that can not be, `ChannelExists` for CREATOR when queue or segment are
    there already (`unlink` them, or take another file), `ChannelNotFound` when they are not, `Denied`,
    `KernelError`.  After a failure nothing was made or stays open.
    """
    role, ipc_type = _member(Role, "role", role), _member(IpcType, "ipc_type", ipc_type)
    least = 0 if ipc_type is SYSV_MQUEUES else 1
    if not isinstance(size, int) or not least <= size <= sys.maxsize:  # a larger size_t can not be mapped
        raise SpecError(f"size = {size!r} is out of range: give a whole number of bytes, at least {least}")
    if not isinstance(mode, int) or mode & ~_PERMISSIONS:
        raise SpecError(f"mode = {mode!r} has bits that a queue does not know: stay within 0o666")
    number = _key_of(key)
    if role is CREATOR:
        _create(number, ipc_type, size, mode, key)
        return Handle(role, ipc_type, size)
    end = spec.Role.SENDER if role is SENDER else spec.Role.RECEIVER
    objects = backend(spec.Backend.SYSV)
    memory = None
    if ipc_type is SYSV_SHM:
        memory = objects.open_segment(number, end, size)
        if memory is None:
            raise ChannelNotFound(f"no segment with the key of {key!r} ({number}): run the creator first")
    try:
        queue = objects.open_queue(number, end, message_size=_message_size(ipc_type), memory=memory)
    except BaseException:
        if memory is not None:
            memory.close()
        raise
    return Handle(role, ipc_type, size, queue=queue, memory=memory)


def unlink(key: str | os.PathLike[str], ipc_type: int) -> bool:
    """Remove queue and (SYSV_SHM) segment of the file `key`; returns whether there was any of them.

    Whoever waits on the queue is woken; a segment lives on, without its key, until its last user lets go.
    Raises `SpecError` when the file can not be looked at, `Denied` when the objects belong to somebody else.
    """
    number = _key_of(key)
    segment = number if _member(IpcType, "ipc_type", ipc_type) is SYSV_SHM else None
    return backend(spec.Backend.SYSV).remove(Keys(queue=number, segment=segment))


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
            self._sender = ShmSender() if ipc_type is SYSV_SHM else QueueSender(_chunk())
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
        request = _member(Request, "request", request)
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


def _member(kind: type[_Enum], name: str, value: int) -> _Enum:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(f"{one.name} ({one.value})" for one in kind)
        raise SpecError(f"{name} = {value!r} is none of {choices}") from None


def _key_of(key: str | os.PathLike[str]) -> str:
    """Make the System V key of a file, as ftok(3) does: of device, inode and 'a'."""
    try:
        path = os.fsdecode(key)
        number = int(sysv_ipc.ftok(path, _PROJECT, silence_warning=True))
    except (OSError, TypeError, ValueError) as error:
        raise SpecError(
            f"key = {key!r} gives no key ({error}): name a file that exists and stays, the same for all"
        ) from error
    return str(number)


def _chunk() -> int:
    """Bytes in a full chunk; no more than a message or a queue holds here, where a C sender would fail."""
    return min(
        chunk_size(limits.read("fs.mqueue.msgsize_max") or _MSGSIZE_MAX),
        limits.read("kernel.msgmax") or _MSGMAX,
        limits.read("kernel.msgmnb") or _MSGMNB,
    )


def _message_size(ipc_type: IpcType) -> int:
    """Bytes of the largest message that is accepted."""
    if ipc_type is SYSV_SHM:
        return CONTROL_SIZE
    return max(chunk_size(limits.read("fs.mqueue.msgsize_max") or _MSGSIZE_MAX), LONGEST_LENGTH)


def _create(number: str, ipc_type: IpcType, size: int, mode: int, key: str | os.PathLike[str]) -> None:
    """Make the objects, all or none; the segment, which an end looks for first, comes last."""
    objects = backend(spec.Backend.SYSV)
    shared = ipc_type is SYSV_SHM
    # Queue only: the kernel's own limit stays, as in C.
    limit = CONTROL_SIZE if shared else limits.read("kernel.msgmnb") or _MSGMNB
    made: Keys | None = None
    try:
        objects.create_queue(number, messages=1, message_size=limit)
        made = Keys(queue=number, segment=None)
        objects.give_queue(number, None, None, mode)
        if shared:
            memory = objects.create_segment(number, size)
            made = Keys(queue=number, segment=number)
            try:
                # Every page: one that the receiver touches first would show that it did (DESIGN section 6).
                for start in range(0, size, len(_FILL)):
                    memory.view[start : start + len(_FILL)] = _FILL[: size - start]
            finally:
                memory.close()
            objects.give_segment(number, None, None, mode)
    except BaseException as error:
        if made is not None:
            with suppress(SipcError):
                objects.remove(made)
        if isinstance(error, KeyTaken):
            raise ChannelExists(
                f"queue or segment of {key!r} exist already (key {number}): "
                "unlink(key, ipc_type) removes them, if no one uses them; or use another file"
            ) from error
        raise
