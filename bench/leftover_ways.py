# SPDX-License-Identifier: Apache-2.0
"""The leftovers: what each is, what both ends need for it, and one run of it.

A way back is a contestant of `harness.py` whose data goes the other way: the channel's receiver acts by random symbols,
the channel's sender looks.  What they do is C (bench/leftovers/*.c), so that it is not Python's speed that is measured;
queue and segment are made by the library's own backends and opened with the modes of each role.  Must not know rounds
or tables: `leftovers.py` has them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import posix_ipc
import sysv_ipc
from bench.contest import Contestant
from bench.harness import Failed, Place, run_pair

from sipc.kernel import seccomp
from sipc.kernel.base import KernelObjects, Memory
from sipc.kernel.posix import PosixObjects
from sipc.kernel.sysv import SysvObjects
from sipc.spec import Role

__all__ = (
    "NOTHING", "OPEN", "WARM", "WAYS", "Confined", "End", "Mode", "Received", "Run", "Setting", "Way", "by_time",
    "compile_ways", "library",
)  # fmt: skip

SOURCES = Path(__file__).with_name("leftovers")
MESSAGE, PAGE = 32, 4096
NOTHING = -1  # of leftover.h: the sender sees nothing yet
PAGES = 64  # behind the clock's; as many as the widest symbol has bits, and two
WARM = 33  # symbols before the counted ones, all zero


class Confined(Enum):
    """Which ends have the filters of `sipc.kernel.seccomp`."""

    NONE = "no filter"
    RECEIVER = "receiver confined"
    BOTH = "both confined"


class Mode(IntEnum):
    """`enum mode` of leftover.h: how the sender knows a symbol."""

    SHOWS = 0
    ABSENT = 1
    SAMPLED = 2
    WHEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one run is played with: bits of a symbol, and the ns that its mode counts in (0: none)."""

    bits: int = 1
    span_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One leftover.  `settings` are tried, and the best is measured."""

    name: str
    code: str  # one turn, for the table
    function: str  # in bench/leftovers
    closed_by: str
    settings: tuple[Setting, ...]
    backend: str = "sysv"
    depth: int = 1
    file: bool = False
    take_away: bool = False
    punched: bool = False
    mode: Mode = Mode.SHOWS

    @property
    def key(self) -> str:
        """One name for each row."""
        return f"{self.name}, {self.code}"


# A zero is nothing for so long.  Below the cost of the receiver's call nothing arrives; above some ten of it the wait
# is most of the turn.
_WAITS = tuple(Setting(span_ns=ns) for ns in (700, 1000, 1500, 2500))
# Parts narrower than a system call's own spread are mistaken for their neighbours.
_PARTS = tuple(Setting(bits=bits, span_ns=ns) for bits, ns in ((1, 700), (2, 500), (2, 700), (3, 500)))
OPEN = "nothing"  # in front of every `closed_by` of this kind
_RELAY = f"{OPEN}; a relay would bound it"
_FILTER = "seccomp, at either end"
WAYS = (
    *(
        Way(
            name=f"{label} queue full or not, depth {depth}",
            code=code,
            function=f"queue_{backend}",
            closed_by=_RELAY,
            settings=settings,
            backend=backend,
            depth=depth,
            mode=mode,
        )
        for backend, label in (("sysv", "System V"), ("posix", "POSIX"))
        for depth in (1, 2)
        for code, mode, settings in (
            ("a message taken or not", Mode.ABSENT, _WAITS),
            ("when a message is taken", Mode.WHEN, _PARTS),
        )
    ),
    *(
        Way(
            name=f"System V queue, how full, depth {depth}",
            code="which messages of 1, 2, 4 ... bytes are taken",
            function="queue_sizes",
            closed_by=_RELAY,
            settings=(Setting(bits=bits),),
            depth=depth,
        )
        for depth, bits in ((1, 4), (2, 5))
    ),
    Way(
        name="futex in the segment, woken",
        code="receiver wakes one of the words that the sender sleeps on",
        function="futex_woken",
        closed_by=_FILTER,
        settings=tuple(Setting(bits=bits) for bits in (1, 3, 5)),
    ),
    Way(
        name="futex in the segment, counted",
        code="receiver sleeps on one of the words, sender's wake counts 1",
        function="futex_counted",
        closed_by=_FILTER,
        settings=tuple(Setting(bits=bits) for bits in (1, 3, 5)),
    ),
    Way(
        name="pages, all filled",
        code="pages read or not; mincore",
        function="pages_resident",
        closed_by="filling every page",
        settings=(Setting(bits=62),),
    ),
    *(
        Way(
            name=f"pages, taken away by the sender, {label} segment",
            code="pages read or not; MADV_REMOVE, mincore",
            function="pages_resident",
            closed_by="seccomp, at the sender",
            settings=(Setting(bits=62),),
            backend=backend,
            take_away=True,
        )
        for backend, label in (("sysv", "System V"), ("posix", "POSIX"))
    ),
    Way(
        name="pages, punched by the sender, POSIX segment",
        code="pages read or not; fallocate, SEEK_DATA",
        function="pages_punched",
        closed_by=f"{OPEN}; System V segments have no descriptor",
        settings=(Setting(bits=62),),
        backend="posix",
        punched=True,
    ),
    Way(
        name="lock of a shared file, fcntl",
        code="where the locked byte is, of 2^60; F_GETLK",
        function="lock_place",
        closed_by="policy; by this library each role has a lock file of its own",
        settings=(Setting(bits=60),),
        file=True,
    ),
    Way(
        name="lock of a shared file, flock",
        code="locked or not",
        function="lock_whole",
        closed_by="policy; by this library each role has a lock file of its own",
        settings=_WAITS,
        file=True,
        mode=Mode.SAMPLED,
    ),
    Way(
        name="IPC_STAT, msg_lrpid",
        code="the receiver or its child takes the message",
        function="last_receiver",
        closed_by="policy; seccomp, at the sender",
        settings=(Setting(),),
    ),
)


class End(ctypes.Structure):
    """`struct end` of leftover.h."""

    _fields_ = (
        ("clock", ctypes.c_void_p), ("pages", ctypes.c_void_p), ("queue", ctypes.c_long), ("room", ctypes.c_long),
        ("file", ctypes.c_long), ("bits", ctypes.c_long), ("take_away", ctypes.c_long), ("mode", ctypes.c_long),
        ("span_ns", ctypes.c_longlong), ("state", ctypes.c_long), ("helper", ctypes.c_long), ("pipe", ctypes.c_long),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What came of one run: symbols, ns, and the errno of the call that was refused to each end (0: none)."""

    symbols: tuple[int, ...]
    took_ns: int
    sender_refused: int
    receiver_refused: int

    @property
    def refused(self) -> str:
        """Who was refused and how, or nothing."""
        both = (("receiver", self.receiver_refused), ("sender", self.sender_refused))
        return ", ".join(f"{role}: {errno.errorcode[number]}" for role, number in both if number)


