# SPDX-License-Identifier: Apache-2.0
"""The handshake modelled a second time, plainly: absolute numbers, a bounded stream, a budget of kills.

Owns nothing but doubt about `handshake_search`: this model shares none of its reductions, and `project`
says which reduced state each of its states stands for.  If the reductions are sound, every projection is a
state the search visited.  Much slower per geometry, so it is run on small ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sipc.proto import rule

__all__ = ("State", "explore", "project")


class State(NamedTuple):
    """Everything there is.  Sender phases: dead, idle, count (a NOOP), and 1 to 7 after so many steps."""

    phase: str | int = "dead"
    n: int = 0  # number of the next block
    sent: int = 0
    announced: tuple[int | None, ...] = ()
    header_sent: int = 0
    published: int = 0
    note: int = 0
    entries: tuple[int, ...] = ()
    first: tuple[int, ...] = ()  # half a of each slot: the block it belongs to, 0 when unfinished
    second: tuple[int, ...] = ()
    queue: tuple[int, ...] = ()  # 0 is a NOOP
    reading: str = "dead"  # dead, idle, a, b, deliver
    block: int = 0
    held: int = 0
    cursor: int = 0
    sender_kills: int = 2
    receiver_kills: int = 2


def _with(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _forget(state: State, n: int) -> State:
    """Halves of block `n` written so far belong to an attempt that came to nothing."""
    return state._replace(
        first=tuple(0 if half == n else half for half in state.first),
        second=tuple(0 if half == n else half for half in state.second),
    )


def _sender(state: State, slots: int, depth: int, blocks: int) -> Iterator[State]:
    phase, n, sent = state.phase, state.n, state.sent
    room = len(state.queue) < depth
    if phase == "dead":
        last, announced, again = rule.resume(
            state.header_sent, state.published, list(state.entries), state.note
        )
        yield _forget(state, last + 1)._replace(
            phase=5 if again else "idle",
            n=last if again else last + 1,
            sent=state.header_sent,
            announced=tuple(announced),
            published=last,
        )
        return
    if state.sender_kills:
        yield state._replace(phase="dead", n=0, sent=0, announced=(), sender_kills=state.sender_kills - 1)
    slot = rule.slot_of(n, slots)

    def free(number: int | None) -> bool:
        return number is None or rule.finished(sent, number, depth)

    if phase == "count":
        yield state._replace(phase="idle", header_sent=sent)
    elif phase == "idle":
        flushed = n == 1 or free(state.announced[rule.slot_of(n - 1, slots)])
        assert not flushed or state.cursor == n - 1, ("flushed too early", state)
        begin = n <= blocks and free(state.announced[slot])
        if begin:
            yield state._replace(phase=1, entries=_with(state.entries, slot, 0))
        if not (begin and flushed) and room and not (flushed and n > blocks):
            yield state._replace(phase="count", sent=sent + 1, queue=(*state.queue, 0))
    elif phase == 1:
        yield state._replace(phase=2, first=_with(state.first, slot, n))
    elif phase == 2:
        yield state._replace(phase=3, second=_with(state.second, slot, n))
    elif phase == 3:
        assert state.cursor < n, ("lost", state)
        yield state._replace(phase=4, entries=_with(state.entries, slot, n))
    elif phase == 4:
        yield state._replace(phase=5, published=n)
    elif phase == 5:
        if room:
            yield state._replace(
                phase=6,
                sent=sent + 1,
                announced=(*state.announced[:slot], sent + 1, *state.announced[slot + 1 :]),
                queue=(*state.queue, n),
            )
    elif phase == 6:
        yield state._replace(phase=7, header_sent=sent)
    else:
        yield state._replace(phase="idle", n=n + 1, note=n)
    if phase in (1, 2, 3):
        yield _forget(state, n)._replace(phase="idle")


def _receiver(state: State, slots: int) -> Iterator[State]:
    following = state.cursor + 1
    if state.reading == "dead":
        found = state.entries[rule.slot_of(following, slots)] == following
        yield state._replace(reading="a" if found else "idle", block=following if found else 0)
        return
    if state.receiver_kills:
        yield state._replace(reading="dead", block=0, held=0, receiver_kills=state.receiver_kills - 1)
    slot = rule.slot_of(state.block, slots)
    if state.reading == "idle":
        if state.queue:
            message, new = state.queue[0], state._replace(queue=state.queue[1:])
            if message:
                came = rule.arrival(state.cursor, message)
                assert came is not rule.Arrival.GAP, ("gap", state)
                if came is rule.Arrival.NEXT:
                    assert state.entries[rule.slot_of(message, slots)] == message, ("mismatch", state)
                    new = new._replace(reading="a", block=message)
            yield new
    elif state.reading == "a":
        yield state._replace(reading="b", held=state.first[slot])
    elif state.reading == "b":
        assert state.held == state.second[slot] == state.block, ("torn", state)
        yield state._replace(reading="deliver", held=0)
    else:
        assert state.block == following, ("out of order", state)
        yield state._replace(reading="idle", block=0, cursor=state.block)


def explore(slots: int, depth: int, blocks: int) -> list[State]:
    """Every state of a stream of `blocks` blocks; AssertionError at the first fault."""
    none = (0,) * slots
    order = [State(entries=none, first=none, second=none)]
    seen = set(order)
    for state in order:  # grows as it goes
        for new in (*_sender(state, slots, depth, blocks), *_receiver(state, slots)):
            if new not in seen:
                seen.add(new)
                order.append(new)
    return order


def project(state: State, slots: int, depth: int) -> list[int]:
    """Give the same state in the layout of `handshake_search`, before that reduces block numbers."""
    if state.phase == "dead":
        # The search also tells whether header.sent lags; both cases are states of it.
        phase, ages = 0, [255] * slots
    else:
        phase = {"idle": 1, "count": 2}.get(str(state.phase)) or 3 + int(state.phase)
        ages = [
            255 if number is None or rule.finished(state.sent, number, depth) else state.sent - number
            for number in state.announced
        ]
    reading = ("dead", "idle", "a", "b", "deliver").index(state.reading)
    return [
        phase, state.n, state.published, state.note, reading, state.block, state.held, 0, state.cursor,
        *state.entries, *state.first, *state.second, *ages, *state.queue,
    ]  # fmt: skip
