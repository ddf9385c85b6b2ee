# SPDX-License-Identifier: Apache-2.0
"""The kernel calls each role may make, and how the kernel answers: a test for every line of DESIGN section 6.

Calls are seen by a library that is loaded before the C library and logs each IPC call with what matters of its
arguments; refusals are the kernel's own, to processes of other users.  What all backends share is in `test_kernel.py`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import sysv_ipc
from tests.support.channels import Child, definition, make
from tests.support.descriptors import descriptors

import sipc
from sipc import enforcement, helper, kernel
from sipc.definitions import parse
from sipc.descriptor import Descriptor
from sipc.kernel import KernelObjects, Keys, limits
from sipc.proto.segment import segment_size, slot_offset
from sipc.spec import Backend, ChannelSpec, Enforcement, Geometry, Principal, Role, SegmentCreator

pytestmark = pytest.mark.host

SIZE = 32
PAGE = 4096
SENDER, RECEIVER, OTHER = 54321, 54322, 54323  # uids and gids that are nobody's here
CREAT_EXCL = 0o3000

# -- looking at calls -----------------------------------------------------------------------------------------

SPY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <mqueue.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

static void log_line(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    int fd = open(getenv("SPY_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || length >= (int)sizeof line || write(fd, line, (size_t)length) != length) abort();
    close(fd);
}

// Logs `format, ...` and goes on to the C library.
#define SEE(type, name, parameters, arguments, ...) \
    type name parameters { \
        type (*real) parameters = (type (*) parameters)dlsym(RTLD_NEXT, #name); \
        log_line(#name " " __VA_ARGS__); \
        return real arguments; \
    }

SEE(int, msgget, (key_t key, int flags), (key, flags), "key=%d flags=%o\n", key, flags)
SEE(int, msgsnd, (int id, const void *data, size_t size, int flags), (id, data, size, flags), "size=%zu\n", size)
SEE(ssize_t, msgrcv, (int id, void *data, size_t size, long type, int flags), (id, data, size, type, flags),
    "size=%zu type=%ld flags=%o\n", size, type, flags & ~IPC_NOWAIT)
SEE(int, shmget, (key_t key, size_t size, int flags), (key, size, flags), "key=%d flags=%o\n", key, flags)
SEE(void *, shmat, (int id, const void *at, int flags), (id, at, flags), "flags=%o\n", flags)
SEE(int, shmdt, (const void *at), (at), "\n")
SEE(int, shmctl, (int id, int command, struct shmid_ds *data), (id, command, data),
    "command=%d mode=%o\n", command, command == IPC_SET ? data->shm_perm.mode : 0)
SEE(int, msgctl, (int id, int command, struct msqid_ds *data), (id, command, data),
    "command=%d bytes=%lu mode=%o\n", command, command == IPC_SET ? (unsigned long)data->msg_qbytes : 0,
    command == IPC_SET ? data->msg_perm.mode : 0)
SEE(key_t, ftok, (const char *path, int project), (path, project), "\n")
SEE(int, semget, (key_t key, int count, int flags), (key, count, flags), "\n")
SEE(int, semop, (int id, struct sembuf *what, size_t count), (id, what, count), "\n")
SEE(int, semtimedop, (int id, struct sembuf *what, size_t count, const struct timespec *limit),
    (id, what, count, limit), "\n")
SEE(int, mq_close, (mqd_t queue), (queue), "\n")
SEE(int, mq_unlink, (const char *name), (name), "\n")
SEE(int, mq_getattr, (mqd_t queue, struct mq_attr *data), (queue, data), "\n")
SEE(int, mq_setattr, (mqd_t queue, const struct mq_attr *data, struct mq_attr *old), (queue, data, old), "\n")
SEE(int, mq_notify, (mqd_t queue, const struct sigevent *event), (queue, event), "\n")
SEE(int, mq_send, (mqd_t queue, const char *data, size_t size, unsigned priority), (queue, data, size, priority), "\n")
SEE(int, mq_timedsend, (mqd_t queue, const char *data, size_t size, unsigned priority, const struct timespec *limit),
    (queue, data, size, priority, limit), "\n")
SEE(ssize_t, mq_receive, (mqd_t queue, char *data, size_t size, unsigned *priority),
    (queue, data, size, priority), "\n")
SEE(ssize_t, mq_timedreceive,
    (mqd_t queue, char *data, size_t size, unsigned *priority, const struct timespec *limit),
    (queue, data, size, priority, limit), "\n")
SEE(int, shm_open, (const char *name, int flags, mode_t mode), (name, flags, mode),
    "flags=%o\n", flags & (O_ACCMODE | O_CREAT | O_EXCL))
SEE(int, shm_unlink, (const char *name), (name), "\n")
SEE(int, rename, (const char *from, const char *to), (from, to), "to=%s\n", to)
SEE(int, renameat, (int in, const char *from, int into, const char *to), (in, from, into, to), "to=%s\n", to)

mqd_t mq_open(const char *name, int flags, ...) {
    mqd_t (*real)(const char *, int, ...) = (mqd_t (*)(const char *, int, ...))dlsym(RTLD_NEXT, "mq_open");
    log_line("mq_open flags=%o\n", flags & (O_ACCMODE | O_NONBLOCK | O_CREAT | O_EXCL));
    if (!(flags & O_CREAT)) return real(name, flags);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    struct mq_attr *data = va_arg(rest, struct mq_attr *);
    va_end(rest);
    return real(name, flags, mode, data);
}

int semctl(int id, int number, int command, ...) {
    (void)id, (void)number, (void)command;
    log_line("semctl\n");
    return -1;
}

sem_t *sem_open(const char *name, int flags, ...) {
    (void)name, (void)flags;
    log_line("sem_open\n");
    return SEM_FAILED;
}
"""


