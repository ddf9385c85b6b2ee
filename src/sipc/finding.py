# SPDX-License-Identifier: Apache-2.0
"""Finding channels: wait for one by name, or be told of each that appears, is replaced, is refused or goes.

Owns what changed between two looks at the registries.  Every report is the difference of two full looks, by epoch,
never the account of an event: a replacement between two looks is one, however many events it made.  A descriptor that
no end would open is refused with the reason, and the looking goes on.

A helper that replaces a channel withdraws the old descriptor (a rename to the journal's name) before it publishes the
new one.  A look in between reports nothing yet: what has become of the name is known when the helper, alive or killed,
lets go of its lock file, which is an event as well.
"""

from __future__ import annotations

import enum
import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sipc.descriptor import Descriptor
from sipc.enforcement import read_vetted
from sipc.errors import ChannelNotFound, Denied, RegistryError
from sipc.registry import HELPER_LOCK, Registry, search_path
from sipc.watch import Happening, Watches, wait_for

__all__ = ("ChannelChange", "ChannelEvent", "ChannelWatch", "wait_for_channel", "watch_channels")


class ChannelChange(enum.StrEnum):
    """What became of a channel."""

    APPEARED = "appeared"
    REPLACED = "replaced"
    GONE = "gone"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEvent:
    """One change of one channel.

    `registry` is its directory.  APPEARED and REPLACED have the `descriptor`.  `old_epoch` is the last good one before
    the change, None when there was none: for REPLACED always, for GONE and REFUSED if the channel had been good.
    REFUSED has the `reason`; with `name` None the directory itself is refused.
    """

    change: ChannelChange
    registry: Path
    name: str | None
    descriptor: Descriptor | None = None
    old_epoch: int | None = None
    reason: str | None = None


@dataclass(slots=True)
class _Known:
    """What the last look found under one name: the epoch that was last good, and why it is refused now."""

    epoch: int | None = None
    reason: str | None = None


_Found = dict[str | None, Descriptor | str]  # by name: the descriptor, or why it is refused; None: the directory


class ChannelWatch:
    """The channels of the registries as they change.  Close it, or use it as a context manager.

    For programs with an event loop: take `changes()`, and again each time that `fileno()` is readable.
    """

    def __init__(self, registry: str | os.PathLike[str] | None = None) -> None:
        """`registry` as in `open_sender`; the directories need not be there yet.  Raises `KernelError`."""
        self._directories = search_path(registry)
        self._known: dict[Path, dict[str | None, _Known]] = {directory: {} for directory in self._directories}
        self._withdrawn: dict[Path, set[str]] = {directory: set() for directory in self._directories}
        self._watches = Watches(self._directories, ancestors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._watches.close()

    def fileno(self) -> int:
        """A descriptor that polls readable when there may be changes."""
        return self._watches.fileno()

    def changes(self) -> list[ChannelEvent]:
        """What has changed since the last call, without waiting; the first call reports every channel there is."""
        while True:
            for happening in self._watches.arm():
                self._note(happening)
            found = {directory: self._look(directory) for directory in self._directories}
            # A name can have been withdrawn after the events were taken: look again until there are none left.
            missing = any(self._known[directory].keys() - found[directory].keys() for directory in found)
            if not missing or not self._watches.pending():
                break
        return [event for directory in found for event in self._differences(directory, found[directory])]

    def _note(self, happening: Happening) -> None:
        """Keep which names a helper that still works has withdrawn."""
        place, entry = happening.directory, happening.entry
        if place is None:
            for names in self._withdrawn.values():
                names.clear()
        elif happening.lost or (happening.written and entry == HELPER_LOCK):
            self._withdrawn[place].clear()
        elif happening.renamed and entry.startswith(".") and entry.endswith(".json.new"):
            self._withdrawn[place].add(entry[1 : -len(".json.new")])

    def _look(self, directory: Path) -> _Found:
        try:
            with Registry(directory) as registry:
                while True:
                    try:
                        return {name: _read(registry, name) for name in registry.names()}
                    except ChannelNotFound:
                        # It went after the names were read.  Once they are read without it, its event has come:
                        # rename(2) holds the directory's lock until then, and getdents(2) takes it.
                        continue
        except ChannelNotFound:
            self._withdrawn[directory].clear()
            return {}
        except RegistryError as error:
            return {None: str(error), **{name: str(error) for name in self._known[directory]}}

    def _differences(self, directory: Path, found: _Found) -> Iterator[ChannelEvent]:
        known = self._known[directory]
        for gone in known.keys() - found.keys() - self._withdrawn[directory]:
            epoch = known.pop(gone).epoch
            if gone is not None:
                yield ChannelEvent(change=ChannelChange.GONE, registry=directory, name=gone, old_epoch=epoch)
        for each, what in found.items():
            event = _compare(directory, each, known.setdefault(each, _Known()), what)
            if event is not None:
                yield event


def _read(registry: Registry, name: str) -> Descriptor | str:
    """A descriptor, or why it is refused; raises `ChannelNotFound`."""
    try:
        return read_vetted(registry, name)
    except (RegistryError, Denied) as error:
        return str(error)


def _compare(directory: Path, name: str | None, known: _Known, found: Descriptor | str) -> ChannelEvent | None:
    """What a look at one name means after the look before it; notes it as known."""
    before, reason = known.epoch, known.reason
    if isinstance(found, str):
        known.reason = found
        if found == reason:
            return None
        return ChannelEvent(
            change=ChannelChange.REFUSED, registry=directory, name=name, old_epoch=before, reason=found
        )
    known.epoch, known.reason = found.epoch, None
    if before == found.epoch and reason is None:
        return None
    if before in (None, found.epoch):  # new, or as it was before it was refused
        return ChannelEvent(change=ChannelChange.APPEARED, registry=directory, name=name, descriptor=found)
    return ChannelEvent(
        change=ChannelChange.REPLACED, registry=directory, name=name, descriptor=found, old_epoch=before
    )


def wait_for_channel(
    name: str, timeout: float | None = None, registry: str | os.PathLike[str] | None = None
) -> Descriptor:
    """Wait until channel `name` is published, without polling; returns its `Descriptor`.

    Waits up to `timeout` seconds (None: for ever, 0: not at all); `registry` as in `open_sender`, whose directory need
    not be there yet.  Opens neither end and touches no queue: the channel can be gone again when this returns.

    Raises `RegistryError` for a directory or descriptor with the wrong owner, mode, kind or schema, of another ipc
    namespace, or withdrawn by the helper and put back; `Denied` for a wrong label where SELinux is asked for;
    `Timeout`; `ChannelNotFound` (timeout 0); `SpecError` for a name that can be none; `KernelError`.
    """
    directories = search_path(registry)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        place, _ = wait_for(name, directories, left)
        with place:
            try:
                return read_vetted(place, name)
            except ChannelNotFound:
                continue  # destroyed between two looks: it may come again


def watch_channels(registry: str | os.PathLike[str] | None = None) -> Iterator[ChannelEvent]:
    """Report every channel there is, and then each that appears, is replaced, is refused or goes, without polling.

    Endless: leave the loop, or close the generator, to stop.  `registry` as in `wait_for_channel`.  A bad descriptor or
    directory is a REFUSED event and not an exception.  Raises `KernelError` when there is no inotify to be had.
    """
    with ChannelWatch(registry) as watch:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        while True:
            yield from watch.changes()
            poll.poll()
