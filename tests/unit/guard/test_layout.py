# SPDX-License-Identifier: Apache-2.0
"""Pictures of any guard of up to twenty stages: nothing overlaps, everything goes from left to right."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sipc.guard.layout import Box, Layout, lay_out

Graph = tuple[dict[str, tuple[float, float]], list[tuple[str, str, str]], dict[str, tuple[float, float]]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Boxes of any size, joined without a cycle, some by several edges, named in any order."""
    count = draw(st.integers(1, 20))
    sizes = st.tuples(st.integers(60, 300), st.integers(60, 200))
    names = draw(st.permutations([f"s{number}" for number in range(count)]))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] < pair[1])
    joined = draw(st.lists(pairs, max_size=30)) if count > 1 else []
    edges = [(names[start], names[end], f"c{number}") for number, (start, end) in enumerate(joined)]
    return (
        {name: draw(sizes) for name in draw(st.permutations(names))},
        edges,
        {name: draw(sizes) for _, _, name in edges},
    )


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


def boxes(found: Layout) -> list[Box]:
    """Stages and labels."""
    return [*found.boxes.values(), *found.labels.values()]


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_no_two_boxes_overlap_and_all_are_in_the_picture(graph: Graph) -> None:
    """Stages and labels alike, and none smaller than it must be."""
    found = lay_out(*graph)
    assert not [pair for pair in combinations(boxes(found), 2) if overlap(*pair)]
    for box in boxes(found):
        assert box.x >= 0
        assert box.y >= -1e-6
        assert box.x + box.width <= found.width + 1e-6
        assert box.y + box.height <= found.height + 1e-6
    for name, (width, height) in graph[0].items():
        assert found.boxes[name].width >= width
        assert found.boxes[name].height == height


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_lines_go_right_from_box_to_label_to_box_and_through_no_other(graph: Graph) -> None:
    """A line is drawn between the heights of its points, so what lies between these must be free."""
    found = lay_out(*graph)
    for start, end, name in graph[1]:
        before, behind = found.lines[name]
        first, label, last = found.boxes[start], found.labels[name], found.boxes[end]
        assert before[0][0] == first.x + first.width
        assert first.y < before[0][1] < first.y + first.height
        assert before[-1] == (label.x, label.y + label.height / 2)
        assert behind[0] == (label.x + label.width, label.y + label.height / 2)
        assert behind[-1][0] == last.x
        assert last.y < behind[-1][1] < last.y + last.height
        for points in (before, behind):
            for (x, y), (to, height) in pairwise(points):
                assert x <= to
                passed = Box(x=x, y=min(y, height), width=to - x, height=abs(y - height) or 1e-9)
                assert not [box for box in boxes(found) if overlap(passed, box)]


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_the_same_graph_gives_the_same_picture(graph: Graph) -> None:
    """A picture under version control changes when the guard does."""
    assert lay_out(*graph) == lay_out(*graph)


def test_a_chain_is_a_straight_line() -> None:
    """Of boxes of different heights."""
    found = lay_out({"a": (10, 40), "b": (10, 90), "c": (10, 20)}, [("a", "b", "x"), ("b", "c", "y")],
                    {"x": (10, 30), "y": (10, 30)})  # fmt: skip
    heights = {y for lines in found.lines.values() for points in lines for _, y in points}
    assert heights == {45.0}


def test_two_ways_are_drawn_without_a_crossing_where_there_is_none_to_be() -> None:
    """Whatever the order in the file."""
    size = (10.0, 10.0)
    names = ["a", "b", "c", "d"]
    edges = [("a", "d", "1"), ("b", "c", "2")]
    found = lay_out(dict.fromkeys(names, size), edges, {"1": size, "2": size})
    above = found.boxes["a"].y < found.boxes["b"].y
    assert (found.labels["1"].y < found.labels["2"].y) == above
    assert (found.boxes["d"].y < found.boxes["c"].y) == above


def test_a_source_stands_before_what_it_leads_to() -> None:
    """Not at the far left, with a line through the whole picture."""
    size = (10.0, 10.0)
    edges = [("a", "b", "1"), ("b", "c", "2"), ("late", "c", "3")]
    found = lay_out(dict.fromkeys(["a", "b", "c", "late"], size), edges, dict.fromkeys("123", size))
    assert found.boxes["late"].x == found.boxes["b"].x


def test_a_large_graph_takes_no_long_time() -> None:
    """Hundreds of stages are no picture for a person, but no reason to hang either."""
    count = 300
    names = [f"s{number}" for number in range(count)]
    edges = [(names[at], names[min(count - 1, at + 1 + at % 7)], f"c{at}") for at in range(count - 1)]
    found = lay_out(dict.fromkeys(names, (50.0, 50.0)), edges, {name: (30.0, 30.0) for *_, name in edges})
    assert len(found.boxes) == count
