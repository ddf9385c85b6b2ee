# SPDX-License-Identifier: Apache-2.0
"""`confine()`: each call is tried before and after, data still flows, and the document lists what is refused."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyseccomp
import pytest
from tests.support.channels import Child, make
from tests.support.cli import ended, started

import sipc
from sipc.kernel import seccomp
from sipc.spec import Role

pytestmark = pytest.mark.host

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
BOTH = (Role.SENDER, Role.RECEIVER)
PAGE = 4096


def number(name: str) -> int:
    """The number of a call on this machine."""
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


def call(name: str, *arguments: int) -> int:
    """Make one system call; its errno, 0 for none."""
    ctypes.set_errno(0)
    value = libc.syscall(ctypes.c_long(number(name)), *(ctypes.c_long(argument) for argument in arguments))
    return ctypes.get_errno() if value == -1 else 0


def page() -> int:
    """An anonymous shared page."""
    return int(libc.mmap(None, PAGE, 3, 0x21, -1, 0))


# What to try: the roles that are refused, and the call with arguments that do no harm.
ATTEMPTS: dict[str, tuple[tuple[Role, ...], Callable[[int], int]]] = {
    "shared futex wake": (BOTH, lambda address: call("futex", address, 1, 1, 0, 0, 0)),
    "mincore": (BOTH, lambda address: call("mincore", address, PAGE, address)),
    "madvise MADV_REMOVE": (BOTH, lambda address: call("madvise", address, PAGE, 9)),
    "msgsnd": ((Role.RECEIVER,), lambda address: call("msgsnd", 0x7FFFFFF, address, 0, 0o4000)),
    "msgrcv": ((Role.SENDER,), lambda address: call("msgrcv", 0x7FFFFFF, address, 0, 0, 0o4000)),
    "shmget IPC_CREAT": (BOTH, lambda _: call("shmget", 0x51, 0, 0o3000)),
    "shmat read-write": ((Role.RECEIVER,), lambda _: call("shmat", 0x7FFFFFF, 0, 0)),
    "semget": (BOTH, lambda _: call("semget", 0x51, 0, 0)),
    "semop": (BOTH, lambda address: call("semop", 0x7FFFFFF, address, 1)),
    "semctl": (BOTH, lambda _: call("semctl", 0x7FFFFFF, 0, 0)),
    "msgctl IPC_STAT": (BOTH, lambda address: call("msgctl", 0x7FFFFFF, 2, address)),
    "shmctl IPC_STAT": (BOTH, lambda address: call("shmctl", 0x7FFFFFF, 2, address)),
    "mq_open": (BOTH, lambda address: call("mq_open", address, 0, 0, 0)),
    "mq_unlink": (BOTH, lambda address: call("mq_unlink", address)),
    "mq_notify": (BOTH, lambda _: call("mq_notify", 9999, 0)),
    "mq_getsetattr": (BOTH, lambda address: call("mq_getsetattr", 9999, 0, address)),
    "mq_timedsend": ((Role.RECEIVER,), lambda address: call("mq_timedsend", 9999, address, 0, 0, 0)),
    "mq_timedreceive": ((Role.SENDER,), lambda address: call("mq_timedreceive", 9999, address, 0, 0, 0)),
    "ptrace": (BOTH, lambda _: call("ptrace", 16, 0x3FFFFF, 0, 0)),
    "process_vm_readv": (BOTH, lambda address: call("process_vm_readv", 0x3FFFFF, address, 0, address, 0, 1)),
    "kcmp": (BOTH, lambda _: call("kcmp", 0x3FFFFF, 0x3FFFFF, 0, 0, 0)),
    "bpf": (BOTH, lambda address: call("bpf", 9999, address, 0)),
    "userfaultfd": (BOTH, lambda _: call("userfaultfd", 0xFFFF)),
    "io_uring_setup": (BOTH, lambda address: call("io_uring_setup", 0, address)),
}
ATTEMPTS["msgget IPC_CREAT"] = (BOTH, lambda _: call("msgget", 0x51, 0o3400))


def opened(role: Role, registry: Path) -> sipc.Sender | sipc.Receiver:
    """One end of channel `c`."""
    return sipc.open_sender("c", registry=registry) if role is Role.SENDER else sipc.open_receiver(
        "c", registry=registry
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["sysv", "posix"])
@pytest.mark.parametrize("role", BOTH)
def test_each_call_is_refused_afterwards_and_was_not_before(role: Role, backend: str, registry: Path) -> None:
    """EPERM for what the role gives up; the same answer as before for the rest."""
    make(registry, "c", backend=backend)

    def attempt() -> dict[str, tuple[int, int]]:
        address = page()
        end = opened(role, registry)
        before = {name: one(address) for name, (_, one) in ATTEMPTS.items() if "IPC_CREAT" not in name}
        end.confine()
        return {name: (before.get(name, 0), one(address)) for name, (_, one) in ATTEMPTS.items()}

    said = Child(attempt).result()
    for name, (roles, _) in ATTEMPTS.items():
        before, after = said[name]
        if role in roles:
            assert after == errno.EPERM, (name, before, after)
            assert before != errno.EPERM or name in ("bpf", "userfaultfd", "io_uring_setup"), (name, before)
        else:
            assert after == before, (name, before, after)


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_data_still_flows(backend: str, registry: Path) -> None:
    """Both ends confined: messages of all sizes, records, flush and close; blocking and with time-outs."""
    make(registry, "c", backend=backend, slot_size=4096)
    sizes = (0, 1, 4096, 50_000)

    def send() -> None:
        with sipc.open_sender("c", registry=registry) as sender:
            sender.confine()
            for size in sizes:
                sender.send(bytes(size))
                sender.send(bytes(size), 30)
            sender.send_many([b"a", b"b"])
            sender.flush(30)

    def receive() -> list[int]:
        with sipc.open_receiver("c", registry=registry) as receiver:
            receiver.confine()
            return [len(message) for message in receiver]

    receiving, sending = Child(receive), Child(send)
    assert receiving.result() == [size for size in sizes for _ in range(2)] + [1, 1]
    sending.result()


def test_every_thread_is_confined(registry: Path) -> None:
    """Those that run already, too."""
    make(registry, "c")

    def attempt() -> int:
        go, said = threading.Event(), []

        def other() -> None:
            go.wait()
            said.append(call("semget", 0x51, 0, 0))

        thread = threading.Thread(target=other)
        thread.start()
        opened(Role.SENDER, registry).confine()
        go.set()
        thread.join()
        return int(said[0])

    assert Child(attempt).result() == errno.EPERM


def test_a_closed_end_confines_nobody(registry: Path) -> None:
    """It has no role any more."""
    make(registry, "c")
    end = sipc.open_receiver("c", registry=registry)
    end.close()
    with pytest.raises(sipc.Closed):
        end.confine()


def test_the_command_line_can_confine_its_ends(registry: Path, tmp_path: Path) -> None:
    """A file crosses between confined ends, and the demo says whether its ends are."""
    make(registry, "c")
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1_000_000))
    with started("recv", "c", "--confine", registry=registry) as receiver:
        with started("send", "c", file, "--confine", registry=registry) as sender:
            code, out, _ = ended(receiver)
            assert sender.wait(30) == 0
    assert (code, out) == (0, file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "sipc.cli", "demo"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Both ends have given up, by seccomp filters" in done.stdout


def test_without_libseccomp_it_is_refused_in_words() -> None:
    """And counts as a policy that can not be asked."""
    code = (
        "import sys; sys.modules['pyseccomp'] = None\n"
        "from sipc.kernel import seccomp; from sipc.errors import PolicyUnavailable; from sipc.spec import Role\n"
        "try: seccomp.confine(Role.SENDER)\n"
        "except PolicyUnavailable as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert "pip install 'sipc[seccomp]'" in done.stdout


@pytest.mark.parametrize("role", BOTH)
def test_the_filter_of_another_architecture_has_the_same_rules(role: Role, tmp_path: Path) -> None:
    """Libseccomp's tables for x86-64 and aarch64, read back from the filter it made."""
    made = seccomp.build(role, architecture=None)
    for architecture in (pyseccomp.Arch.X86_64, pyseccomp.Arch.AARCH64):
        if not made.exist_arch(architecture):
            made = seccomp.build(role, architecture=architecture)
    with (tmp_path / "filter").open("w+b") as file:
        made.export_pfc(file)
        file.seek(0)
        text = file.read().decode()
    parts = re.split(r"# filter for arch (\w+)", text)
    rules = {name: set(re.findall(r'# filter for syscall "(\w+)"', body)) for name, body in zip(
        parts[1::2], parts[2::2], strict=True)}  # fmt: skip
    assert {"x86_64", "aarch64"} <= set(rules)
    wanted = {*seccomp.GIVEN_UP[role], *(name for name, *_, roles in seccomp.MASKED if role in roles)}
    for name in ("x86_64", "aarch64"):
        assert wanted - rules[name] == set(), name


def test_the_document_lists_every_call() -> None:
    """docs/seccomp.md, with the column of the role."""
    text = (Path(__file__).parents[2] / "docs" / "seccomp.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for role, column in ((Role.SENDER, -3), (Role.RECEIVER, -2)):
        named = {
            name
            for row in rows
            if row.split("|")[column].strip() == "yes"
            for name in re.findall(r"`(\w+)`", row.split("|")[1])
        }
        expected = {*seccomp.GIVEN_UP[role], *(name for name, *_, roles in seccomp.MASKED if role in roles)}
        assert expected == named
