# SPDX-License-Identifier: Apache-2.0
"""What stages and channels must make together: a graph without a way back, that does what the file requires.

Owns the rules; knows stages by name and kind only, so that they are checked also where a stage is not complete.
Data may leave a stage in three ways: by a channel, by a file that another stage reads, or not at all.  So two stages
that share a path are refused as well: that is a channel that nobody declared, and maybe one that leads back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from sipc.guard.requirements import Edge, Requirement
from sipc.guard.tables import File, named, shown
from sipc.selinux import requirements as of_types

__all__ = ("Place", "check_structure")

Place = tuple[str, tuple[str, str], str]  # stage, the keys a path stands under, path


def check_structure(
    file: File,
    kinds: Mapping[str, StrEnum | None],
    edges: Sequence[Edge],
    require: Sequence[tuple[int, Requirement]],
    places: Sequence[Place],
    *,
    complete: bool,
) -> None:
    """Note every problem of a graph: stages by kind (None: not known), channels, requirements by number, paths.

    Not `complete`, because some channel has a problem of its own: only what is there is judged, not what is missing.
    """
    _roles(file, kinds, edges)
    _cycles(file, edges)
    if complete:
        _loose(file, kinds, edges)
    for number, requirement in require:
        if (complete or requirement.negated) and (failure := requirement.failure(edges)) is not None:
            reason, fix = failure
            file.problem(("guard",), "require", f"'{requirement}' does not hold: {reason}", fix, within=(number,))
    _shared(file, places)


def _roles(file: File, kinds: Mapping[str, StrEnum | None], edges: Sequence[Edge]) -> None:
    """A source never receives, a sink never sends."""
    for start, end, name in edges:
        for key, stage, never in (("from", start, "sink"), ("to", end, "source")):
            if kinds.get(stage) == never:
                verb = "sends" if key == "from" else "receives"
                fix = f"make it a filter, or the channel {key} another stage"
                file.problem(("channel", name), key, f"{stage} is a {never}, which never {verb}", fix)


def _loose(file: File, kinds: Mapping[str, StrEnum | None], edges: Sequence[Edge]) -> None:
    """Every stage has the channels that its work needs."""
    sending, receiving = {start for start, _, _ in edges}, {end for _, end, _ in edges}
    for stage, kind in kinds.items():
        if kind is None:
            continue
        for key, never, those in (("from", "sink", sending), ("to", "source", receiving)):
            if kind != never and stage not in those:
                file.problem(
                    ("stage", stage),
                    None,
                    f"no channel leads {key} this {kind}",
                    f"add one with {key} = '{named(stage)}'",
                )


def _cycles(file: File, edges: Sequence[Edge]) -> None:
    """Each cycle once, at the channel that closes it."""
    kept: list[Edge] = []
    for start, end, name in edges:
        if start == end:
            file.problem(("channel", name), "to", f"leads from {start} back to {start}", "name another stage")
            continue
        back = of_types.Requirement(start=end, end=start).route(kept)
        if back is None:
            kept.append((start, end, name))
            continue
        reason = f"closes a cycle: {', '.join(back)}, {start} -> {end}: channel {name}"
        file.problem(("channel", name), "to", reason, "remove one of these channels: nothing may lead back")


def _shared(file: File, places: Sequence[Place]) -> None:
    """No path is used twice, or lies inside another."""
    seen: list[tuple[list[str], Place]] = []
    for place in places:
        stage, keys, path = place
        parts = path.split("/")
        for before, (other, other_keys, _) in seen:
            if parts[: len(before)] == before[: len(parts)]:
                where = f"stage {other} uses for its {other_keys[0]}" if other != stage else f"is its {other_keys[0]}"
                reason = f"{shown(path)} is, holds or lies in what {where}: data would go around the channels"
                file.problem(("stage", stage, keys[0]), keys[1], reason, "give each a place of its own")
                break
        seen.append((parts, place))
