# SPDX-License-Identifier: Apache-2.0
"""Finding channels: nothing is missed, nothing is asked twice, and what the helper did not write is refused."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.support.channels import LONGEST, Child, make
from tests.support.forgeries import FORGED, forge, mend

import sipc
from sipc import ChannelChange, ChannelEvent, ChannelWatch, helper
from sipc.publisher import Publisher
from sipc.watch import Watches

pytestmark = pytest.mark.host

POLL = "7"  # of poll(2) on x86-64
FOR_EVER = "0xffffffff"


def until(watch: ChannelWatch, *wanted: str) -> list[ChannelEvent]:
    """Changes as they come, until one that reads `change` or `change NAME` has come for each of `wanted`.

    Never looks before it is told to.
    """
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    events: list[ChannelEvent] = []
    while not all(any(said(event).startswith(one) for event in events) for one in wanted):
        assert poll.poll(LONGEST * 1000), (wanted, [said(event) for event in events])
        events += watch.changes()
    while poll.poll(0):  # nothing that came before may wake it the next time
        events += watch.changes()
    return events


def said(event: ChannelEvent) -> str:
    """One event in short."""
    return f"{event.change} {event.name}"


def found(place: Path) -> int:
    """The epoch of channel `c`, waited for without a time."""
    return sipc.wait_for_channel("c", registry=place).epoch


def asleep(pid: int) -> None:
    """Return when a process sleeps in poll(2) without a time: it waits, and it will not look again by itself."""
    deadline = time.monotonic() + LONGEST
    while True:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
        if words[0] == POLL and words[3] == FOR_EVER:
            return
        assert time.monotonic() < deadline, words
        os.sched_yield()


@pytest.fixture
def watch(registry: Path) -> Iterator[ChannelWatch]:
    """The registry, watched."""
    with ChannelWatch(registry) as watching:
        assert watching.changes() == []
        yield watching


def flood(registry: Path) -> None:
    """More events than the kernel keeps: made, closed and removed, which do not merge."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit // 3 + 100):
        (registry / f"n{number}").touch()
        (registry / f"n{number}").unlink()


# -- waiting for one


def test_a_channel_that_is_there_is_returned_at_once(registry: Path) -> None:
    """Its descriptor, as the helper published it; a name that is not there is an error that says so."""
    made = make(registry, "c", slot_size=64)
    assert sipc.wait_for_channel("c", 0, registry) == made
    assert sipc.wait_for_channel("c", registry=registry) == made
    with pytest.raises(sipc.ChannelNotFound, match="no channel 'd'"):
        sipc.wait_for_channel("d", 0, registry)
    with pytest.raises(sipc.Timeout, match=r"'d' did not appear in .* within 0.05 s"):
        sipc.wait_for_channel("d", 0.05, registry)
    with pytest.raises(sipc.SpecError, match="usable"):
        sipc.wait_for_channel("../c", None, registry)


def test_waiting_is_one_sleep_without_a_time(registry: Path, tmp_path: Path) -> None:
    """It does not poll: it sleeps until the kernel says that something changed, on a registry and above one."""
    for place in (registry, tmp_path / "not" / "yet"):
        child = Child(partial(found, place))
        asleep(child.pid)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        asleep(child.pid)  # told of the directory, it sleeps on
        made = make(place, "c", slot_size=64)
        assert child.result() == made.epoch
        helper.destroy("c", place)


def test_directories_that_appear_one_by_one_at_any_moment_are_followed(tmp_path: Path, registry: Path) -> None:
    """Whatever was made between two calls of the one that waits: it comes to the channel."""
    for number in range(16):
        place = tmp_path / f"n{number}" / "a" / "b"
        child = Child(partial(found, place))
        if number % 4 == 0:
            place.parent.parent.mkdir()
        place.mkdir(parents=True, mode=0o700)
        made = make(place, "c", slot_size=64)
        assert child.result() == made.epoch, number
        helper.destroy("c", place)


def test_what_is_published_and_not_to_be_trusted_ends_the_waiting(registry: Path) -> None:
    """The reason at once, not a time-out: waiting longer would not make it good."""
    child = Child(lambda: sipc.wait_for_channel("c", None, registry))
    asleep(child.pid)
    os.mkfifo(registry / "c.json")
    with pytest.raises(sipc.RegistryError, match="not a plain file"):
        child.result()
    (registry / "c.json").unlink()


# -- watching all


def test_each_change_is_reported_once(registry: Path, watch: ChannelWatch) -> None:
    """Appeared, replaced with both epochs, gone; nothing when nothing has changed."""
    first = make(registry, "c", slot_size=64)
    (event,) = until(watch, "appeared c")
    assert event == ChannelEvent(
        change=ChannelChange.APPEARED, registry=registry, name="c", descriptor=first
    )
    second = Child(lambda: make(registry, "c", replacing=True, slot_size=64)).result()
    (event,) = until(watch, "replaced c")
    assert (event.descriptor, event.old_epoch) == (second, first.epoch)
    helper.destroy("c", registry)
    (event,) = until(watch, "gone c")
    assert (event.descriptor, event.old_epoch) == (None, second.epoch)
    make(registry, "c", slot_size=64)
    (event,) = until(watch, "appeared c")
    assert event.old_epoch is None
    watch.changes()
    assert watch.changes() == []


