# SPDX-License-Identifier: Apache-2.0
"""Where the boxes of a picture stand: a graph without cycles in columns, every line from left to right.

Owns the placement, in units of length, and knows nothing of what is in a box.  Three steps, after Sugiyama, Tagawa and
Toda (1981): columns by the longest way from a start; order inside a column by the barycentre of the neighbours, kept
where fewest lines cross; heights by least squares with the distances as constraints (pool adjacent violators).

A label is a node of its own in a column between those of the boxes, and a line that passes a column has a place of its
own there.  So a box, a label and a line that passes can not overlap: all of them are what a column keeps apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ("Box", "Layout", "Size", "lay_out")

Edge = tuple[str, str, str]  # from, to, name
Size = tuple[float, float]  # width, height
Point = tuple[float, float]

_SWEEPS = 12  # more change nothing in graphs that a person can read
_ROW, _TIGHT = 26.0, 14.0  # between two boxes of a column, and where one of the two is a label or a line
_GAP, _WIDEST_GAP = 34.0, 130.0  # between two columns
_STEEP = 0.45  # of a gap: how wide for the height its lines climb


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Boxes and labels by name; for each edge the lines before and behind its label, as points to be joined.

    From a first point to the next a line climbs or falls, in a gap; from that to the third it is level, past a column;
    and so on by turns.
    """

    boxes: Mapping[str, Box]
    labels: Mapping[str, Box]
    lines: Mapping[str, tuple[tuple[Point, ...], tuple[Point, ...]]]
    width: float
    height: float


@dataclass(slots=True)
class _Node:
    """Something that takes room in a column: a box, a label, or a line that passes."""

    name: str
    kind: str  # "box", "label" or "line"
    layer: int
    size: Size
    left: list[_Node]
    right: list[_Node]
    at: int = 0  # its place in the column
    middle: float = 0.0
    x: float = 0.0


def lay_out(boxes: Mapping[str, Size], edges: Sequence[Edge], labels: Mapping[str, Size]) -> Layout:
    """Place boxes, joined by edges without a cycle, each edge with a label."""
    ranks = _ranks(boxes, edges)
    nodes = {name: _Node(name, "box", 2 * ranks[name], size, [], []) for name, size in boxes.items()}
    layers: list[list[_Node]] = [[] for _ in range(2 * max(ranks.values(), default=0) + 1)]
    for node in nodes.values():
        layers[node.layer].append(node)
    chains = {name: _chain(nodes[start], nodes[end], name, labels[name], layers) for start, end, name in edges}
    _order(layers)
    _heights(layers)
    _columns(layers)
    return Layout(
        boxes={name: _box(node) for name, node in nodes.items()},
        labels={name: _box(chain[1]) for name, chain in chains.items()},
        lines={name: _line(chain) for name, chain in chains.items()},
        width=max((node.x + node.size[0] for layer in layers for node in layer), default=0.0),
        height=max((node.middle + node.size[1] / 2 for layer in layers for node in layer), default=0.0),
    )


def _ranks(boxes: Mapping[str, Size], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way from a start; a start stands right before what it first leads to."""
    entering = dict.fromkeys(boxes, 0)
    leaving: dict[str, list[str]] = {name: [] for name in boxes}
    for start, end, _ in edges:
        entering[end] += 1
        leaving[start].append(end)
    ranks = dict.fromkeys(boxes, 0)
    starts = [name for name, count in entering.items() if count == 0]
    todo = list(starts)
    for name in todo:
        for end in leaving[name]:
            ranks[end] = max(ranks[end], ranks[name] + 1)
            entering[end] -= 1
            if entering[end] == 0:
                todo.append(end)
    for name in starts:
        ranks[name] = min((ranks[end] - 1 for end in leaving[name]), default=0)
    return ranks


def _chain(start: _Node, end: _Node, name: str, label: Size, layers: list[list[_Node]]) -> list[_Node]:
    """An edge's nodes: its label right behind the start, then a place in every column up to the end."""
    chain = [start, _Node(name, "label", start.layer + 1, label, [], [])]
    chain += [_Node(name, "line", layer, (0.0, 0.0), [], []) for layer in range(start.layer + 2, end.layer)]
    for node in chain[1:]:
        layers[node.layer].append(node)
    chain.append(end)
    for before, after in pairwise(chain):
        before.right.append(after)
        after.left.append(before)
    return chain


def _order(layers: list[list[_Node]]) -> None:
    """Sort the columns, to and fro, and keep what had the fewest crossings."""
    _number(layers)
    best, crossings = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_SWEEPS):
        if crossings == 0:
            break
        forth = sweep % 2 == 0
        for layer in layers if forth else reversed(layers):
            layer.sort(key=lambda node: _barycentre(node, node.left if forth else node.right))
            _number([layer])
        now = _crossings(layers)
        if now < crossings:
            best, crossings = [list(layer) for layer in layers], now
    layers[:] = best
    _number(layers)


