# SPDX-License-Identifier: Apache-2.0
"""Requirements on a set of channels: `low_t -> high_t via filter_t`, `not high_t -> low_t`, `only filter_t -> high_t`.

Owns their words, and the way from one domain to another along channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sipc.errors import SpecError
from sipc.selinux.cil import check_identifier

__all__ = ("Requirement", "only", "parse_requirement", "split_requirement")

_ONLY = re.compile(r"\s*only\s+(?=\S)")
_FORM = re.compile(r"\s*(?P<no>not\s+)?(?P<a>\S+)\s*->\s*(?P<b>\S+)(?:\s+via\s+(?P<via>.+?))?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Information must (or, `negated`, must not) be able to go from `start` to `end`, and only through all of `via`."""

    start: str
    end: str
    via: tuple[str, ...] = ()
    negated: bool = False

    def __str__(self) -> str:
        via = f" via {', '.join(self.via)}" if self.via else ""
        return f"{'not ' if self.negated else ''}{self.start} -> {self.end}{via}"

    def route(
        self, channels: Sequence[tuple[str, str, str]], *, without: str | None = None
    ) -> tuple[str, ...] | None:
        """The shortest chain of channels (sender, receiver, name) from start to end, None when there is none."""
        reached: dict[str, tuple[str, ...]] = {self.start: ()}
        todo = [self.start]
        for here in todo:
            for sender, receiver, name in channels:
                if sender == here and receiver not in reached and receiver != without:
                    reached[receiver] = (*reached[here], f"{sender} -> {receiver}: channel {name}")
                    todo.append(receiver)
        return reached.get(self.end)


def split_requirement(text: str) -> Requirement | None:
    """The parts of a requirement about names of whatever kind, unchecked; None for a text that has not the form."""
    match = _FORM.fullmatch(text)
    if match is None or (match["no"] and match["via"]):
        return None
    via = tuple(name.strip() for name in match["via"].split(",")) if match["via"] else ()
    if not all(via):
        return None  # a name that is left out must not mean: through nothing
    return Requirement(start=match["a"], end=match["b"], via=via, negated=bool(match["no"]))


def only(start: str, end: str, channels: Sequence[tuple[str, str, str]]) -> list[Requirement]:
    """What `only start -> end` means for each end of some channels: it gets to `end` by `start`, or not at all."""
    found = [Requirement(start=start, end=end)]
    for name in dict.fromkeys(name for sender, receiver, _ in channels for name in (sender, receiver)):
        if name not in (start, end):
            leads = Requirement(start=name, end=end).route(channels) is not None
            found.append(Requirement(start=name, end=end, via=(start,) if leads else (), negated=not leads))
    return found


def parse_requirement(text: str, channels: Sequence[tuple[str, str, str]] = ()) -> list[Requirement]:
    """Read one requirement about types, which `only` makes several of.  Raises `SpecError` with the form that would do.

    `channels` are (sender, receiver, name): what `only` speaks of.
    """
    alone = _ONLY.match(text)
    found = split_requirement(text[alone.end() :] if alone else text)
    if found is None or (alone and (found.via or found.negated)):
        raise SpecError(
            f"requirement {text!r} is not understood: write 'low_t -> high_t via filter_t', 'not high_t -> low_t' or "
            "'only filter_t -> high_t'"
        )
    for name in (found.start, found.end, *found.via):
        check_identifier(name, "type")
    if found.start == found.end:
        raise SpecError(f"requirement {text!r} is about one type: name two")
    if not alone:
        return [found]
    if not channels:
        raise SpecError(f"requirement {text!r} speaks of all other ends of some channels: give their definitions too")
    return only(found.start, found.end, channels)