def test_what_is_there_already_is_reported_first(registry: Path) -> None:
    """So that the events alone give the whole truth; the generator sleeps between events, and ends when closed."""
    epochs = {name: make(registry, name, slot_size=64).epoch for name in ("a", "b", "c")}
    events = sipc.watch_channels(registry)
    found = [next(events) for _ in epochs]
    assert {event.name: event.descriptor and event.descriptor.epoch for event in found} == epochs
    events.close()  # type: ignore[attr-defined]
    assert list(events) == []

    def wait() -> str:
        for event in sipc.watch_channels(registry):
            if event.change is not ChannelChange.APPEARED:
                return said(event)
        return ""

    child = Child(wait)
    asleep(child.pid)
    helper.destroy("b", registry)
    assert child.result() == "gone b"


def test_a_replacement_is_one_event_wherever_the_look_falls(registry: Path, watch: ChannelWatch) -> None:
    """Never a channel that is gone for a moment: the helper's withdrawal is not reported before it has finished."""
    known = make(registry, "c", slot_size=64).epoch
    until(watch, "appeared c")
    for _ in range(10):
        child = Child(lambda: make(registry, "c", replacing=True, slot_size=64).epoch)
        (event,) = until(watch, "replaced")
        assert (event.change, event.old_epoch) == (ChannelChange.REPLACED, known)
        known = child.result()
        assert event.descriptor is not None
        assert event.descriptor.epoch == known


def test_replacements_and_removals_between_two_looks_are_one_change(registry: Path, watch: ChannelWatch) -> None:
    """Events merge; epochs do not."""
    first = make(registry, "c", slot_size=64)
    make(registry, "d", slot_size=64)
    until(watch, "appeared c", "appeared d")
    helper.destroy("d", registry)
    make(registry, "e", slot_size=64)
    helper.destroy("e", registry)
    make(registry, "c", replacing=True, slot_size=64)
    helper.destroy("c", registry)
    last = make(registry, "c", slot_size=64)
    events = watch.changes()
    assert sorted(map(said, events)) == ["gone d", "replaced c"]
    (event,) = (event for event in events if event.name == "c")
    assert (event.descriptor, event.old_epoch) == (last, first.epoch)


def test_a_helper_that_dies_between_withdrawing_and_publishing_leaves_a_channel_that_is_gone(
    registry: Path, watch: ChannelWatch
) -> None:
    """Its death lets go of its lock file, and that is an event."""
    made = make(registry, "c", slot_size=64)
    until(watch, "appeared c")
    reading, writing = os.pipe()

    def die() -> None:
        publisher = Publisher(registry)
        publisher.unpublish("c")
        os.write(writing, b"x")
        select.select([], [], [])

    child = Child(die)
    assert os.read(reading, 1) == b"x"
    assert watch.changes() == []  # withdrawn, and what will be is not known
    child.kill()
    (event,) = until(watch, "gone c")
    assert event.old_epoch == made.epoch
    os.close(reading)
    os.close(writing)


def test_a_registry_that_is_removed_moved_or_made_again_is_followed(tmp_path: Path, registry: Path) -> None:
    """Its channels go with it, and come with it, whichever directory above it was the one that changed."""
    top = tmp_path / "top"
    place = top / "a" / "registry"
    with ChannelWatch(place) as watch:
        assert watch.changes() == []
        place.mkdir(parents=True, mode=0o700)
        epoch = make(place, "c", slot_size=64).epoch
        until(watch, "appeared c")
        for which in (place, place.parent, top):
            which.rename(tmp_path / "away")
            until(watch, "gone c")
            (tmp_path / "away").rename(which)
            (event,) = until(watch, "appeared c")
            assert event.descriptor is not None
            assert event.descriptor.epoch == epoch
        helper.destroy("c", place)
        until(watch, "gone c")
        for entry in (place / ".private", place):
            for file in entry.iterdir():
                file.unlink()
            entry.rmdir()
        place.mkdir(mode=0o700)
        make(place, "d", slot_size=64)
        until(watch, "appeared d")
        helper.destroy("d", place)


