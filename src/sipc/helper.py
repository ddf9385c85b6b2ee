# SPDX-License-Identifier: Apache-2.0
"""The helper: make a channel's objects, publish their descriptor, exit.  The trusted part.

Owns creation and destruction, all or nothing.  Imports `spec` (and the definitions' reader, and the rules about ends),
`registry`, `kernel`, `proto` and nothing else.  It is run as a program, `sipc-helper` or `python -m sipc.helper`, so
that under SELinux it can have a domain of its own; `sipc create` and `sipc destroy` run it too.

Order: journal (with the keys) on disk; queue with its limit; segment, every page filled; owners and modes;
private directories; rename of the journal to the channel's name.  A failure at any step undoes the steps
before it; a SIGKILL leaves the journal, from which the next run cleans up.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sipc.admission import admit
from sipc.definitions import DEFINITIONS, load
from sipc.descriptor import Descriptor
from sipc.errors import (
    Busy,
    ChannelExists,
    ChannelNotFound,
    Denied,
    KernelError,
    RegistryError,
    SipcError,
    SpecError,
)
from sipc.kernel import Keys, KeyTaken, backend, limits
from sipc.proto.segment import Segment
from sipc.publisher import Publisher
from sipc.registry import SYSTEM, ipc_namespace
from sipc.spec import ChannelSpec, Enforcement, Principal, SegmentCreator, Transport, Wire, check_name, modes

__all__ = ("create", "default_registry", "destroy", "main")

_TRIES = 16  # random 31-bit keys: a second try is rare already
_SYSTEM_UMASK = 0o022


def default_registry() -> Path:
    """Where a channel goes when nobody says: `$SIPC_REGISTRY`, else the system's for root, else the user's own."""
    given = os.environ.get("SIPC_REGISTRY")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return SYSTEM
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise SpecError("XDG_RUNTIME_DIR is not set, so there is no place for a user's channels: give --registry DIR")
    return Path(runtime) / "sipc"


def create(spec: ChannelSpec, registry: Path, *, replacing: bool = False) -> Descriptor:
    """Make one channel and publish it; returns its descriptor.

    `replacing` destroys a channel of that name first (both its ends get `Broken`).  Raises `ChannelExists`,
    `SpecError` for what this kernel can not hold, `Denied` for ends that are not to be, `KernelError`; after a failure
    nothing of the new channel is left.
    """
    limits.check(spec)
    _check_users(spec)
    admit([spec])
    if spec.enforcement is Enforcement.SELINUX:
        from sipc.selinux import live  # noqa: PLC0415 - only where it is asked for

        live.check_helper(spec)  # objects made in another domain would have its type, not the channel's
    shared = any(who.uid not in (None, os.geteuid()) for who in (spec.sender, spec.receiver))
    old_umask = os.umask(_SYSTEM_UMASK)
    try:
        with _translated(registry), Publisher(registry, shared=shared) as publisher:
            _check_squatting(spec, publisher)
            _clean_journal(publisher, spec.name)
            if spec.name in publisher.registry.names():
                if not replacing:
                    raise ChannelExists(
                        f"channel {spec.name!r} exists in {registry}: destroy it first, or say --replace"
                    )
                _destroy(publisher, spec.name)
            return _create(publisher, spec)
    finally:
        os.umask(old_umask)


@contextmanager
def _translated(registry: Path) -> Iterator[None]:
    """Turn what the file system says into an error of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SipcError):
            raise
        raise KernelError(
            error.errno or 0,
            f"{error.strerror or error}: make room there, or name another --registry, which this user may write",
            syscall="file operation",
            obj=f"registry {registry}",
        ) from error


def _check_users(spec: ChannelSpec) -> None:
    mine = os.geteuid()
    for role, who in (("sender", spec.sender), ("receiver", spec.receiver)):
        if mine != 0 and who.uid not in (None, mine):
            raise SpecError(
                f"{spec.label}: {role} is uid {who.uid}, and only root can make a channel for another user: "
                f"run the helper as root, or remove {role}.user"
            )


def _check_squatting(spec: ChannelSpec, publisher: Publisher) -> None:
    """Whoever can read the key before the sender has used it could put a forged segment there."""
    dac = spec.enforcement is Enforcement.DAC
    if spec.segment_creator is SegmentCreator.SENDER and dac and os.fstat(publisher.registry.fd).st_mode & 0o077:
        raise SpecError(
            f"{spec.label}: segment_creator = 'sender' would publish the segment's key in {publisher.registry.path}, "
            "which others may read, and any of them could make the segment first: "
            "use segment_creator = 'helper', or a registry of mode 0700, or enforcement = 'selinux'"
        )