def compile_ways(library: Path) -> None:
    """Build the C of all ways with $CC (cc) into one library; raises `Failed` with the compiler's words."""
    argv = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared"]
    argv += ["-fPIC", "-o", str(library), *map(str, sorted(SOURCES.glob("*.c"))), "-lrt"]
    done = subprocess.run(argv, check=False, timeout=60, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{shlex.join(argv[:1])} does not compile bench/leftovers: {done.stderr.strip()}")


@cache
def library() -> ctypes.CDLL:
    """The ways, compiled once and loaded."""
    with tempfile.TemporaryDirectory(prefix="sipc-bench-") as directory:
        path = Path(directory) / "leftovers.so"
        compile_ways(path)
        ways = ctypes.CDLL(str(path))
    name, end, word, pointer = ctypes.c_char_p, ctypes.POINTER(End), ctypes.c_size_t, ctypes.c_void_p
    ways.leftover_reset.argtypes = [name, end]
    ways.leftover_look.argtypes, ways.leftover_look.restype = [name, end, ctypes.c_ulong], ctypes.c_longlong
    ways.leftover_act.argtypes = [name, end, ctypes.c_ulong, ctypes.c_ulonglong]
    ways.leftover_done.argtypes, ways.leftover_done.restype = [name, end], None
    ways.leftover_send.argtypes = [name, end, word, pointer, pointer, pointer]
    ways.leftover_receive.argtypes = [name, end, word, pointer]
    return ways


class Run(Contestant):
    """One run of a way: fresh objects, `symbols` sent back, what the sender saw of them."""

    def __init__(self, way: Way, setting: Setting, confined: Confined, symbols: Sequence[int]) -> None:
        super().__init__(way.key)
        self.way, self.setting, self.confined = way, setting, confined
        self.symbols = [0] * WARM + list(symbols)
        self.objects: KernelObjects = SysvObjects() if way.backend == "sysv" else PosixObjects()
        self.memory: Memory | None = None

    @classmethod
    def drawn(cls, way: Way, setting: Setting, confined: Confined, count: int, dice: random.Random) -> Run:
        """A run of `count` random symbols."""
        return cls(way, setting, confined, [dice.getrandbits(setting.bits) for _ in range(count)])

    def setup(self) -> None:
        self.keys = keys = self.objects.new_keys(segment=True)
        self.removing(partial(self.objects.remove, keys))
        self.objects.create_queue(keys.queue, messages=self.way.depth, message_size=MESSAGE)
        self.segment_size = (1 + PAGES) * PAGE
        segment = self.objects.create_segment(str(keys.segment), self.segment_size)
        segment.view[:] = bytes(self.segment_size)  # every page filled, as the helper does
        segment.close()
        if self.way.file:
            number, name = tempfile.mkstemp(prefix="sipc-bench-")
            os.close(number)
            self.file = Path(name)
            self.removing(partial(self.file.unlink, missing_ok=True))

    def opened(self, role: Role) -> End:
        """What this end holds, opened with the modes of its role."""
        memory = self.objects.open_segment(str(self.keys.segment), role, self.segment_size)
        if memory is None:
            raise Failed(f"{self.name}: the segment is gone")
        self.memory = memory
        clock = _address(memory.view)
        return End(
            clock=clock, pages=clock + PAGE, queue=self._queue(role), room=self.way.depth * MESSAGE,
            file=self._file(role), bits=self.setting.bits, take_away=self.way.take_away, mode=self.way.mode,
            span_ns=self.setting.span_ns,
        )  # fmt: skip

    def _file(self, role: Role) -> int:
        if self.way.punched:
            return os.open(f"/dev/shm/{self.keys.segment}", os.O_RDWR if role is Role.SENDER else os.O_RDONLY)
        return os.open(self.file, os.O_RDONLY) if self.way.file else -1

    def _queue(self, role: Role) -> int:
        reading = role is Role.RECEIVER
        if self.way.backend == "sysv":
            return int(sysv_ipc.MessageQueue(int(self.keys.queue), mode=0o400 if reading else 0o200).id)
        self.posix = posix_ipc.MessageQueue(self.keys.queue, read=reading, write=not reading)
        self.posix.block = False
        return int(self.posix.mqd)

    def open_sender(self) -> None:
        self.me = self.opened(Role.SENDER)
        if self.confined is Confined.BOTH:
            seccomp.confine(Role.SENDER)

    def open_receiver(self) -> None:
        self.me = self.opened(Role.RECEIVER)
        if self.confined is not Confined.NONE:
            seccomp.confine(Role.RECEIVER)

    def give(self, count: int) -> None:
        raise NotImplementedError(self.name)

    def take(self, count: int) -> None:
        raise NotImplementedError(self.name)

    def look(self) -> tuple[list[int], int, int]:
        """The channel's sender: symbols, ns, errno."""
        symbols = (ctypes.c_ulonglong * len(self.symbols))()
        seen, took = ctypes.c_size_t(), ctypes.c_longlong()
        number = library().leftover_send(
            self.way.function.encode(), ctypes.byref(self.me), len(symbols), symbols, ctypes.byref(seen),
            ctypes.byref(took),
        )  # fmt: skip
        return symbols[: seen.value], took.value, number

    def act(self) -> int:
        """The channel's receiver: errno."""
        symbols = (ctypes.c_ulonglong * len(self.symbols))(*self.symbols)
        return int(
            library().leftover_receive(self.way.function.encode(), ctypes.byref(self.me), len(symbols), symbols)
        )

    def run(self, place: Place) -> Received:
        """Play it; raises `Failed` when an end dies or hangs."""
        library()  # compiled before the fork
        seen, refused = run_pair(self, 0, self.look, self.act, place)
        symbols, took, number = cast("tuple[list[int], int, int]", seen)
        if self.way.mode is Mode.WHEN:
            symbols = by_time(symbols, self.setting)
        return Received(
            symbols=tuple(symbols[WARM:]), took_ns=took, sender_refused=number, receiver_refused=cast("int", refused)
        )

    @property
    def sent(self) -> tuple[int, ...]:
        """The symbols that counted."""
        return tuple(self.symbols[WARM:])


def by_time(times: Sequence[int], setting: Setting) -> list[int]:
    """The symbols that showed after these ns.

    How long a symbol takes to show is the same for all, but for its spread, and not known beforehand: the first `WARM`
    symbols are zeros, so the middle of their times is the middle of the first part.
    """
    span, parts = setting.span_ns, 1 << setting.bits
    if not times:
        return []
    first = times[0]
    half = span * parts // 2
    # Around the first, as times are taken modulo a round.
    near = sorted((time - first + half) % (span * parts) - half for time in times[:WARM])
    start = first + near[len(near) // 2] - span // 2
    places = [(time - start) // span % parts for time in times]
    return [place ^ place >> 1 for place in places]


def _address(view: memoryview) -> int:
    """Where a backend's view begins; a read-only one can not be asked by ctypes."""
    owner: Any = view.obj
    if isinstance(owner, ctypes.Array):
        return ctypes.addressof(owner)
    return int(np.frombuffer(view, dtype="u1").ctypes.data)
