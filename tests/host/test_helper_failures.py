# SPDX-License-Identifier: Apache-2.0
"""The helper when things go wrong: every system call of it fails in turn, or is its last.

The rule: whatever fails, nothing of a channel is left, or all of it is there; and what only a helper that was
killed (or whose undoing failed too) can leave, the next run removes.  See tests/support/faults.c for the means.
"""

from __future__ import annotations

import errno
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.support.channels import Child
from tests.support.faults import CRASHED, Faults, Run, build
from tests.support.objects import assert_empty, assert_whole, snapshot
from tests.support.program import USERS

import sipc
from sipc import helper
from sipc.definitions import load
from sipc.registry import Registry
from sipc.spec import Enforcement, Wire

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

_SLOT = "slot_size = 4096"
SIPC2 = {
    "sysv": f"{_SLOT}\n{USERS}",
    "sysv-sender": f'{_SLOT}\nsegment_creator = "sender"',
    "sysv-queue": 'slot_size = 1000\ntransport = "queue"',
    "posix": f'{_SLOT}\nbackend = "posix"\n{USERS}',
    "posix-sender": f'{_SLOT}\nbackend = "posix"\nsegment_creator = "sender"',
    "posix-queue": 'slot_size = 1000\nbackend = "posix"\ntransport = "queue"',
}
LIBSIPC = {
    "libsipc": f'{_SLOT}\nwire = "libsipc"\nkey_path = "KEY"',
    "libsipc-queue": 'slot_size = 1000\nwire = "libsipc"\ntransport = "queue"\nkey_path = "KEY"',
}
BOTH = ("sysv", "posix")
# What a channel is made of.  A run in which one of these failed must not say that it went well; questions (limits,
# the file's size) may fail and be answered by the kernel's refusal later, and so may closing.
_ESSENTIAL = {
    "msgget", "msgctl", "shmget", "shmat", "shmctl", "mq_open", "mq_getsetattr", "ftruncate", "fallocate", "mmap",
    "mkdir", "mkdirat", "renameat", "fchmod", "fchown", "fsync", "flock", "fcntl", "getrandom", "getdents64", "write",
}  # fmt: skip
_KERNEL = ("msg", "shm", "mq_")


class Ground:
    """A definition of channel `c`, a registry for it that each trial makes anew, and what the kernel had before."""

    def __init__(self, faults: Faults, folder: Path, body: str) -> None:
        self.file, self.key, self.registry = folder / "c.toml", folder / "key", folder / "registry"
        self.key.touch()
        self.file.write_text(f"[channel.c]\n{body}\n".replace("KEY", str(self.key)))
        # Read once: the C library's looking up of users makes more calls every hundredth time in one process, and
        # the forked ones, whose calls are numbered, inherit its count.
        self.spec = load([self.file], enforcement=Enforcement.DAC)["c"]
        self.faults = faults
        self.before = snapshot()
        self.calls: list[str] = []
        self.create()  # whatever is imported late is imported now, and not in the forked process
        self.destroy()
        self.plain = self.run("create")
        assert self.plain.code == 0, self.plain.errors
        self.clear()

    def run(self, verb: str, *more: str, **fault: Any) -> Run:
        """The program, in a process of its own."""
        target = "c" if verb == "destroy" else str(self.file)
        run = self.faults.run("--registry", str(self.registry), verb, *more, target, **fault)
        self.calls += [call for call in run.calls if call.startswith("mq_open")]
        return run

    def create(self, *, replacing: bool = False) -> None:
        """Make the channel in this process, without a fault, and look at it closely."""
        helper.create(self.spec, self.registry, replacing=replacing)
        self.check_whole()

    def destroy(self) -> None:
        """Destroy the channel in this process, without a fault; nothing may be left."""
        helper.destroy("c", self.registry)
        self.check_gone()

    def clear(self) -> None:
        """Bring back the state before the first helper."""
        if self.registry.exists():
            with Registry(self.registry) as opened:
                left = {*opened.names(), *opened.journals()}
            for name in left:
                helper.destroy(name, self.registry)
            shutil.rmtree(self.registry)
        self.calls.clear()
        assert snapshot() == self.before

    def published(self) -> bool:
        return (self.registry / "c.json").exists()

    def check_whole(self) -> None:
        """The channel is there, in every part, and carries a message."""
        descriptor = assert_whole(self.registry, "c")
        if descriptor.spec.wire is Wire.SIPC2:
            with sipc.open_receiver("c", registry=self.registry, timeout=0) as receiver:
                with sipc.open_sender("c", registry=self.registry, timeout=0) as sender:
                    sender.send(b"whole", 5)
                assert list(receiver) == [b"whole"]

    def check_gone(self) -> None:
        """Nothing of the channel is there."""
        assert snapshot(self.calls) == self.before
        assert_empty(self.registry)

    def check_mends(self) -> None:
        """The channel is whole, or not to be seen; and the next runs make it, and remove it without a trace."""
        if self.published():
            self.check_whole()
        self.create(replacing=self.published())
        self.destroy()

    def working(self) -> range:
        """Numbers of the calls from where the registry is first touched; those before only ask."""
        start = next(i for i, call in enumerate(self.plain.calls) if call.startswith("mkdir"))
        return range(start + 1, len(self.plain.calls) + 1)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(build(tmp_path_factory.mktemp("faults")))


