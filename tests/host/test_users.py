# SPDX-License-Identifier: Apache-2.0
"""Channels between real users: what each may do, and what the kernel refuses everybody else.

Owns three temporary system users.  Every forbidden act is tried with the system call itself, as a stranger would,
in a forked child that gave up root; the tables of `tests/support/users.py` say what each attempt must come to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sysv_ipc
from tests.host.conftest import kernel_objects
from tests.support.channels import definition
from tests.support.users import NOBODY, ROLES, User, Users, attempts_on, expected, tried, widen_the_queue

import sipc
import sipc.kernel
import sipc.kernel.posix  # before the rights to read it are given up
import sipc.kernel.sysv
from sipc import helper
from sipc.cursor import Cursor
from sipc.definitions import parse
from sipc.descriptor import Descriptor
from sipc.enforcement import account
from sipc.registry import Registry
from sipc.spec import Backend, ChannelSpec, Enforcement

pytestmark = pytest.mark.host

SLOT = 4096


@pytest.fixture(scope="module")
def users() -> Iterator[Users]:
    """Three users in three groups; gone afterwards."""
    assert os.geteuid() == 0, "these tests make real users: run them as root"
    names = {role: f"sipc-test-{os.getpid()}-{role[0]}" for role in ("sender", "receiver", "outsider")}
    made: list[str] = []
    try:
        cast = {}
        for role, name in names.items():
            command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
            subprocess.run(command, check=True, timeout=30, capture_output=True)
            made.append(name)
            ids = [
                int(subprocess.run(["id", flag, name], check=True, timeout=30, capture_output=True, text=True).stdout)
                for flag in ("-u", "-g")
            ]
            cast[role] = User(name=name, uid=ids[0], gid=ids[1])
        assert len({user.gid for user in cast.values()}) == len({user.uid for user in cast.values()}) == 3
        yield Users(**cast)
    finally:
        for name in made:
            subprocess.run(["userdel", name], check=True, timeout=30, capture_output=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter; the channels of `place/registry` are destroyed with it."""
    before = kernel_objects()
    path = Path(tempfile.mkdtemp(prefix="sipc-users-"))
    path.chmod(0o755)
    yield path
    registry = path / "registry"
    if registry.exists():
        with Registry(registry) as opened:
            names = opened.names()
        for name in names:
            helper.destroy(name, registry)
    shutil.rmtree(path)
    assert kernel_objects() - before == set()


@pytest.fixture
def runtime(place: Path, users: Users) -> Iterator[Path]:
    """`$XDG_RUNTIME_DIR` of the first user, as a login makes it; his channels are destroyed with it."""
    path = place / "run"
    path.mkdir(mode=0o700)
    os.chown(path, users.sender.uid, users.sender.gid)
    yield path

    def clean() -> None:
        with Registry(path / "sipc") as opened:
            names = [*opened.names(), *opened.journals()]
        for name in names:
            helper.destroy(name, path / "sipc")

    if (path / "sipc").exists():
        users.sender.do(clean)


# All that one user may have; where the registry is open, the helper refuses segment_creator = "sender".
SHAPES: dict[str, dict[str, Any]] = {
    f"{backend}-{kind}": {"backend": backend, **keys}
    for backend in ("sysv", "posix")
    for kind, keys in (
        ("helper", {"slot_size": SLOT}),
        ("sender", {"slot_size": SLOT, "segment_creator": "sender"}),
        ("queue", {"transport": "queue", "slot_size": 2000}),
    )
}
any_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
open_shape = pytest.mark.parametrize("shape", [shape for shape in SHAPES if "sender" not in shape])


def described(name: str, keys: dict[str, Any], **roles: str) -> ChannelSpec:
    """A definition's channel; `roles` are written as given, like sender='{ user = 7 }'."""
    lines = "".join(f"{role} = {value}\n" for role, value in roles.items())
    return parse(definition(name, **keys) + lines, "test", enforcement=Enforcement.DAC)[name]


