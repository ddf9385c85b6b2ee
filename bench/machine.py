# SPDX-License-Identifier: Apache-2.0
"""What the numbers were measured on, and which two cores the ends run on."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.harness import Place

_PACKAGES = ("sipc", "sysv_ipc", "posix_ipc", "pyzmq", "iceoryx2", "numpy", "matplotlib")
_CPUS = Path("/sys/devices/system/cpu")


def describe() -> dict[str, str | int]:
    """The machine, without anything that names it or its paths."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Hardware|uarch)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "virtual": "yes" if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) else "no",
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
    }


def load() -> float:
    """Processes that wanted a core, over the last minute: how busy others keep the machine."""
    return os.getloadavg()[0]


def versions() -> dict[str, str]:
    """Of every package in the contest, of the C compiler and of cat."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    for name, argv in (
        ("cc", [*shlex.split(os.environ.get("CC", "cc")), "--version"]),
        ("cat", ["cat", "--version"]),
    ):
        try:
            done = subprocess.run(argv, check=True, timeout=10, capture_output=True, text=True)
            found[name] = done.stdout.splitlines()[0]
        except (OSError, subprocess.SubprocessError, IndexError):
            found[name] = "unknown"
    return found


def place(cores: str | None, deadline: float) -> Place:
    """`cores` as "A,B"; by default the last two usable ones that are not threads of one core."""
    if cores is not None:
        sender, receiver = (int(core) for core in cores.split(","))
        return Place(sender_core=sender, receiver_core=receiver, deadline=deadline)
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Place(sender_core=None, receiver_core=None, deadline=deadline)
    last = usable[-1]
    others = [core for core in usable[:-1] if core not in _threads_of(last)] or usable[:-1]
    return Place(sender_core=others[-1], receiver_core=last, deadline=deadline)


def _threads_of(core: int) -> set[int]:
    """The hardware threads of the core this one belongs to."""
    try:
        text = (_CPUS / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return set()
    threads: set[int] = set()
    for part in text.split(","):
        first, _, end = part.partition("-")
        threads.update(range(int(first), int(end or first) + 1))
    return threads