@pytest.fixture
def ground(faults: Faults) -> Iterator[Callable[[str], Ground]]:
    """Makes a `Ground` for a shape; at the end nothing of it may be in the kernel."""
    made: list[Ground] = []
    # In memory: a trial syncs the registry half a dozen times, and there are thousands of trials.
    with TemporaryDirectory(dir="/dev/shm") as folder:

        def make(shape: str) -> Ground:
            made.append(Ground(faults, Path(folder), {**SIPC2, **LIBSIPC}[shape]))
            return made[-1]

        yield make
        for one in made:
            one.clear()


def refused(run: Run, *, mute: bool = False) -> None:
    """The run failed in the way the manual says: an exit code of the table, and one message unless it is `mute`."""
    assert run.code in (3, 4), run
    if mute:
        return
    assert run.errors.startswith("sipc-helper: "), run
    assert run.errors.count("\n") == 1, run
    assert run.output == "", run


def codes(call: str) -> tuple[int, ...]:
    """Error numbers to try on a call: those of the kernel's objects are told apart by the layers above."""
    return (errno.EIO, errno.EACCES, errno.EEXIST) if call.startswith(_KERNEL) else (errno.EIO,)


def essential(call: str, code: int) -> bool:
    """Whether create can not go well when this call fails so."""
    another_key = code == errno.EEXIST and call.startswith(("msgget", "shmget", "mq_open"))
    return call.split(" ", maxsplit=1)[0] in _ESSENTIAL and not another_key


@pytest.mark.parametrize("shape", [*SIPC2, *LIBSIPC])
def test_whichever_call_of_create_fails_nothing_is_left(shape: str, ground: Callable[[str], Ground]) -> None:
    """From the first call to the last: a failure is told in one line, leaves nothing, and the next try succeeds."""
    place = ground(shape)
    failures = 0
    for n, call in enumerate(place.plain.calls, 1):
        for code in codes(call):
            run = place.run("create", first=n, code=code)
            assert len(run.calls) >= n
            if run.code == 0:
                assert not essential(run.calls[n - 1], code), run.calls[n - 1]
                if shape != "libsipc-queue":  # without its limit to read, its queue is smaller
                    place.check_whole()
            else:
                refused(run)
                place.check_gone()
                place.create()
                failures += 1
            place.clear()
    assert failures >= 50


@pytest.mark.parametrize("shape", SIPC2)
def test_killed_at_any_call_the_channel_is_whole_or_the_next_run_cleans_up(
    shape: str, ground: Callable[[str], Ground]
) -> None:
    """SIGKILL before each call: what the next create, or destroy, finds is whole or goes."""
    place = ground(shape)
    states = set()
    for n in place.working():
        run = place.run("create", at=n)
        assert run.code == -signal.SIGKILL
        published, journal = place.published(), (place.registry / ".c.json.new").exists()
        states.add((published, journal))
        if journal and n % 2:
            place.destroy()
        place.check_mends()
        place.clear()
    assert states == {(False, False), (False, True), (True, False)}


def test_killed_the_c_librarys_objects_stay_and_the_error_says_how_to_remove_them(
    ground: Callable[[str], Ground],
) -> None:
    """Keys of that wire are not random: under them may be somebody else's objects, so nothing is removed unasked."""
    place = ground("libsipc")
    run = place.run("create", at=place.plain.calls.index("renameat c.json") + 1)
    assert run.code == -signal.SIGKILL
    left = snapshot() - place.before
    assert len(left) == 2
    run = place.run("create")
    refused(run)
    key = next(iter(left)).split()[1]
    assert f"ipcrm -Q {key} -M {key}" in run.errors
    assert snapshot() - place.before == left
    subprocess.run(["ipcrm", "-Q", key, "-M", key], check=True)
    place.check_mends()


Prepare = Callable[[Ground], None]


def _existing(place: Ground) -> None:
    place.create()


def _abandoned(place: Ground) -> None:
    last = place.plain.calls.index("renameat c.json") + 1
    assert place.run("create", at=last).code == -signal.SIGKILL
    assert snapshot(place.calls) != place.before


