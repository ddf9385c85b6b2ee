# SPDX-License-Identifier: Apache-2.0
"""Stages and channels together: no way back, nothing lost, requirements that hold."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.guards import GOOD, SMALL, changed, problems

from sipc.guard.config import Kind, Requirement
from sipc.guard.lines import Lines
from sipc.guard.requirements import Edge, parse_requirement
from sipc.guard.structure import Place, check_structure
from sipc.guard.tables import File

NAMES = "abcdef"
STAGES = ("ingest", "scrub", "deliver")
edges = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=10).map(
    lambda pairs: [(start, end, f"c{number}") for number, (start, end) in enumerate(pairs)]
)


def told(
    channels: list[Edge], kinds: dict[str, Kind | None] | None = None, places: list[Place] | None = None
) -> list[str]:
    """What a graph's problems are, without their lines."""
    file = File(source="F", lines=Lines())
    check_structure(file, kinds or {}, channels, [], places or [], complete=kinds is not None)
    return [problem.text("F").removeprefix("F:1: ") for problem in file.problems]


def ways(channels: list[Edge], start: str, end: str) -> Iterator[tuple[str, ...]]:
    """Every way from one stage to another that meets none twice; slow and plain."""

    def go(here: str, seen: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if here == end:
            yield seen
            return
        for one, other, _ in channels:
            if one == here and other not in seen:
                yield from go(other, (*seen, other))

    return go(start, (start,))


# -- cycles


@given(edges)
def test_a_graph_has_a_cycle_exactly_when_it_is_told(channels: list[Edge]) -> None:
    """As the standard library's sorter has it; without the channels that are told there is none."""
    found = told(channels)
    graph: dict[str, set[str]] = {}
    for start, end, _ in channels:
        graph.setdefault(end, set()).add(start)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        assert found
    else:
        assert found == []
    closing = {line.split("]")[0].removeprefix("[channel.") for line in found}
    assert told([edge for edge in channels if edge[2] not in closing]) == []


def test_a_cycle_is_told_with_its_channels_at_the_one_that_closes_it() -> None:
    """A filter that sends back to one before it."""
    text = GOOD + '[channel.back]\nfrom = "scrub"\nto = "wash"\n[channel.on]\nfrom = "wash"\nto = "scrub"\n'
    text = text.replace("[channel.raw]", '[stage.wash]\nuser = 7\nfilter = { python = "a:b" }\n[channel.raw]')
    (line,) = problems(text)
    assert line == (
        "F:40: [channel.on] to: closes a cycle: scrub -> wash: channel back, wash -> scrub: channel on: remove one of "
        "these channels: nothing may lead back"
    )


def test_a_channel_from_a_stage_to_itself_is_told() -> None:
    """The shortest cycle."""
    found = problems(changed(('to = "scrub"', 'to = "ingest"')))
    assert "F:26: [channel.raw] to: leads from ingest back to ingest: name another stage" in found


# -- roles


def test_a_source_never_receives_and_a_sink_never_sends() -> None:
    """What would be a way back is no role."""
    found = problems(SMALL + '[channel.back]\nfrom = "b"\nto = "a"\n')
    words = ": make it a filter, or the channel "
    assert found[:2] == [
        f"F:13: [channel.back] from: b is a sink, which never sends{words}from another stage",
        f"F:14: [channel.back] to: a is a source, which never receives{words}to another stage",
    ]


def test_a_stage_that_nothing_reaches_or_leaves_is_told() -> None:
    """Each of the two, at the stage."""
    text = SMALL + '[stage.f]\nfilter = { python = "a:b" }\n[stage.s]\nsource = { file = "/x" }\n'
    assert problems(text) == [
        "F:12: [stage.f]: no channel leads from this filter: add one with from = 'f'",
        "F:12: [stage.f]: no channel leads to this filter: add one with to = 'f'",
        "F:14: [stage.s]: no channel leads from this source: add one with from = 's'",
    ]


def test_several_channels_into_and_out_of_a_stage_are_no_problem() -> None:
    """A filter may merge and split; each channel has one sender and one receiver."""
    text = GOOD + '[channel.more]\nfrom = "scrub"\nto = "other"\n'
    text = text.replace("[channel.raw]", '[stage.other]\nuser = 9\nsink = { file = "/x" }\n[channel.raw]')
    assert problems(text) == []


# -- requirements

FORMS = [
    ("a -> b", Requirement(start="a", end="b")),
    (" a->b ", Requirement(start="a", end="b")),
    ("a -> b via c", Requirement(start="a", end="b", via=("c",))),
    ("a -> b via c, d", Requirement(start="a", end="b", via=("c", "d"))),
    ("not a -> b", Requirement(start="a", end="b", negated=True)),
    ("only a -> b", Requirement(start="a", end="b", only=True)),
    ("in-1 -> 2_x via c", Requirement(start="in-1", end="2_x", via=("c",))),
]
NO_FORMS = [
    ("", "is not understood"), ("a", "is not understood"), ("a -> ", "is not understood"),
    ("-> b", "is not understood"),
    ("a -> b via", "is not understood"), ("a -> b via ,", "is not understood"), ("a -> b via c,", "is not understood"),
    ("not a -> b via c", "is not understood"), ("only a -> b via c", "is not understood"),
    ("only not a -> b", "is not understood"), ("not only a -> b", "is not understood"),
    ("only -> b", "is not understood"), ("a -> b -> c", "is not understood"), ("a <- b", "is not understood"),
    ("a -> b via c d", "no stage 'c d'"), ("a -> b via c via d", "no stage 'c via d'"), ("a -> x", "no stage 'x'"),
    ("x -> a", "no stage 'x'"), ("a -> a", "about one stage"), ("not a -> a", "about one stage"),
    ("a -> b via a", "via a, where it begins"), ("a -> b via b", "via b, where it begins or ends"),
    ("a -> b" + " " * 2000, "has 2006 characters"), ("A -> b", "no stage 'A'"), ("a -> b; rm", "is not understood"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_a_requirement_is_read(text: str, expected: Requirement) -> None:
    """And written as it is read."""
    names = ("a", "b", "c", "d", "in-1", "2_x")
    assert parse_requirement(text, names) == expected
    assert parse_requirement(str(expected), names) == expected


@pytest.mark.parametrize(("text", "words"), NO_FORMS)
def test_what_is_no_requirement_is_told(text: str, words: str) -> None:
    """What is left out does not mean less; with the reason, and what would do."""
    found = parse_requirement(text, ("a", "b", "c", "d"))
    assert isinstance(found, tuple)
    assert words in found[0]
    assert found[1]


@given(st.text(st.sampled_from(list("ab ->,\n\tviaonlyt")), max_size=30))
def test_any_text_is_a_requirement_or_told(text: str) -> None:
    """What is read says the same when it is written."""
    found = parse_requirement(text, ("a", "b", "v", "i"))
    if isinstance(found, Requirement):
        assert parse_requirement(str(found), ("a", "b", "v", "i")) == found


@pytest.mark.parametrize("word", ["not", "only", "via"])
def test_no_stage_is_called_like_a_word_of_requirements(word: str) -> None:
    """One could not tell what is required."""
    found = problems(SMALL.replace("[stage.a]", f"[stage.{word}]").replace('"a"', f'"{word}"'))
    assert found == [f"F:5: [stage.{word}]: is a word of requirements: give the stage another name"]


@given(edges, st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_a_requirement_holds_exactly_when_every_way_agrees(channels: list[Edge], a: str, b: str, c: str) -> None:
    """Compared with all ways there are, one by one."""
    if len({a, b, c}) < 3:
        return
    found = list(ways(channels, a, b))
    into = {start for start, end, _ in channels if end == b}
    for requirement, holds in (
        (Requirement(start=a, end=b), bool(found)),
        (Requirement(start=a, end=b, negated=True), not found),
        (Requirement(start=a, end=b, via=(c,)), bool(found) and all(c in way for way in found)),
        (Requirement(start=a, end=b, only=True), into == {a}),
    ):
        failure = requirement.failure(channels)
        assert (failure is None) == holds
        assert failure is None or all(failure)


@pytest.mark.parametrize(
    ("requirement", "more", "expected"),
    [
        ("not ingest -> deliver", "", "data goes ingest -> scrub: channel raw, scrub -> deliver: channel clean: "),
        ("deliver -> ingest", "", "no channels lead from deliver to ingest: add what is missing"),
        ("ingest -> deliver via scrub", '[channel.around]\nfrom = "ingest"\nto = "deliver"\n',
         "data goes around scrub: ingest -> deliver: channel around: remove one of these channels"),
        ("only scrub -> deliver", '[channel.around]\nfrom = "ingest"\nto = "deliver"\n',
         "channels from elsewhere lead into deliver: around: remove them"),
        ("only ingest -> scrub", '[channel.x]\nfrom = "scrub"\nto = "deliver"\n', None),
        ("only ingest -> deliver", "", "channels from elsewhere lead into deliver: clean: remove them"),
        ("only deliver -> ingest", "", "no channel leads from deliver to ingest: add one"),
    ],
)  # fmt: skip
def test_a_requirement_that_does_not_hold_is_told_on_its_line(
    requirement: str, more: str, expected: str | None
) -> None:
    """With the channels that lead where they must not."""
    text = changed(('"not deliver -> ingest"', f'"{requirement}"'), ('  "only scrub -> deliver",\n', ""),
                   ('"ingest -> deliver via scrub"', '"ingest -> deliver"')) + more  # fmt: skip
    found = problems(text)
    if expected is None:
        assert found == []
        return
    (line,) = found
    assert line.startswith(f"F:9: [guard] require: '{requirement}' does not hold: {expected}")


# -- paths


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [("/a", "/a", True), ("/a", "/a/b", True), ("/a/b", "/a", True), ("/a", "/ab", False), ("/a/b", "/a/c", False)],
)
def test_a_path_that_two_stages_share_is_a_channel_that_nobody_declared(first: str, second: str, shared: bool) -> None:
    """The same, or one in the other: what a sink puts there a source would take."""
    text = SMALL.replace("stdin = true", f'directory = "{first}"').replace("stdout = true", f'directory = "{second}/"')
    found = problems(text)
    if not shared:
        assert found == []
        return
    where = f"F:8: [stage.b.sink] directory: '{second}' is, holds or lies in what stage a uses for its source"
    assert found == [f"{where}: data would go around the channels: give each a place of its own"]


def test_a_quarantine_is_nobody_elses_place() -> None:
    """What was refused would go on, or in again."""
    (line,) = problems(changed(("/var/lib/sipc/json/scrub/quarantine", "/var/spool/ingest/bad")))
    assert line.startswith(
        "F:20: [stage.scrub.quarantine] directory: '/var/spool/ingest/bad' is, holds or lies in what "
    )
    (line,) = problems(changed(("/var/spool/deliver", "/var/lib/sipc/json")))
    assert "what stage scrub uses for its quarantine" in line


def test_two_sources_do_not_share_standard_input() -> None:
    """Each record would go to either."""
    text = SMALL + '[stage.z]\nsource = { stdin = true }\n[channel.d]\nfrom = "z"\nto = "b"\n'
    (line,) = problems(text)
    assert line.startswith(
        "F:13: [stage.z.source] stdin: 'stdin' is, holds or lies in what stage a uses for its source"
    )
