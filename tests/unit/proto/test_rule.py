# SPDX-License-Identifier: Apache-2.0
"""The rule of the handshake and the rules of recovery, one by one; `test_search.py` tries them together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.proto.rule import Arrival, arrival, finished, resume, slot_of

numbers = st.integers(0, 1 << 64)
small = st.integers(0, 40)
depths = st.integers(1, 512)
slot_counts = st.integers(1, 0xFFFF)


# -- slots


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_blocks_go_round_the_slots_in_order(slots: int) -> None:
    """Block 1 is in slot 0, and each next block in the next slot."""
    assert [slot_of(seq, slots) for seq in range(1, 2 * slots + 1)] == [*range(slots), *range(slots)]


@given(st.integers(1, 1 << 64), slot_counts, small)
def test_a_whole_turn_leads_to_the_same_slot(seq: int, slots: int, turns: int) -> None:
    """The search takes whole turns off block numbers; this is why it may."""
    assert 0 <= slot_of(seq, slots) < slots
    assert slot_of(seq + turns * slots, slots) == slot_of(seq, slots)


# -- finished


def test_the_seed_protocol_is_the_smallest_case() -> None:
    """One slot, depth one: DATA_READY, NOOP, NOOP, and the block is finished."""
    assert [finished(sent, 1, 1) for sent in (1, 2, 3)] == [False, False, True]


@given(numbers, depths)
def test_a_block_is_finished_depth_plus_one_messages_after_its_announcement(
    announced: int, depth: int
) -> None:
    """Sooner, the queue may hold all later messages while the receiver is still reading."""
    assert not finished(announced, announced, depth)
    assert not finished(announced + depth, announced, depth)
    assert finished(announced + depth + 1, announced, depth)


@given(numbers, numbers, depths, numbers)
def test_only_the_difference_of_message_numbers_counts(
    sent: int, announced: int, depth: int, by: int
) -> None:
    """The search keeps differences only; this is why it may."""
    assert finished(sent + by, announced + by, depth) == finished(sent, announced, depth)


@given(numbers, numbers, depths, small)
def test_finished_stays_finished(sent: int, announced: int, depth: int, more: int) -> None:
    """The search forgets an announcement once it is finished; this is why it may."""
    assert finished(sent + more, announced, depth) or not finished(sent, announced, depth)


def noops_of_a_stream(slots: int, depth: int, blocks: int) -> int:
    """How many NOOPs a sender puts between so many blocks, without a flush."""
    announced: dict[int, int] = {}
    sent = noops = 0
    for seq in range(1, blocks + 1):
        slot = slot_of(seq, slots)
        while slot in announced and not finished(sent, announced[slot], depth):
            sent += 1
            noops += 1
        sent += 1
        announced[slot] = sent
    return noops


@pytest.mark.parametrize("depth", [1, 2, 3, 8, 512])
def test_depth_plus_two_slots_stream_without_noops(depth: int) -> None:
    """When a slot comes round again, enough was announced after it; one slot less needs NOOPs."""
    assert noops_of_a_stream(depth + 2, depth, 5 * (depth + 2)) == 0
    assert noops_of_a_stream(depth + 3, depth, 5 * (depth + 2)) == 0
    assert noops_of_a_stream(depth + 1, depth, 5 * (depth + 1)) == 4
    assert noops_of_a_stream(1, depth, 5) == 4 * (depth + 1)


# -- arrival


@pytest.mark.parametrize(
    ("cursor", "seq", "came"),
    [
        (0, 1, Arrival.NEXT),
        (0, 2, Arrival.GAP),
        (4, 5, Arrival.NEXT),
        (4, 4, Arrival.SEEN),
        (4, 1, Arrival.SEEN),
        (4, 6, Arrival.GAP),
        (4, (1 << 64) - 1, Arrival.GAP),
    ],
)
def test_a_block_is_the_next_or_known_or_a_gap(cursor: int, seq: int, came: Arrival) -> None:
    """Only the block after the last finished one is taken; a known one is ignored; a gap is never silent."""
    assert arrival(cursor, seq) is came


@given(numbers, numbers, numbers)
def test_only_the_distance_to_the_cursor_counts(cursor: int, seq: int, by: int) -> None:
    """The search takes whole turns off block numbers; this is why it may."""
    assert arrival(cursor + by, seq + by) is arrival(cursor, seq)


# -- resume


def test_a_new_segment_starts_at_block_one() -> None:
    """Nothing committed, nothing announced, nothing to announce again."""
    assert resume(0, 0, [0, 0, 0]) == (0, [None, None, None], False)


def test_a_published_block_is_announced_again() -> None:
    """Whether its message was accepted can not be known; the receiver ignores it the second time."""
    assert resume(9, 5, [4, 5, 3]) == (5, [9, 9, 9], True)


def test_a_block_known_to_be_accepted_is_not_announced_again() -> None:
    """Its message is in the queue or was consumed; a receiver that died with it looks into the slot."""
    assert resume(9, 5, [4, 5, 3], 5) == (5, [9, 9, 9], False)
    assert resume(9, 5, [4, 5, 3], 4) == (5, [9, 9, 9], True)
    assert resume(9, 5, [4, 5, 6], 5) == (6, [9, 9, 9], True)


def test_a_committed_block_counts_as_published() -> None:
    """A receiver that restarted may have taken it from its slot: its number must not be used again."""
    assert resume(9, 5, [4, 5, 6]) == (6, [9, 9, 9], True)
    assert resume(0, 0, [1, 0, 0]) == (1, [0, None, None], True)


def test_a_slot_that_was_being_overwritten_is_free() -> None:
    """It was cleared because the receiver had finished with it."""
    assert resume(9, 5, [4, 5, 0]) == (5, [9, 9, None], True)


def test_one_slot_that_was_being_overwritten_leaves_nothing_to_announce() -> None:
    """With one slot the newest block's slot is the one that was cleared: it is finished."""
    assert resume(9, 5, [0]) == (5, [None], False)


