# SPDX-License-Identifier: Apache-2.0
"""Kernel objects behind one small interface: System V, POSIX, and an in-process fake."""

from __future__ import annotations

from sipc.kernel.base import KernelObjects, Keys, KeyTaken, Memory, Queue
from sipc.spec import Backend

__all__ = ("KernelObjects", "KeyTaken", "Keys", "Memory", "Queue", "backend")


def backend(which: Backend) -> KernelObjects:
    """The kernel objects of one backend; imported only when asked for."""
    if which is Backend.SYSV:
        from sipc.kernel.sysv import SysvObjects  # noqa: PLC0415 - start-up time

        return SysvObjects()
    if which is Backend.POSIX:
        from sipc.kernel.posix import PosixObjects  # noqa: PLC0415 - start-up time

        return PosixObjects()
    from sipc.kernel.memory import MemoryObjects  # noqa: PLC0415 - start-up time

    return MemoryObjects()
