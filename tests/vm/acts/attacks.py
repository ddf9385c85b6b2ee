# SPDX-License-Identifier: Apache-2.0
"""Every forbidden act, and the few that are allowed, as plain system calls by number: no library is in the way.

Owns what is tried on channels, files and processes; `tests/vm/matrix.py` says what must come of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import struct

from . import other_objects
from .tries import (
    ACTS,
    CREATE,
    EXCLUSIVE,
    INFO,
    MSG_COPY,
    MSG_INFO,
    MSG_STAT,
    MSG_STAT_ANY,
    NEW_KEY,
    NO_WAIT,
    PAGE,
    RMID,
    SET,
    SHM_EXEC,
    SHM_INFO,
    SHM_LOCK,
    SHM_RDONLY,
    SHM_STAT,
    SHM_STAT_ANY,
    STAT,
    Failed,
    Target,
    act,
    bound,
    call,
    libc,
    one,
    room,
    syscall,
    text,
)

MQUEUE = other_objects.MQUEUE


def try_lock(path: str) -> None:
    """A shared lock, without waiting."""
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)


def schedule(pid: int) -> None:
    """Another scheduling policy."""
    os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def limit(pid: int) -> None:
    """Another limit on open files."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))


# -- queue ---------------------------------------------------------------------------------------------------

for _mode in (0o000, 0o200, 0o400, 0o600):
    ACTS[f"msgget mode {_mode:04o}"] = bound(lambda t, mode: call(libc.msgget, t["queue_key"], mode), _mode)
    ACTS[f"shmget mode {_mode:04o}"] = bound(lambda t, mode: call(libc.shmget, t["segment_key"], 0, mode), _mode)


@act("msgget of a key that is not there")
def _absent(target: Target) -> None:
    del target
    call(libc.msgget, 0x7A11E5, 0)


@act("msgget IPC_CREAT")
def _make_queue(target: Target) -> None:
    del target
    made = call(libc.msgget, NEW_KEY, CREATE | EXCLUSIVE | 0o600)
    call(libc.msgctl, made, RMID, None)


@act("msgsnd")
def _send(target: Target) -> None:
    call(libc.msgsnd, target["queue"], struct.pack("@l", 2) + bytes(32), 32, NO_WAIT)


@act("msgrcv")
def _receive(target: Target) -> None:
    call(libc.msgrcv, target["queue"], room(), 64, ctypes.c_long(0), NO_WAIT)


@act("msgrcv MSG_COPY")
def _peek(target: Target) -> None:
    call(libc.msgrcv, target["queue"], room(), 64, ctypes.c_long(0), NO_WAIT | MSG_COPY)


def _control(name: str, what: str, command: int) -> None:
    function = libc.msgctl if what == "queue" else libc.shmctl

    def run(target: Target) -> None:
        data = room()
        if command == SET:  # what it is already: an IPC_SET that succeeds changes nothing
            with contextlib.suppress(Failed):
                call(function, target[what], STAT, data)
        call(function, target[what], command, data)

    ACTS[name] = run


_control("msgctl IPC_STAT", "queue", STAT)
_control("msgctl MSG_STAT", "queue", MSG_STAT)
_control("msgctl MSG_STAT_ANY", "queue", MSG_STAT_ANY)
_control("msgctl MSG_INFO", "queue", MSG_INFO)
_control("msgctl IPC_INFO", "queue", INFO)
_control("shmctl IPC_STAT", "segment", STAT)
_control("shmctl SHM_STAT", "segment", SHM_STAT)
_control("shmctl SHM_STAT_ANY", "segment", SHM_STAT_ANY)
_control("shmctl SHM_INFO", "segment", SHM_INFO)
_control("shmctl SHM_LOCK", "segment", SHM_LOCK)


def _spoiling(name: str, what: str, command: int) -> None:
    """For these the helper's own cell would end the channel."""
    function = libc.msgctl if what == "queue" else libc.shmctl
    ACTS[name] = lambda t: call(function, t[what], command, bytes(4096))


_spoiling("msgctl IPC_SET", "queue", SET)
_spoiling("msgctl IPC_RMID", "queue", RMID)
_spoiling("shmctl IPC_SET", "segment", SET)
_spoiling("shmctl IPC_RMID", "segment", RMID)

# -- segment -------------------------------------------------------------------------------------------------


@act("shmget IPC_CREAT")
def _make_segment(target: Target) -> None:
    del target
    made = call(libc.shmget, NEW_KEY, PAGE, CREATE | EXCLUSIVE | 0o600)
    call(libc.shmctl, made, RMID, None)


def _attach(target: Target) -> int:
    return call(libc.shmat, target["segment"], None, SHM_RDONLY)


ACTS["shmat read-only"] = _attach


@act("shmat read-write")
def _attach_writable(target: Target) -> None:
    call(libc.shmat, target["segment"], None, 0)


