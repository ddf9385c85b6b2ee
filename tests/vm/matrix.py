# SPDX-License-Identifier: Apache-2.0
"""What must come of every act by every role: the few that are allowed, by name; all others refused, by the kernel.

A refusal counts only with its line in the kernel's log, unless it stands in `NOT_SELINUX` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ("ALLOWED", "DOMAINS", "LEFT_OUT", "NOT_SELINUX", "judge", "page", "tried")

# Role: domain.  The outsider is the sender of another channel; root is unconfined and has every capability.
DOMAINS = {
    "helper": "sipc_feed_t",
    "sender": "sipc_feed_sender_t",
    "receiver": "sipc_feed_receiver_t",
    "outsider": "sipc_other_sender_t",
    "root": "unconfined_t",
}
_SEGMENT = ("shmat read-only", "mincore on the attach", "shared futex wake on the attach")
_ROOT_LOOKS = tuple(
    f"{what} of the {end}" for end in ("sender", "receiver") for what in ("/proc/PID/maps", "/proc/PID/stat",
                                                                          "/proc/PID/fd", "getsid")
)  # fmt: skip
_PRIORITY = ("getpriority of the sender", "getpriority of the receiver")
ALLOWED: dict[str, frozenset[str]] = {
    "helper": frozenset((
        "msgget mode 0000", "msgget mode 0400", "shmget mode 0000", "shmget mode 0200", "shmget mode 0400",
        "shmget mode 0600", "msgget IPC_CREAT", "shmget IPC_CREAT", *_SEGMENT, "shmat read-write",
        "msgctl IPC_STAT", "msgctl MSG_STAT", "msgctl MSG_STAT_ANY", "shmctl IPC_STAT", "shmctl SHM_STAT",
        "shmctl SHM_STAT_ANY", "descriptor: read", "descriptor: open for writing", "descriptor: chmod",
        "registry: make a file", "registry: make a directory", "registry: flock", "/dev/null: flock",
        "sender's state: read",
        "sender's state: write", "receiver's state: read", "receiver's state: write", *_PRIORITY,
    )),
    "sender": frozenset((
        "msgget mode 0000", "msgget mode 0200", "shmget mode 0000", "shmget mode 0200", "shmget mode 0400",
        "shmget mode 0600", "msgsnd", *_SEGMENT, "shmat read-write", "descriptor: read", "registry: inotify",
        "sender's state: read", "sender's state: write", "getpriority of the receiver",
    )),
    "receiver": frozenset((
        "msgget mode 0000", "msgget mode 0400", "shmget mode 0000", "shmget mode 0400", "msgrcv", *_SEGMENT,
        "descriptor: read", "registry: inotify", "receiver's state: read", "receiver's state: write",
        "getpriority of the sender",
    )),
    "outsider": frozenset(("registry: inotify", *_PRIORITY)),
    "root": frozenset((
        "msgget IPC_CREAT", "shmget IPC_CREAT", "semget IPC_CREAT", "mq_open O_CREAT", "msgctl MSG_INFO",
        "msgctl IPC_INFO", "shmctl SHM_INFO", "descriptor: read", "descriptor: flock shared",
        "descriptor: flock exclusive", "descriptor: fcntl read lock", "registry: flock", "/dev/null: flock",
        "python: flock a shared library file", "registry: inotify", "/proc/sysvipc/msg", "/proc/sysvipc/shm",
        "/proc/sysvipc/sem", *_ROOT_LOOKS, *_PRIORITY, "socket AF_INET", "socket AF_UNIX", "bpf",
        "perf_event_open of the receiver", "open /dev/mem",
    )),
}  # fmt: skip
# Refusals that another part of the kernel gives before SELinux is asked, or an answer that is no refusal.
NOT_SELINUX: dict[str, tuple[str, str]] = {
    "msgget of a key that is not there": ("ENOENT", "no object, nothing to ask about: the creation bitmap, open"),
    "mprotect a read-only attach to read-write": ("EACCES", "the mapping may never become writable"),
    "/proc/self/mem write through a read-only attach": ("EIO", "a shared mapping that may not be written"),
    "madvise MADV_REMOVE on the attach": ("EACCES", "needs a mapping that may be written"),
    "registry: make a link": ("EEXIST", "another cell made a file of that name"),
    "registry: make a directory": ("EEXIST", "another cell made one"),
    "setpgid of the sender": ("ESRCH", "only of one's own children"),
    "setpgid of the receiver": ("ESRCH", "only of one's own children"),
    "sender's lock: flock": ("EAGAIN", "its own lock, held by the sender that runs"),
    "receiver's lock: flock": ("EAGAIN", "its own lock, held by the receiver that runs"),
    "msgrcv MSG_COPY": ("ENOMSG", "the receiver may read: looking at what it may take"),
    "msgrcv": ("ENOMSG", "the helper may look for messages and receive none: the kernel skips them"),
    "load a policy": ("EINVAL", "root may load a policy, and this is none: who may change the policy is not bound"),
}
_SPOILS = ("msgctl IPC_SET", "msgctl IPC_RMID", "shmctl IPC_SET", "shmctl IPC_RMID", "descriptor: unlink",
           "descriptor: rename over")  # fmt: skip
# The helper may do these, and the channel under test would be gone; root may switch SELinux off, by its policy.
LEFT_OUT: dict[str, frozenset[str]] = {"helper": frozenset(_SPOILS), "root": frozenset(("setenforce 0",))}


def tried(role: str, names: Iterable[str]) -> list[str]:
    """The acts that a role tries: not those on its own process."""
    return [
        name for name in names
        if name not in LEFT_OUT.get(role, ()) and not (role in ("sender", "receiver") and name.endswith(f"the {role}"))
    ]  # fmt: skip


def judge(role: str, name: str, said: str, logged: bool) -> str | None:
    """What is wrong with one cell; None when nothing is."""
    if name in ALLOWED[role]:
        return None if said == "ok" else f"{role}: {name}: {said}, and is needed"
    if said in ("EACCES", "EPERM") and logged:
        return None
    if NOT_SELINUX.get(name, ("", ""))[0] == said:
        return None
    where = "" if logged else ", without a line in the kernel log"
    return f"{role}: {name}: {said}{where}, and must be refused by SELinux"


def page(names: Iterable[str], said: Mapping[str, Mapping[str, str]], logged: Mapping[str, set[str]]) -> str:
    """The table for the documentation."""
    roles = list(DOMAINS)
    lines = [
        "# Attack matrix",
        "",
        "Made by `make vm-test` in an enforcing guest, with Debian's policy and the policy of three channels: what",
        "comes of every act by every role, all of them as uid 0 with every capability, so that nothing but SELinux is",
        "in the way. `tests/vm/matrix.py` says what must come of each; a run that differs fails.",
        "",
        "**Bold** cells are refusals with their line (AVC) in the kernel's log. `-`: not tried (its own right,",
        "its own process, or root switching SELinux off).",
        "",
        "Root is not bound by a policy that it may change: it can load another, switch SELinux off, or open /dev/mem.",
        "What the table shows is that it can do nothing to a channel while the policy stands.",
        "",
        f"| act | {' | '.join(roles)} |",
        f"|---|{'---|' * len(roles)}",
    ]
    cells = 0
    for name in names:
        row = []
        for role in roles:
            value = said[role].get(name)
            cells += value is not None
            row.append("-" if value is None else f"**{value}**" if name in logged[role] else value)
        lines.append(f"| {name} | {' | '.join(row)} |")
    lines += ["", f"{cells} cells.", "", "Answers that are no refusal of SELinux, and why:", ""]
    lines += [f"- {name}: {outcome}, {why}" for name, (outcome, why) in NOT_SELINUX.items()]
    return "\n".join(lines) + "\n"
