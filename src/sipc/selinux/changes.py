# SPDX-License-Identifier: Apache-2.0
"""What has to change in a module store for channels to come, change or go.

Owns which modules belong together; pure, over what `Store.read` found.  A channel's modules name its ends' files, and
the module of an end that definitions name lists those of all its channels (`ends.py`), so channels that share an end
come and go together.  The base module goes with the last channel and not before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from sipc.errors import SpecError
from sipc.selinux.grants import types_of
from sipc.selinux.store import PRIORITY, Change, Store, Stored, describe
from sipc.spec import ChannelSpec

__all__ = ("installation", "removal")

_BASE = "sipc"
_LAST = ("channel", "end", "base")  # the order in which they are named when they go


def installation(
    store: Store, modules: Iterable[Stored], specs: Collection[ChannelSpec], texts: Mapping[str, str],
    remove: Collection[str] = (),
) -> Change:  # fmt: skip
    """The change that installs channels, replaces what they were before, and removes others in the same step.

    Raises `SpecError` for a channel to remove that is not there, one both installed and removed, an end shared with an
    installed channel that is in neither list, and a module that would not be in force or is not ours to replace.
    """
    modules, new = list(modules), {spec.name for spec in specs}
    if both := sorted(new & set(remove)):
        raise SpecError(f"channel {both[0]!r} can not be installed and removed at once: leave one out")
    _known(modules, remove)
    ends = {end for spec in specs for end in (types_of(spec).sender, types_of(spec).receiver)}
    gone = new | set(remove)
    if found := _sharing(modules, gone, ends):
        other, end = found
        raise SpecError(
            f"channel {other.channel!r} is installed and has the end {end} too, whose module names the files of all "
            f"its channels: give the definition of {other.channel!r} as well, or --remove {other.channel}"
        )
    old = _belonging(modules, gone, ends, last=False)
    for module in modules:
        if module.name in texts:
            _refuse_foreign(store, module, ours=module in old or _same(module, texts[module.name]))
    return Change(install=texts, remove=tuple(m for m in old if m.key[0] != PRIORITY or m.name not in texts))


def removal(modules: Iterable[Stored], names: Collection[str]) -> Change:
    """The change that removes channels, their ends that no other channel has, and with the last channel the base.

    The base module's own name stands for what is left without a channel.  Raises `SpecError` for a channel that is not
    there, an end shared with a channel that stays, and the base while there are channels.
    """
    modules = list(modules)
    channels = sorted({module.channel for module in modules if module.kind == "channel"})
    if _BASE in names and _BASE not in channels:
        if set(channels) - set(names):
            raise SpecError(
                f"module {_BASE} is the base of the channels installed, {', '.join(channels)}: remove those, and it "
                "goes with the last"
            )
        if not any(module.kind for module in modules):
            raise SpecError(f"module {_BASE} is not installed, nor any channel's: there is nothing to remove")
        names = [name for name in names if name != _BASE]
    _known(modules, names)
    if found := _sharing(modules, set(names), set()):
        other, end = found
        raise SpecError(
            f"channel {other.channel!r} stays and has the end {end} too, whose module names the files of all its "
            "channels: remove both, or install the definitions of those that stay with 'sipc policy install FILES "
            f"--remove {min(names)}'"
        )
    last = not set(channels) - set(names)
    return Change(install={}, remove=tuple(_belonging(modules, set(names), set(), last=last)))


def _known(modules: list[Stored], names: Collection[str]) -> None:
    channels = {module.channel for module in modules if module.kind == "channel"}
    for name in names:
        if name not in channels:
            raise SpecError(
                f"no module of channel {name!r} is installed: 'sipc policy list' shows those that are "
                f"({', '.join(sorted(channels)) or 'none'})"
            )


def _sharing(modules: list[Stored], gone: set[str], ends: set[str]) -> tuple[Stored, str] | None:
    """A channel that stays, and its end that one that comes or goes has too."""
    touched = ends | {end for module in modules if module.channel in gone for end in module.ends}
    for module in modules:
        if module.kind == "channel" and module.channel not in gone:
            for end in module.ends:
                if end in touched:
                    return module, end
    return None


def _belonging(modules: list[Stored], gone: set[str], ends: set[str], *, last: bool) -> list[Stored]:
    """Our modules of channels that go or are replaced, and of their ends; all of ours with the last channel."""
    ends = ends | {end for module in modules if module.channel in gone for end in module.ends}
    found = [
        module
        for module in modules
        if (last and module.kind)
        or (module.kind == "channel" and module.channel in gone)
        or (module.kind == "end" and set(module.ends) <= ends)
    ]
    return sorted(found, key=lambda module: (_LAST.index(module.kind), module.name))


def _same(module: Stored, text: str) -> bool:
    """Whether a module and a new text are of the same thing."""
    return bool(module.kind) and (module.kind, module.channel, module.ends) == describe(module.name, text)


def _refuse_foreign(store: Store, module: Stored, *, ours: bool) -> None:
    """Refuse what would hide the new module, and what the new one would replace or hide."""
    where = f"module {module.name} (priority {module.priority}) of the store"
    remove = store.command("-X", str(module.priority), "-r", module.name)
    if module.priority > PRIORITY:
        raise SpecError(f"{where} would hide the new one: run '{remove}' first")
    if not ours:
        raise SpecError(
            f"{where} was not made by sipc for this: give the channel type = 'another_t', or run '{remove}' first"
        )
    if module.disabled:
        raise SpecError(f"{where} is disabled, and so would be the new one: run '{store.command('-e', module.name)}'")