def system_wide(place: Path, users: Users, keys: dict[str, Any]) -> Descriptor:
    """Make channel `c` as root for two users."""
    spec = described(
        "c", keys, sender=f'{{ user = "{users.sender.name}" }}', receiver=f'{{ user = "{users.receiver.name}" }}'
    )
    return helper.create(spec, place / "registry")


# -- system-wide


def exchange(place: Path, users: Users, payloads: list[bytes]) -> list[bytes]:
    """Send from the one user's process to the other's; flush included."""
    registry = place / "registry"

    def receive() -> list[bytes]:
        with sipc.open_receiver("c", registry=registry, timeout=30) as receiver:
            return list(receiver)

    def send() -> None:
        with sipc.open_sender("c", registry=registry, timeout=30) as sender:
            for payload in payloads:
                sender.send(payload, 30)
            sender.flush(30)

    receiving, sending = users.receiver.run(receive), users.sender.run(send)
    sending.result()
    got: list[bytes] = receiving.result()
    return got


@open_shape
def test_two_users_pass_messages_and_nobody_takes_a_role_that_is_not_his(
    shape: str, users: Users, place: Path
) -> None:
    """The sender's user opens the sending end alone, the receiver's the receiving end alone, another one none."""
    system_wide(place, users, SHAPES[shape])
    payloads = [b"", b"one", os.urandom(SLOT), os.urandom(3 * SLOT + 5)]
    assert exchange(place, users, payloads) == payloads
    opening: dict[str, Callable[[], object]] = {
        "sending": lambda: sipc.open_sender("c", registry=place / "registry", timeout=0),
        "receiving": lambda: sipc.open_receiver("c", registry=place / "registry", timeout=0),
    }
    assert users.sender.do(lambda: tried({"receiving": opening["receiving"]})) == {"receiving": "Denied"}
    assert users.receiver.do(lambda: tried({"sending": opening["sending"]})) == {"sending": "Denied"}
    assert users.outsider.do(lambda: tried(opening)) == {"sending": "Denied", "receiving": "Denied"}

    def reason() -> str:
        with pytest.raises(sipc.Denied) as caught:
            sipc.open_sender("c", registry=place / "registry", timeout=0)
        return str(caught.value)

    assert "must run as the sender named in the definition" in users.outsider.do(reason)
    assert exchange(place, users, payloads) == payloads


@open_shape
def test_the_kernel_refuses_every_other_use_of_the_objects(shape: str, users: Users, place: Path) -> None:
    """By key, by id, and by what is open already: neither look, write, attach, change nor remove."""
    descriptor = system_wide(place, users, SHAPES[shape])
    for role in ROLES:
        wanted = expected(descriptor, role)

        def act(wanted: dict[str, str] = wanted) -> dict[str, str]:
            attempts = attempts_on(descriptor)
            return tried({name: attempts[name] for name in wanted})

        user: User = getattr(users, role)
        assert user.do(act) == wanted, role
        assert ("done" in wanted.values()) == (role != "outsider")
    assert exchange(place, users, [b"all is well"]) == [b"all is well"]


