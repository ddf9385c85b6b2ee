# SPDX-License-Identifier: Apache-2.0
"""What both ends of a channel share: opening and letting go of its parts, one caller at a time, fork.

Owns the order in which an end is opened: descriptor, checks, the role's lock, segment, queue.  An end is for one
thread at a time (a second one gets `Busy`, it does not wait) and for the process that opened it (a forked child
gets `Closed`; the parent's end is not touched).
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sipc import enforcement
from sipc.descriptor import Descriptor
from sipc.errors import Broken, Busy, ChannelNotFound, Closed, RegistryError, SipcError
from sipc.kernel import KernelObjects, Memory, Queue, backend, limits
from sipc.registry import Registry, RoleFiles, search_path
from sipc.spec import ChannelSpec, Role, Transport, Wire
from sipc.watch import wait_for

__all__ = ("COPY_PIECE", "Endpoint", "Parts", "copy_in_pieces", "flat", "open_parts")

_IN_USE = "in use"
# A slice assignment holds the interpreter lock.  Up to 1 MiB (about 0.1 ms) that is faster than giving it up;
# more is copied piece by piece, and between pieces other threads run (DESIGN section 6).
COPY_PIECE = 1 << 20
_open_ends: weakref.WeakSet[Endpoint] = weakref.WeakSet()


class Parts:
    """The opened pieces of one end."""

    def __init__(self, registry: Registry, descriptor: Descriptor, role: Role) -> None:
        self.descriptor = descriptor
        self.spec: ChannelSpec = descriptor.spec
        self.role = role
        self.objects: KernelObjects = backend(self.spec.backend)
        self.memory: Memory | None = None
        self.made_segment = False
        self._queue: Queue | None = None
        enforcement.check(descriptor, role, registry)
        registry.check_epoch(descriptor)
        self.files = RoleFiles(registry, self.spec.name, role)
        try:
            if self.spec.transport is Transport.SEGMENT:
                self._open_segment()
            self._queue = self.objects.open_queue(
                descriptor.keys.queue, role, message_size=limits.message_size(self.spec), memory=self.memory
            )
        except BaseException:
            self.close()
            raise

    @property
    def queue(self) -> Queue:
        """The open end of the queue."""
        if self._queue is None:
            raise Closed("this end is closed: open the channel again")
        return self._queue

    def _open_segment(self) -> None:
        from sipc.spec import SegmentCreator, modes  # noqa: PLC0415 - kept beside their only use

        key = self.descriptor.keys.segment
        if key is None:
            raise ChannelNotFound(f"channel {self.spec.name!r} has no segment in its descriptor")
        size = limits.size_of_segment(self.spec)
        own = self.spec.segment_creator is SegmentCreator.SENDER
        if own and self.role is Role.SENDER:
            _, gid, _, mode = modes(self.spec)
            state = self.files.state
            known = state[3] if state[0] == self.descriptor.epoch else 0
            self.memory, number, self.made_segment = self.objects.own_segment(
                key, size, gid=gid, mode=mode, known=known
            )
            state[3] = number
            state[0] = self.descriptor.epoch
            return
        self.memory = self.objects.open_segment(key, self.role, size)
        if self.memory is None and not own:
            raise ChannelNotFound(f"channel {self.spec.name!r}: its segment is gone: create the channel anew")

    def attach_late(self) -> Memory | None:
        """Look again for a segment that its sender had not made when this receiver opened."""
        if self.memory is None:
            self._open_segment()
        return self.memory

    def close(self) -> None:
        """Let go of everything; kernel objects go on existing."""
        if self._queue is not None:
            self._queue.close()
        if self.memory is not None:
            self.memory.close()
        self.files.close()


def open_parts(
    name: str, role: Role, registry: str | os.PathLike[str] | None, timeout: float | None
) -> Parts:
    """Find the channel (waiting for it), check it, and open one end's pieces."""
    directories: list[Path] = search_path(registry)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        place, descriptor = wait_for(name, directories, left)
        with place:
            if descriptor.spec.wire is Wire.LIBSIPC:
                raise SipcError(
                    f"channel {name!r} speaks the libsipc wire: open it with "
                    f"sipc.libsipc.open({descriptor.spec.key_path!r}, ...)"
                )
            try:
                parts = Parts(place, descriptor, role)
            except (ChannelNotFound, RegistryError):
                if _stands(place, descriptor):
                    raise
                continue  # destroyed or replaced between reading the descriptor and opening its objects
            try:
                if _stands(place, descriptor):
                    return parts
            except BaseException:
                parts.close()
                raise
            parts.close()


