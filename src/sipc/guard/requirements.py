# SPDX-License-Identifier: Apache-2.0
"""What a guard's channels must and must not let through: `ingest -> deliver via scrub`, `only scrub -> deliver`.

Owns these words for stages, whether they hold on a set of channels, and the same said of SELinux types, for the
verifier.  The grammar and the way along channels are the verifier's own (`selinux/requirements.py`), so that file and
proof can not mean two things.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sipc.guard.tables import listed, shown
from sipc.selinux import requirements as of_types

__all__ = ("WORDS", "Edge", "Requirement", "parse_requirement")

Edge = tuple[str, str, str]  # from, to, channel

# Words of the grammar; no stage may be called so.
WORDS = ("not", "only", "via")
_ONLY = re.compile(r"\s*only\s+(?=\S)")
# The form is matched with backtracking; no requirement that a person reads comes near.
_LONGEST = 1024
_FORMS = "write 'a -> b via c', 'not b -> a' or 'only c -> b', with names of stages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Data must go from `start` to `end`, through all of `via`; or (`negated`) must not.

    `only`: channels into `end` come from `start` and from nowhere else.
    """

    start: str
    end: str
    via: tuple[str, ...] = ()
    negated: bool = False
    only: bool = False

    def __str__(self) -> str:
        return f"{'only ' if self.only else ''}{self._path()}"

    def _path(self) -> of_types.Requirement:
        return of_types.Requirement(start=self.start, end=self.end, via=self.via, negated=self.negated)

    def failure(self, edges: Sequence[Edge]) -> tuple[str, str] | None:
        """Why it does not hold on these channels, and what would make it hold; None when it holds."""
        path = self._path()
        if self.only:
            others = [name for start, end, name in edges if end == self.end and start != self.start]
            if others:
                return f"channels from elsewhere lead into {self.end}: {', '.join(others)}", "remove them"
            if not any(edge[:2] == (self.start, self.end) for edge in edges):
                return f"no channel leads from {self.start} to {self.end}", "add one"
            return None
        route = path.route(edges)
        if self.negated:
            return None if route is None else (f"data goes {', '.join(route)}", "remove one of these channels")
        if route is None:
            return f"no channels lead from {self.start} to {self.end}", "add what is missing"
        for name in self.via:
            around = path.route(edges, without=name)
            if around is not None:
                return f"data goes around {name}: {', '.join(around)}", "remove one of these channels"
        return None

    def by_types(self, types: Mapping[str, str], edges: Sequence[Edge]) -> list[of_types.Requirement]:
        """The same for `sipc policy verify`: about domains, whatever way data would take between them.

        `only` is said as what it means for each other stage, which reaches the end through the one, or not at all.
        """
        if not self.only:
            via = tuple(types[name] for name in self.via)
            return [of_types.Requirement(start=types[self.start], end=types[self.end], via=via, negated=self.negated)]
        by_types = [(types[start], types[end], name) for start, end, name in edges]
        return of_types.only(types[self.start], types[self.end], by_types)


def parse_requirement(text: str, stages: Collection[str]) -> Requirement | tuple[str, str]:
    """Read one requirement about these stages; or reason and fix, when it is none."""
    if len(text) > _LONGEST:
        return f"has {len(text)} characters", f"give at most {_LONGEST}, in several requirements"
    only = _ONLY.match(text)
    path = of_types.split_requirement(text[only.end() :] if only else text)
    if path is None or (only and (path.negated or path.via)):
        return f"{shown(text)} is not understood", _FORMS
    for name in (path.start, path.end, *path.via):
        if name not in stages:
            return f"{shown(text)}: there is no stage {shown(name)}", f"the stages are {listed(stages)}"
    if path.start == path.end:
        return f"{shown(text)} is about one stage", "name two"
    for name in path.via:
        if name in (path.start, path.end):
            return f"{shown(text)} goes via {name}, where it begins or ends", "name a stage between"
    return Requirement(start=path.start, end=path.end, via=path.via, negated=path.negated, only=only is not None)