def test_the_owner_of_the_objects_is_named_as_what_modes_do_not_hold(users: Users, place: Path) -> None:
    """The sender may widen the mode; no other can; `status` says so as long as that is so."""
    descriptor = system_wide(place, users, SHAPES["sysv-helper"])

    def widen() -> dict[str, str]:
        owner, group = users.sender.uid, users.receiver.gid
        return tried({"widen": lambda: widen_the_queue(descriptor, owner, group, 0o620)})

    assert users.outsider.do(widen) == users.receiver.do(widen) == {"widen": "EPERM"}
    assert users.sender.do(widen) == {"widen": "done"}
    assert sysv_ipc.MessageQueue(int(descriptor.keys.queue), mode=0).mode == 0o620
    assert any("the sender owns the objects and may change their mode" in line for line in account(descriptor).open)


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_nobody_but_the_helper_changes_the_registry(backend: str, users: Users, place: Path) -> None:
    """Neither descriptor nor directory nor the roles' private ones; and a role's lock and state are its own."""
    system_wide(place, users, SHAPES[f"{backend}-helper"])
    registry = place / "registry"
    file = registry / "c.json"
    before = file.read_bytes()

    def flock(path: Path) -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)

    def private(role: str) -> dict[str, Callable[[], object]]:
        where = registry / ".private" / "c" / role
        return {
            f"look at {role}": lambda: (where / "lock").stat(),
            f"list {role}": lambda: os.listdir(where),
            f"lock {role}": lambda: flock(where / "lock"),
            f"read {role}": lambda: (where / "state").read_bytes(),
            f"write {role}": lambda: (where / "state").open("r+b").close(),
            f"make in {role}": lambda: (where / "new").touch(),
            f"remove in {role}": lambda: (where / "lock").unlink(),
            f"rename {role}": lambda: where.rename(where.with_name("other")),
            f"touch {role}": lambda: os.utime(where),
            f"chmod {role}": lambda: where.chmod(0o777),
        }

    def act() -> dict[str, str]:
        return tried({
            "read": file.read_bytes,
            "open": lambda: file.open("r+b").close(),
            "truncate": lambda: os.truncate(file, 0),
            "unlink": file.unlink,
            "rename": lambda: file.rename(registry / "d.json"),
            "replace": lambda: (place / "mine").rename(file),
            "link": lambda: os.link(place / "mine", registry / "d.json"),
            "chmod": lambda: file.chmod(0o666),
            "touch": lambda: os.utime(file, (0, 0)),
            "forge": lambda: (registry / "d.json").write_text("{}"),
            "mkdir": lambda: (registry / "x").mkdir(),
            "helper's lock": lambda: flock(registry / ".helper-lock"),
            "rmdir": registry.rmdir,
            "move": lambda: registry.rename(place / "elsewhere"),
            "list private": lambda: os.listdir(registry / ".private" / "c"),
            "make private": lambda: (registry / ".private" / "d").mkdir(),
            "destroy": lambda: helper.destroy("c", registry),
            "create": lambda: helper.create(described("d", SHAPES["sysv-helper"]), registry),
            **private("sender"),
            **private("receiver"),
        })  # fmt: skip

    refused = {
        "read": "done", "open": NOBODY, "truncate": NOBODY, "unlink": NOBODY, "rename": NOBODY, "replace": NOBODY,
        "link": NOBODY, "chmod": "EPERM", "touch": "EPERM", "forge": NOBODY, "mkdir": NOBODY, "helper's lock": NOBODY,
        "rmdir": NOBODY, "move": NOBODY, "list private": NOBODY, "make private": NOBODY,
        "destroy": "RegistryError", "create": "RegistryError",
    }  # fmt: skip
    verbs = ("look at", "list", "lock", "read", "write", "make in", "remove in", "rename", "touch", "chmod")
    closed = dict.fromkeys(verbs, NOBODY) | {"chmod": "EPERM"}
    own = closed | dict.fromkeys(("look at", "lock", "read", "write"), "done")
    for role in ROLES:
        user: User = getattr(users, role)
        (place / "mine").write_bytes(before)
        os.chown(place / "mine", user.uid, user.gid)
        expected = dict(refused)
        for end in ("sender", "receiver"):
            expected |= {f"{verb} {end}": said for verb, said in (own if end == role else closed).items()}
        assert user.do(act) == expected, role
    assert file.read_bytes() == before
    assert sorted(os.listdir(registry)) == [".helper-lock", ".private", "c.json"]
    assert exchange(place, users, [b"all is well"]) == [b"all is well"]