@act("shmat read-only, executable")
def _attach_executable(target: Target) -> None:
    call(libc.shmat, target["segment"], None, SHM_RDONLY | SHM_EXEC)


@act("mprotect a read-only attach to read-write")
def _protect(target: Target) -> None:
    address = _attach(target)
    call(libc.mprotect, ctypes.c_void_p(address), PAGE, 3)


@act("map_files write through a read-only attach")
def _map_files(target: Target) -> None:
    address = _attach(target)
    with open("/proc/self/maps") as maps:
        line = next(line for line in maps if line.startswith(f"{address:x}-"))
    os.close(os.open(f"/proc/self/map_files/{line.split()[0]}", os.O_RDWR))


@act("/proc/self/mem write through a read-only attach")
def _own_mem(target: Target) -> None:
    address = _attach(target)
    fd = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(fd, os.pread(fd, 1, address), address)


@act("mincore on the attach")
def _mincore(target: Target) -> None:
    address = _attach(target)
    call(libc.mincore, ctypes.c_void_p(address), PAGE, room())


@act("shared futex wake on the attach")
def _futex(target: Target) -> None:
    syscall(202, _attach(target), 1, 1, 0, 0, 0)


@act("madvise MADV_REMOVE on the attach")
def _remove_pages(target: Target) -> None:
    call(libc.madvise, ctypes.c_void_p(_attach(target)), PAGE, 9)


# -- descriptor, registry, role files ------------------------------------------------------------------------

ACTS["descriptor: read"] = lambda t: os.read(os.open(t["descriptor"], os.O_RDONLY), 1)
ACTS["descriptor: open for writing"] = lambda t: os.open(t["descriptor"], os.O_WRONLY)
ACTS["descriptor: append"] = lambda t: os.open(t["descriptor"], os.O_WRONLY | os.O_APPEND)
ACTS["descriptor: unlink"] = lambda t: os.unlink(t["descriptor"])
ACTS["descriptor: link"] = lambda t: os.link(t["descriptor"], t["descriptor"] + ".2")
ACTS["descriptor: rename over"] = lambda t: os.rename(t["descriptor"], t["descriptor"] + ".2")
ACTS["descriptor: chmod"] = lambda t: os.chmod(t["descriptor"], 0o644)
ACTS["descriptor: setxattr of its label"] = lambda t: os.setxattr(
    t["descriptor"], "security.selinux", b"system_u:object_r:tmp_t:s0\0"
)
ACTS["registry: make a file"] = lambda t: os.open(t["registry"] + "/forged.json", os.O_CREAT | os.O_WRONLY, 0o644)
ACTS["registry: make a link"] = lambda t: os.symlink("feed.json", t["registry"] + "/forged.json")
ACTS["registry: make a directory"] = lambda t: os.mkdir(t["registry"] + "/forged")


