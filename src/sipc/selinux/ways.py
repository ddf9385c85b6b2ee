# SPDX-License-Identifier: Apache-2.0
"""Ways from one domain to another: those that are wrong, and those that the committed list accepts.

Owns `residual.toml`, each entry of which has a reason and the classes it is about, and the search for flows in one
or two hops.  The launchers of a channel are accepted for what a launcher shares with its children, no more.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

from sipc.selinux.flows import Graph, Hop, Legs
from sipc.selinux.image import Policy
from sipc.selinux.options import Options

__all__ = ("residual", "ways")


@cache
def residual() -> dict[str, Any]:
    """The committed list."""
    return tomllib.loads(resources.files("sipc.selinux").joinpath("residual.toml").read_text("utf-8"))


def _steps(*legs: Hop) -> tuple[str, ...]:
    return tuple(str(leg) for leg in legs)


def ways(
    policy: Policy, graph: Graph, start: int, end: int, options: Options
) -> tuple[list[tuple[str, tuple[str, ...]]], list[tuple[str, str, tuple[str, ...]]]]:
    """Flows from one type to another in one or two hops: those not accepted, and those accepted with reasons."""
    names = policy.type_names
    found = [
        (f"information goes from {names[start]} straight to {names[end]}", _steps(hop))
        for hop in graph.between(start, end).values()
    ]
    accepted: list[tuple[str, str, tuple[str, ...]]] = []
    listed = residual()
    for middle, (first, last) in graph.two_hops(start, end).items():
        name = names[middle]
        entry = listed["launcher"] if name in (*options.launchers, *options.switchers) else None
        entry = entry or listed["through"].get(name)
        if entry is None:
            found.append((f"information goes from {names[start]} to {names[end]} through {name}",
                          _steps(_best(first), _best(last))))  # fmt: skip
            continue
        strange = [hop for legs in (first, last) for hop in legs.values() if hop.cls not in entry["classes"]]
        if strange:
            pair = (strange[0], _best(last)) if strange[0].start == names[start] else (_best(first), strange[0])
            text = f"information goes from {names[start]} to {names[end]} through {name}"
            found.append((f"{text}, by class {strange[0].cls}, for which it is not accepted", _steps(*pair)))
        else:
            accepted.append((name, entry["reason"], _steps(_best(first), _best(last))))
    return found, accepted


def _best(legs: Legs) -> Hop:
    """The witness to show: one that no boolean gates, if there is."""
    return min(legs.values(), key=lambda hop: (hop.conditional, hop.cls))
