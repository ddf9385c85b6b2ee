# SPDX-License-Identifier: Apache-2.0
"""The helper as its users meet it: what it makes, what it says, what it replaces and destroys."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import posix_ipc
import pytest
import sysv_ipc
from tests.support.channels import Child, definition, make
from tests.support.objects import assert_empty, assert_whole, queue_of, segment_of, snapshot
from tests.support.program import RECEIVER, SENDER, USERS, program, refusal, too_much, write

import sipc
from sipc import helper
from sipc.definitions import parse
from sipc.kernel import limits
from sipc.proto.segment import segment_size
from sipc.registry import SYSTEM, Registry
from sipc.spec import Enforcement, Geometry

pytestmark = pytest.mark.host

_ME = os.geteuid()

# definition, bytes in the queue, bytes in the segment
MADE = {
    "sysv": (definition("c"), 2 * 32, segment_size(Geometry())),
    "sysv-users": (f"{definition('c')}{USERS}", 2 * 32, segment_size(Geometry())),
    "sysv-depth": (definition("c", depth=7, slots=3, slot_size=100), 7 * 32, 4096 + 3 * 4096),
    "sysv-queue": (definition("c", transport="queue", depth=3, slot_size=1000), 3 * 1032, None),
    "posix": (definition("c", backend="posix"), 2 * 32, segment_size(Geometry())),
    "posix-users": (f"{definition('c', backend='posix')}{USERS}", 2 * 32, segment_size(Geometry())),
    "posix-queue": (definition("c", backend="posix", transport="queue", depth=3, slot_size=1000), 3 * 1032, None),
    "libsipc": (definition("c", wire="libsipc", key_path="/proc/self/exe", slot_size=5000), 8, 5000),
}


@pytest.mark.parametrize("shape", MADE)
def test_the_program_makes_a_whole_channel_says_so_and_is_gone(shape: str, registry: Path, tmp_path: Path) -> None:
    """Limits are exact, owners and modes right; one JSON line; no process is left."""
    text, queue_bytes, segment_bytes = MADE[shape]
    file = write(tmp_path, text.replace("/proc/self/exe", str(tmp_path)))
    done = program(registry, "create", file)
    assert (done.returncode, done.stderr) == (0, "")
    line = json.loads(done.stdout)
    descriptor = assert_whole(registry, "c")
    assert line == {"created": "c", "epoch": descriptor.epoch, "registry": str(registry), "pid": line["pid"]}
    with pytest.raises(ProcessLookupError):
        os.kill(line["pid"], 0)
    queue, segment = queue_of(descriptor), segment_of(descriptor)
    assert queue is not None
    assert queue.size == queue_bytes
    assert (segment and segment.size) == segment_bytes
    apart = "users" in shape and SENDER != RECEIVER
    assert queue.mode == (0o240 if apart else 0o600)
    assert segment is None or segment.mode == (0o640 if apart else 0o600)
    if apart:
        assert (queue.uid, queue.gid) == (SENDER.uid, RECEIVER.gid)
        assert segment is not None
        assert (segment.uid, segment.gid) == (SENDER.uid, RECEIVER.gid)


@pytest.mark.parametrize("wire", ["sipc2", "libsipc"])
@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_every_page_of_the_segment_is_there_from_the_start(
    wire: str, backend: str, registry: Path, tmp_path: Path
) -> None:
    """A hole that the receiver fills by reading could be seen by the sender (mincore)."""
    more: dict[str, Any] = {"wire": "libsipc", "key_path": str(tmp_path)} if wire == "libsipc" else {}
    if (wire, backend) == ("libsipc", "posix"):
        with pytest.raises(sipc.SpecError, match="System V only"):
            make(registry, "c", backend=backend, **more)
        return
    descriptor = make(registry, "c", slot_size=3 << 20, backend=backend, **more)
    key = descriptor.keys.segment or ""
    size = limits.size_of_segment(descriptor.spec)
    pages = -(-size // mmap.PAGESIZE)
    assert pages > 700
    resident = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    if backend == "sysv":
        segment = sysv_ipc.SharedMemory(int(key), mode=0o400)
        assert libc.mincore(ctypes.c_void_p(segment.address), ctypes.c_size_t(size), resident) == 0
        segment.detach()
    else:
        posix = posix_ipc.SharedMemory(key, read_only=True)
        view = np.frombuffer(mmap.mmap(posix.fd, size, prot=mmap.PROT_READ), dtype=np.uint8)
        posix.close_fd()
        assert libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), resident) == 0
    assert [page & 1 for page in resident] == [1] * pages


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_keys_are_new_each_time(backend: str, registry: Path) -> None:
    """Random, never those of before, never what ftok or the kernel's private key would give."""
    seen: set[str] = set()
    epochs = set()
    for _ in range(20):
        descriptor = make(registry, "c", backend=backend, slot_size=1, slots=1, depth=1, replacing=True)
        seen |= {descriptor.keys.queue, descriptor.keys.segment or ""}
        epochs.add(descriptor.epoch)
    assert len(seen) == 40
    assert len(epochs) == 20
    if backend == "sysv":
        numbers = sorted(map(int, seen))
        assert numbers[0] > 0
        assert numbers[-1] < 1 << 31
        # Spread over the whole range: forty draws all in one half come up once in 10^12 runs.
        assert numbers[0] < 1 << 30 < numbers[-1]
    else:
        assert all(len(name) == len("/sipc-") + 24 for name in seen)


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_with_segment_creator_sender_the_helper_makes_the_queue_alone(backend: str, registry: Path) -> None:
    """The sender makes the segment when it opens, under the published key; destroying removes both."""
    before = snapshot()
    descriptor = make(registry, "c", backend=backend, segment_creator="sender", slot_size=4096)
    assert queue_of(descriptor) is not None
    assert segment_of(descriptor) is None
    with sipc.open_sender("c", registry=registry):
        segment = segment_of(descriptor)
        assert segment is not None
        assert segment.size == segment_size(Geometry(slot_size=4096))
    helper.destroy("c", registry)
    assert snapshot() == before