@act("descriptor: flock shared")
def _flock(target: Target) -> None:
    fcntl.flock(os.open(target["descriptor"], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


@act("descriptor: flock exclusive")
def _flock_exclusive(target: Target) -> None:
    fcntl.flock(os.open(target["descriptor"], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


@act("descriptor: fcntl read lock")
def _record_lock(target: Target) -> None:
    fcntl.lockf(os.open(target["descriptor"], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


@act("registry: flock")
def _flock_directory(target: Target) -> None:
    fcntl.flock(os.open(target["registry"], os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH | fcntl.LOCK_NB)


@act("/dev/null: flock")
def _flock_null(target: Target) -> None:
    del target
    fcntl.flock(os.open("/dev/null", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


@act("python: flock a shared library file")
def _flock_library(target: Target) -> None:
    del target
    fcntl.flock(os.open("/usr/bin/python3.11", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


@act("descriptor: inotify")
def _watch(target: Target) -> None:
    call(libc.inotify_add_watch, call(libc.inotify_init), target["descriptor"].encode(), 0x3FF)


@act("registry: inotify")
def _watch_directory(target: Target) -> None:
    call(libc.inotify_add_watch, call(libc.inotify_init), target["registry"].encode(), 0x180)


for _role in ("sender", "receiver"):
    ACTS[f"{_role}'s state: read"] = bound(lambda t, role: os.open(t["private"] + f"/{role}/state", os.O_RDONLY), _role)
    ACTS[f"{_role}'s state: write"] = bound(lambda t, role: os.open(t["private"] + f"/{role}/state", os.O_RDWR), _role)
    ACTS[f"{_role}'s lock: flock"] = bound(lambda t, role: try_lock(t["private"] + f"/{role}/lock"), _role)

# -- looking around ------------------------------------------------------------------------------------------

for _file in ("msg", "shm", "sem"):
    ACTS[f"/proc/sysvipc/{_file}"] = bound(lambda t, name: open(f"/proc/sysvipc/{name}").read(), _file)

# -- the other ends' processes -------------------------------------------------------------------------------


def every_signal(pid: int) -> None:
    """All or none may pass."""
    codes = set()
    for number in range(65):
        try:
            os.kill(pid, number)
            codes.add(0)
        except OSError as error:
            codes.add(error.errno or -1)
    if codes != {0}:
        raise Failed(codes.pop() if len(codes) == 1 else errno.EMULTIHOP, "some pass, some do not")


def _vm(number: int, pid: int) -> None:
    data = room()
    local = struct.pack("@PN", ctypes.addressof(data), 8)
    remote = struct.pack("@PN", 0x400000, 8)
    syscall(number, pid, text(local), 1, text(remote), 1, 0)


for _role in ("sender", "receiver"):
    ACTS[f"ptrace the {_role}"] = bound(lambda t, role: call(libc.ptrace, 16, t[role], None, None), _role)
    ACTS[f"process_vm_readv the {_role}"] = bound(lambda t, role: _vm(310, t[role]), _role)
    ACTS[f"process_vm_writev the {_role}"] = bound(lambda t, role: _vm(311, t[role]), _role)
    ACTS[f"/proc/PID/mem of the {_role}"] = bound(lambda t, role: os.open(f"/proc/{t[role]}/mem", os.O_RDWR), _role)
    ACTS[f"/proc/PID/maps of the {_role}"] = bound(lambda t, role: open(f"/proc/{t[role]}/maps").read(), _role)
    ACTS[f"/proc/PID/stat of the {_role}"] = bound(lambda t, role: open(f"/proc/{t[role]}/stat").read(), _role)
    ACTS[f"/proc/PID/fd of the {_role}"] = bound(lambda t, role: os.listdir(f"/proc/{t[role]}/fd"), _role)
    ACTS[f"pidfd_getfd of the {_role}"] = bound(lambda t, role: syscall(438, os.pidfd_open(t[role]), 0, 0), _role)
    ACTS[f"setpriority of the {_role}"] = bound(lambda t, role: os.setpriority(os.PRIO_PROCESS, t[role], 5), _role)
    ACTS[f"sched_setaffinity of the {_role}"] = bound(lambda t, role: os.sched_setaffinity(t[role], {0}), _role)
    ACTS[f"sched_setscheduler of the {_role}"] = bound(lambda t, role: schedule(t[role]), _role)
    ACTS[f"getpriority of the {_role}"] = bound(lambda t, role: os.getpriority(os.PRIO_PROCESS, t[role]), _role)
    ACTS[f"prlimit of the {_role}"] = bound(lambda t, role: limit(t[role]), _role)
    ACTS[f"setpgid of the {_role}"] = bound(lambda t, role: os.setpgid(t[role], t[role]), _role)
    ACTS[f"getsid of the {_role}"] = bound(lambda t, role: os.getsid(t[role]), _role)

    ACTS[f"signals 0 to 64 to the {_role}"] = bound(lambda t, role: every_signal(t[role]), _role)


# -- becoming somebody else ----------------------------------------------------------------------------------


def _become(kind: str) -> None:
    for who in ("sender", "receiver", "helper"):

        def run(target: Target, who: str = who) -> None:
            domain = target["domains"][who]
            with open(f"/proc/self/attr/{kind}", "w") as file:
                file.write(f"system_u:system_r:{domain}:s0")
            if kind == "exec":
                os.execv("/usr/bin/python3.11", ["python3", "-c", "pass"])

        ACTS[f"{'setcon' if kind == 'current' else 'exec'} into the {who}'s domain"] = run


_become("current")
_become("exec")

# -- around everything ---------------------------------------------------------------------------------------


@act("load a policy")
def _load(target: Target) -> None:
    del target
    fd = os.open("/sys/fs/selinux/load", os.O_RDWR)
    os.write(fd, b"no policy")


@act("setenforce 0")
def _setenforce(target: Target) -> None:
    del target
    fd = os.open("/sys/fs/selinux/enforce", os.O_RDWR)
    os.write(fd, b"0")


ACTS["bpf"] = lambda t: syscall(321, 0, text(struct.pack("@IIIII", 1, 4, 4, 1, 0) + bytes(100)), 72)
ACTS["perf_event_open of the receiver"] = lambda t: syscall(
    298, text(struct.pack("@II", 1, 112) + bytes(120)), t["receiver"], -1, -1, 0
)
ACTS["open /dev/mem"] = lambda t: os.open("/dev/mem", os.O_RDWR)
ACTS["socket AF_INET"] = lambda t: syscall(41, 2, 1, 0)
ACTS["socket AF_UNIX"] = lambda t: syscall(41, 1, 1, 0)


def every(names: list[str], target: Target) -> dict[str, str]:
    """Run these acts, one after the other."""
    return {name: one(name, target)["said"] for name in names}


def names() -> list[str]:
    """All acts, in order."""
    return list(ACTS)