AGAIN: dict[str, tuple[Prepare, tuple[str, ...]]] = {
    "replacing": (_existing, ("create", "--replace")),
    "destroying": (_existing, ("destroy",)),
    "after-a-killed-one": (_abandoned, ("create",)),
    "destroying-after-a-killed-one": (_abandoned, ("destroy",)),
}


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("shape", BOTH)
@pytest.mark.parametrize("fault", ["fails", "kills"])
def test_a_second_run_that_fails_or_dies_at_any_call_loses_no_object(
    shape: str, again: str, fault: str, ground: Callable[[str], Ground]
) -> None:
    """Replacing, destroying, cleaning up: the channel is whole or gone, and what is not gone is known to the next."""
    place = ground(shape)
    prepare, (verb, *more) = AGAIN[again]
    prepare(place)
    calls = place.run(verb, *more).calls
    place.clear()
    first = next(i for i, call in enumerate(calls) if call.startswith("mkdir"))
    for n in range(first + 1, len(calls) + 1):
        prepare(place)
        if fault == "kills":
            assert place.run(verb, *more, at=n).code == -signal.SIGKILL
        else:
            run = place.run(verb, *more, first=n)
            if run.code:
                refused(run)
            elif verb == "destroy":
                place.check_gone()
            else:
                place.check_whole()
        place.check_mends()
        place.clear()


@pytest.mark.parametrize("shape", BOTH)
@pytest.mark.parametrize("starting", ["renameat c.json", "fsync", "fchmod", "mkdirat .private/c"])
def test_when_undoing_fails_too_the_next_run_finishes_it(
    shape: str, starting: str, ground: Callable[[str], Ground]
) -> None:
    """One call of create fails, then each call of its undoing: nothing is lost sight of."""
    place = ground(shape)
    calls = place.plain.calls
    n = len(calls) - calls[::-1].index(starting)
    undoing = place.run("create", first=n).calls
    assert len(undoing) > n + 10
    for m in range(n + 1, len(undoing) + 1):
        refused(place.run("create", first=n, second=m), mute=m == len(undoing))
        place.check_mends()
        place.clear()


@pytest.mark.parametrize("shape", BOTH)
def test_a_kind_of_call_that_fails_from_some_moment_on_leaves_what_the_next_run_can_mend(
    shape: str, ground: Callable[[str], Ground]
) -> None:
    """A disk that fills up, a policy that is loaded: making fails, and so may the same call in undoing it."""
    place = ground(shape)
    for n in place.working():
        run = place.run("create", first=n, code=errno.EACCES, sticky=True)
        if run.code:
            refused(run, mute=run.calls[n - 1] == "write")
        else:
            assert not essential(run.calls[n - 1], errno.EACCES), run.calls[n - 1]
        place.check_mends()
        place.clear()


@pytest.mark.parametrize("shape", BOTH)
def test_interrupted_at_any_call_the_channel_is_whole_or_gone(shape: str, ground: Callable[[str], Ground]) -> None:
    """Ctrl-C in the middle of create: no journal, no remains."""
    place = ground(shape)
    gone = 0
    for n in place.working():
        run = place.run("create", at=n, number=signal.SIGINT)
        if run.code:
            assert run.code == CRASHED
            assert run.errors.endswith("KeyboardInterrupt\n"), run.errors
        if place.published():
            place.check_whole()
            place.destroy()
        else:
            gone += 1
            assert run.code
            place.check_gone()
        place.clear()
    assert gone > 50


def test_the_channels_of_one_file_are_all_made_or_none(ground: Callable[[str], Ground]) -> None:
    """When the second fails, at whatever call, the first goes too."""
    place = ground("sysv")
    text = place.file.read_text()
    place.file.write_text(text + text.replace(".c]", ".d]").replace("4096", '4096\nbackend = "posix"'))
    calls = place.run("create").calls
    helper.destroy("c", place.registry)
    helper.destroy("d", place.registry)
    place.check_gone()
    place.clear()
    second = next(i for i, call in enumerate(calls) if call.endswith(".d.json.new"))
    for n in range(second + 1, len(calls) + 1):
        run = place.run("create", first=n)
        if run.code:
            assert run.code in (3, 4)
            assert run.errors.startswith("sipc-helper: ")
            assert run.errors.count("\n") == 1
            place.check_gone()
        else:
            with Registry(place.registry) as opened:
                assert opened.names() == ["c", "d"]
                assert opened.journals() == []
        place.clear()


def test_the_descriptor_appears_last_and_the_journal_first(ground: Callable[[str], Ground]) -> None:
    """Keys are on disk before an object has them; a channel has its name only when all else is done."""
    for shape in SIPC2:
        place = ground(shape)
        calls = place.plain.calls
        journal, published = calls.index("openat .c.json.new"), calls.index("renameat c.json")
        written = calls.index("openat .c.json.new", journal + 1)  # the first one looked for a leftover
        on_disk = calls.index("fsync", written)
        objects = [i for i, call in enumerate(calls) if call.startswith((*_KERNEL, "openat /dev/shm/sipc-"))]
        assert written < on_disk < min(objects)
        assert max(objects) < published
        assert set(calls[published + 1 :]) == {"fsync", "close", "write"}


def test_a_descriptor_that_does_not_fit_is_not_published(ground: Callable[[str], Ground]) -> None:
    """A write that stops half-way, as on a full disk, is a failure."""
    place = ground("sysv")

    def act() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return helper.main(["--registry", str(place.registry), "create", str(place.file)])

    assert Child(act).result() == 4
    place.check_gone()
