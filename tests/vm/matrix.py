# SPDX-License-Identifier: Apache-2.0
"""What must come of every act by every role: the few that are allowed, by name; all others refused, by the kernel.

A refusal counts only with its line in the kernel's log, unless it stands in `NOT_SELINUX` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = (
    "ALLOWED",
    "DOMAINS",
    "LEFT_OUT",
    "NOT_SELINUX",
    "POSIX_ALLOWED",
    "POSIX_DOMAINS",
    "POSIX_LEFT_OUT",
    "judge",
    "page",
    "tried",
)

# Role: domain.  The outsider is the sender of another channel; root is unconfined and has every capability.
DOMAINS = {
    "helper": "sipc_feed_t",
    "sender": "sipc_feed_sender_t",
    "receiver": "sipc_feed_receiver_t",
    "outsider": "sipc_other_sender_t",
    "root": "unconfined_t",
}
# The same, of the channel that has a POSIX queue; its roles try what is done with one.
POSIX_DOMAINS = {
    "helper": "sipc_pfeed_t",
    "sender": "sipc_pfeed_sender_t",
    "receiver": "sipc_pfeed_receiver_t",
    "outsider": "sipc_other_sender_t",
    "root": "unconfined_t",
}
_MQUEUE = ("mq_open read", "mq_open write", "mq_open both ways", "mq_unlink", "mq_send", "mq_receive",
           "mq_getattr for reading", "mq_notify for reading", "mq_getattr for writing",
           "mq_notify for writing")  # fmt: skip
POSIX_ALLOWED: dict[str, frozenset[str]] = {
    # mq_open(O_CREAT) gives a descriptor, which must be one way or the other: it may do all with what it makes.
    "helper": frozenset(name for name in _MQUEUE if name != "mq_unlink"),
    # Queue and segment have one type (the roots of both file systems have), and who writes a mapping may read it: so a
    # sender may take its own messages back, which shows it no more than mq_getattr does.
    "sender": frozenset(name for name in _MQUEUE if name != "mq_unlink"),
    "receiver": frozenset(("mq_open read", "mq_receive", "mq_getattr for reading", "mq_notify for reading")),
    "outsider": frozenset(()),
    "root": frozenset(()),
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
        "perf_event_open of the receiver", "open /dev/mem", "semget of another's", "semop up on another's",
        "semctl GETVAL", "semctl SETVAL", "semctl IPC_STAT", "semctl SEM_STAT_ANY", "semctl IPC_INFO",
        "semctl SEM_INFO",
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
EMPTY = {"mq_receive": "EAGAIN"}  # allowed, and nothing is there
_SPOILS = ("msgctl IPC_SET", "msgctl IPC_RMID", "shmctl IPC_SET", "shmctl IPC_RMID", "descriptor: unlink",
           "descriptor: rename over")  # fmt: skip
# The helper may do these, and the channel under test would be gone; root may switch SELinux off, by its policy.
LEFT_OUT: dict[str, frozenset[str]] = {"helper": frozenset(_SPOILS), "root": frozenset(("setenforce 0",))}
POSIX_LEFT_OUT: dict[str, frozenset[str]] = {"helper": frozenset(("mq_unlink",))}


def tried(role: str, names: Iterable[str], left_out: Mapping[str, frozenset[str]] = LEFT_OUT) -> list[str]:
    """The acts that a role tries: not those on its own process."""
    return [
        name for name in names
        if name not in left_out.get(role, ()) and not (role in ("sender", "receiver") and name.endswith(f"the {role}"))
    ]  # fmt: skip


def judge(role: str, name: str, said: str, logged: bool, allowed: Mapping[str, frozenset[str]] = ALLOWED) -> str | None:
    """What is wrong with one cell; None when nothing is."""
    if name in allowed[role]:
        return None if said in ("ok", EMPTY.get(name)) else f"{role}: {name}: {said}, and is needed"
    if said in ("EACCES", "EPERM") and logged:
        return None
    if NOT_SELINUX.get(name, ("", ""))[0] == said:
        return None
    where = "" if logged else ", without a line in the kernel log"
    return f"{role}: {name}: {said}{where}, and must be refused by SELinux"


def _table(names: Iterable[str], said: Mapping[str, Mapping[str, str]], logged: Mapping[str, set[str]]) -> list[str]:
    lines = [f"| act | {' | '.join(said)} |", f"|---|{'---|' * len(said)}"]
    for name in names:
        row = []
        for role, values in said.items():
            value = values.get(name)
            row.append("-" if value is None else f"**{value}**" if name in logged[role] else value)
        lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


Said = Mapping[str, Mapping[str, str]]
Logged = Mapping[str, set[str]]


def page(
    names: Iterable[str], ours: tuple[Said, Logged], posix_names: Iterable[str], posix: tuple[Said, Logged]
) -> str:
    """The tables for the documentation: the channel's, and that of the channel with a POSIX queue."""
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
        *_table(names, *ours),
        "",
        "The POSIX queue in this table is another channel's, the semaphores are another domain's.",
        "",
        "## A channel with a POSIX queue",
        "",
        "Its own roles. What an end may open it may also ask about (`mq_getattr`, `mq_notify`): no rule of SELinux can",
        "refuse that, which is why such a channel must be asked for by name. Queue and segment have one type here, and",
        "a sender that maps the segment may read that type: it can take back messages of its own.",
        "",
        *_table(posix_names, *posix),
        "",
        f"{sum(len(values) for said, _ in (ours, posix) for values in said.values())} cells.",
        "",
        "Answers that are no refusal of SELinux, and why:",
        "",
        *(f"- {name}: {outcome}, {why}" for name, (outcome, why) in NOT_SELINUX.items()),
    ]
    return "\n".join(lines) + "\n"