@pytest.mark.parametrize("backend", ["sysv", "posix"])
@pytest.mark.parametrize("two", [True, False], ids=["two users", "root alone"])
def test_a_segment_that_others_could_make_first_is_refused(backend: str, two: bool, users: Users, place: Path) -> None:
    """With segment_creator = 'sender' the key is known before the segment is there.

    In a registry that others can read, any user could put a segment there, with blocks in it, and a receiver would take
    them for the sender's; nothing but an SELinux policy can forbid that.
    """
    registry = place / "registry"
    if not two:
        registry.mkdir(mode=0o755)
    before = kernel_objects()
    roles = {"sender": f"{{ user = {users.sender.uid} }}", "receiver": f"{{ user = {users.receiver.uid} }}"}
    spec = described("c", SHAPES[f"{backend}-sender"], **(roles if two else {}))
    with pytest.raises(sipc.SpecError, match="any of them could make the segment first"):
        helper.create(spec, registry)
    assert os.listdir(registry) == [".helper-lock"]
    assert kernel_objects() == before
    registry.chmod(0o700)
    assert helper.create(spec, registry).keys.segment is not None


@pytest.mark.parametrize(("backend", "outcome"), [("sysv", "made"), ("posix", "KernelError")])
def test_a_sender_that_can_not_give_its_segment_away_leaves_none(backend: str, outcome: str, users: Users) -> None:
    """POSIX lets nobody give a file to a foreign group: then an error of ours, and no segment that nobody can read."""
    objects = sipc.kernel.backend(Backend(backend))
    keys = objects.new_keys(segment=True)
    before = kernel_objects()

    def act() -> str:
        assert keys.segment is not None
        try:
            memory, *_ = objects.own_segment(keys.segment, SLOT, gid=users.receiver.gid, mode=0o640, known=0)
        except sipc.SipcError as error:
            return type(error).__name__
        memory.close()
        return "made"

    assert users.sender.do(act) == outcome
    assert len(kernel_objects() - before) == int(outcome == "made")
    users.sender.do(lambda: objects.remove(keys))
    assert kernel_objects() == before


# -- one user, without root


def run_as_user(runtime: Path, user: User, shape: dict[str, Any]) -> Descriptor:
    """The user makes channel `c` where a user's channels go, and uses it."""

    def act() -> tuple[Descriptor, bytes]:
        os.environ.pop("SIPC_REGISTRY", None)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        assert helper.default_registry() == runtime / "sipc"
        descriptor = helper.create(described("c", shape), helper.default_registry())
        with sipc.open_sender("c", timeout=0) as sender, sipc.open_receiver("c", timeout=0) as receiver:
            sender.send(b"my own")
            return descriptor, receiver.receive(30)

    descriptor, got = user.do(act)
    assert got == b"my own"
    assert descriptor.creator_uid == user.uid
    return descriptor


@any_shape
def test_a_users_own_channel_is_closed_to_another_user(shape: dict[str, Any], users: Users, runtime: Path) -> None:
    """Made and used without root; another user can neither find, read, write, change nor remove any part of it."""
    descriptor = run_as_user(runtime, users.sender, shape)
    registry = runtime / "sipc"
    assert (runtime.stat().st_mode & 0o777, registry.stat().st_mode & 0o777) == (0o700, 0o700)

    def act() -> dict[str, str]:
        return tried({
            "list": lambda: os.listdir(runtime),
            "list the registry": lambda: os.listdir(registry),
            "open the descriptor": lambda: (registry / "c.json").read_bytes(),
            "write the descriptor": lambda: (registry / "c.json").open("r+b").close(),
            "forge": lambda: (registry / "d.json").touch(),
            "lock": lambda: (registry / ".private/c/sender/lock").open("r+b").close(),
            "sending": lambda: sipc.open_sender("c", registry=registry, timeout=0),
            "receiving": lambda: sipc.open_receiver("c", registry=registry, timeout=0),
            "destroy": lambda: helper.destroy("c", registry),
            **attempts_on(descriptor),
        })  # fmt: skip

    got = users.outsider.do(act)
    files = ("list", "list the registry", "open the descriptor", "write the descriptor", "forge", "lock")
    ends = {"sending": "RegistryError", "receiving": "RegistryError", "destroy": "KernelError"}
    assert got == dict.fromkeys(files, NOBODY) | ends | expected(descriptor, "outsider")


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_whoever_opens_the_directory_of_a_user_still_gets_nothing_of_his_channels(
    backend: str, users: Users, place: Path, runtime: Path
) -> None:
    """The objects and the registry are his even where the runtime directory is not closed."""
    descriptor = run_as_user(runtime, users.sender, SHAPES[f"{backend}-helper"])
    runtime.chmod(0o755)
    registry = runtime / "sipc"

    def act() -> dict[str, str]:
        return tried({
            "list the registry": lambda: os.listdir(registry),
            "open the descriptor": lambda: (registry / "c.json").read_bytes(),
            "move the registry": lambda: registry.rename(place / "sipc"),
            "replace the registry": registry.rmdir,
            "sending": lambda: sipc.open_sender("c", registry=registry, timeout=0),
            **attempts_on(descriptor),
        })  # fmt: skip

    got = users.outsider.do(act)
    assert "done" not in got.values()
    assert {got[name] for name in ("list the registry", "open the descriptor", "move the registry")} == {NOBODY}