def _stands(place: Registry, descriptor: Descriptor) -> bool:
    """Whether the channel is still published.

    Its keys can be read by others, so once it is destroyed anybody may put objects under them.  The helper withdraws
    the descriptor before it removes an object: what was opened before this look, which finds it, was the helper's.
    """
    try:
        return place.read(descriptor.spec.name).epoch == descriptor.epoch
    except ChannelNotFound:
        return False


class Endpoint:
    """Base of `Sender` and `Receiver`."""

    def __init__(self, parts: Parts) -> None:
        self._parts: Parts = parts
        # None when free; else why no call may go on: a call in progress, or closed.
        self._barred: str | None = None
        self._broken = False
        self._looks = False  # whether this end asks the queue who sent last
        _open_ends.add(self)

    def __enter__(self) -> Self:
        return self

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._parts.spec.name

    @property
    def epoch(self) -> int:
        """The channel's epoch: a replaced channel has another."""
        return self._parts.descriptor.epoch

    @property
    def spec(self) -> ChannelSpec:
        """The channel's description."""
        return self._parts.spec

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._barred not in (None, _IN_USE)

    def confine(self) -> None:
        """Give up, in this whole process and for good, every call that this end's role has no use for.

        Seccomp filters for what SELinux does not see, and for the other direction's calls; they end in EPERM.  Use
        it when everything is open that the process needs.  What is refused and what stays is in docs/seccomp.md; a
        receiver with a `peer` policy keeps the one call that tells who sent last.
        Raises `PolicyUnavailable` without libseccomp, `KernelError` when the kernel takes no filter.
        """
        if self._barred is not None:
            raise self._refuse()
        from sipc.kernel import seccomp  # noqa: PLC0415 - only for those who ask for it

        seccomp.confine(self._parts.role, looks=self._looks)

    def fileno(self) -> int | None:
        """A descriptor that polls ready when the queue is, None where the backend has none (System V)."""
        return self._parts.queue.fileno()

    def _refuse(self) -> SipcError:
        if self._barred == _IN_USE:
            return Busy("this end is in a call already, from another thread or around a signal handler: one at a time")
        return Closed(f"this end of channel {self.name!r} is closed ({self._barred}): open the channel again")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._barred is not None:
            raise self._refuse()
        try:
            self._barred = _IN_USE
            yield
        except SipcError as error:
            self._note(error)
            raise
        finally:
            if self._barred is _IN_USE:
                self._barred = None

    def _let_go(self, why: str) -> None:
        self._barred = why
        _open_ends.discard(self)
        self._parts.close()

    def _note(self, error: SipcError) -> None:
        if isinstance(error, Broken):
            self._broken = True


def _after_fork() -> None:
    """In a forked child: its copies of the parent's ends are unusable, and closed without a word to anyone."""
    for end in list(_open_ends):
        end._let_go("it belongs to the parent process")


os.register_at_fork(after_in_child=_after_fork)


def flat(data: bytes | bytearray | memoryview) -> memoryview:
    """The bytes of anything contiguous that has the buffer protocol, where they are."""
    view = memoryview(data)
    # cast() refuses a shape with a zero in it.
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def copy_in_pieces(target: memoryview, source: memoryview, size: int) -> None:
    """Copy `size` bytes so that other threads get to run in between."""
    for start in range(0, size, COPY_PIECE):
        end = min(start + COPY_PIECE, size)
        target[start:end] = source[start:end]
