# SPDX-License-Identifier: Apache-2.0
"""The ends of a set of channels: domains that send, receive, or (a filter) do both on several channels.

Owns what has to be known of all channels at once: an end's constraints name every file it may lock, and a second
constraint in another channel's module would take away what the first one spares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sipc.errors import SpecError
from sipc.selinux.grants import types_of
from sipc.selinux.options import Options
from sipc.spec import Backend, ChannelSpec

__all__ = ("End", "data_type", "ends_of")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end's domain.

    `home`: the channel whose module makes it, None for a type the definitions name, which has a module of its own.
    `made`: made here, not by another module.  `sealed`: what it makes is nobody else's, as with all made here.
    `lockable`: types of the files it may lock; `data`: its own files' type, which it locks (directories too), if it
    has places.
    """

    name: str
    home: str | None
    made: bool
    sealed: bool
    makes_segment: bool
    lockable: tuple[str, ...]
    data: str | None = None


def data_type(name: str) -> str:
    """The type of an end's own files, of an end that is made here and that definitions name."""
    return f"{name.removesuffix('_t')}_data_t"


def ends_of(specs: Iterable[ChannelSpec], options: Options) -> dict[str, End]:
    """All ends by type.

    Raises `SpecError` when one end makes the segments of two channels (they would have one type), or launches itself.
    """
    found: dict[str, End] = {}
    for spec in specs:
        types = types_of(spec)
        for name in (types.sender, types.receiver, types.channel):
            if name in options.launchers or name in options.switchers:
                raise SpecError(f"channel {spec.name!r}: {name} can not be its own launcher: name another")
        for name, given, state in (
            (types.sender, spec.sender.type, types.sender_state),
            (types.receiver, spec.receiver.type, types.receiver_state),
        ):
            makes = name == types.segment and spec.backend is Backend.SYSV
            before = found.get(name)
            if before is not None and before.makes_segment and makes:
                raise SpecError(
                    f"channel {spec.name!r}: {name} makes another channel's segment already, and both would have its "
                    "type: remove segment_creator = 'sender' from one of them"
                )
            if before is not None and (given is None or before.home is not None):
                raise SpecError(
                    f"channel {spec.name!r}: type {name} is the end of another channel too: give this channel "
                    "type = 'another_t', or, if the end is meant to be shared, name its type in both"
                )
            extra = () if before is not None else options.lockable.get(name, ())
            found[name] = End(
                name=name,
                home=spec.name if given is None else None,
                made=given is None or name in options.new,
                sealed=given is None or name in options.new or name in options.sealed,
                makes_segment=makes or (before is not None and before.makes_segment),
                lockable=(*(before.lockable if before is not None else ()), state, *extra),
                data=data_type(name) if options.places.get(name) else None,
            )
    return found