# How a second user, or a mistake, might put a registry or a descriptor before a user that is not his own.
def _own_registry(registry: Path, victim: User, other: User) -> str:
    os.chown(registry, other.uid, other.gid)
    registry.chmod(0o755)
    return "belongs to uid"


def _writable_registry(registry: Path, victim: User, other: User) -> str:
    registry.chmod(0o775)
    return "writable by others"


def _linked_registry(registry: Path, victim: User, other: User) -> str:
    registry.rename(registry.with_name("real"))
    registry.symlink_to("real")
    return "must be a real directory"


def _own_descriptor(registry: Path, victim: User, other: User) -> str:
    os.chown(registry / "c.json", other.uid, other.gid)
    return "forged?"


def _writable_descriptor(registry: Path, victim: User, other: User) -> str:
    (registry / "c.json").chmod(0o664)
    return "forged?"


def _linked_descriptor(registry: Path, victim: User, other: User) -> str:
    (registry / "c.json").rename(registry / "real")
    (registry / "c.json").symlink_to("real")
    return "must be a plain file"


def _two_names(registry: Path, victim: User, other: User) -> str:
    os.link(registry / "c.json", registry / "other")
    return "2 links"


def _pipe(registry: Path, victim: User, other: User) -> str:
    (registry / "c.json").unlink()
    os.mkfifo(registry / "c.json", 0o600)
    os.chown(registry / "c.json", victim.uid, victim.gid)
    return "not a plain file"


@pytest.mark.parametrize(
    "forge",
    [_own_registry, _writable_registry, _linked_registry, _own_descriptor, _writable_descriptor, _linked_descriptor,
     _two_names, _pipe],
    ids=lambda forge: forge.__name__.strip("_"),
)  # fmt: skip
def test_a_user_does_not_trust_what_another_could_have_made(
    forge: Callable[[Path, User, User], str], users: Users, runtime: Path
) -> None:
    """Owner, mode, links and kind are checked on what was opened, not on a path; the refusal says which."""
    run_as_user(runtime, users.sender, SHAPES["sysv-helper"])
    registry = runtime / "sipc"
    good = (registry / "c.json").read_bytes()
    expected = forge(registry, users.sender, users.outsider)

    def act() -> list[str]:
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        messages = []
        for opener in (sipc.open_sender, sipc.open_receiver):
            with pytest.raises(sipc.RegistryError) as caught:
                opener("c", timeout=0)
            messages.append(str(caught.value))
        return messages

    assert all(expected in message for message in users.sender.do(act))
    # Put it back, so that the channel can be destroyed.
    if registry.is_symlink():
        registry.unlink()
        registry.with_name("real").rename(registry)
    os.chown(registry, users.sender.uid, users.sender.gid)
    registry.chmod(0o700)
    for entry in ("c.json", "real", "other"):
        (registry / entry).unlink(missing_ok=True)
    (registry / "c.json").write_bytes(good)
    os.chown(registry / "c.json", users.sender.uid, users.sender.gid)
    (registry / "c.json").chmod(0o644)


