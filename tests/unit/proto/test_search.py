# SPDX-License-Identifier: Apache-2.0
"""Every interleaving of sender and receiver, every kill at every step: searched, not sampled.

The model and what it merges are described in `tests/support/handshake_search.py`.  It drives the functions
of `sipc.proto.rule`, the same the machines decide by.  Source: DESIGN sections 3 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from tests.support.handshake_literal import explore, project
from tests.support.handshake_search import STEPS, Fault, Model, Rules, search

from sipc.proto import rule

GEOMETRIES = [(slots, depth) for slots in range(1, 6) for depth in range(1, 4)]
Resumed = tuple[int, list[int | None], bool]
TRUE_PROGRAM = Rules().program
COUNTED = ("store sent", "note")  # how the true program ends
WITHOUT_NOTE = tuple(step for step in TRUE_PROGRAM if step != "note")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("slots", "depth"), [*GEOMETRIES, (6, 4)])
def test_no_kill_at_any_step_loses_tears_repeats_or_blocks(slots: int, depth: int) -> None:
    """A stream of any length, any number of SIGKILLs of both: each block once, in order; no dead end."""
    result = search(slots, depth, Rules())
    assert not result.faults, result.report()
    assert len(result.visited) > 250, "the search looked at next to nothing"
    assert result.taken == STEPS, "the search never took some kind of step"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("slots", "depth"), GEOMETRIES)
def test_a_sender_that_keeps_no_note_is_as_safe(slots: int, depth: int) -> None:
    """The note of what was accepted only saves announcing again; the receiver ignores what it knows."""
    result = search(slots, depth, Rules(program=WITHOUT_NOTE))
    assert not result.faults, result.report()
    assert len(result.visited) > 250, "the search looked at next to nothing"
    assert result.taken == STEPS - {"sender: note"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", [TRUE_PROGRAM, WITHOUT_NOTE], ids=["note", "no note"])
@pytest.mark.parametrize(("slots", "depth"), GEOMETRIES)
def test_a_receiver_without_a_kept_cursor_meets_no_torn_block_and_no_gap(
    slots: int, depth: int, program: tuple[str, ...]
) -> None:
    """A new receiver that was given no cursor starts with the first block announced to it, safely."""
    result = search(slots, depth, Rules(cursor_kept=False, program=program))
    assert not result.faults, result.report()
    assert len(result.visited) > 250, "the search looked at next to nothing"
    never = {f"sender: {step}" for step in TRUE_PROGRAM if step not in program}
    assert result.taken == STEPS - never - {"receiver starts, takes the block from its slot"}


PLAIN = [(1, 1, 4), (1, 3, 2), (2, 1, 5), (2, 2, 3), (3, 1, 4)]


@pytest.mark.parametrize(("slots", "depth", "blocks"), PLAIN)
def test_the_reduced_search_covers_a_plain_model_with_two_kills_of_each_side(
    slots: int, depth: int, blocks: int
) -> None:
    """Every state of an unreduced model (bounded stream, two SIGKILLs of each side) is one the search saw."""
    model = Model(slots, depth, Rules())
    visited = search(slots, depth, Rules()).visited
    states = explore(slots, depth, blocks)
    assert len(states) > 10 * len(visited), "the plain model looked at next to nothing"
    assert any(state.cursor == blocks and not state.sender_kills for state in states)
    missing = next((s for s in states if model.pack(project(s, slots, depth)) not in visited), None)
    assert missing is None, f"the search never saw {missing}"


def _resume(change: Callable[[int, list[int | None], bool], Resumed]) -> Rules:
    return Rules(resume=lambda *known: change(*rule.resume(*known)))


def _published_only(sent: int, published: int, entries: list[int], noted: int) -> Resumed:
    again = published > noted and entries[rule.slot_of(published, len(entries))] == published
    return published, [sent if seq else None for seq in entries], again


def _program(*order: str, cursor_kept: bool = True) -> Rules:
    assert set(order) <= set(TRUE_PROGRAM)
    return Rules(program=order, cursor_kept=cursor_kept)


class Weakening(NamedTuple):
    """A rule made weaker, where it must show, how, and whether it takes a kill to show."""

    rules: Rules
    slots: int
    depth: int
    faults: set[Fault]
    killed: str | None = None


def _always(_sent: int, _announced: int, _depth: int) -> bool:
    return True


def _never(_sent: int, _announced: int, _depth: int) -> bool:
    return False


def _early(sent: int, announced: int, depth: int) -> bool:
    return sent >= announced + depth


def _again(cursor: int, seq: int) -> rule.Arrival:
    return rule.Arrival.GAP if seq > cursor + 1 else rule.Arrival.NEXT


OVERRUN = {Fault.TORN, Fault.UNFLUSHED}
WEAKENINGS = {
    "no NOOPs, slots = depth + 1": Weakening(Rules(finished=_always), 2, 1, OVERRUN),
    "no NOOPs, slots = depth + 1, deeper": Weakening(Rules(finished=_always), 3, 2, OVERRUN),
    "finished one message early": Weakening(Rules(finished=_early), 2, 1, OVERRUN),
    "finished one message early, deeper": Weakening(Rules(finished=_early), 3, 2, OVERRUN),
    "finished one message early, one slot": Weakening(Rules(finished=_early), 1, 1, OVERRUN),
    "finished never": Weakening(Rules(finished=_never), 2, 1, {Fault.STUCK}),
    "receiver consumes before it has finished": Weakening(Rules(eager=True), 2, 1, OVERRUN),
    "receiver consumes before it has finished, slots to spare": Weakening(Rules(eager=True), 3, 1, OVERRUN),
    "receiver takes a block it knows for the next": Weakening(Rules(arrival=_again), 2, 1, {Fault.TWICE}),
    "restarted receiver does not look into the slot": Weakening(
        Rules(look=False), 2, 1, {Fault.GAP, Fault.UNFLUSHED}, "receiver killed"
    ),
    "restarted sender does not announce again": Weakening(
        _resume(lambda last, announced, _: (last, announced, False)),
        2, 1, {Fault.GAP, Fault.UNFLUSHED}, "sender killed",
    ),
    "announcement noted before it was accepted": Weakening(
        _program("clear", "half a", "half b", "commit", "publish", "note", "announce", "store sent"),
        2, 1, {Fault.GAP, Fault.UNFLUSHED}, "sender killed",
    ),
    "restarted sender ignores a committed block that was not published": Weakening(
        Rules(resume=_published_only), 2, 1, {Fault.LOST, Fault.TORN}, "sender killed"
    ),
    "restarted sender takes occupied slots for free": Weakening(
        _resume(lambda last, announced, again: (last, [None] * len(announced), again)),
        2, 1, {Fault.TORN}, "sender killed",
    ),
    "restarted sender counts occupied slots one message early": Weakening(
        _resume(lambda last, announced, again: (last, [n if n is None else n - 1 for n in announced], again)),
        2, 1, {Fault.TORN}, "sender killed",
    ),
    "entry not cleared": Weakening(
        _program("half a", "half b", "commit", "publish", "announce", "store sent", cursor_kept=False),
        1, 1, {Fault.TORN}, "sender killed",
    ),
    "entry written before the data": Weakening(
        _program("clear", "commit", "half a", "half b", "publish", "announce", *COUNTED), 2, 1, {Fault.TORN}
    ),
    "entry written amid the data": Weakening(
        _program("clear", "half a", "commit", "half b", "publish", "announce", *COUNTED), 2, 1, {Fault.TORN}
    ),
    "published before the entry": Weakening(
        _program("clear", "half a", "half b", "publish", "commit", "announce", *COUNTED),
        2, 1, {Fault.GAP}, "sender killed",
    ),
    "announced before the entry": Weakening(
        _program("clear", "half a", "half b", "announce", "commit", "publish", *COUNTED),
        2, 1, {Fault.MISMATCH},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEAKENINGS)
def test_a_weakened_rule_is_found_out(name: str) -> None:
    """The search can fail: each weakening leads to the fault it must lead to, with a witness."""
    weak = WEAKENINGS[name]
    # A dead end is known only at the end of a search; other searches stop when they have their witnesses.
    until = frozenset() if Fault.STUCK in weak.faults else frozenset(weak.faults)
    result = search(weak.slots, weak.depth, weak.rules, until=until)
    assert weak.faults <= result.faults.keys(), result.report()
    for fault in weak.faults:
        kills = [step for step in result.faults[fault] if "killed" in step]
        if weak.killed is None:
            assert not kills, f"the shortest witness needs a kill:\n{result.report()}"
        else:
            assert any(weak.killed in step for step in kills), f"no kill is needed:\n{result.report()}"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_plus_two_slots_stream_safely_without_any_noop(depth: int) -> None:
    """A stream over depth + 2 slots needs no NOOPs, kills or not: without the rule only `flush` lies."""
    result = search(depth + 2, depth, Rules(finished=_always))
    assert set(result.faults) == {Fault.UNFLUSHED}, result.report()
