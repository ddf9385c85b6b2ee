# SPDX-License-Identifier: Apache-2.0
"""The System V matrices of the public selinux-testsuite (tests/ipc there), as cases of this guest.

Four domains: base owns the objects; read may read them; associate may find them and no more; none may nothing.
They show that the kernel under test mediates the three classes as the generated policies assume.
"""

from __future__ import annotations

import pytest
from tests.vm.guest import LAB, Guest

pytestmark = pytest.mark.vm

KEY = 0x1BC
OWN = {
    "msgq": "create destroy getattr setattr read write associate unix_read unix_write enqueue",
    "shm": "create destroy getattr setattr read write associate unix_read unix_write lock",
    "sem": "create destroy getattr setattr read write associate unix_read unix_write",
}
READ = "associate getattr read unix_read"
CALLS = {
    "msgq": ("msgget", "msgget for reading", "msgget for writing", "msgctl IPC_STAT", "msgsnd", "msgrcv"),
    "shm": ("shmget", "shmget for reading", "shmget for writing", "shmctl IPC_STAT", "shmat read-only",
            "shmat read-write", "shmctl SHM_LOCK"),
    "sem": ("semget", "semget for reading", "semget for writing", "semctl IPC_STAT", "semctl GETVAL", "semctl SETVAL",
            "semop up", "semop wait for zero"),
}  # fmt: skip
ALL = frozenset(name for names in CALLS.values() for name in names)
ALLOWED = {
    "base": ALL,
    "read": frozenset((
        "msgget", "msgget for reading", "msgctl IPC_STAT", "msgrcv", "shmget", "shmget for reading",
        "shmctl IPC_STAT", "shmat read-only", "semget", "semget for reading", "semctl IPC_STAT", "semctl GETVAL",
        "semop wait for zero",
    )),
    "associate": frozenset(("msgget", "shmget", "semget")),
    "none": frozenset[str](),
}  # fmt: skip


def policy() -> str:
    """The four domains."""
    lines = []
    for name in ALLOWED:
        lines += [
            f"(type ipc_{name}_t)", f"(roletype system_r ipc_{name}_t)", f"(typeattributeset domain (ipc_{name}_t))",
            f"(allow {LAB} ipc_{name}_t (process (dyntransition)))", f"(allow ipc_{name}_t {LAB} (fd (use)))",
            f"(allow ipc_{name}_t {LAB} (fifo_file (write getattr)))",
        ]  # fmt: skip
    for cls, permissions in OWN.items():
        lines += [
            f"(allow ipc_base_t self ({cls} ({permissions})))",
            f"(allow ipc_read_t ipc_base_t ({cls} ({READ})))",
            f"(allow ipc_associate_t ipc_base_t ({cls} (associate)))",
        ]
    lines += [
        "(allow ipc_base_t self (msg (send receive)))",
        "(allow ipc_read_t ipc_base_t (msg (receive)))",
        "(allow ipc_base_t self (capability (ipc_lock ipc_owner)))",
        "(allow ipc_read_t self (capability (ipc_lock ipc_owner)))",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("domain", ALLOWED)
def test_each_domain_may_call_what_its_permissions_say(domain: str, guest: Guest) -> None:
    """Twenty-one calls: allowed ones succeed, the others end in EACCES with a line in the kernel's log."""
    guest.load({"ipc": policy()}, dontaudit=False)
    ids = guest.call("acts.calls", "make_all", KEY, domain="ipc_base_t").value
    assert min(ids.values()) >= 0
    try:
        sent = guest.call("acts.calls", "send_one", ids, domain="ipc_base_t")  # something to receive
        assert sent.value == {"ok": True}, sent
        before = len(guest.denials())
        done = guest.call("acts.calls", "every_ipc_call", KEY, ids, domain=f"ipc_{domain}_t")
        assert done.value is not None, done
        assert set(done.value) == ALL
        expected = {name: "ok" if name in ALLOWED[domain] else "EACCES" for name in ALL}
        assert done.value == expected
        lines = guest.denials()[before:]
        for cls, names in CALLS.items():
            refused = [name for name in names if expected[name] == "EACCES"]
            logged = [line for line in lines if f"tclass={cls}" in line and f"ipc_{domain}_t" in line]
            assert len(logged) >= len(refused), (cls, refused, logged)
    finally:
        assert guest.call("acts.calls", "drop_all", ids, domain="ipc_base_t").value == [{"ok": True}] * 3
