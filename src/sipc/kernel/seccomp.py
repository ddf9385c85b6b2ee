# SPDX-License-Identifier: Apache-2.0
"""Filters for what SELinux does not see: system calls that an open end of a channel has no use for.

Owns which calls each role gives up, and nothing of when.  A filter is for the whole process and for good; a call that
it refuses ends in EPERM.  It adds to the policy and does not replace it: it binds this process and what it starts, and
the process asks for it itself.  What stays allowed is in docs/seccomp.md.

Why these (DESIGN section 10): a futex that is not private works on the page behind an address, even through a
read-only mapping; mincore(2) tells which pages are resident; MADV_REMOVE takes pages away from all who map them;
io_uring makes calls that no filter sees.  The rest are the calls of the other direction, of looking at objects, and of
making them, which a policy refuses as well.

libseccomp, through pyseccomp, has the tables of call numbers for x86-64, aarch64 and others.
"""

from __future__ import annotations

import ctypes.util
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sipc.errors import KernelError, PolicyUnavailable
from sipc.spec import Role

__all__ = ("GIVEN_UP", "MASKED", "build", "confine")

_COMMON = (
    "semget", "semop", "semtimedop", "semctl", "msgctl", "shmctl", "mincore", "process_madvise", "futex_waitv",
    "futex_wake", "futex_wait", "futex_requeue", "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr", "ptrace",
    "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "bpf", "perf_event_open", "userfaultfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "remap_file_pages",
)  # fmt: skip
# Refused whatever their arguments are.
GIVEN_UP: dict[Role, tuple[str, ...]] = {
    Role.SENDER: (*_COMMON, "msgrcv", "mq_timedreceive"),
    Role.RECEIVER: (*_COMMON, "msgsnd", "mq_timedsend"),
}
_IPC_STAT = 2
_IPC_CREAT, _SHM_RDONLY, _FUTEX_PRIVATE, _MADV_REMOVE = 0o1000, 0o10000, 128, 9
# Refused when (argument & mask) == value: call, index of the argument, mask, value, roles.
MASKED: tuple[tuple[str, int, int, int, tuple[Role, ...]], ...] = (
    ("futex", 1, _FUTEX_PRIVATE, 0, (Role.SENDER, Role.RECEIVER)),
    ("madvise", 2, 0xFFFFFFFF, _MADV_REMOVE, (Role.SENDER, Role.RECEIVER)),
    ("msgget", 1, _IPC_CREAT, _IPC_CREAT, (Role.SENDER, Role.RECEIVER)),
    ("shmget", 2, _IPC_CREAT, _IPC_CREAT, (Role.SENDER, Role.RECEIVER)),
    ("shmat", 2, _SHM_RDONLY, 0, (Role.RECEIVER,)),
)


def _library() -> Any:
    try:
        with _by_name():
            import pyseccomp  # noqa: PLC0415 - an extra, and only for those who confine themselves
    except (ImportError, OSError, RuntimeError) as error:
        raise PolicyUnavailable(
            f"confine() needs libseccomp and its binding ({error}): run pip install 'sipc[seccomp]', and install the "
            "package libseccomp2"
        ) from error
    return pyseccomp


@contextmanager
def _by_name() -> Iterator[None]:
    """Let pyseccomp find its libraries by their names: it would run ldconfig and a compiler to look for them.

    A confined domain may run neither, and would go on without a filter.
    """
    search, names = ctypes.util.find_library, {"c": "libc.so.6", "seccomp": "libseccomp.so.2"}
    ctypes.util.find_library = lambda name: names.get(name) or search(name)
    try:
        yield
    finally:
        ctypes.util.find_library = search


def build(role: Role, *, looks: bool = False, architecture: int | None = None) -> Any:
    """A filter for one role; `looks` leaves it msgctl IPC_STAT, which tells a receiver who sent last.

    `architecture` (a constant of pyseccomp.Arch) adds one besides this machine's own.
    """
    library = _library()
    made = library.SyscallFilter(defaction=library.ALLOW)
    if architecture is not None:
        made.add_arch(architecture)
    refuse = library.ERRNO(errno.EPERM)
    for name in GIVEN_UP[role]:
        if looks and name == "msgctl":
            _add(library, made, refuse, name, library.Arg(1, library.NE, _IPC_STAT))
        else:
            _add(library, made, refuse, name)
    for name, index, mask, value, roles in MASKED:
        if role in roles:
            _add(library, made, refuse, name, library.Arg(index, library.MASKED_EQ, mask, value))
    return made


def _add(library: Any, made: Any, refuse: int, name: str, *conditions: Any) -> None:
    try:
        library.resolve_syscall(library.Arch.NATIVE, name)
    except (OSError, ValueError):
        return  # newer than this libseccomp; the policy and the mapping still stand
    made.add_rule(refuse, name, *conditions)


def confine(role: Role, *, looks: bool = False) -> None:
    """Give up what `role` has no use for, in every thread of this process, for good; `looks` as in `build`.

    Raises `PolicyUnavailable` when libseccomp is not here, `KernelError` when the kernel takes no filter.
    """
    made = build(role, looks=looks)
    library = _library()
    try:
        made.set_attr(library.Attr.CTL_TSYNC, 1)
        made.load()
    except OSError as error:
        raise KernelError(
            error.errno or 0, f"{error.strerror}: no filter was installed", syscall="seccomp", obj=f"this {role}"
        ) from error