def test_an_entry_that_is_neither_newest_nor_next_is_only_occupied() -> None:
    """A slot that holds some other number is not announced again and not continued from."""
    assert resume(9, 5, [4, 2, 3]) == (5, [9, 9, 9], False)
    assert resume(9, 5, [4, 5, 9]) == (5, [9, 9, 9], True)


@st.composite
def segments(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Draw `published` and entries, near enough to each other to matter, consistent or not."""
    slots = draw(st.integers(1, 6))
    published = draw(st.integers(0, 20))
    near = st.one_of(st.just(0), st.integers(max(1, published - slots), published + 2))
    entries = draw(st.lists(near, min_size=slots, max_size=slots))
    for seq in draw(st.sets(st.sampled_from([max(published, 1), published + 1]))):
        entries[slot_of(seq, slots)] = seq
    return published, entries


@given(small, segments(), small)
def test_every_occupied_slot_counts_as_announced_by_the_last_message(
    sent: int, segment: tuple[int, list[int]], noted: int
) -> None:
    """`sent` is never too early: no block was announced by a later message that the header knows of."""
    published, entries = segment
    last, announced, again = resume(sent, published, entries, noted)
    assert announced == [sent if seq else None for seq in entries]
    following = entries[slot_of(published + 1, len(entries))]
    assert last == (published + 1 if following == published + 1 else published)
    assert again == (last > noted and entries[slot_of(last, len(entries))] == last)


@given(small, small, segments(), small)
def test_resume_depends_on_sent_only_as_an_origin(
    sent: int, by: int, segment: tuple[int, list[int]], noted: int
) -> None:
    """The search keeps differences only; this is why it may."""
    last, announced, again = resume(sent, *segment, noted)
    moved = [number if number is None else number + by for number in announced]
    assert resume(sent + by, *segment, noted) == (last, moved, again)


@given(small, small, segments().filter(lambda segment: segment[0] > 0), small)
def test_resume_can_not_tell_whole_turns_apart(
    sent: int, turns: int, segment: tuple[int, list[int]], noted: int
) -> None:
    """The search takes whole turns off block numbers; this is why it may."""
    published, entries = segment
    by = turns * len(entries)
    last, announced, again = resume(sent, published, entries, noted)
    moved = [seq + by if seq else 0 for seq in entries]
    assert resume(sent, published + by, moved, noted + by if noted else 0) == (last + by, announced, again)


@given(small, segments().filter(lambda segment: segment[0] > 0), st.data())
def test_resume_can_not_tell_an_old_note_from_none(
    sent: int, segment: tuple[int, list[int]], data: st.DataObject
) -> None:
    """The search forgets a note older than `published`; this is why it may."""
    noted = data.draw(st.integers(0, segment[0] - 1))
    assert resume(sent, *segment, noted) == resume(sent, *segment)


@given(segments())
def test_resume_leaves_the_entries_alone(segment: tuple[int, list[int]]) -> None:
    """It looks, and changes nothing."""
    published, entries = segment
    before = list(entries)
    resume(3, published, entries)
    assert entries == before