def test_a_queue_of_events_that_overflows_loses_nothing(registry: Path) -> None:
    """The kernel drops what is too much, the truth is in the directory: a replacement among the lost is reported."""
    first, gone = make(registry, "c", slot_size=64), make(registry, "d", slot_size=64)
    with Watches([registry]) as plain, ChannelWatch(registry) as watch:
        plain.arm()
        watch.changes()
        flood(registry)
        second = make(registry, "c", replacing=True, slot_size=64)
        helper.destroy("d", registry)
        assert any(happening.lost and happening.directory is None for happening in plain.arm())
        events = until(watch, "replaced c", "gone d")
    assert sorted(map(said, events)) == ["gone d", "replaced c"]
    assert {event.name: event.old_epoch for event in events} == {"c": first.epoch, "d": gone.epoch}
    assert [event.descriptor for event in events if event.name == "c"] == [second]


@pytest.mark.parametrize("what", ["overflow", "another directory", "no directory"])
def test_a_helpers_end_that_is_not_told_leaves_no_channel_in_doubt(
    what: str, registry: Path, watch: ChannelWatch
) -> None:
    """Withdrawn, and then the event that tells of the helper's end is lost: the channel is gone."""
    made = make(registry, "c", slot_size=64)
    until(watch, "appeared c")
    with Publisher(registry) as publisher:
        publisher.unpublish("c")
        assert watch.changes() == []
        aside = registry.with_name("aside")
        if what == "overflow":
            flood(registry)
        else:
            registry.rename(aside)
            if what == "another directory":
                registry.mkdir(mode=0o700)
            (event,) = until(watch, "gone c")
    if what == "overflow":
        (event,) = until(watch, "gone c")
    assert event.old_epoch == made.epoch
    if aside.exists():
        if registry.exists():
            registry.rmdir()
        aside.rename(registry)


def test_a_directory_that_is_made_while_the_one_above_it_is_watched_is_watched(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there, and comes before the watch that would tell of it."""
    place = registry / "a" / "b"
    add = Watches._add

    def then_made(self: Watches, directory: Path, mask: int) -> int:
        number = add(self, directory, mask)
        if number < 0 and directory == place.parent:
            place.mkdir(parents=True, mode=0o700)
        return number

    monkeypatch.setattr(Watches, "_add", then_made)
    child = Child(partial(found, place))
    asleep(child.pid)
    made = make(place, "c", slot_size=64)
    assert child.result() == made.epoch
    helper.destroy("c", place)


@pytest.mark.parametrize("case", FORGED)
def test_a_bad_descriptor_is_refused_once_and_the_watching_goes_on(case: str, registry: Path) -> None:
    """With the reason and the epoch that was good; the others are reported all the same; mended, it appears again."""
    epoch = make(registry, "c", slot_size=64).epoch
    path = registry / "c.json"
    text = path.read_bytes()
    with ChannelWatch(registry) as watch:
        watch.changes()
        forge(case, path)
        (event,) = (event for event in until(watch, "refused c") if said(event) == "refused c")
        assert event.reason is not None
        assert FORGED[case] in event.reason
        assert event.old_epoch == epoch
        with pytest.raises(sipc.RegistryError, match=FORGED[case]):
            sipc.wait_for_channel("c", None, registry)
        if not case.startswith("registry"):
            make(registry, "other", slot_size=64)
            assert "refused c" not in map(said, until(watch, "appeared other"))
        mend(path, text)
        (event,) = (event for event in until(watch, "appeared c") if said(event) == "appeared c")
        assert event.descriptor is not None
        assert event.descriptor.epoch == epoch


def test_a_good_descriptor_after_a_bad_one_is_a_replacement_by_its_epoch(registry: Path, watch: ChannelWatch) -> None:
    """The refusal in between does not hide it."""
    first = make(registry, "c", slot_size=64)
    until(watch, "appeared c")
    path = registry / "c.json"
    text = path.read_bytes()
    forge("no JSON", path)
    until(watch, "refused c")
    mend(path, text)
    second = make(registry, "c", replacing=True, slot_size=64)
    (event,) = until(watch, "replaced c")
    assert (event.descriptor, event.old_epoch) == (second, first.epoch)


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "a link": lambda place, other: place.symlink_to(other),
    "a link to nothing": lambda place, other: place.symlink_to(other / "nothing"),
    "a file": lambda place, _: place.touch(),
    "a pipe": lambda place, _: os.mkfifo(place),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_registry_that_is_no_directory_is_refused_until_it_is_one(kind: str, registry: Path, tmp_path: Path) -> None:
    """A link to a good registry is not followed, and that the link goes is noticed."""
    make(registry, "c", slot_size=64)
    place = tmp_path / "place"
    with ChannelWatch(place) as watch:
        watch.changes()
        LINKS[kind](place, registry)
        (event,) = until(watch, "refused")
        assert (event.name, event.registry) == (None, place)
        assert "must be a real directory" in (event.reason or "")
        with pytest.raises(sipc.RegistryError, match="must be a real directory"):
            sipc.wait_for_channel("c", None, place)
        place.unlink()
        place.mkdir(mode=0o700)
        make(place, "c", slot_size=64)
        assert list(map(said, until(watch, "appeared c"))) == ["appeared c"]
        helper.destroy("c", place)
        until(watch, "gone c")
