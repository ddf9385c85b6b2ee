# SPDX-License-Identifier: Apache-2.0
"""The three mechanisms of System V."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import struct
from typing import Any

from .flow_kind import PAGE, Kind, Made, Mapped, call, content, datum, libc, said, until_full

__all__ = ("SYSTEM_V",)

libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
CREATE, EXCLUSIVE, NO_WAIT = 0o1000, 0o2000, 0o4000
RMID, SET, STAT = 0, 1, 2
MSG_COPY, SHM_RDONLY = 0o40000, 0o10000
GETPID, GETVAL, SETVAL = 11, 12, 16


class SystemV(Kind):
    """What the three of System V have in common."""

    id = -1
    table = ""

    def create(self, key: int) -> int:
        """Make one."""
        raise NotImplementedError

    def make(self) -> Made:
        return {"id": self.create(self.key)}, [], []

    def look_state(self) -> str:
        """IPC_STAT."""
        space = ctypes.create_string_buffer(256)
        self._control(self.id, STAT, space)
        return space.raw.hex()

    def look_table(self) -> str:
        """/proc/sysvipc."""
        return content(f"/proc/sysvipc/{self.table}")

    def look_made(self) -> str:
        """Whether there is an object with another key: ENOENT, or not."""
        return said(lambda: self.other(0))

    def other(self, flags: int) -> int:
        """That object."""
        raise NotImplementedError

    def make_other(self) -> None:
        """Make that object."""
        self.other(CREATE | EXCLUSIVE | 0o666)

    def change(self) -> None:
        """IPC_SET: a mode that lets nobody in (and, of a queue, a limit)."""
        space = ctypes.create_string_buffer(256)
        struct.pack_into("@Q", space, 88, PAGE)
        self._control(self.id, SET, space)

    def look_mode(self) -> str:
        """Whether the writer can open it again."""
        return said(lambda: self.open("writer", {}))

    def remove(self) -> None:
        """IPC_RMID."""
        self._control(self.id, RMID, None)

    def _control(self, number: int, command: int, space: Any) -> int:
        raise NotImplementedError

    def drop(self) -> None:
        for key in (self.key, self.key + 1):
            with contextlib.suppress(OSError):
                self._control(self.by_key(key), RMID, None)

    def by_key(self, key: int) -> int:
        """The object with this key."""
        raise NotImplementedError


class Queue(SystemV):
    """A System V message queue."""

    table = "msg"

    def create(self, key: int) -> int:
        return call(libc.msgget, key, CREATE | EXCLUSIVE | 0o666)

    def by_key(self, key: int) -> int:
        return call(libc.msgget, key, 0)

    def other(self, flags: int) -> int:
        return call(libc.msgget, self.key + 1, flags)

    def _control(self, number: int, command: int, space: Any) -> int:
        return call(libc.msgctl, number, command, space)

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = call(libc.msgget, self.key, 0o400 if role == "reader" else 0o200)

    def put(self, data: bytes) -> None:
        """msgsnd(2)."""
        call(libc.msgsnd, self.id, struct.pack("@l", 1) + data, len(data), NO_WAIT)

    def write(self, number: int) -> None:
        self.put(datum(number))

    def read(self, number: int) -> bool:
        space = ctypes.create_string_buffer(8 + PAGE)
        size = call(libc.msgrcv, self.id, space, PAGE, ctypes.c_long(0), NO_WAIT)
        return space.raw[8 : 8 + size] == datum(number)

    def write_something(self) -> None:
        """The writer's part before the state is looked at."""
        self.write(1)

    def fill(self) -> None:
        """As much as it takes."""
        until_full(lambda: self.put(bytes(2048)))

    def drain(self) -> None:
        """Take one."""
        self.read(0)

    def look_room(self) -> str:
        """Whether one more is taken."""
        return said(lambda: self.put(bytes(2048)))

    def look_copy(self) -> str:
        """MSG_COPY: the first message, left where it is."""
        space = ctypes.create_string_buffer(64)
        flags = MSG_COPY | NO_WAIT
        try:
            call(libc.msgrcv, self.id, space, 8, ctypes.c_long(0), flags)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return space.raw[8:16].hex()

    def look_back(self) -> str:
        """What the reader wrote, if it could."""
        return said(lambda: call(libc.msgrcv, self.id, bytes(64), 8, ctypes.c_long(2), NO_WAIT))

    def write_back(self) -> None:
        """Write from the reader's side."""
        call(libc.msgsnd, self.id, struct.pack("@l", 2) + b"backward", 8, NO_WAIT)


