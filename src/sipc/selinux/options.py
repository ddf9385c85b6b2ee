# SPDX-License-Identifier: Apache-2.0
"""What a definition does not say about a channel's policy: who launches, what is new, what the base is like."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from sipc.errors import SpecError
from sipc.selinux.cil import check_identifier

__all__ = ("Options", "Profile")


class Profile(enum.StrEnum):
    """What the base policy is known to grant every domain."""

    REFPOLICY = "refpolicy"  # Debian, Gentoo: nothing of System V
    FEDORA = "fedora"  # every domain may create and use its own shm, sem and msgq: the constraints alone stop that


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the definition does not say.

    `launchers` may start, signal and limit the ends and the helper; `switchers` may change into them with
    setcon(3), which only tests need; `new` names types of the definitions that are to be made here (types the
    definitions leave out always are); `sealed` names types made elsewhere that serve as an end and for nothing else,
    so that their pipes, sockets, keys and /proc files may be closed to everybody but the launchers; `lockable` are
    types of files that one end, by type, may lock besides its own.

    For ends that are `new`: `places` are directories whose files are the end's own data, by type, which it may lock
    too; `runners` may run programs, in their own domain and with nothing of anybody else's.
    """

    launchers: tuple[str, ...] = ("init_t",)
    switchers: tuple[str, ...] = ()
    new: frozenset[str] = frozenset()
    sealed: frozenset[str] = frozenset()
    lockable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    runners: frozenset[str] = frozenset()
    profile: Profile = Profile.REFPOLICY

    def __post_init__(self) -> None:
        if not self.launchers:
            raise SpecError("a channel that nothing may start is of no use: name at least one launcher")
        for name in (*self.launchers, *self.switchers, *self.new, *self.sealed):
            check_identifier(name, "type")
        for name in (*self.places, *self.runners):
            if name not in self.new:
                raise SpecError(f"{name} is not made here, so it has no data and runs no programs by this: name it new")