def _number(layers: list[list[_Node]]) -> None:
    for layer in layers:
        for at, node in enumerate(layer):
            node.at = at


def _barycentre(node: _Node, neighbours: list[_Node]) -> float:
    if not neighbours:
        return float(node.at)
    return sum(neighbour.at for neighbour in neighbours) / len(neighbours)


def _crossings(layers: list[list[_Node]]) -> int:
    """Pairs of lines between neighbouring columns that cross."""
    found = 0
    for layer in layers[:-1]:
        seen: list[int] = []
        for node in layer:
            ends = sorted(right.at for right in node.right)
            found += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
    return found


def _heights(layers: list[list[_Node]]) -> None:
    """Every node as near to the middle of its neighbours as the distances in its column let it."""
    for layer in layers:
        _apart(layer, [0.0] * len(layer))
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        for layer in layers if forth else reversed(layers):
            wanted = []
            for node in layer:
                around = (node.left if forth else node.right) or node.right or node.left
                wanted.append(sum(other.middle for other in around) / len(around) if around else node.middle)
            _apart(layer, wanted)
    top = min((node.middle - node.size[1] / 2 for layer in layers for node in layer), default=0.0)
    for layer in layers:
        for node in layer:
            node.middle -= top


def _apart(layer: list[_Node], wanted: list[float]) -> None:
    """The middles nearest to those wanted, by least squares, that keep order and distance."""
    offsets, offset = [], 0.0
    for at, node in enumerate(layer):
        if at:
            before = layer[at - 1]
            room = _ROW if before.kind == node.kind == "box" else _TIGHT
            offset += before.size[1] / 2 + room + node.size[1] / 2
        offsets.append(offset)
    pools: list[tuple[float, int]] = []  # sum, count
    for want, place in zip(wanted, offsets, strict=True):
        pool = (want - place, 1)
        while pools and pools[-1][0] * pool[1] >= pool[0] * pools[-1][1]:
            total, count = pools.pop()
            pool = (pool[0] + total, pool[1] + count)
        pools.append(pool)
    level = [total / count for total, count in pools for _ in range(count)]
    for node, place, value in zip(layer, offsets, level, strict=True):
        node.middle = place + value


def _columns(layers: list[list[_Node]]) -> None:
    """Columns beside each other; the steeper the lines between two of them, the farther apart."""
    x = 0.0
    for layer in layers:
        width = max((node.size[0] for node in layer), default=0.0)
        for node in layer:
            node.size = (width, node.size[1])
            node.x = x
        climb = max((abs(node.middle - right.middle) for node in layer for right in node.right), default=0.0)
        x += width + min(_WIDEST_GAP, max(_GAP, _STEEP * climb))


def _box(node: _Node) -> Box:
    return Box(x=node.x, y=node.middle - node.size[1] / 2, width=node.size[0], height=node.size[1])


def _port(node: _Node, other: _Node, *, leaving: bool) -> float:
    """The height at which a line meets a box: they share its side, in the order of where they go."""
    if node.kind != "box":
        return node.middle
    there = sorted(node.right if leaving else node.left, key=lambda one: one.at)
    at = next(place for place, one in enumerate(there) if one is other)
    return node.middle - node.size[1] / 2 + node.size[1] * (at + 1) / (len(there) + 1)


def _line(chain: list[_Node]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    start, label, end = chain[0], chain[1], chain[-1]
    first = ((start.x + start.size[0], _port(start, label, leaving=True)), (label.x, label.middle))
    second = [(label.x + label.size[0], label.middle)]
    for node in chain[2:-1]:
        second += [(node.x, node.middle), (node.x + node.size[0], node.middle)]
    second.append((end.x, _port(end, chain[-2], leaving=False)))
    return first, tuple(second)