@dataclass(frozen=True)
class Spy:
    """The compiled library, and a place for its logs."""

    library: Path
    folder: Path

    def start(self, name: str, code: str, *arguments: object) -> subprocess.Popen[str]:
        """Run Python code whose IPC calls are logged under `name`."""
        environment = {**os.environ, "LD_PRELOAD": str(self.library), "SPY_LOG": str(self.folder / name)}
        argv = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
        return subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)

    def calls(self, name: str) -> list[str]:
        """The calls of one run, in order, keys left out of the picture."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [" ".join(part for part in line.split() if not part.startswith("key=")) for line in lines]

    def keys(self, name: str) -> list[int]:
        """The System V keys of one run, in order."""
        words = (self.folder / name).read_text().split()
        return [int(word.removeprefix("key=")) for word in words if word.startswith("key=")]


@pytest.fixture(scope="module")
def spy_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, built once."""
    folder = tmp_path_factory.mktemp("spy")
    source, library = folder / "spy.c", folder / "spy.so"
    source.write_text(SPY)
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-nonnull-compare"]
    subprocess.run(["cc", *warnings, "-fPIC", "-shared", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def spy(spy_library: Path, tmp_path: Path) -> Spy:
    """A fresh place for logs."""
    return Spy(spy_library, tmp_path)


def finish(*running: subprocess.Popen[str]) -> None:
    """Wait until all have ended well."""
    try:
        for process in running:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
            process.wait()


SENDING = """
import sys, sipc
for _ in range(2):
    with sipc.open_sender("c", registry=sys.argv[1], timeout=30) as end:
        for number in range(20):
            end.send(b"message %d" % number)
            end.send(b"message %d" % number, timeout=30)
        end.send(bytes(20_000))
        end.send_many([b"record"] * 500)
        with end.reserve(100) as slot:
            slot.view[:5] = b"place"
        try:
            for _ in range(100):
                end.send(b"until it is full", timeout=0)
        except sipc.Timeout:
            pass
        end.flush(30)
"""
RECEIVING = """
import sys, sipc
for _ in range(2):
    with sipc.open_receiver("c", registry=sys.argv[1], cursor=sys.argv[1] + "/cursor", timeout=30) as end:
        with end.unsafe_borrow(30) as block:
            assert bytes(block.view) == b"message 0"
        assert end.receive(30) == b"message 0"
        assert end.receive() == b"message 1"
        for _ in range(3):
            try:
                end.receive(0)
            except sipc.Timeout:
                pass
        last = list(end)[-1]
"""
# What each role may call, and nothing else: for (backend, transport, creator of the segment).
QUEUE_CALLS = {
    Role.SENDER: {"msgget flags=200", "msgsnd size={size}"},
    Role.RECEIVER: {"msgget flags=400", "msgrcv size={size} type=0 flags=0"},
}
SEGMENT_CALLS = {
    (Role.SENDER, "helper"): {"shmget flags=600", "shmat flags=0", "shmdt"},
    (Role.SENDER, "sender"): {"shmget flags=3600", "shmctl command=1 mode=600", "shmat flags=0", "shmdt"},
    (Role.RECEIVER, "helper"): {"shmget flags=400", "shmat flags=10000", "shmdt"},
    (Role.RECEIVER, "sender"): {"shmget flags=400", "shmat flags=10000", "shmdt"},
}


@pytest.mark.parametrize(
    "shape",
    [{"segment_creator": "helper"}, {"segment_creator": "sender"}, {"transport": "queue", "slot_size": 2000}],
    ids=lambda shape: "-".join(map(str, shape.values())),
)
def test_each_role_makes_its_own_calls_and_no_other(shape: dict[str, Any], spy: Spy, registry: Path) -> None:
    """Least modes, a read-only attach, no IPC_STAT, nothing of the other role, no semaphores."""
    queue = shape.get("transport") == "queue"
    make(registry, "c", **{"slot_size": PAGE, **shape})
    finish(spy.start("sender", SENDING, registry), spy.start("receiver", RECEIVING, registry))
    size = SIZE + 2000 if queue else SIZE
    for role in Role:
        expected = {call.format(size=size) for call in QUEUE_CALLS[role]}
        if not queue:
            expected |= SEGMENT_CALLS[role, shape["segment_creator"]]
        calls = spy.calls(role)
        if queue:  # a block travels in its own size, at most that of a slot
            sent = {int(call.removeprefix("msgsnd size=")) for call in calls if call.startswith("msgsnd")}
            assert not sent or max(sent) == size
            calls = [f"msgsnd size={size}" if call.startswith("msgsnd") else call for call in calls]
        assert set(calls) == expected
        assert sum(call.startswith("msgget") for call in calls) == 2
    if shape.get("segment_creator") == "sender":
        # The second sender finds the segment by the number the first noted: it asks for no key and sets nothing.
        calls = spy.calls(Role.SENDER)
        assert sum(call.startswith("shmget") for call in calls) == 1
        assert sum(call.startswith("shmctl") for call in calls) == 1
        assert sum(call.startswith("shmat") for call in calls) == 2


@pytest.mark.parametrize("creator", ["helper", "sender"])
def test_each_role_makes_its_own_posix_calls_and_no_other(creator: str, spy: Spy, registry: Path) -> None:
    """Write-only or read-only queues that never block in the kernel; no notification, no unlinking."""
    make(registry, "c", slot_size=PAGE, backend="posix", segment_creator=creator)
    finish(spy.start("sender", SENDING, registry), spy.start("receiver", RECEIVING, registry))
    write_only, read_only, read_write = 0o1 | os.O_NONBLOCK, os.O_NONBLOCK, 0o2
    sends = {"mq_send", "mq_timedsend"}
    receives = {"mq_receive", "mq_timedreceive"}
    calls = {role: set(spy.calls(role)) for role in Role}
    # posix_ipc itself asks for the attributes once when it opens: one more reason why POSIX is never the default.
    opening = {"mq_getattr", "mq_close"}
    made = {f"shm_open flags={os.O_CREAT | os.O_EXCL | read_write:o}"} if creator == "sender" else set()
    assert calls[Role.SENDER] - sends == {f"mq_open flags={write_only:o}", "shm_open flags=2", *opening, *made}
    assert calls[Role.RECEIVER] - receives == {f"mq_open flags={read_only:o}", "shm_open flags=0", *opening}
    assert calls[Role.SENDER] & sends
    assert calls[Role.RECEIVER] & receives


HELPER = "import sys; from sipc.helper import main; sys.exit(main(sys.argv[1:]))"


def test_a_new_queue_has_its_limit_before_it_is_published(spy: Spy, registry: Path) -> None:
    """It holds msgmnb bytes until then, which would be room for a sender that runs ahead of the rule."""
    file = registry.parent / "c.toml"
    file.write_text(definition("c", depth=3, slot_size=PAGE))
    finish(spy.start("helper", HELPER, "--registry", registry, "create", file))
    calls = [call for call in spy.calls("helper") if not call.startswith("msgctl command=2")]  # IPC_STAT, the helper's
    published = calls.index("renameat to=c.json") if "renameat to=c.json" in calls else calls.index("rename to=c.json")
    created = calls.index(f"msgget flags={CREAT_EXCL | 0o600:o}")
    limited = calls.index(f"msgctl command=1 bytes={3 * SIZE} mode=600")
    assert created < limited < published
    assert not [call for call in calls[published:] if call.startswith(("msg", "shm"))]
    with sipc.registry.Registry(registry) as opened:
        descriptor = opened.read("c")
    assert sysv_ipc.MessageQueue(int(descriptor.keys.queue), mode=0).max_size == 3 * SIZE


def test_keys_are_random_never_private_and_never_of_a_path(spy: Spy, registry: Path) -> None:
    """Not 0 (IPC_PRIVATE), not ftok, in the sipc2 wire; the libsipc wire, which must, shows that the spy would see."""
    file = registry.parent / "channels.toml"
    names = [f"c{number}" for number in range(8)]
    file.write_text("".join(definition(name, slot_size=PAGE) for name in names))
    finish(spy.start("helper", HELPER, "--registry", registry, "create", file))
    keys = spy.keys("helper")
    assert 0 not in keys
    assert all(0 < key < 1 << 31 for key in keys)
    assert len(set(keys)) == 2 * len(names)
    gaps = {later - earlier for earlier, later in zip(sorted(set(keys)), sorted(set(keys))[1:], strict=False)}
    assert len(gaps) == 2 * len(names) - 1  # neither counted nor all in one place
    assert not [call for call in spy.calls("helper") if call.startswith("ftok")]
    file.write_text(definition("old", wire="libsipc", slot_size=PAGE, key_path=str(file)))
    finish(spy.start("libsipc", HELPER, "--registry", registry, "create", file))
    assert [call for call in spy.calls("libsipc") if call.startswith("ftok")]


def test_a_key_in_use_is_left_alone_and_another_is_drawn(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exclusive creation: a queue or a segment of another under the same key costs one more try."""
    objects = kernel.backend(Backend.SYSV)
    taken = objects.new_keys(segment=True)
    objects.create_queue(taken.queue, messages=1, message_size=SIZE)
    draw = objects.new_keys
    free = draw(segment=True)
    drawn = [free, Keys(queue=free.queue, segment=taken.segment), taken]

    def predictable(self: object, *, segment: bool) -> Keys:
        assert segment
        return drawn.pop()

    objects.create_segment(taken.segment or "", PAGE).close()
    monkeypatch.setattr(type(objects), "new_keys", predictable)
    assert make(registry, "c", slot_size=PAGE).keys == free
    assert drawn == []
    assert sysv_ipc.MessageQueue(int(taken.queue), mode=0).max_size == SIZE
    assert objects.remove(Keys(queue=taken.queue, segment=None))
    assert objects.remove(taken)  # the segment was there as well


# -- modes: the kernel refuses a role what is the other's -----------------------------------------------------


def as_user(number: int, function: Callable[[], Any], *, gid: int | None = None) -> Any:
    """Run `function` as another user, in another process."""

    def run() -> Any:
        os.setgroups([])
        os.setgid(number if gid is None else gid)
        os.setuid(number)
        return function()

    return Child(run).result()


def outcome(call: Callable[[], object]) -> str:
    """'good', or the name of what was raised."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "good"


@pytest.fixture(params=[Backend.SYSV, Backend.POSIX], ids=str)
def given(request: pytest.FixtureRequest, registry: Path) -> Iterator[tuple[KernelObjects, Keys]]:
    """Queue and segment of a channel of two users: the sender owns them, the receiver is their group."""
    objects = kernel.backend(request.param)
    keys = objects.new_keys(segment=True)
    assert keys.segment is not None
    objects.create_queue(keys.queue, messages=2, message_size=SIZE)
    objects.create_segment(keys.segment, PAGE).close()
    objects.give_segment(keys.segment, SENDER, RECEIVER, 0o640)
    objects.give_queue(keys.queue, SENDER, RECEIVER, 0o240)
    yield objects, keys
    assert objects.remove(keys)


def test_each_role_opens_with_its_own_mode_alone(given: tuple[KernelObjects, Keys]) -> None:
    """The sender may write the queue, the receiver read it and the segment, and others nothing."""
    objects, keys = given

    def attempts() -> list[str]:
        def queue(role: Role) -> str:
            return outcome(lambda: objects.open_queue(keys.queue, role, message_size=SIZE, memory=None).close())

        def segment(role: Role) -> str:
            return outcome(lambda: objects.open_segment(keys.segment or "", role, PAGE))

        return [queue(Role.SENDER), queue(Role.RECEIVER), segment(Role.SENDER), segment(Role.RECEIVER)]

    assert as_user(SENDER, attempts) == ["good", "Denied", "good", "good"]
    assert as_user(RECEIVER, attempts) == ["Denied", "good", "Denied", "good"]
    assert as_user(OTHER, attempts) == ["Denied"] * 4


def test_each_role_can_use_what_it_opened(given: tuple[KernelObjects, Keys]) -> None:
    """A message and a byte go from the one user to the other."""
    objects, keys = given

    def send() -> bool:
        memory = objects.open_segment(keys.segment or "", Role.SENDER, PAGE)
        assert memory is not None
        memory.view[100] = 7
        return objects.open_queue(keys.queue, Role.SENDER, message_size=SIZE, memory=memory).send(b"m" * SIZE, 1, 0)

    def receive() -> tuple[bytes, int]:
        memory = objects.open_segment(keys.segment or "", Role.RECEIVER, PAGE)
        assert memory is not None
        got = objects.open_queue(keys.queue, Role.RECEIVER, message_size=SIZE, memory=memory).receive(0)
        assert got is not None
        return got[0], memory.view[100]

    assert as_user(SENDER, send) is True
    assert as_user(RECEIVER, receive) == (b"m" * SIZE, 7)


def test_the_librarys_own_mode_asks_for_too_much() -> None:
    """0600, sysv_ipc's default, is read and write: refused to both users where 0200 and 0400 are not."""
    objects = kernel.backend(Backend.SYSV)
    keys = objects.new_keys(segment=False)
    objects.create_queue(keys.queue, messages=1, message_size=SIZE)
    objects.give_queue(keys.queue, SENDER, RECEIVER, 0o240)

    def opened(mode: int) -> Callable[[], str]:
        return lambda: outcome(lambda: sysv_ipc.MessageQueue(int(keys.queue), mode=mode))

    for user, mode in ((SENDER, 0o200), (RECEIVER, 0o400)):
        assert as_user(user, opened(mode)) == "good"
        assert as_user(user, opened(0o600)) == "PermissionsError"
        assert as_user(user, opened(0o600 - mode)) == "PermissionsError"
    assert objects.remove(keys)


def test_ipc_set_gives_owner_group_and_mode(registry: Path) -> None:
    """Of the helper's queue and segment, for two users and for one."""

    def of(obj: Any) -> tuple[int, int, int, int]:
        return obj.uid, obj.gid, obj.mode, obj.cuid

    def look(descriptor: Descriptor) -> list[tuple[int, int, int, int]]:
        segment = sysv_ipc.SharedMemory(int(descriptor.keys.segment or 0), mode=0o400)
        segment.detach()
        return [of(sysv_ipc.MessageQueue(int(descriptor.keys.queue), mode=0)), of(segment)]

    two = ChannelSpec(
        name="two",
        enforcement=Enforcement.DAC,
        geometry=Geometry(slot_size=PAGE),
        sender=Principal(uid=SENDER, gid=SENDER),
        receiver=Principal(uid=RECEIVER, gid=RECEIVER),
    )
    mine = os.geteuid()
    assert look(helper.create(two, registry)) == [(SENDER, RECEIVER, 0o240, mine), (SENDER, RECEIVER, 0o640, mine)]
    assert look(make(registry, "one", slot_size=PAGE)) == [(mine, os.getegid(), 0o600, mine)] * 2


@pytest.mark.parametrize(("backend", "group"), [(Backend.SYSV, SENDER), (Backend.POSIX, RECEIVER)], ids=str)
def test_a_senders_own_segment_is_the_receivers_to_read(backend: Backend, group: int, registry: Path) -> None:
    """Made by the sender's user without help from root: its own, and readable by the receiver's group alone.

    `group` is the sender's: chown(2) gives a file to groups alone that the caller is in, IPC_SET to any.
    """
    objects = kernel.backend(backend)
    keys = objects.new_keys(segment=True)
    key = keys.segment or ""

    def read() -> str:
        return outcome(lambda: objects.open_segment(key, Role.RECEIVER, PAGE))

    def write() -> str:
        return outcome(lambda: objects.open_segment(key, Role.SENDER, PAGE))

    def create() -> str:
        return outcome(lambda: objects.own_segment(key, PAGE, gid=RECEIVER, mode=0o640, known=0))

    assert as_user(SENDER, create, gid=group) == "good"
    assert [as_user(user, read) for user in (SENDER, RECEIVER, OTHER)] == ["good", "good", "Denied"]
    assert [as_user(user, write) for user in (SENDER, RECEIVER, OTHER)] == ["good", "Denied", "Denied"]
    assert objects.remove(keys)


# -- limits ---------------------------------------------------------------------------------------------------


def test_a_limit_above_msgmnb_is_refused(registry: Path) -> None:
    """Before anything is made, with the key, the limit and the remedy named, also to root, who could exceed it."""
    most = limits.read("kernel.msgmnb")
    assert most is not None
    before = Path("/proc/sysvipc/msg").read_text()
    with pytest.raises(sipc.SpecError, match=r"depth.*kernel\.msgmnb.*sysctl"):
        make(registry, "c", transport="queue", slot_size=2000, depth=most // 2032 + 1)
    assert Path("/proc/sysvipc/msg").read_text() == before
    assert list(registry.glob("*.json")) == []


def test_a_queue_whose_limit_the_kernel_refuses_does_not_stay(registry: Path) -> None:
    """The kernel's own refusal, to a user without CAP_SYS_RESOURCE."""
    objects = kernel.backend(Backend.SYSV)
    keys = objects.new_keys(segment=False)
    most = limits.read("kernel.msgmnb") or 0

    def exceed() -> str:
        return outcome(lambda: objects.create_queue(keys.queue, messages=most // SIZE + 1, message_size=SIZE))

    assert as_user(OTHER, exceed) == "Denied"
    assert objects.remove(keys) is False


# -- waits ----------------------------------------------------------------------------------------------------


@contextmanager
def sysv_queue(messages: int = 1) -> Iterator[tuple[KernelObjects, Keys]]:
    """A System V queue for one test."""
    objects = kernel.backend(Backend.SYSV)
    keys = objects.new_keys(segment=False)
    objects.create_queue(keys.queue, messages=messages, message_size=SIZE)
    try:
        yield objects, keys
    finally:
        objects.remove(keys)


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_an_interrupted_system_call_is_made_again(role: Role, registry: Path) -> None:
    """EINTR is a bare `sysv_ipc.Error`: the handler has run by then, and the wait goes on."""

    def main() -> tuple[int, bool]:
        with sysv_queue() as (objects, keys):
            raw = sysv_ipc.MessageQueue(int(keys.queue), mode=0o600)
            if role is Role.SENDER:
                raw.send(b"first" + bytes(SIZE - 5), type=1)
            end = objects.open_queue(keys.queue, role, message_size=SIZE, memory=None)
            handled: list[int] = []

            def handle(number: int, frame: object) -> None:
                handled.append(number)
                if len(handled) == 10:  # only a wait that goes on gets here
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    if role is Role.SENDER:
                        assert raw.receive(block=False)[0][:5] == b"first"
                    else:
                        raw.send(b"late", type=1)

            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
            got = end.send(b"late", 1, None) if role is Role.SENDER else end.receive(None) is not None
            return len(handled), got

    assert Child(main).result(30) == (10, True)


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_a_removed_queue_is_broken_in_all_of_its_forms(role: Role) -> None:
    """sysv_ipc calls it ExistentialError while blocked, and a plain OSError 22 on a later send: all are Broken."""
    reading, writing = os.pipe()

    def main() -> list[str]:
        with sysv_queue() as (objects, keys):
            end = objects.open_queue(keys.queue, role, message_size=SIZE, memory=None)
            if role is Role.SENDER:
                assert end.send(b"full" * 8, 1, 0)
            os.write(writing, keys.queue.encode())
            causes = []
            for timeout in (None, None, 0):
                try:
                    end.send(b"more", 1, timeout) if role is Role.SENDER else end.receive(timeout)
                except sipc.Broken as error:
                    cause = error.__cause__
                    code = cause.errno if isinstance(cause, OSError) else 0
                    causes.append(errno.errorcode[code] if code else type(cause).__name__)
            return causes

    child = Child(main)
    key = os.read(reading, 16).decode()
    stat = Path(f"/proc/{child.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()
    assert kernel.backend(Backend.SYSV).remove(Keys(queue=key, segment=None))
    later = "EINVAL" if role is Role.SENDER else "ExistentialError"
    assert child.result(20) == ["ExistentialError", later, later]
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_posix_waits_let_a_handlers_exception_out(role: Role) -> None:
    """posix_ipc's own waits swallow it: ours are poll(2)."""

    def main() -> str:
        objects = kernel.backend(Backend.POSIX)
        keys = objects.new_keys(segment=False)
        objects.create_queue(keys.queue, messages=1, message_size=SIZE)
        try:
            end = objects.open_queue(keys.queue, role, message_size=SIZE, memory=None)
            if role is Role.SENDER:
                assert end.send(b"full", 1, 0)

            def handle(number: int, frame: object) -> None:
                raise KeyError("from the handler")

            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return outcome(lambda: end.send(b"more", 1, None) if role is Role.SENDER else end.receive(None))
        finally:
            objects.remove(keys)

    assert Child(main).result(30) == "KeyError"


@pytest.mark.parametrize("backend", ["sysv", "posix"])
@pytest.mark.parametrize("creator", ["helper", "sender"])
def test_closing_closes_every_descriptor_and_mapping(backend: str, creator: str, registry: Path) -> None:
    """posix_ipc never closes by itself; a channel opened and closed fifty times leaves none open and none mapped."""
    descriptor = make(registry, "c", backend=backend, slot_size=PAGE, segment_creator=creator)
    key = descriptor.keys.segment or ""
    name = f"/SYSV{int(key):08x}" if backend == "sysv" else key

    def count() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return len(descriptors()), sum(name in line or str(registry) in line for line in maps)

    def send() -> None:
        with sipc.open_sender("c", registry=registry) as sender:
            sender.send(b"x")

    def use() -> None:
        sending = threading.Thread(target=send)
        sending.start()
        with sipc.open_receiver("c", registry=registry) as receiver:
            assert list(receiver) == [b"x"]
        sending.join()

    use()
    before = count()
    assert before[1] == 0
    for _ in range(50):
        use()
    assert count() == before


@pytest.mark.parametrize("backend", [Backend.SYSV, Backend.POSIX], ids=str)
def test_a_refused_opening_leaves_no_descriptor_and_no_mapping(backend: Backend, registry: Path) -> None:
    """Too small, missing, taken: whatever the reason."""
    objects = kernel.backend(backend)
    keys = objects.new_keys(segment=True)
    key = keys.segment or ""
    objects.create_queue(keys.queue, messages=1, message_size=SIZE)
    objects.create_segment(key, PAGE).close()
    objects.give_segment(key, OTHER, OTHER, 0o600)
    missing = objects.new_keys(segment=True)

    def use() -> list[str]:
        return [
            outcome(lambda: objects.open_segment(key, Role.SENDER, PAGE + 1)),
            outcome(lambda: objects.open_segment(key, Role.RECEIVER, PAGE + 1)),
            outcome(lambda: objects.create_segment(key, PAGE)),
            outcome(lambda: objects.create_queue(keys.queue, messages=1, message_size=SIZE)),
            outcome(lambda: objects.own_segment(key, PAGE, gid=None, mode=0o600, known=0)),
            outcome(lambda: objects.own_segment(missing.segment or "", PAGE, gid=None, mode=0o600, known=12345)),
            outcome(lambda: objects.open_queue(missing.queue, Role.SENDER, message_size=SIZE, memory=None)),
        ]

    def count() -> tuple[int, int]:
        return len(descriptors()), len(Path("/proc/self/maps").read_text().splitlines())

    assert "good" not in use()
    before = count()
    for _ in range(100):
        use()
    assert count()[0] == before[0]
    assert count()[1] <= before[1] + 5  # the interpreter's own memory may grow by a mapping
    assert objects.remove(keys)


@pytest.mark.parametrize("shape", [{"slot_size": PAGE}, {"transport": "queue", "slot_size": 2000}], ids=str)
def test_unlinking_wakes_a_posix_peer_that_waits_without_a_time(shape: dict[str, Any], registry: Path) -> None:
    """The kernel tells nobody: each wait looks whether the channel still lives, with a segment and without."""
    make(registry, "c", backend="posix", **shape)
    reading, writing = os.pipe()

    def wait() -> str:
        with sipc.open_receiver("c", registry=registry) as receiver:
            os.write(writing, b"!")
            return outcome(receiver.receive)

    child = Child(wait)
    assert os.read(reading, 1) == b"!"
    helper.destroy("c", registry)
    assert child.result(20) == "Broken"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_a_timeout_says_that_a_message_may_have_been_skipped(backend: str, registry: Path) -> None:
    """The kernel skips what a receiver may not read and shows an empty queue: the text names that cause."""
    make(registry, "c", backend=backend, slot_size=PAGE)
    with sipc.open_receiver("c", registry=registry) as receiver:
        for timeout in (0, 0.01):
            with pytest.raises(sipc.Timeout, match=r"if the sender is sending.*may not read"):
                receiver.receive(timeout)


def test_a_message_larger_than_the_wires_is_the_senders_fault() -> None:
    """E2BIG: a hostile sender can put one into a queue that holds two; it is named, not cut and not handed on."""
    with sysv_queue(2) as (objects, keys):
        sysv_ipc.MessageQueue(int(keys.queue), mode=0o200).send(b"x" * (SIZE + 1), type=1)
        end = objects.open_queue(keys.queue, Role.RECEIVER, message_size=SIZE, memory=None)
        for _ in range(2):
            with pytest.raises(sipc.RemoteProtocolError, match="message size"):
                end.receive(0)


# -- pages ----------------------------------------------------------------------------------------------------


def residency(backend: Backend, key: str, size: int) -> list[int]:
    """Whether each page of a segment is there, asked on a fresh read-only mapping that touches none."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = libc.mmap.restype = ctypes.c_void_p
    libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.shmdt.argtypes = (ctypes.c_void_p,)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    with ExitStack() as stack:
        if backend is Backend.SYSV:
            address = libc.shmat(libc.shmget(int(key), 0, 0), None, 0o10000)
            stack.callback(libc.shmdt, address)
        else:
            fd = os.open(f"/dev/shm{key}", os.O_RDONLY)
            address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
            stack.callback(libc.munmap, address, size)
            os.close(fd)
        assert address not in (None, ctypes.c_void_p(-1).value)
        pages = (ctypes.c_ubyte * -(-size // PAGE))()
        assert libc.mincore(address, size, pages) == 0, os.strerror(ctypes.get_errno())
        return [page & 1 for page in pages]


@pytest.mark.parametrize("backend", [Backend.SYSV, Backend.POSIX], ids=str)
@pytest.mark.parametrize("creator", [SegmentCreator.HELPER, SegmentCreator.SENDER], ids=str)
def test_a_new_segment_has_every_page(backend: Backend, creator: SegmentCreator, registry: Path) -> None:
    """No hole: the receiver would fill it by reading, which the sender could see with mincore."""
    geometry = Geometry(slots=3, depth=1, slot_size=300_000)
    descriptor = make(
        registry, "c", slots=3, depth=1, slot_size=300_000, backend=backend.value, segment_creator=creator.value
    )
    if creator is SegmentCreator.SENDER:
        sipc.open_sender("c", registry=registry).close()
    size = segment_size(geometry)
    assert residency(backend, descriptor.keys.segment or "", size) == [1] * (size // PAGE)


def test_a_new_segment_of_the_libsipc_wire_has_every_page(registry: Path) -> None:
    """It has no header, and is filled all the same."""
    path = registry.parent / "key"
    path.touch()
    descriptor = make(registry, "c", wire="libsipc", slot_size=100 * PAGE, key_path=str(path))
    assert residency(Backend.SYSV, descriptor.keys.segment or "", 100 * PAGE) == [1] * 100


def test_a_hole_would_be_seen() -> None:
    """What the tests above look at: a segment that nobody filled has none of its pages."""
    objects = kernel.backend(Backend.SYSV)
    keys = objects.new_keys(segment=True)
    memory = objects.create_segment(keys.segment or "", 8 * PAGE)
    memory.view[5 * PAGE] = 1
    assert residency(Backend.SYSV, keys.segment or "", 8 * PAGE) == [0, 0, 0, 0, 0, 1, 0, 0]
    memory.close()
    assert objects.remove(keys)


# -- large copies ---------------------------------------------------------------------------------------------

LARGE = 64 << 20


class Watcher:
    """A thread that runs whenever it may; it counts, and notes when it saw a copy of `target` half done."""

    def __init__(self, target: memoryview) -> None:
        self.count = 0
        self.saw_half = False
        self._target = target
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        target = self._target
        last = target.nbytes - 1
        self._ready.set()
        while not self._stop.is_set():
            self.count += 1
            # In this order: had the copy been in one piece, there would be no moment with a beginning and no end.
            if target[0] == 1:
                self.saw_half |= target[last] == 0

    def __enter__(self) -> Self:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        sys.setswitchinterval(self._interval)
        self._target.release()


@pytest.mark.parametrize("backend", [Backend.SYSV, Backend.POSIX], ids=str)
def test_other_threads_run_during_large_copies(backend: Backend, registry: Path) -> None:
    """Copying in and copying out: each is done in pieces of at most 1 MiB, with the interpreter free in between."""
    geometry = Geometry(slots=3, depth=1, slot_size=LARGE)
    descriptor = make(registry, "c", slots=3, depth=1, slot_size=LARGE, backend=backend.value)
    memory = kernel.backend(backend).open_segment(
        descriptor.keys.segment or "", Role.RECEIVER, segment_size(geometry)
    )
    assert memory is not None
    start = slot_offset(geometry, 0)
    data = b"\x01" * LARGE
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        with Watcher(memory.view[start : start + LARGE]) as watcher:
            before = watcher.count
            sender.send(data)
            assert watcher.count > before
        assert watcher.saw_half
        buffer = bytearray(LARGE)
        with Watcher(memoryview(buffer)) as watcher:
            assert receiver.receive_into(buffer, 30) == LARGE
        assert watcher.saw_half
        assert buffer == data
        sender.send(data)
        with Watcher(memoryview(bytearray(1))) as watcher:
            before = watcher.count
            assert receiver.receive(30) == data
            assert watcher.count > before
    memory.close()


def test_a_large_block_is_copied_out_once(registry: Path) -> None:
    """In pieces and straight to what the caller gets: a second copy would be one in a single piece."""
    make(registry, "c", slots=3, depth=1, slot_size=LARGE)
    data = os.urandom(1 << 20) * 63 + b"the end of it"
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send(data)
        tracemalloc.start()
        try:
            got = receiver.receive(30)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert got == data
    assert len(data) < peak < 1.5 * len(data)


# -- POSIX is a choice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("enforced", list(Enforcement), ids=str)
def test_posix_is_never_the_default(enforced: Enforcement) -> None:
    """A definition that names no backend is System V, whatever enforces it; only by name it is another."""
    specs = parse('[channel.a]\n[channel.b]\nbackend = "posix"\n', "test", enforcement=enforced)
    assert specs["a"].backend is Backend.SYSV
    assert specs["b"].backend is Backend.POSIX
    assert ChannelSpec(name="a", enforcement=enforced).backend is Backend.SYSV


def test_a_posix_channel_names_its_ways_back(registry: Path) -> None:
    """Whoever asked for it is told; a System V channel has no such line."""
    told = {
        backend: [line for line in enforcement.account(make(registry, backend, backend=backend)).open if "mq_" in line]
        for backend in ("sysv", "posix")
    }
    assert told["sysv"] == []
    assert len(told["posix"]) == 1
    assert all(word in told["posix"][0] for word in ("mq_getattr", "mq_notify", "poll"))


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_a_channel_under_selinux_is_made_only_when_the_policy_was_checked(backend: str, registry: Path) -> None:
    """Named or not, a backend is no way around the enforcement that the definition asks for."""
    text = f'[channel.c]\nbackend = "{backend}"\nslot_size = 4096\n'
    spec = parse(text, "test", enforcement=Enforcement.SELINUX)["c"]
    with pytest.raises(sipc.Denied, match=r"SELinux|selinux"):
        helper.create(spec, registry)
    assert list(registry.glob("*.json")) == []