def test_a_registry_that_another_user_names_is_refused(users: Users, place: Path) -> None:
    """Whether by argument, `$SIPC_REGISTRY` or `$XDG_RUNTIME_DIR`: what is another user's is not believed."""
    theirs = place / "theirs"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, users.outsider.uid, users.outsider.gid)
    theirs.chmod(0o777)
    registry = theirs / "sipc"

    def make() -> None:
        os.umask(0)
        helper.create(described("c", SHAPES["sysv-helper"]), registry)
        registry.chmod(0o755)

    users.outsider.do(make)

    def act() -> list[str]:
        messages = []
        for name, value in (("", ""), ("SIPC_REGISTRY", str(registry)), ("XDG_RUNTIME_DIR", str(theirs))):
            for variable in ("SIPC_REGISTRY", "XDG_RUNTIME_DIR"):
                os.environ.pop(variable, None)
            if name:
                os.environ[name] = value
            with pytest.raises(sipc.RegistryError) as caught:
                sipc.open_receiver("c", registry=None if name else registry, timeout=0)
            messages.append(str(caught.value))
        return messages

    messages = users.sender.do(act)
    assert len(messages) == 3
    assert all(f"belongs to uid {users.outsider.uid}" in message for message in messages)
    users.outsider.do(lambda: helper.destroy("c", registry))


def test_a_cursor_that_another_user_made_is_refused(users: Users, place: Path) -> None:
    """Whoever may write it could make a receiver skip what it has not seen; modes alone do not tell."""
    for mode in (0o600, 0o644, 0o666):
        path = place / f"cursor-{mode:o}"
        path.touch()
        os.chown(path, users.outsider.uid, users.outsider.gid)
        path.chmod(mode)

    def act() -> list[str]:
        messages = []
        for mode in (0o600, 0o644, 0o666):
            with pytest.raises(sipc.SpecError) as caught:
                Cursor(place / f"cursor-{mode:o}", 1)
            messages.append(str(caught.value))
        return messages

    closed, readable, writable = users.receiver.do(act)
    assert "Permission denied" in closed
    assert "Permission denied" in readable
    assert f"(uid {users.outsider.uid}, mode 0666) can be changed by others" in writable


# -- one user, for another


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("who", ["outsider", "root"])
def test_an_ordinary_user_can_not_make_a_channel_for_another(
    role: str, who: str, users: Users, runtime: Path
) -> None:
    """A `SpecError` that says who could; nothing is made, not even the registry."""
    uid = 0 if who == "root" else users.outsider.uid
    before = kernel_objects()

    def act() -> str:
        with pytest.raises(sipc.SpecError) as caught:
            helper.create(described("c", {}, **{role: f"{{ user = {uid} }}"}), runtime / "sipc")
        return str(caught.value)

    message = users.sender.do(act)
    assert f"{role} is uid {uid}, and only root can make a channel for another user" in message
    assert not (runtime / "sipc").exists()
    assert kernel_objects() == before


@pytest.mark.parametrize("backend", ["sysv", "posix"])
def test_a_group_that_is_not_his_is_refused_and_leaves_nothing(backend: str, users: Users, runtime: Path) -> None:
    """He may name himself; what he can not give away is an error, and all that was made is removed again."""
    me, group = users.sender.uid, users.outsider.gid
    before = kernel_objects()

    def act() -> str:
        roles = dict.fromkeys(("sender", "receiver"), f"{{ user = {me}, group = {group} }}")
        with pytest.raises(sipc.SipcError) as caught:
            helper.create(described("c", SHAPES[f"{backend}-helper"], **roles), runtime / "sipc")
        return str(caught.value)

    assert "not permitted" in users.sender.do(act)
    assert sorted(os.listdir(runtime / "sipc")) == [".helper-lock", ".private"]
    assert not os.listdir(runtime / "sipc" / ".private")
    assert kernel_objects() == before
