# SPDX-License-Identifier: Apache-2.0
"""What else moves bytes between two processes: pipes, Unix sockets, multiprocessing.Pipe, ZeroMQ, the C ring.

Each gets the calls that measured fastest for it from Python, at its default limits unless its name says so.
Byte streams always read into a preallocated buffer, which spares them joining parts.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import mmap
import multiprocessing
import os
import secrets
import shlex
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import zmq
from bench.contest import KIB, MIB, SLOT_SIZE, Contestant, Private, spans

_SMALL = 64  # from here down a byte stream's read(n) is whole and an object costs less than a buffer
# A message of SOCK_SEQPACKET must fit in the send buffer (212,992 bytes by default); 64 KiB parts let three
# be under way at once, which measured faster than parts at the limit.
_SEQPACKET_PART = 64 * KIB


class OsPipe(Contestant):
    """os.write of the whole message, and readinto until it is there; or both in parts.

    A part of a quarter of the pipe lets both ends work at once; a whole message makes them take turns.
    """

    def __init__(self, name: str = "os.pipe", *, capacity: int | None = None, part: int = 1 << 30) -> None:
        super().__init__(name)
        self.capacity = capacity
        self.part = part

    def use(self, size: int) -> None:
        super().use(size)
        self.private = "bytes" if size <= _SMALL else "buffer"

    def setup(self) -> None:
        self.reader, self.writer = os.pipe()
        self.removing(lambda: os.close(self.reader))
        self.removing(lambda: os.close(self.writer))
        if self.capacity is not None:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, self.capacity)

    def open_sender(self) -> None:
        os.close(self.reader)
        self.message = Private.message(self.size)

    def open_receiver(self) -> None:
        os.close(self.writer)
        self.into = Private.buffer(self.size)

    def give(self, count: int) -> None:
        write, fd, view = os.write, self.writer, memoryview(self.message)
        parts = [view[start:end] for start, end in spans(self.size, self.part)]
        for _ in range(count):
            for part in parts:
                done = write(fd, part)
                while done < len(part):
                    done += write(fd, part[done:])

    def take(self, count: int) -> None:
        if self.size <= _SMALL:
            read, fd, size = os.read, self.reader, self.size
            got = b""
            for _ in range(count):
                got = read(fd, size)  # whole: every write is atomic and of this size
            self.got = got
            return
        readinto = io.FileIO(self.reader, closefd=False).readinto
        parts = [self.into[start:end] for start, end in spans(self.size, self.part)]
        for _ in range(count):
            for part in parts:
                done = readinto(part)
                while done < len(part):
                    done += readinto(part[done:])
        self.got = self.into

    def give_one(self, data: bytes) -> None:
        os.write(self.writer, data)

    def take_one(self) -> bytes:
        return os.read(self.reader, self.size)


class UnixStream(Contestant):
    """sendall, and recv_into with MSG_WAITALL."""

    def __init__(self, name: str = "unix stream", kind: int = socket.SOCK_STREAM) -> None:
        super().__init__(name)
        self.kind = kind

    def use(self, size: int) -> None:
        super().use(size)
        self.private = "bytes" if size <= _SMALL else "buffer"

    def setup(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, self.kind)
        self.removing(self.reader.close)
        self.removing(self.writer.close)

    def open_sender(self) -> None:
        self.message = Private.message(self.size)

    def open_receiver(self) -> None:
        self.into = Private.buffer(self.size)

    def give(self, count: int) -> None:
        send, message = self.writer.sendall, self.message
        for _ in range(count):
            send(message)

    def take(self, count: int) -> None:
        size = self.size
        if size <= _SMALL:
            recv, got = self.reader.recv, b""
            for _ in range(count):
                got = recv(size, socket.MSG_WAITALL)
            self.got = got
            return
        recv_into, into = self.reader.recv_into, self.into
        for _ in range(count):
            done = recv_into(into, size, socket.MSG_WAITALL)
            while done < size:
                done += recv_into(into[done:], size - done, socket.MSG_WAITALL)
        self.got = into


class UnixSeqpacket(UnixStream):
    """One packet per message, or parts of 64 KiB when it does not fit in the send buffer."""

    def __init__(self) -> None:
        super().__init__("unix seqpacket", socket.SOCK_SEQPACKET)

    def give(self, count: int) -> None:
        if self.size <= _SEQPACKET_PART:
            send, message = self.writer.send, self.message
            for _ in range(count):
                send(message)
            return
        send = self.writer.send
        view = memoryview(self.message)
        parts = [view[start:end] for start, end in spans(self.size, _SEQPACKET_PART)]
        for _ in range(count):
            for part in parts:
                send(part)

    def take(self, count: int) -> None:
        if self.size <= _SMALL:
            recv, size, got = self.reader.recv, self.size, b""
            for _ in range(count):
                got = recv(size)
            self.got = got
            return
        recv_into = self.reader.recv_into
        parts = [self.into[start:end] for start, end in spans(self.size, _SEQPACKET_PART)]
        for _ in range(count):
            for part in parts:
                recv_into(part)
        self.got = self.into


class MpPipe(Contestant):
    """multiprocessing.Pipe(duplex=False): send_bytes and recv_bytes, which always makes a bytes object."""

    def __init__(self) -> None:
        super().__init__("multiprocessing.Pipe")

    def use(self, size: int) -> None:
        super().use(size)
        self.private = "bytes"

    def setup(self) -> None:
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)
        self.removing(self.reader.close)
        self.removing(self.writer.close)

    def open_sender(self) -> None:
        self.message = Private.message(self.size)

    def open_receiver(self) -> None:
        pass

    def give(self, count: int) -> None:
        send, message = self.writer.send_bytes, self.message
        for _ in range(count):
            send(message)

    def take(self, count: int) -> None:
        receive, got = self.reader.recv_bytes, b""
        for _ in range(count):
            got = receive()
        self.got = got


class ZeroMq(Contestant):
    """PUSH/PULL over ipc://; copy=False from 1 MiB up, where it pays; it arrives in the receiver's memory."""

    both_cores = True  # each end has an input/output thread of its own

    def __init__(self) -> None:
        super().__init__("ZeroMQ ipc")

    def use(self, size: int) -> None:
        super().use(size)
        self.copy = size <= SLOT_SIZE
        self.private = "bytes" if self.copy else "frame"
        # Its default of 1000 messages would hold 16 GB of the largest; at 8 MiB it does not run slower.
        self.high_water = max(4, min(1000, 8 * MIB // size))

    def setup(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="sipc-bench-")
        self.removing(directory.cleanup)
        self.address = f"ipc://{directory.name}/socket"

    def open_receiver(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.RCVHWM, self.high_water)
        self.socket.bind(self.address)

    def open_sender(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.setsockopt(zmq.SNDHWM, self.high_water)
        self.socket.connect(self.address)
        self.message = Private.message(self.size)

    def give(self, count: int) -> None:
        send, message = self.socket.send, self.message
        if self.copy:
            for _ in range(count):
                send(message)
            return
        for _ in range(count):
            send(message, copy=False)

    def take(self, count: int) -> None:
        receive = self.socket.recv
        if self.copy:
            for _ in range(count):
                self.got = receive()
            return
        for _ in range(count):
            self.got = receive(copy=False).buffer

    def close(self) -> None:
        self.got = b""
        self.context.destroy(linger=0)


class CRing(Contestant):
    """ring.c over shared memory, both ends spinning: no system call at all, so the ceiling."""

    def __init__(self) -> None:
        super().__init__("C ring, spinning")

    def use(self, size: int) -> None:
        super().use(size)
        self.private = "buffer"
        self.slot_size = min(SLOT_SIZE, -(-size // 64) * 64)
        self.slots = max(4, min(1024, SLOT_SIZE // self.slot_size))

    def setup(self) -> None:
        self.ring = _ring_library()
        pages = mmap.mmap(-1, self.ring.ring_bytes(self.slots, self.slot_size))
        pages[:] = bytes(len(pages))
        self.removing(pages.close)
        self.pages = pages

    def _address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.pages))

    def open_sender(self) -> None:
        self.message = Private.message(self.size)

    def open_receiver(self) -> None:
        self.into = Private.buffer(self.size)

    def give(self, count: int) -> None:
        self.ring.ring_send(self._address(), self.slots, self.slot_size, self.message, self.size, count)

    def take(self, count: int) -> None:
        into = ctypes.addressof(ctypes.c_char.from_buffer(self.into))
        self.ring.ring_receive(self._address(), self.slots, self.slot_size, into, self.size, count)
        self.got = self.into


@cache
def _ring_library() -> ctypes.CDLL:
    """Compile ring.c with $CC (cc) -O2 and load it."""
    source = Path(__file__).with_name("ring.c")
    with tempfile.TemporaryDirectory(prefix="sipc-bench-") as directory:
        library = Path(directory) / f"ring-{secrets.token_hex(4)}.so"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        argv = [*compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(argv, check=True, timeout=60, capture_output=True, text=True)
        ring = ctypes.CDLL(str(library))
    word, pointer = ctypes.c_size_t, ctypes.c_void_p
    ring.ring_bytes.restype = word
    ring.ring_bytes.argtypes = [word, word]
    ring.ring_send.restype = ring.ring_receive.restype = None
    ring.ring_send.argtypes = ring.ring_receive.argtypes = [pointer, word, word, pointer, word, word]
    return ring


def contestants() -> list[Contestant]:
    """All of them but iceoryx2, which has a file of its own."""
    return [
        OsPipe(),
        OsPipe("os.pipe, 1 MiB", capacity=MIB),
        OsPipe("os.pipe, 16 KiB parts", part=16 * KIB),
        UnixStream(),
        UnixSeqpacket(),
        MpPipe(),
        ZeroMq(),
        CRing(),
    ]
