# SPDX-License-Identifier: Apache-2.0
"""The one rule of the handshake and the two of recovery, as pure functions on numbers.

Theory.  The receiver consumes message m+1 only after finishing with message m.  The queue holds at most
`depth` messages.  So once the sender has had `sent` messages accepted, message `sent - depth` has been
consumed, and the block announced by message i is finished if `sent >= i + depth + 1`.  The seed protocol
(one slot, depth one: DATA_READY, NOOP, NOOP) is the smallest case.  Source: DESIGN sections 3 and 5.

The machines in `sender.py` and `receiver.py` decide by these functions, or on their shortest paths by the same
comparison written out, and the exhaustive search in `tests/unit/proto/test_search.py` drives these very functions;
the machines' own tests hold them to the rule, so what is searched is what runs.
"""

from __future__ import annotations

import enum

__all__ = ("Arrival", "arrival", "finished", "finished_after", "resume", "slot_of")


def slot_of(seq: int, slots: int) -> int:
    """Slot of block `seq`; blocks count from 1."""
    return (seq - 1) % slots


def finished_after(depth: int) -> int:
    """How many messages must have been accepted after the one that announced a block until it is finished."""
    return depth + 1


def finished(sent: int, announced: int, depth: int) -> bool:
    """Whether the receiver is done with the block that message number `announced` announced."""
    return sent >= announced + finished_after(depth)


class Arrival(enum.Enum):
    """What an announced block is to a receiver whose last finished block is `cursor`."""

    NEXT = "next"
    SEEN = "seen"
    GAP = "gap"


def arrival(cursor: int, seq: int) -> Arrival:
    """Judge block `seq`: the next one, one already finished (announced twice), or a gap."""
    if seq == cursor + 1:
        return Arrival.NEXT
    return Arrival.SEEN if seq <= cursor else Arrival.GAP


def resume(
    sent: int, published: int, entries: list[int], accepted: int = 0
) -> tuple[int, list[int | None], bool]:
    """What a restarted sender knows from its segment.

    `sent`, `published`: from the header; `entries`: the seq in each slot's entry, 0 when cleared; `accepted`: the
    newest block whose announcement the predecessor noted, in a file of its own, as taken by the queue.
    Returns (last committed block, message number per slot or None when free, whether to announce it again).

    The write of an entry's seq is the commit: a predecessor that died between it and `published` left a
    whole block, which a receiver that restarts may already have taken from the slot.  So it counts as
    published.  Every occupied slot counts as announced by message `sent`, which is never too early: the
    header may miss the one message that was accepted last.  A block known to be accepted is not announced
    again: its message is in the queue or was consumed, and a receiver that died with it looks into the slot.
    """
    slots = len(entries)
    last = published
    if entries[slot_of(published + 1, slots)] == published + 1:
        last = published + 1
    announced = [sent if seq else None for seq in entries]
    again = last > accepted and entries[slot_of(last, slots)] == last
    return last, announced, again
