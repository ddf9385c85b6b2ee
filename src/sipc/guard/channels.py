# SPDX-License-Identifier: Apache-2.0
"""A guard's channels as whoever runs it has them: made by the helper, found again, looked at, destroyed.

Owns three answers: whether a channel that is there is the file's; how far its two ends have come; and that no other run
of a guard has it.  It is neither end, and opens neither: it looks at the segment's header as the helper's user may, and
at the file that a receiver keeps.

A channel that is there with the same definition is used again, with what is in it.  One whose kernel objects are gone
(they do not outlive a boot) is made anew.  Runs hold each channel by a lock on `.private/NAME`, a directory that no
role may open, so that none takes another's.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sipc.cursor import finished
from sipc.descriptor import Descriptor
from sipc.enforcement import read_vetted
from sipc.errors import Busy, ChannelExists, ChannelNotFound, KernelError, RegistryError, SipcError, SpecError
from sipc.guard.storage import doing
from sipc.helping import run_helper
from sipc.kernel import backend, limits
from sipc.proto.segment import Segment
from sipc.registry import DIRECTORY, Registry, lock
from sipc.spec import ChannelSpec, Principal, Role, Transport

__all__ = ("Channels", "definitions")

_PATIENCE = 5.0  # seconds for the ends of a run that was killed to be gone: they are killed with it
_PAUSE = 0.02
_STATE = struct.Struct("=8Q")  # a role's state file: epoch, last block, and what is the role's own
_GIVEN = ("wire", "transport", "backend", "segment_creator", "tag", "enforcement")


def definitions(specs: Iterable[ChannelSpec]) -> str:
    """Definitions of these channels, as the helper reads them."""
    return "\n".join(line for spec in specs for line in _definition(spec)) + "\n"


def _definition(spec: ChannelSpec) -> Iterable[str]:
    yield f'[channel."{spec.name}"]'  # a name has no character that TOML would take for another
    for key in _GIVEN:
        value = getattr(spec, key)
        if value is not None:
            yield f'{key} = "{value}"'
    for key in ("slots", "depth", "slot_size"):
        yield f"{key} = {getattr(spec.geometry, key)}"
    yield f"checksum = {str(spec.checksum).lower()}"
    yield f"max_message = {spec.max_message}"
    if spec.channel_type is not None:
        yield f'type = "{spec.channel_type}"'
    for role, who in (("sender", spec.sender), ("receiver", spec.receiver)):
        if parts := ", ".join(_principal(who)):
            yield f"{role} = {{ {parts} }}"


def _principal(who: Principal) -> Iterable[str]:
    if who.uid is not None:
        yield f"user = {who.uid}"
    if who.gid is not None:
        yield f"group = {who.gid}"
    if who.type is not None:
        yield f'type = "{who.type}"'
    if who.program is not None:
        yield f"program = {json.dumps(who.program, ensure_ascii=False)}"
    if who.digest is not None:
        yield f'digest = "{who.digest}"'


def _write(definition: Path, text: str) -> None:
    """Write it whole, or leave none."""
    with doing("write", definition, "make room, or give another --state"):
        try:
            definition.write_text(text, encoding="utf-8")
        except BaseException:
            definition.unlink(missing_ok=True)
            raise


@dataclass(slots=True, kw_only=True)
class _Channel:
    descriptor: Descriptor
    held: int  # a descriptor of its private directory, locked


class Channels:
    """The channels of one guard, held by this process.  `close` lets them go; they stay as they are."""

    def __init__(self, specs: Mapping[str, ChannelSpec], registry: Path, definition: Path) -> None:
        """Find or make every channel; `specs` by the names in the guard file, `definition` a file to be written.

        Afterwards `made` and `found` have their names.  Raises `Busy` when another run has one, `ChannelExists` for
        another definition, and what the helper says; nothing that was made here is left then.
        """
        self._specs = specs
        self._registry = registry
        self._channels: dict[str, _Channel] = {}
        self.made: tuple[str, ...] = ()
        self.found: tuple[str, ...] = ()
        there = {name: self._there(spec) for name, spec in specs.items()}
        missing = [name for name, what in there.items() if what is not True]
        if missing:
            _write(definition, definitions(specs[name] for name in missing))
            lost = any(there[name] is None for name in missing)
            self._help(["create", str(definition), *(["--replace"] if lost else [])])
        self.made, self.found = tuple(missing), tuple(name for name in specs if name not in missing)
        try:
            self._hold()
        except BaseException:
            with suppress(SipcError):
                self.destroy([name for name in self.made if name in self._channels])
            self.close()
            raise

    def _there(self, spec: ChannelSpec) -> bool | None:
        """Whether the channel is there; None: its descriptor is, and its objects are gone."""
        try:
            with Registry(self._registry) as registry:
                descriptor = read_vetted(registry, spec.name)
        except ChannelNotFound:
            return False
        if descriptor.spec != spec:
            raise ChannelExists(
                f"{spec.label}: channel {spec.name!r} is in {self._registry} with another definition, made before the "
                f"file was changed: run 'sipc destroy {spec.name} --registry {self._registry}', which loses what is in "
                "it, or put the file back"
            )
        objects, keys = backend(spec.backend), descriptor.keys
        try:
            objects.open_queue(keys.queue, Role.RECEIVER, message_size=limits.message_size(spec), memory=None).close()
            if keys.segment is not None:
                memory = objects.open_segment(keys.segment, Role.RECEIVER, limits.size_of_segment(spec))
                if memory is None:
                    return None
                memory.close()
        except ChannelNotFound:
            return None
        return True

    def _hold(self) -> None:
        with Registry(self._registry) as registry:
            for name, spec in self._specs.items():
                where = f".private/{spec.name}"
                try:
                    fd = os.open(where, DIRECTORY, dir_fd=registry.fd)
                except OSError as error:
                    raise RegistryError(
                        f"{self._registry / where}: {error.strerror}: the channel was destroyed, or is another user's: "
                        "run the guard again, as the user who made its channels"
                    ) from error
                try:
                    lock(fd, f"channel {spec.name!r} belongs to a guard that runs already, with another --state: "
                         "stop that one, or give this one a --registry of its own")  # fmt: skip
                    self._channels[name] = _Channel(descriptor=registry.read(spec.name), held=fd)
                except BaseException:
                    os.close(fd)
                    raise
            for name in self.found:
                for role in Role:
                    self._wait_until_free(registry, self._specs[name].name, role)

    def _wait_until_free(self, registry: Registry, name: str, role: Role) -> None:
        """Wait for an end that a killed run has left: the kernel is still ending it, and flock(2) knows no timeout."""
        deadline = time.monotonic() + _PATIENCE
        fd = registry.open_private(name, role, "lock")
        try:
            while True:
                try:
                    lock(fd, f"the {role} of channel {name!r} is open in a process that this guard did not start: "
                         "end that one")  # fmt: skip
                except Busy:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE)
                else:
                    return
        finally:
            os.close(fd)

    def sent(self, name: str) -> int:
        """The newest block that the channel's sender has made real; 0 for none."""
        descriptor = self._channels[name].descriptor
        spec, keys = descriptor.spec, descriptor.keys
        if spec.transport is Transport.QUEUE or keys.segment is None:
            with Registry(self._registry) as registry:
                fd = registry.open_private(spec.name, Role.SENDER, "state")
            try:
                epoch, last, *_ = _STATE.unpack(os.read(fd, _STATE.size))
            finally:
                os.close(fd)
            return int(last) if epoch == descriptor.epoch else 0
        memory = backend(spec.backend).open_segment(keys.segment, Role.RECEIVER, limits.size_of_segment(spec))
        if memory is None:
            raise KernelError(errno.ENOENT, "it is gone", syscall="shmget", obj=f"segment of channel {spec.name!r}")
        try:
            segment = Segment(memory.view, spec.geometry)
            # A sender that was killed between a block's commit and its publication has made it real all the same.
            newest = max(segment.published, *segment.seqs())
            segment.release()
        finally:
            memory.close()
        return newest

    def left(self, name: str, cursor: Path) -> int:
        """How many blocks are in a channel whose receiver keeps `cursor`.  Raises `SipcError` when nobody can tell."""
        try:
            return max(0, self.sent(name) - finished(cursor, self._channels[name].descriptor.epoch))
        except (OSError, struct.error) as error:
            if isinstance(error, SipcError):
                raise
            raise RegistryError(f"channel {self._specs[name].name!r}: its state can not be read ({error})") from error

    def destroy(self, names: Iterable[str]) -> None:
        """Destroy channels, by their names in the guard file.  Raises what the helper says."""
        full = [self._specs[name].name for name in names]
        if full:
            self._help(["destroy", *full])

    def close(self) -> None:
        """Let the channels go."""
        for channel in self._channels.values():
            os.close(channel.held)
        self._channels = {}

    def _help(self, arguments: list[str]) -> None:
        done = run_helper(["--registry", str(self._registry), *arguments], apart=True)
        if done.code == 0:
            return
        words = done.words.strip().removeprefix("sipc-helper: ")
        if done.bug:
            raise RuntimeError(words)
        raise (SpecError if done.code == 3 else SipcError)(words)
