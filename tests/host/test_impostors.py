# SPDX-License-Identifier: Apache-2.0
"""Impostors: every way to pass for the helper's channel, tried for real, by other users and in other namespaces.

What they forge in a descriptor stands in `tests/support/forgeries.py`; here is who does it, where, and when.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sysv_ipc
from tests.host.conftest import kernel_objects
from tests.support.channels import LONGEST, Child, definition, make
from tests.support.cli import PROGRAM
from tests.support.users import tried

import sipc
from sipc import ChannelChange, ChannelWatch, helper
from sipc.descriptor import Descriptor
from sipc.kernel import limits
from sipc.proto.segment import Segment
from sipc.registry import Registry, RoleFiles
from sipc.spec import Role

pytestmark = pytest.mark.host

STRANGER = 65534
SIZE = 64


def as_stranger(function: Callable[[], object]) -> Child:
    """Start `function` in a process of another user, without any right of root's."""

    def dropped() -> object:
        os.setgroups([])
        os.setgid(STRANGER)
        os.setuid(STRANGER)
        return function()

    return Child(dropped)


@pytest.fixture
def open_registry() -> Iterator[Path]:
    """A registry that every user may read, as /run/sipc, in a directory that every user may enter."""
    before = kernel_objects()
    place = Path(tempfile.mkdtemp(prefix="sipc-impostors-"))
    place.chmod(0o755)
    registry = place / "registry"
    registry.mkdir(mode=0o755)
    yield registry
    with Registry(registry) as opened:
        names = opened.names()
    for name in names:
        helper.destroy(name, registry)
    shutil.rmtree(place)
    assert kernel_objects() - before == set()


def refusals(registry: Path) -> dict[str, str]:
    """What an end, the waiting and the watching each say of channel `c`."""
    said = {}
    uses: dict[str, Callable[[], object]] = {
        "sender": lambda: sipc.open_sender("c", registry=registry, timeout=0),
        "receiver": lambda: sipc.open_receiver("c", registry=registry, timeout=0),
        "waiting": lambda: sipc.wait_for_channel("c", None, registry),
    }
    for name, use in uses.items():
        with pytest.raises(sipc.RegistryError) as caught:
            use()
        said[name] = str(caught.value)
    with ChannelWatch(registry) as watch:
        (event,) = (event for event in watch.changes() if event.name in ("c", None))
    assert event.change is ChannelChange.REFUSED
    said["watching"] = str(event.reason)
    return said


# -- keys


def squat(descriptor: Descriptor) -> None:
    """Put a queue and a segment of one's own under a channel's keys, just like the helper's, open to all."""
    keys, spec = descriptor.keys, descriptor.spec
    queue = sysv_ipc.MessageQueue(int(keys.queue), sysv_ipc.IPC_CREX, mode=0o666)
    segment = sysv_ipc.SharedMemory(
        int(keys.segment or ""), sysv_ipc.IPC_CREX, mode=0o666, size=limits.size_of_segment(spec)
    )
    view = memoryview(segment)
    forged = Segment(view, spec.geometry)
    forged.format(spec.geometry, descriptor.epoch)
    forged.release()
    view.release()
    segment.detach()
    queue.send(b"forged", type=1)


def unsquat(descriptor: Descriptor) -> None:
    """Remove what `squat` left."""
    sysv_ipc.MessageQueue(int(descriptor.keys.queue)).remove()
    segment = sysv_ipc.SharedMemory(int(descriptor.keys.segment or ""))
    segment.remove()
    segment.detach()


def test_a_predictable_key_that_was_squatted_before_creation_is_refused(open_registry: Path) -> None:
    """The libsipc wire has to use ftok: whoever was there first is named, not used, and not touched."""
    path = open_registry.parent / "key"
    path.touch()
    key = sysv_ipc.ftok(str(path), ord("a"), True)
    squatted = {"queue": lambda: sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, mode=0o666).id,
                "segment": lambda: sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, mode=0o666, size=4096).id}  # fmt: skip
    for kind, act in squatted.items():
        as_stranger(act).result()
        with pytest.raises(sipc.ChannelExists, match=f"key {key}"):
            make(open_registry, "c", wire="libsipc", slot_size=4096, key_path=str(path))
        assert not (open_registry / "c.json").exists()
        if kind == "queue":
            queue = sysv_ipc.MessageQueue(key)
            assert queue.cuid == STRANGER
            queue.remove()
        else:
            segment = sysv_ipc.SharedMemory(key)
            assert segment.cuid == STRANGER
            segment.remove()
            segment.detach()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("again", [False, True], ids=["destroyed", "replaced"])