class NumberedQueue(Queue):
    """The same queue, by the number that the maker tells: msgget(2) is not asked."""

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = info["id"]


class Segment(Mapped, SystemV):
    """A System V shared memory segment."""

    table = "shm"

    def create(self, key: int) -> int:
        return call(libc.shmget, key, 2 * PAGE, CREATE | EXCLUSIVE | 0o666)

    def by_key(self, key: int) -> int:
        return call(libc.shmget, key, 0, 0)

    def other(self, flags: int) -> int:
        return call(libc.shmget, self.key + 1, PAGE if flags else 0, flags)

    def _control(self, number: int, command: int, space: Any) -> int:
        return call(libc.shmctl, number, command, space)

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        reading = role == "reader"
        self.id = call(libc.shmget, self.key, 0, 0o400 if reading else 0o600)
        self.address = self.attach(SHM_RDONLY if reading else 0)

    def attach(self, flags: int) -> int:
        """shmat(2)."""
        return call(libc.shmat, self.id, None, flags)

    def attach_again(self) -> None:
        """One attach more."""
        self.attach(SHM_RDONLY)

    def unmap(self) -> None:
        call(libc.shmdt, self.address)

    def look_back(self) -> str:
        return str(Mapped.look_back(self))

    def write_back(self) -> None:
        """Attach it to write."""
        self.store_back(self.attach(0))


class NumberedSegment(Segment):
    """The same segment, by the number that the maker tells: shmget(2) is not asked."""

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = info["id"]
        self.address = self.attach(SHM_RDONLY if role == "reader" else 0)


class Semaphores(SystemV):
    """A System V semaphore set; the writer sets a value, the reader reads it."""

    table = "sem"

    def create(self, key: int) -> int:
        return call(libc.semget, key, 1, CREATE | EXCLUSIVE | 0o666)

    def by_key(self, key: int) -> int:
        return call(libc.semget, key, 0, 0)

    def other(self, flags: int) -> int:
        return call(libc.semget, self.key + 1, 1 if flags else 0, flags)

    def _control(self, number: int, command: int, space: Any) -> int:
        return call(libc.semctl, number, 0, command, space)

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = call(libc.semget, self.key, 0, 0o400 if role == "reader" else 0o200)

    def write(self, number: int) -> None:
        call(libc.semctl, self.id, 0, SETVAL, number)

    def read(self, number: int) -> bool:
        return call(libc.semctl, self.id, 0, GETVAL) == number

    def set_zero(self) -> None:
        """The writer's part before the reader waits for zero."""
        self.write(0)

    def wait_for_zero(self) -> None:
        """semop(2) that changes nothing."""
        call(libc.semop, self.id, struct.pack("@HhH", 0, 0, NO_WAIT), 1)

    def up(self) -> None:
        """semop(2) that adds one."""
        call(libc.semop, self.id, struct.pack("@HhH", 0, 1, NO_WAIT), 1)

    def set_two(self) -> None:
        """SETVAL from the reader's side."""
        self.write(2)

    def look_value(self) -> int:
        """GETVAL."""
        return call(libc.semctl, self.id, 0, GETVAL)

    def look_pid(self) -> int:
        """GETPID: who operated last."""
        return call(libc.semctl, self.id, 0, GETPID)


class Counting(Semaphores):
    """The same set, used as the manual says: the writer adds one, the reader takes one."""

    def open(self, role: str, info: dict[str, Any], fds: list[int] | None = None) -> None:
        self.id = call(libc.semget, self.key, 0, 0o600)

    def write(self, number: int) -> None:
        self.up()

    def read(self, number: int) -> bool:
        call(libc.semop, self.id, struct.pack("@HhH", 0, -1, NO_WAIT), 1)
        return True

    def take(self) -> None:
        """Take one."""
        self.read(1)


SYSTEM_V: dict[str, type[Kind]] = {
    kind.__name__: kind for kind in (Queue, NumberedQueue, Segment, NumberedSegment, Semaphores, Counting)
}
