# SPDX-License-Identifier: Apache-2.0
"""`confine()`: each call is tried before and after, data still flows, and the document lists what is refused."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
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


def run_filter(program: bytes, architecture: int, call_number: int, arguments: tuple[int, ...]) -> int:
    """What a filter answers to one call: classic BPF as the kernel runs it for seccomp(2)."""
    data = struct.pack("<iIQ6Q", call_number, architecture, 0, *arguments)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        match operation:
            case 0x20:  # load a word of the call
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x54:  # and
                accumulator &= constant
            case 0x05:  # jump
                at += constant
            case 0x15 | 0x25 | 0x35 | 0x45:  # jump if equal, greater, not less, any bit set
                holds = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant,
                         0x45: bool(accumulator & constant)}[operation]  # fmt: skip
                at += if_true if holds else if_false
            case 0x06:  # return
                return int(constant)
            case _:
                raise AssertionError(hex(operation))


ALLOW, KILL, REFUSE = 0x7FFF0000, 0x00000000, 0x00050000 | errno.EPERM
# The audit system's name of each architecture, and numbers of its calls from its own table (asm/unistd.h), so that
# the filter is not only compared with the library that made it.
TABLES = {
    "X86_64": (0xC000003E, {"futex": 202, "mincore": 27, "madvise": 28, "msgget": 68, "msgsnd": 69, "msgrcv": 70,
                            "msgctl": 71, "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65,
                            "semctl": 66, "semtimedop": 220, "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242,
                            "mq_timedreceive": 243, "mq_notify": 244, "mq_getsetattr": 245, "ptrace": 101,
                            "read": 0, "write": 1, "mmap": 9, "shmdt": 67, "flock": 73, "exit_group": 231}),
    "AARCH64": (0xC00000B7, {"futex": 98, "mincore": 232, "madvise": 233, "msgget": 186, "msgsnd": 189, "msgrcv": 188,
                             "msgctl": 187, "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193,
                             "semctl": 191, "semtimedop": 192, "mq_open": 180, "mq_unlink": 181, "mq_timedsend": 182,
                             "mq_timedreceive": 183, "mq_notify": 184, "mq_getsetattr": 185, "ptrace": 117,
                             "read": 63, "write": 64, "mmap": 222, "shmdt": 197, "flock": 32, "exit_group": 94}),
}  # fmt: skip


@pytest.mark.parametrize("role", BOTH)
@pytest.mark.parametrize("machine", TABLES)
def test_the_filter_of_each_architecture_answers_as_it_should(machine: str, role: Role, tmp_path: Path) -> None:
    """The filter's own program, run call by call: x86-64 and aarch64, whichever of them this machine is."""
    architecture, numbers = TABLES[machine]
    made = seccomp.build(role)
    wanted = getattr(pyseccomp.Arch, machine)
    if not made.exist_arch(wanted):
        made = seccomp.build(role, architecture=wanted)
    with (tmp_path / "bpf").open("w+b") as file:
        made.export_bpf(file)
        file.seek(0)
        program = file.read()

    def answer(name: str, *arguments: int) -> int:
        return run_filter(program, architecture, numbers[name], (*arguments, *(0,) * (6 - len(arguments))))

    for name in numbers:
        if name in seccomp.GIVEN_UP[role]:
            assert answer(name) == answer(name, *(2**64 - 1,) * 6) == REFUSE, name
    for name in {"msgsnd", "msgrcv", "mq_timedsend", "mq_timedreceive"} - set(seccomp.GIVEN_UP[role]):
        assert answer(name) == ALLOW, name
    for name in ("read", "write", "mmap", "shmdt", "flock", "exit_group"):
        assert answer(name) == ALLOW, name
    assert [answer("futex", 0x7F0000000000, operation) for operation in (0, 1, 9, 10, 0x100)] == [REFUSE] * 5
    assert [answer("futex", 0x7F0000000000, operation | 128) for operation in (0, 1, 9, 10, 0x100)] == [ALLOW] * 5
    assert (answer("madvise", 0, 4096, 9), answer("madvise", 0, 4096, 4)) == (REFUSE, ALLOW)
    assert (answer("msgget", 7, 0o1600), answer("msgget", 7, 0o200)) == (REFUSE, ALLOW)
    assert (answer("shmget", 7, 0, 0o3000), answer("shmget", 7, 0, 0o400)) == (REFUSE, ALLOW)
    assert answer("shmat", 7, 0, 0o10000) == ALLOW
    assert answer("shmat", 7, 0, 0) == answer("shmat", 7, 0, 0o40000) == (ALLOW if role is Role.SENDER else REFUSE)
    # Numbers of another table mean other calls: such a process ends at once.
    assert run_filter(program, 0x40000003, 0, (0,) * 6) == KILL
    if machine == "X86_64":
        assert run_filter(program, architecture, 0x40000000 | numbers["read"], (0,) * 6) == KILL


def test_what_the_document_says_stays_does(registry: Path) -> None:
    """Locks, a second attach, finding what exists: refused by the policy, not by the filter."""
    make(registry, "c")

    def attempt() -> dict[str, int]:
        end = opened(Role.RECEIVER, registry)
        end.confine()
        keys = end._parts.descriptor.keys
        found = libc.shmget(int(str(keys.segment), 0), 0, 0o400)
        with Path(registry, "c.json").open() as file:
            locked = call("flock", file.fileno(), 4 | 1)
        attached = libc.shmat(found, None, 0o10000)
        return {
            "msgget": call("msgget", int(str(keys.queue), 0), 0o400), "shmget": min(found, 0), "flock": locked,
            "shmat": 0 if attached not in (None, 2**64 - 1) else ctypes.get_errno(),
        }  # fmt: skip

    assert Child(attempt).result() == {"msgget": 0, "shmget": 0, "flock": 0, "shmat": 0}


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
