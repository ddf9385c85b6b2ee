# SPDX-License-Identifier: Apache-2.0
"""Python filters that do what no filter should: each passes any message on, but for one that begins with `bad`.

Loaded by `tests/host/guard/test_filters.py` into a worker, as a stage would load them.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import msgspec

from sipc.guard.area import NOTICE, REPLY, SAME
from sipc.guard.framing import ANSWER
from sipc.guard.verdicts import Drop, Pass, Quarantine

Act = Callable[[bytes], Any]


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """A declared type."""

    amount: int
    to: str


def _only_for_bad(act: Act) -> Act:
    def judge(message: bytes) -> Any:
        return act(message) if message.startswith(b"bad") else Pass(message)

    return judge


def _protocol() -> list[int]:
    """The worker's own pipes, as a hostile filter would look for them."""
    found = []
    for fd in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                found.append(fd)
        except OSError:
            continue
    return found


def _write(data: bytes) -> None:
    for fd in _protocol():
        try:
            os.write(fd, data)
        except OSError:
            continue


@_only_for_bad
def loop(message: bytes) -> Never:
    while True:
        pass


@_only_for_bad
def c_loop(message: bytes) -> Any:
    return any(itertools.repeat(0))


@_only_for_bad
def deaf_loop(message: bytes) -> Never:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    while True:
        pass


@_only_for_bad
def stop(message: bytes) -> Any:
    os.kill(os.getpid(), signal.SIGSTOP)
    return Pass(message)


@_only_for_bad
def kill(message: bytes) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    return Pass(message)


@_only_for_bad
def segv(message: bytes) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Pass(message)


@_only_for_bad
def exit_at_once(message: bytes) -> Never:
    os._exit(0)


@_only_for_bad
def exit_politely(message: bytes) -> Never:
    sys.exit(0)


@_only_for_bad
def quote(message: bytes) -> Never:
    raise ValueError(message.decode())


class Unspeakable(Exception):
    """Raises when it is shown."""

    def __str__(self) -> str:
        """Raise."""
        raise Unspeakable


@_only_for_bad
def unspeakable(message: bytes) -> Never:
    raise Unspeakable


@_only_for_bad
def recurse(message: bytes) -> Any:
    return recurse(message)


@_only_for_bad
def c_recurse(message: bytes) -> Any:
    sys.setrecursionlimit(1 << 30)
    value: Any = ()
    for _ in range(10_000_000):
        value = (value,)
    return Pass(repr(value).encode())


@_only_for_bad
def nothing(message: bytes) -> None:
    return None


@_only_for_bad
def true(message: bytes) -> bool:
    return True


@_only_for_bad
def plain_bytes(message: bytes) -> bytes:
    return message


@_only_for_bad
def the_class(message: bytes) -> type:
    return Pass


class Lookalike(Pass):
    """Is a Pass, and is not one."""


@_only_for_bad
def lookalike(message: bytes) -> Pass:
    return Lookalike(message)


@_only_for_bad
def smuggled(message: bytes) -> Pass:
    verdict = Pass(b"")
    object.__setattr__(verdict, "payload", "text")
    return verdict


@_only_for_bad
def wordy(message: bytes) -> Drop:
    verdict = Drop()
    object.__setattr__(verdict, "reason", message.decode() + "\n\0{}")
    return verdict


@_only_for_bad
def wordy_quarantine(message: bytes) -> Quarantine:
    return Quarantine(message.decode())


@_only_for_bad
def huge(message: bytes) -> Pass:
    return Pass(bytes(1_000_001))


@_only_for_bad
def close_all(message: bytes) -> Pass:
    os.closerange(0, 1024)
    return Pass(message)


@_only_for_bad
def garbage(message: bytes) -> Pass:
    _write(b"\xff" * 100)
    return Pass(message)


@_only_for_bad
def flood(message: bytes) -> Never:
    while True:
        _write(ANSWER.pack(0, 0xFFFFFFFF) + bytes(4000))


@_only_for_bad
def half_a_frame(message: bytes) -> Never:
    _write(ANSWER.pack(0, 100) + b"half")
    os._exit(0)


@_only_for_bad
def half_a_header(message: bytes) -> Never:
    _write(b"\0\0")
    os._exit(0)


@_only_for_bad
def forged(message: bytes) -> Quarantine:
    _write(ANSWER.pack(0, 16 + 6) + bytes(16) + b"forged")
    return Quarantine()


@_only_for_bad
def forged_alone(message: bytes) -> Never:
    _write(ANSWER.pack(0, 16 + 6) + bytes(16) + b"forged")
    while True:
        pass


@_only_for_bad
def two_copies(message: bytes) -> Any:
    """Fork, and let only the copy come back with a verdict."""
    if os.fork():
        signal.pause()
    return Pass(b"from the copy")