def test_two_helpers_in_one_registry_take_turns(registry: Path, tmp_path: Path) -> None:
    """Started together, every one of them does all its work."""
    files = [write(tmp_path, definition(f"c{i}", slot_size=64), f"{i}.toml") for i in range(8)]
    command = [sys.executable, "-m", "sipc.helper", "--registry", str(registry), "create"]
    running = [subprocess.Popen([*command, str(file)], stdout=subprocess.DEVNULL) for file in files]
    assert [process.wait(60) for process in running] == [0] * 8
    with Registry(registry) as opened:
        assert opened.names() == [f"c{i}" for i in range(8)]


@pytest.mark.parametrize("argv", [(), ("make",), ("destroy",), ("create", "--quick")], ids=str)
def test_wrong_usage_is_exit_code_2(argv: tuple[str, ...], tmp_path: Path) -> None:
    """As everywhere."""
    done = program(tmp_path / "registry", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: sipc-helper" in done.stderr


def test_output_that_can_not_be_written_undoes_the_channel(tmp_path: Path) -> None:
    """A caller that can not be told does not get a channel it knows nothing of."""
    file = write(tmp_path, definition("c"))
    before = snapshot()
    command = [sys.executable, "-m", "sipc.helper", "--registry", str(tmp_path / "registry"), "create", str(file)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 4
    assert done.stderr.startswith("sipc-helper: write on standard output: No space left on device")
    assert done.stderr.count("\n") == 1
    assert snapshot() == before
    assert_empty(tmp_path / "registry")


def test_a_registry_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    """Only its last directory is made."""
    file = write(tmp_path, definition("c"))
    error = refusal(program(tmp_path / "a" / "b", "create", file), 4)
    assert str(tmp_path / "a" / "b") in error
    assert "--registry" in error
    error = refusal(program(file, "create", file), 4)
    assert "must be a real directory" in error


def test_an_ordinary_user_can_make_channels_for_himself_alone(tmp_path: Path) -> None:
    """Objects of another user would need root: refused before anything is made."""
    file = write(tmp_path, definition("c") + "sender = { user = 0 }\nreceiver = { user = 1 }")
    file.chmod(0o644)

    def act() -> tuple[int, str]:
        if _ME == 0:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        spec = parse(file_text, str(file), enforcement=Enforcement.DAC)["c"]
        with pytest.raises(sipc.SpecError) as caught:
            helper.create(spec, tmp_path / "registry")
        return os.geteuid(), str(caught.value)

    file_text = file.read_text()
    uid, error = Child(act).result()
    assert uid != 0
    assert f"{file}: [channel.c]: sender is uid 0" in error
    assert_empty(tmp_path / "registry")


def test_where_channels_go_when_nobody_says() -> None:
    """`$SIPC_REGISTRY`, else the system's for root, else the user's own; never a guess."""

    def place(given: str | None, runtime: str | None, *, root: bool) -> str:
        for name, value in (("SIPC_REGISTRY", given), ("XDG_RUNTIME_DIR", runtime)):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if not root and _ME == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            return str(helper.default_registry())
        except sipc.SpecError as error:
            return str(error)

    def asked(given: str | None, runtime: str | None, *, root: bool = False) -> str:
        return str(Child(lambda: place(given, runtime, root=root)).result())

    assert asked("/x", "/y") == "/x"
    assert asked(None, "/y") == "/y/sipc"
    assert "--registry" in asked(None, None)
    assert asked(None, "/y", root=True) == (str(SYSTEM) if _ME == 0 else "/y/sipc")


def test_an_existing_channel_is_an_error_unless_asked_to_replace(registry: Path, tmp_path: Path) -> None:
    """Refused, it stays as it was; replaced, it is another: both its ends are told."""
    file = write(tmp_path, definition("c", slot_size=4096))
    assert program(registry, "create", file).returncode == 0
    old = assert_whole(registry, "c")
    error = refusal(program(registry, "create", file), 3)
    assert "'c' exists" in error
    assert "--replace" in error
    assert assert_whole(registry, "c") == old
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        assert program(registry, "create", "--replace", file).returncode == 0
        new = assert_whole(registry, "c")
        assert new.epoch != old.epoch
        assert {new.keys.queue, new.keys.segment}.isdisjoint({old.keys.queue, old.keys.segment})
        assert (queue_of(old), segment_of(old)) == (None, None)
        with pytest.raises(sipc.Broken):
            receiver.receive(5)
        with pytest.raises(sipc.Broken):
            for _ in range(10):
                sender.send(b"x", 5)


def test_a_failed_replacement_says_what_is_left(registry: Path, tmp_path: Path) -> None:
    """A definition that this kernel can not hold is refused before the old channel is touched."""
    old = make(registry, "c")
    text, _, limit = too_much()["message"]
    assert limit in refusal(program(registry, "create", "--replace", write(tmp_path, text)), 3)
    assert assert_whole(registry, "c") == old


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_destroying_wakes_a_receiver_that_waits(backend: str, registry: Path) -> None:
    """Blocked without a time-out, it gets `Broken`."""
    make(registry, "c", backend=backend)
    reading, writing = os.pipe()

    def receive() -> str:
        with sipc.open_receiver("c", registry=registry) as receiver:
            os.write(writing, b"x")
            with pytest.raises(sipc.Broken) as caught:
                receiver.receive()
            return type(caught.value).__name__

    child = Child(receive)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    assert program(registry, "destroy", "c").returncode == 0
    assert child.result() == "Broken"


def test_destroying_what_is_not_there_is_an_error(registry: Path, tmp_path: Path) -> None:
    """Unknown names, and registries, are told; those before it on the line are gone."""
    before = snapshot()
    make(registry, "c")
    done = program(registry, "destroy", "c", "other")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"destroyed": "c"}
    assert "'other'" in done.stderr
    assert snapshot() == before
    assert "no registry" in refusal(program(tmp_path / "nowhere", "destroy", "c"), 3)
    assert not (tmp_path / "nowhere").exists()
    assert "channel name '../c'" in refusal(program(registry, "destroy", "../c"), 3)


@pytest.mark.parametrize("more", [(), ("--replace",)], ids=str)
def test_several_channels_are_all_made_or_none(more: tuple[str, ...], registry: Path, tmp_path: Path) -> None:
    """The third exists, or can not be: the first two go again; what was there before stays."""
    before = snapshot()
    make(registry, "c3")
    old = assert_whole(registry, "c3")
    text = definition("c1") + definition("c2", backend="posix")
    last = definition("c3") if not more else definition("c3", wire="libsipc", key_path=str(tmp_path / "missing"))
    file = write(tmp_path, text + last)
    done = program(registry, "create", *more, file)
    assert done.returncode == 3
    assert [json.loads(line)["created"] for line in done.stdout.splitlines()] == ["c1", "c2"]
    assert "c3" in done.stderr
    assert done.stderr.count("\n") == 1
    with Registry(registry) as opened:
        assert opened.names() == (["c3"] if not more else [])
        assert opened.journals() == []
    if not more:
        assert assert_whole(registry, "c3") == old
        helper.destroy("c3", registry)
    assert snapshot() == before


def test_channels_can_be_picked_by_name(registry: Path, tmp_path: Path) -> None:
    """`--channel` makes those and no others; an unknown name makes none."""
    file = write(tmp_path, "".join(definition(name, slot_size=64) for name in ("a", "b", "c")))
    error = refusal(program(registry, "create", "--channel", "b", "--channel", "x", file), 3)
    assert "'x'" in error
    assert "['a', 'b', 'c']" in error
    with Registry(registry) as opened:
        assert opened.names() == []
        assert program(registry, "create", "--channel", "c", "--channel", "a", file).returncode == 0
        assert opened.names() == ["a", "c"]
