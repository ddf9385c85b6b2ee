# SPDX-License-Identifier: Apache-2.0
"""What a taken-over stage would try against the others: `python guard_stage.py FILE` in the place of its program.

FILE is JSON: `pids` of processes to reach, `paths` of other stages' files and directories, `out`: where the answers go,
a file in the stage's own state.  Each act's answer is "done", or the name of the errno.  Plain system calls.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial

libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
SCHED_IDLE = 5


def called(result: int) -> None:
    """Raise what a call of the C library failed with."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def answer(act: Callable[[], object]) -> str:
    """What came of an act."""
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "done"


def signalled(*numbers: int) -> None:
    """A call by number (x86-64)."""
    called(libc.syscall(*numbers))


def read_memory(pid: int) -> None:
    """The first bytes of this program, which is the same in every stage, from the other's memory."""
    data = ctypes.create_string_buffer(8)
    with open("/proc/self/maps") as file:
        start = int(file.read().partition("-")[0], 16)
    ours, theirs = (ctypes.c_ulong * 2)(ctypes.addressof(data), 8), (ctypes.c_ulong * 2)(start, 8)
    called(libc.syscall(310, pid, ours, 1, theirs, 1, 0))


def to_process(pid: int) -> dict[str, str]:
    """Signals, tracing, memory, limits and scheduling of another stage's process."""
    acts: dict[str, Callable[[], object]] = {}
    for number in range(65):
        acts[f"kill {number}"] = partial(signalled, 62, pid, number)
        acts[f"tgkill {number}"] = partial(signalled, 234, pid, pid, number)
    acts |= {
        "ptrace attach": lambda: called(libc.ptrace(PTRACE_ATTACH, pid, 0, 0)),
        "ptrace seize": lambda: called(libc.ptrace(PTRACE_SEIZE, pid, 0, 0)),
        "process_vm_readv": lambda: read_memory(pid),
        "pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL),
        "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "sched_setscheduler": lambda: os.sched_setscheduler(pid, SCHED_IDLE, os.sched_param(0)),
        "sched_setaffinity": lambda: os.sched_setaffinity(pid, {0}),
        "prlimit": lambda: resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20)),
        "read mem": lambda: open(f"/proc/{pid}/mem", "rb"),
        "write oom_score_adj": lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"),
        "migrate_pages": lambda: called(libc.syscall(256, pid, 64, ctypes.byref(ctypes.c_ulong(1)),
                                                     ctypes.byref(ctypes.c_ulong(1)))),
    }  # fmt: skip
    return {name: answer(act) for name, act in acts.items()}


def to_path(path: str) -> dict[str, str]:
    """Making, changing and removing what belongs to another."""
    inside = os.path.join(path, "attack") if os.path.isdir(path) or not os.path.exists(path) else path
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: open(inside, "ab").write(b"x"),
        "truncate": lambda: os.truncate(path, 0),
        "unlink": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, f"{path}.gone"),
        "chmod": lambda: os.chmod(path, 0o777),
        "mkdir": lambda: os.mkdir(os.path.join(path, "attack.d")),
    }
    return {name: answer(act) for name, act in acts.items()}


def to_supervisor() -> dict[str, str]:
    """Its own manager: by its socket, by its processes, by units."""
    acts: dict[str, Callable[[], object]] = {
        "kill 1": lambda: os.kill(1, signal.SIGKILL),
        "write unit": lambda: open("/etc/systemd/system/sipc-guard-json-stage-deliver.service", "a"),
        "write guard": lambda: open("/etc/sipc/guards/json.toml", "a"),
        "write cgroup": lambda: open("/sys/fs/cgroup/cgroup.procs", "w"),
    }
    found = {name: answer(act) for name, act in acts.items()}
    for verb in ("stop", "kill"):
        try:
            done = subprocess.run(["systemctl", verb, "sipc-guard-json-stage-deliver.service"], capture_output=True,
                                  check=False, timeout=30)  # fmt: skip
            found[f"systemctl {verb}"] = "done" if done.returncode == 0 else "refused"
        except OSError as error:
            found[f"systemctl {verb}"] = errno.errorcode[error.errno or 0]
    return found


def exhaust() -> dict[str, str]:
    """Processes until no more are given; then memory until this one is ended."""
    made = 0
    try:
        for _ in range(100_000):
            if os.fork() == 0:
                signal.pause()
            made += 1
    except OSError as error:
        return {"forks": str(made), "fork": errno.errorcode[error.errno or 0]}
    return {"forks": str(made), "fork": "done"}


def main() -> None:
    """All acts; the last one is not expected to return."""
    with open(sys.argv[1]) as file:
        wanted = json.load(file)
    found = {"pids": {pid: to_process(int(pid)) for pid in wanted["pids"]},
             "paths": {path: to_path(path) for path in wanted["paths"]}, "supervisor": to_supervisor(),
             "exhaust": exhaust()}  # fmt: skip
    with open(wanted["out"] + ".new", "w") as file:
        json.dump(found, file)
    os.rename(wanted["out"] + ".new", wanted["out"])
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1)) * (8 << 20))


if __name__ == "__main__":
    main()