def test_keys_that_are_squatted_while_an_end_opens_are_not_used(
    role: Role, again: bool, open_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel goes between the reading of its descriptor and the opening of its objects, and a stranger is quick.

    Keys stand in a descriptor that others can read.  The end looks again, and takes the new channel or none.
    """
    old = make(open_registry, "c", slot_size=SIZE)
    attacks: list[str] = []
    open_files = RoleFiles.__init__

    def then_squat(self: RoleFiles, registry: Registry, name: str, which: Role) -> None:
        open_files(self, registry, name, which)
        if not attacks:
            attacks.append(name)
            helper.destroy("c", open_registry)
            as_stranger(lambda: squat(old)).result()
            if again:
                make(open_registry, "c", slot_size=SIZE)

    monkeypatch.setattr(RoleFiles, "__init__", then_squat)
    opener = sipc.open_sender if role is Role.SENDER else sipc.open_receiver
    if again:
        with opener("c", registry=open_registry, timeout=0) as end:
            assert end.epoch != old.epoch
            if isinstance(end, sipc.Receiver):
                with pytest.raises(sipc.Timeout):
                    end.receive(0)
            else:
                end.abort()
    else:
        with pytest.raises(sipc.ChannelNotFound):
            opener("c", registry=open_registry, timeout=0)
    assert attacks == ["c"]
    assert sysv_ipc.MessageQueue(int(old.keys.queue)).current_messages == 1  # nobody took what was forged
    unsquat(old)


# -- descriptors


def test_a_descriptor_of_an_earlier_creation_that_is_put_back_is_stale(open_registry: Path) -> None:
    """By the epoch, before its keys are tried: somebody may have squatted them."""
    old = make(open_registry, "c", slot_size=SIZE)
    path = open_registry / "c.json"
    stale = path.read_bytes()
    new = make(open_registry, "c", slot_size=SIZE, replacing=True)
    as_stranger(lambda: squat(old)).result()
    good = path.read_bytes()
    path.write_bytes(stale)
    for said in refusals(open_registry).values():
        assert "stale" in said
        assert str(old.epoch) in said
    path.write_bytes(good)
    assert sipc.wait_for_channel("c", 0, open_registry) == new
    helper.destroy("c", open_registry)
    path.write_bytes(stale)
    for said in refusals(open_registry).values():
        assert f"sipc destroy c --registry {open_registry}" in said
        assert "put back after the channel was destroyed" in said
    unsquat(old)
    helper.destroy("c", open_registry)  # as the message says
    assert not path.exists()


def test_a_descriptor_copied_to_another_name_or_registry_is_refused(registry: Path, tmp_path: Path) -> None:
    """It says whose it is, and only its own helper made private directories."""
    make(registry, "d", slot_size=SIZE)
    text = (registry / "d.json").read_text()
    (registry / "c.json").write_text(text)
    assert all("describes 'd', not 'c'" in said for said in refusals(registry).values())
    (registry / "c.json").write_text(text.replace('"name": "d"', '"name": "c"'))
    assert all("put back" in said for said in refusals(registry).values())
    (registry / "c.json").unlink()
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "d.json").write_text(text)
    with pytest.raises(sipc.RegistryError, match="put back"):
        sipc.wait_for_channel("d", None, other)


def test_no_role_can_make_its_channel_look_stale_or_another_current(open_registry: Path) -> None:
    """What stands for the epoch is the helper's: a stranger, and so each role, may not change it."""
    make(open_registry, "c", slot_size=SIZE)
    private = open_registry / ".private" / "c"
    before = private.stat().st_mtime_ns

    def act() -> dict[str, str]:
        return tried({
            "touch": lambda: os.utime(private),
            "set": lambda: os.utime(private, (1, 1)),
            "make in it": (private / "x").touch,
            "remove from it": (private / "sender").rmdir,
            "replace it": lambda: private.rename(private.with_name("d")),
        })  # fmt: skip

    assert as_stranger(act).result() == {
        "touch": "EACCES", "set": "EPERM", "make in it": "EACCES", "remove from it": "EACCES", "replace it": "EACCES",
    }  # fmt: skip
    assert private.stat().st_mtime_ns == before
    assert sipc.wait_for_channel("c", 0, open_registry).spec.name == "c"


def test_a_stranger_can_put_a_descriptor_nowhere_that_is_believed(open_registry: Path) -> None:
    """Not into a good registry; and what was put into one that was open stays refused after it was closed."""
    make(open_registry, "d", slot_size=SIZE)
    good = (open_registry / "d.json").read_text().replace('"name": "d"', '"name": "c"')
    path = open_registry / "c.json"
    mine = open_registry.parent / "mine"
    ways: dict[str, Callable[[], object]] = {
        "write": lambda: path.write_text(good),
        "link": lambda: path.symlink_to("d.json"),
        "second name": lambda: path.hardlink_to(open_registry / "d.json"),
        "pipe": lambda: os.mkfifo(path),
        "move away": lambda: open_registry.rename(mine),
    }
    assert set(as_stranger(lambda: tried(ways)).result().values()) <= {"EACCES", "EPERM"}
    for mode in (0o777, 0o1777):
        open_registry.chmod(mode)
        as_stranger(ways["write"]).result()
        assert all("writable by others" in said for said in refusals(open_registry).values())
        open_registry.chmod(0o755)
        assert all(f"belongs to uid {STRANGER}" in said for said in refusals(open_registry).values())
        path.unlink()

    def own_registry() -> None:
        mine.mkdir(mode=0o755)
        (mine / "c.json").write_text(good)

    open_registry.parent.chmod(0o1777)
    as_stranger(own_registry).result()
    assert all(f"belongs to uid {STRANGER}" in said for said in refusals(mine).values())


# -- namespaces

CONTAINER = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir -m 700 /mnt/registry
mount --bind "$1" /mnt/registry
mount -t tmpfs tmpfs /dev/shm
shift
exec "$@"
"""
INSIDE = Path("/mnt/registry")


def container(registry: Path, *command: str, ipc_of: int | None = None) -> subprocess.Popen[str]:
    """Start a command in mounts of its own, with the registry at another path, in a new ipc namespace or another's."""
    enter = ["unshare", "--ipc"] if ipc_of is None else ["nsenter", f"--ipc=/proc/{ipc_of}/ns/ipc"]
    return subprocess.Popen(
        [*enter, "unshare", "--mount", "sh", "-c", CONTAINER, "sh", str(registry), *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    out, err = process.communicate(timeout=LONGEST)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def command(*arguments: str) -> list[str]:
    """A command line of ours, in a container."""
    return [*PROGRAM, *arguments, "--registry", str(INSIDE)]


@pytest.fixture
def pod(registry: Path) -> Iterator[int]:
    """Pid of a process in an ipc namespace of its own, in which others can join; all objects there end with it."""
    with subprocess.Popen(
        ["unshare", "--ipc", sys.executable, "-c", "print('in', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process.pid
        process.communicate("\n", timeout=LONGEST)


def test_two_containers_that_share_registry_and_ipc_namespace_share_a_channel(
    registry: Path, tmp_path: Path, pod: int
) -> None:
    """Made in one, watched and received in a second, sent in a third; each has its own mounts."""
    file, data = tmp_path / "c.toml", tmp_path / "data"
    file.write_text(definition("c", slot_size=4096))
    data.write_bytes(os.urandom(50_000))
    receiving = container(registry, *command("recv", "c", str(tmp_path / "copy")), ipc_of=pod)
    code = f"import sipc; print(sipc.wait_for_channel('c', {LONGEST}, '{INSIDE}').epoch)"
    waiting = container(registry, sys.executable, "-c", code, ipc_of=pod)
    watching = container(registry, *command("list", "--watch", "--json"), ipc_of=pod)
    made = finished(container(registry, *command("create", str(file)), ipc_of=pod))
    assert made[0] == 0, made
    epoch = json.loads((registry / "c.json").read_text())["epoch"]
    assert finished(container(registry, *command("send", "c", str(data)), ipc_of=pod)) == (0, "", "")
    assert finished(receiving)[0] == 0
    assert (tmp_path / "copy").read_bytes() == data.read_bytes()
    assert finished(waiting) == (0, f"{epoch}\n", "")
    assert watching.stdout is not None
    event = json.loads(watching.stdout.readline())
    assert (event["event"], event["name"], event["epoch"]) == ("appeared", "c", epoch)
    assert finished(container(registry, *command("destroy", "c"), ipc_of=pod))[0] == 0
    assert json.loads(watching.stdout.readline())["event"] == "gone"
    watching.terminate()
    assert finished(watching)[0] == 130


def test_a_container_with_another_ipc_namespace_is_told_so(registry: Path, tmp_path: Path, pod: int) -> None:
    """It shares the registry alone: each command refuses and names both namespaces, with an object squatted or not."""
    file = tmp_path / "c.toml"
    file.write_text(definition("c", slot_size=4096))
    assert finished(container(registry, *command("create", str(file)), ipc_of=pod))[0] == 0
    there = Path(f"/proc/{pod}/ns/ipc").stat().st_ino
    reason = f"was made in ipc namespace {there}, this process is in "
    for arguments in (["send", "c", str(file)], ["recv", "c"]):
        code, out, err = finished(container(registry, *command(*arguments)))
        assert (code, out) == (4, "")
        assert reason in err
    here = Path("/proc/self/ns/ipc").stat().st_ino
    for said in refusals(registry).values():
        assert f"{reason}{here}" in said
    with Registry(registry) as opened:
        squat(opened.read("c"))  # the keys are free in this namespace
        for said in refusals(registry).values():
            assert f"{reason}{here}" in said
        unsquat(opened.read("c"))
    with container(registry, *command("list", "--watch", "--json")) as watching:
        assert watching.stdout is not None
        event = json.loads(watching.stdout.readline())
        assert (event["event"], event["name"], event["channel"]) == ("refused", "c", None)
        assert reason in event["reason"]
        watching.terminate()
        assert finished(watching)[0] == 130
    assert finished(container(registry, *command("destroy", "c"), ipc_of=pod))[0] == 0
