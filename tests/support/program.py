# SPDX-License-Identifier: Apache-2.0
"""The helper run as the program it is, and what the tests ask of its answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.channels import definition

from sipc.kernel import limits
from sipc.spec import Principal

__all__ = ("RECEIVER", "SENDER", "USERS", "limit", "program", "refusal", "too_much", "write")

_ME = os.geteuid()
# Two ends as two users for root; an ordinary user can only name himself.
SENDER, RECEIVER = (Principal(uid=1, gid=1), Principal(uid=2, gid=2)) if _ME == 0 else (Principal(uid=_ME),) * 2
USERS = f"sender = {{ user = {SENDER.uid} }}\nreceiver = {{ user = {RECEIVER.uid} }}"


def program(registry: Path, *argv: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the helper as a process of its own."""
    command = [sys.executable, "-m", "sipc.helper", "--registry", str(registry), *map(str, argv)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **options)


def refusal(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line in which the program said why it did not do it."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.startswith("sipc-helper: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def write(folder: Path, text: str, name: str = "channels.toml") -> Path:
    """A file of definitions."""
    path = folder / name
    path.write_text(text)
    return path


def limit(name: str) -> int:
    """One of the kernel's limits."""
    value = limits.read(name)
    assert value is not None
    return value


def too_much() -> dict[str, tuple[str, str, str]]:
    """What this kernel just can not hold: name -> (definition, key, limit)."""
    msgmax, msgmnb = limit("kernel.msgmax"), limit("kernel.msgmnb")
    msg_max, msgsize_max = limit("fs.mqueue.msg_max"), limit("fs.mqueue.msgsize_max")
    return {
        "queue": (
            definition("c", transport="queue", slot_size=msgmax - 32, depth=msgmnb // msgmax + 1),
            "depth", "kernel.msgmnb",
        ),
        "message": (definition("c", transport="queue", slot_size=msgmax - 31), "slot_size", "kernel.msgmax"),
        "posix-queue": (definition("c", backend="posix", depth=msg_max + 1), "depth", "fs.mqueue.msg_max"),
        "posix-message": (
            definition("c", backend="posix", transport="queue", depth=1, slot_size=msgsize_max - 31),
            "slot_size", "fs.mqueue.msgsize_max",
        ),
    }  # fmt: skip