def _create(publisher: Publisher, spec: ChannelSpec) -> Descriptor:
    objects = backend(spec.backend)
    made: list[Keys] = []
    try:
        descriptor = _make_objects(publisher, spec, made)
        publisher.make_private(spec, descriptor.epoch)
        _give(spec, descriptor)
        publisher.publish(spec.name)
    except BaseException:
        # Whatever can not be removed now stays in the journal, for the next run and for 'sipc doctor'.
        publisher.unpublish(spec.name)
        for keys in made:
            objects.remove(keys)
        publisher.remove_private(spec.name)
        publisher.forget(spec.name)
        raise
    return descriptor


def _make_objects(publisher: Publisher, spec: ChannelSpec, made: list[Keys]) -> Descriptor:
    objects = backend(spec.backend)
    depth, size = spec.geometry.depth, limits.message_size(spec)
    if spec.wire is Wire.LIBSIPC and spec.transport is Transport.QUEUE:
        depth, size = 1, limits.read("kernel.msgmnb") or size  # libsipc leaves the kernel's own limit
    for _ in range(_TRIES):
        descriptor = _describe(spec, publisher)
        keys = descriptor.keys
        publisher.write_journal(descriptor)
        # Noted before it is made: a call may make an object and fail all the same.
        made.append(Keys(queue=keys.queue, segment=None))
        try:
            objects.create_queue(keys.queue, messages=depth, message_size=size)
            if keys.segment is not None and spec.segment_creator is SegmentCreator.HELPER:
                made.append(keys)
                memory = objects.create_segment(keys.segment, limits.size_of_segment(spec))
                try:
                    _fill(spec, descriptor, memory.view)
                finally:
                    memory.close()
        except KeyTaken:
            made.pop()  # that one is another's
            for own in made:
                objects.remove(own)
            made.clear()
            if spec.wire is Wire.LIBSIPC:
                raise ChannelExists(
                    f"queue or segment of {spec.key_path!r} exist already (key {keys.queue}): "
                    f"'ipcrm -Q {keys.queue} -M {keys.queue}' removes them; or use another key_path"
                ) from None
        else:
            return descriptor
    raise RegistryError(f"no free key in {_TRIES} tries: is somebody filling the ipc namespace?")


def _describe(spec: ChannelSpec, publisher: Publisher) -> Descriptor:
    segment = spec.transport is Transport.SEGMENT
    spec = replace(
        spec, sender=_named(spec.sender, spec.receiver), receiver=_named(spec.receiver, spec.sender)
    )
    if spec.wire is Wire.LIBSIPC:
        keys = _libsipc_keys(spec, segment=segment)
    else:
        keys = backend(spec.backend).new_keys(segment=segment)
    return Descriptor(
        spec=spec,
        epoch=secrets.randbelow((1 << 64) - 1) + 1,
        keys=keys,
        creator_uid=publisher.registry.owner,
        ipc_namespace=ipc_namespace(),
        created=int(time.time()),
    )


def _libsipc_keys(spec: ChannelSpec, *, segment: bool) -> Keys:
    import sysv_ipc  # noqa: PLC0415 - this wire only

    try:
        key = str(sysv_ipc.ftok(spec.key_path, ord("a"), True))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError(f"{spec.label}: key_path = {spec.key_path!r}: {reason}: give an existing file") from error
    return Keys(queue=key, segment=key if segment else None)


def _fill(spec: ChannelSpec, descriptor: Descriptor, view: memoryview) -> None:
    """Touch every page, so that none is a hole a reader could fill and be seen filling; write the header."""
    if spec.wire is Wire.LIBSIPC:
        zeros = bytes(1 << 20)
        for start in range(0, len(view), len(zeros)):
            view[start : start + len(zeros)] = zeros[: len(view) - start]
        return
    segment = Segment(view, spec.geometry)
    segment.format(spec.geometry, descriptor.epoch)
    segment.release()


def _give(spec: ChannelSpec, descriptor: Descriptor) -> None:
    objects = backend(spec.backend)
    uid, gid, queue_mode, segment_mode = modes(descriptor.spec)
    if descriptor.keys.segment is not None and spec.segment_creator is SegmentCreator.HELPER:
        objects.give_segment(descriptor.keys.segment, uid, gid, segment_mode)
    objects.give_queue(descriptor.keys.queue, uid, gid, queue_mode)


def _named(who: Principal, other: Principal) -> Principal:
    """A principal with its uid filled in: the helper's own when only the other end is named."""
    if who.uid is None and other.uid is not None:
        return Principal(uid=os.geteuid(), gid=os.getegid(), type=who.type)
    return who