@_only_for_bad
def bomb(message: bytes) -> Never:
    """Two more of us, all of whom loop; their numbers go into the file that the message names."""
    log = os.open(message[4:], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for _ in range(2):
        os.fork()
    os.write(log, f"{os.getpid()}\n".encode())
    while True:
        pass


def copies(message: bytes) -> Pass:
    """Fork, and come back twice."""
    os.fork()
    return Pass(message)


def chatty(message: bytes) -> Pass:
    """Print, as people do."""
    print(message)
    print(message, file=sys.stderr)
    os.write(1, message)
    return Pass(message)


def late(message: bytes) -> Pass:
    """Say something more when the answer has been given, as soon as the file that the message names is there."""

    def speak() -> None:
        while not Path(message.decode()).exists():
            pass
        _write(ANSWER.pack(0, 16) + bytes(16))
        Path(message.decode()).unlink()

    threading.Thread(target=speak, daemon=True).start()
    return Pass(message)


def look(message: bytes) -> Pass:
    """What can be seen from here: mappings, descriptors, environment, limits, or the process id."""
    if message == b"fds":
        return Pass(b"\n".join(os.fsencode(Path(f"/proc/self/fd/{fd}").readlink()) for fd in [0, 1, 2, *_others()]))
    if message == b"pid":
        return Pass(str(os.getpid()).encode())
    return Pass(Path("/proc/self", message.decode()).read_bytes())


def _others() -> list[int]:
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and Path(f"/proc/self/fd/{fd}").exists()]


def order(value: object) -> Any:
    """Pass what was decoded, and nothing else."""
    if type(value) is not Order:
        return Pass(b"the check of the type was passed by")
    if value.amount > 100:
        return Quarantine("over-limit", f"{value.amount} to {value.to}")
    return Pass(msgspec.json.encode(value)) if value.amount else Drop("empty")


def _main() -> dict[str, Any]:
    """The worker's own variables, as a hostile filter would look for them."""
    frame = sys._getframe()
    while "notice" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_locals


def turncoat(message: bytes) -> Any:
    """Refuse `no`; at `bad` take back the verdict on the message before, with the right tag, and pass this one."""
    if message == b"no":
        return Quarantine("refused")
    if not message.startswith(b"bad"):
        return Pass(message)
    known = _main()
    _write(REPLY.pack(known["tag"], known["number"] - 1, SAME, 0) + REPLY.pack(known["tag"], known["number"], SAME, 0))
    while True:
        pass


@_only_for_bad
def impatient(message: bytes) -> Never:
    """Answer, take the next notice off the pipe, and answer that too, without reading the message."""
    known = _main()
    os.write(known["sink"], REPLY.pack(known["tag"], known["number"], SAME, 0))
    tag = NOTICE.unpack(os.read(known["source"], NOTICE.size))[0]
    os.write(known["sink"], REPLY.pack(tag, 0, SAME, 0))
    while True:
        pass


@_only_for_bad
def oversized(message: bytes) -> Never:
    """Say that more comes than may, and send some of it."""
    known = _main()
    os.write(known["sink"], REPLY.pack(known["tag"], known["number"], 0, 1_000_001) + bytes(1000))
    while True:
        pass


@_only_for_bad
def unknown_code(message: bytes) -> Never:
    known = _main()
    os.write(known["sink"], REPLY.pack(known["tag"], known["number"], 2, 0))
    while True:
        pass


@_only_for_bad
def ringing(message: bytes) -> Never:
    """Ring for ever, and say nothing."""
    known = _main()
    while True:
        try:
            os.write(known["bell"], bytes(4096))
        except OSError:
            continue


def _area() -> tuple[int, int, str, str]:
    """Address, size, permissions and name in map_files of the shared area."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) .*memfd:sipc-filter", line)
        if found:
            first, end = int(found[1], 16), int(found[2], 16)
            return first, end - first, found[3], f"{first:x}-{end:x}"
    raise LookupError


@_only_for_bad
def scribble(message: bytes) -> Pass:
    """Write over the messages that wait."""
    first, size, _, _ = _area()
    ctypes.memset(first, 0x58, size)
    return Pass(message)


def reach(message: bytes) -> Pass:
    """Every way to the shared area that is not reading, and what the kernel said to it."""
    first, size, permissions, name = _area()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    said = [permissions]

    def attempt(act: Callable[[], object]) -> None:
        try:
            act()
            said.append("done")
        except OSError as error:
            said.append(errno.errorcode[error.errno or 0])

    libc.mprotect(first, size, mmap.PROT_READ | mmap.PROT_WRITE)
    said.append(errno.errorcode[ctypes.get_errno()])
    try:
        fd = os.open(f"/proc/self/map_files/{name}", os.O_RDWR)
    except OSError:  # that takes a capability
        return Pass("\n".join(said).encode())
    attempt(lambda: os.write(fd, b"X"))
    attempt(lambda: os.ftruncate(fd, 0))
    attempt(lambda: os.ftruncate(fd, size + 4096))
    attempt(lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
    os.close(fd)
    return Pass("\n".join(said).encode())


def slow(message: bytes) -> Pass:
    """Take as many seconds as the message says."""
    time.sleep(float(message))
    return Pass(message)


def every_kind(message: bytes) -> Any:
    """What the first byte asks for."""
    match message[:1]:
        case b"d":
            return Drop("dropped")
        case b"q":
            return Quarantine("refused", message.hex())
        case b"c":
            return Pass(message[::-1])
        case b"e":
            raise ValueError(message)
        case b"n":
            return None
        case b"l":
            return Pass(message * 20_000)
        case b"k":
            os._exit(7)
    return Pass(message)


not_callable = 7