def destroy(name: str, registry: Path) -> None:
    """Remove a channel: descriptor first, then its objects, which tells both ends.

    Also cleans up what a killed helper left under that name.  Raises `ChannelNotFound` when there is neither.
    """
    check_name(name)
    with _translated(registry):
        if not registry.is_dir():
            raise ChannelNotFound(f"no registry at {registry}: nothing to destroy")
    with _translated(registry), Publisher(registry) as publisher:
        cleaned = _clean_journal(publisher, name)
        try:
            _destroy(publisher, name)
        except ChannelNotFound:
            if not cleaned:
                raise


def _destroy(publisher: Publisher, name: str) -> None:
    descriptor = publisher.registry.read(name)
    publisher.unpublish(name)  # killed from here on, the next run finds the keys in the journal
    backend(descriptor.spec.backend).remove(descriptor.keys)
    publisher.remove_private(name)
    publisher.forget(name)


def _clean_journal(publisher: Publisher, name: str) -> bool:
    """Remove what a helper left that died before publishing `name`."""
    try:
        descriptor = publisher.registry.read(name, journal=True)
    except ChannelNotFound:
        return False
    except RegistryError as error:
        if isinstance(error.__cause__, OSError):
            raise  # it can not be read now, and may well name objects
        publisher.forget(name)  # cut off while it was written: then no object exists yet
        return True
    if descriptor.spec.wire is not Wire.LIBSIPC:  # that wire's keys are not random: the objects may be another's
        backend(descriptor.spec.backend).remove(descriptor.keys)
    if name not in publisher.registry.names():
        publisher.remove_private(name)
    publisher.forget(name)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sipc-helper", description="Create or destroy channels, then exit.")
    parser.add_argument("--registry", type=Path, help="directory of descriptors (default: /run/sipc, or the user's)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("create", help="create the channels of definition files")
    making.add_argument("files", nargs="*", type=Path, help=f"TOML files (default: {DEFINITIONS}/*.toml)")
    making.add_argument("--channel", action="append", default=[], help="only this channel; may be repeated")
    making.add_argument("--replace", action="store_true", help="destroy a channel of the same name first")
    ending = verbs.add_parser("destroy", help="destroy channels")
    ending.add_argument("names", nargs="+")
    return parser


# The exit codes of the command line (cli/exits.py), which the helper must not import.
_EXITS: tuple[tuple[type[SipcError], int], ...] = (
    (SpecError, 3),
    (ChannelNotFound, 3),
    (ChannelExists, 3),
    (Busy, 4),
    (Denied, 4),
    (KernelError, 4),
    (RegistryError, 4),
)


def main(argv: list[str] | None = None) -> int:
    """The program: one JSON line per channel on stdout, errors on stderr, exit codes as `sipc`."""
    arguments = _parser().parse_args(argv)
    made: list[str] = []
    registry: Path | None = None
    try:
        registry = arguments.registry if arguments.registry is not None else default_registry()
        if arguments.verb == "destroy":
            for name in arguments.names:
                destroy(name, registry)
                _say({"destroyed": name})
            return 0
        specs = load(arguments.files or [DEFINITIONS], enforcement=_default_enforcement(registry))
        missing = [name for name in arguments.channel if name not in specs]
        if missing:
            raise SpecError(f"no definition of channel {missing[0]!r} in the files given: defined are {sorted(specs)}")
        chosen = [specs[name] for name in arguments.channel or specs]
        admit(chosen)  # of all of them, before anything is made or destroyed
        for name in arguments.channel or specs:
            descriptor = create(specs[name], registry, replacing=arguments.replace)
            made.append(name)
            _say({"created": name, "epoch": descriptor.epoch, "registry": str(registry), "pid": os.getpid()})
    except BaseException as error:
        for name in made:
            # All or nothing: a file's earlier channels go too.
            with suppress(SipcError):
                destroy(name, registry or SYSTEM)
        if not isinstance(error, SipcError):
            raise
        with suppress(OSError):  # nobody to tell; the exit code still says it
            print(f"sipc-helper: {error}", file=sys.stderr)
        return next((code for kind, code in _EXITS if isinstance(error, kind)), 4)
    return 0


def _default_enforcement(registry: Path) -> Enforcement:
    return Enforcement.SELINUX if registry == SYSTEM else Enforcement.DAC


def _say(line: dict[str, object]) -> None:
    try:
        print(json.dumps(line), flush=True)
    except OSError as error:
        with suppress(OSError):  # what is left in the buffer would fail again when the program ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KernelError(
            error.errno or 0, error.strerror or str(error), syscall="write", obj="standard output"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
