# SPDX-License-Identifier: Apache-2.0
"""Exhaustive search of the handshake and its recovery, driven by the decision functions of `sipc.proto.rule`.

Owns a model of both endpoints, the queue and the segment, small enough to visit every state it can reach.
Must not decide anything itself that `rule` decides: those functions come in as `Rules`, so that the same
search can be run over weakened ones and has to find a fault there.

What is searched.  For one (slots, depth): a stream of any length, the user flushing, or giving up a block,
wherever he likes, and any number of SIGKILLs of either side between any two steps, also during recovery.

Steps.  Every access to something the two sides share is a step of its own: one message put or taken, one
entry stored or loaded, each half of a block stored or loaded (two halves make a torn block visible).  What
is merged into one step touches only what one side owns, so no interleaving is lost:
  * "sender starts" loads `sent`, `published`, entries and its own file, calls `resume`, stores `published`.
    Only senders store these (receivers load entries), so nobody can tell when they were loaded; a kill amid
    it leaves what a kill before or after it leaves.
  * testing `finished` goes with the step it allows: it reads the sender's own numbers only.
  * loading `published` or `sent` is never a step of the receiver: it does not.
A dead side may stay dead as long as it likes: starting is a step like the others.

What is assumed: stores of one side are seen by the other in the order they were made.  Processors that
reorder stores keep this promise only where a system call on the queue stands between them.

Why the set is finite.  No number is absolute that need not be; each reduction rests on a property of `rule`
that `test_rule.py` checks:
  * message numbers enter only as `sent - announced` (the age of an announcement): `finished` and `resume`
    depend on differences only.  An age for which `finished` holds is replaced by FREE, for it holds ever
    after; others stop at `depth + 2`.  A dead sender keeps how far `header.sent` lags behind.
  * the sender's note of the newest accepted block is replaced by 0 when older than `published`: `resume`
    can not tell.
  * when all block numbers in a state exceed `slots`, `slots` is subtracted from each: `slot_of`, `arrival`
    and `resume` can not tell.  So the steady state of an endless stream closes on itself.
"""

from __future__ import annotations

import enum
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from sipc.proto import rule

__all__ = ("STEPS", "Fault", "Model", "Result", "Rules", "search")


class Fault(enum.Enum):
    """What can go wrong."""

    TORN = "a block was read that is not one whole block of that number"
    GAP = "the receiver met a block that is not the next one"
    MISMATCH = "the receiver was told of the next block, and its slot's entry does not hold it"
    LOST = "a block was committed under a number the receiver has done with, so it will be ignored"
    TWICE = "a block was delivered that is not the one after the cursor"
    UNFLUSHED = "flush returned before the receiver had finished the newest block"
    STUCK = "from here, without further kills, no state with everything delivered and flushed can be reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The decisions under test, and the places where an endpoint's program can be weakened.

    `program`: the sender's steps for one block, in order; a sender that starts and has to announce again
    enters it at "announce".  Without the step "note" it keeps no note of what was accepted.
    `look`: a starting receiver looks into the slot of the next block first.
    `eager`: the receiver consumes a further message before it has finished.
    `cursor_kept`: the cursor outlives the receiver; if not, the first block announced to a new one sets it,
    and a block in the hands of a killed receiver is lost, which is then no fault.
    """

    slot_of: Callable[[int, int], int] = rule.slot_of
    finished: Callable[[int, int, int], bool] = rule.finished
    arrival: Callable[[int, int], rule.Arrival] = rule.arrival
    resume: Callable[[int, int, list[int], int], tuple[int, list[int | None], bool]] = rule.resume
    program: tuple[str, ...] = (
        "clear", "half a", "half b", "commit", "publish", "announce", "store sent", "note",
    )  # fmt: skip
    look: bool = True
    eager: bool = False
    cursor_kept: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a search saw: the states, the kinds of step taken, and the shortest way to each kind of fault."""

    visited: Collection[bytes] = field(repr=False)
    taken: frozenset[str]
    faults: dict[Fault, tuple[str, ...]]

    def report(self) -> str:
        """Tell the witnesses, for an assertion message."""
        lines = [f"{len(self.visited)} states, faults: {[fault.name for fault in self.faults] or 'none'}"]
        for fault, trace in self.faults.items():
            lines += [f"{fault.name}: {fault.value}", *(f"  {step}" for step in trace)]
        return "\n".join(lines)


# A state is a bytes object: nine single values, then four values per slot, then the queue, oldest first.
#   spc, n        sender: where it is, number of the next block; a dead one: lag of header.sent in place of n
#   pub           header.published
#   note          newest block the sender has noted, in a file of its own, as accepted by the queue
#   rpc, k, held  receiver: where it is, block in work, what it read as half a
#   stash         eager receiver only: 1 + the message consumed too early
#   cursor        the receiver's cursor, UNKNOWN in a new receiver that was given none
# Per slot: entry seq; label of half a; of half b; age of the announcement (sender's own).
# Message: 0 is a NOOP, else the seq of a DATA_READY.  Label: the block the half belongs to, JUNK for what an
# unfinished attempt left, OLD + n for a predecessor's whole block n when its successor uses n anew.
_SPC, _N, _PUB, _NOTE, _RPC, _K, _HELD, _STASH, _CURSOR, _ENTRIES = range(10)
_JUNK, _OLD, _FREE, _UNKNOWN = 0, 128, 255, 254
_DEAD, _IDLE = 0, 1  # both sides
_COUNT, _WORK = 2, 3  # sender; _COUNT: a NOOP is to be counted; _WORK + i: step i of its program is next
_HALF_A, _HALF_B, _DELIVER = 2, 3, 4  # receiver
_SENT = 1000  # any number: only differences count
_LIMIT = 3_000_000  # a model that does not close on itself is an error, not a long wait

# Every kind of step; a search over the true rules must have taken each.
STEPS = frozenset(
    {
        "sender starts, announces again", "sender starts, goes on", "sender killed",
        "sender puts a NOOP", "sender counts a NOOP", "sender gives the block up",
        "sender: clear", "sender: half a", "sender: half b", "sender: commit", "sender: publish",
        "sender: announce", "sender: store sent", "sender: note",
        "receiver starts, takes the block from its slot", "receiver starts, has no block",
        "receiver takes a NOOP", "receiver takes DATA", "receiver ignores a block it knows",
        "receiver reads half a", "receiver reads half b", "receiver delivers", "receiver killed",
    }
)  # fmt: skip

_Step = tuple[str, "list[int] | Fault"]


class Model:
    """Successors of a state."""

    def __init__(self, slots: int, depth: int, rules: Rules) -> None:
        self.slots, self.depth, self.rules = slots, depth, rules
        self.a, self.b, self.ages, self.queue = (_ENTRIES + slots * i for i in (1, 2, 3, 4))
        self.slot_of = cache(lambda seq: rules.slot_of(seq, slots))
        self.arrival = cache(rules.arrival)
        self.fresh = self.age(0)
        self.older = [self.age(min(age + 1, depth + 2)) for age in range(_FREE)] + [_FREE]
        self.resumed = cache(self._resumed)

    def age(self, age: int) -> int:
        return _FREE if self.rules.finished(_SENT + age, _SENT, self.depth) else age

    def _resumed(self, lag: int, published: int, entries: bytes, note: int) -> tuple[int, list[int], bool]:
        sent = _SENT - lag
        last, announced, again = self.rules.resume(sent, published, list(entries), note)
        return last, [_FREE if number is None else self.age(sent - number) for number in announced], again

    def initial(self) -> bytes:
        state = [0] * self.ages + [_FREE] * self.slots
        state[_CURSOR] = self.new_cursor(0)
        return bytes(state)

    def new_cursor(self, cursor: int) -> int:
        return cursor if self.rules.cursor_kept else _UNKNOWN

    def pack(self, state: list[int]) -> bytes:
        """Reduce block numbers by whole turns around the slots, and pack."""
        slots = self.slots
        if state[_NOTE] < state[_PUB]:
            state[_NOTE] = 0
        if state[_CURSOR] > slots:
            where = [_PUB, _NOTE, _K, _HELD, *range(_ENTRIES, self.ages), *range(self.queue, len(state))]
            if state[_SPC] != _DEAD:
                where.append(_N)
            if state[_CURSOR] != _UNKNOWN:
                where.append(_CURSOR)
            live = [i for i in where if state[i] not in (0, _OLD)]
            turns = (min((state[i] & ~_OLD for i in live), default=1) - 1) // slots
            if state[_STASH] > 1:
                live.append(_STASH)
                turns = min(turns, (state[_STASH] - 2) // slots)
            if turns:
                for i in live:
                    state[i] -= turns * slots
        return bytes(state)

    def settled(self, state: bytes) -> bool:
        """Whether all is delivered and a flush would return."""
        return (
            state[_SPC] == _IDLE
            and state[_CURSOR] in (state[_N] - 1, _UNKNOWN)
            and state.count(_FREE, self.ages, self.queue) == self.slots
        )

    def kills(self, state: bytes) -> Iterator[_Step]:
        """Kill a side: what is left is the segment, the queue, the cursor."""
        if state[_SPC] != _DEAD:
            new = list(state)
            new[_N] = int(self.counting(state[_SPC]))
            new[_SPC] = _DEAD
            new[self.ages : self.queue] = [_FREE] * self.slots
            yield "sender killed", new
        if state[_RPC] != _DEAD:
            new = list(state)
            new[_RPC] = new[_K] = new[_HELD] = new[_STASH] = 0
            new[_CURSOR] = self.new_cursor(state[_CURSOR])
            yield "receiver killed", new

    def counting(self, at: int) -> bool:
        """Whether the queue has accepted a message that header.sent does not count yet."""
        program, done = self.rules.program, at - _WORK
        return at == _COUNT or (done > program.index("announce") and "store sent" in program[done:])

    def steps(self, state: bytes) -> Iterator[_Step]:
        """Every step but a kill."""
        yield from self._sender(state)
        yield from self._receiver(state)

    # -- sender -------------------------------------------------------------------------------------------

    def _sender(self, state: bytes) -> Iterator[_Step]:
        at = state[_SPC]
        if at == _DEAD:
            yield self._start(state)
        elif at == _IDLE:
            yield from self._between_blocks(state)
        elif at == _COUNT:
            new = list(state)
            new[_SPC] = _IDLE
            yield "sender counts a NOOP", new
        else:
            yield from self._work(state, at)

    def _start(self, state: bytes) -> _Step:
        new = list(state)
        entries = state[_ENTRIES : self.a]
        last, ages, again = self.resumed(state[_N], state[_PUB], entries, state[_NOTE])
        n = last + 1
        new[_PUB] = last
        new[_N] = last if again else n
        new[_SPC] = _WORK + self.rules.program.index("announce") if again else _IDLE
        new[self.ages : self.queue] = ages
        # This sender will write its own block n: whatever bears that number now is something else.
        self._relabel(new, n, _OLD | n if entries[self.slot_of(n)] == n else _JUNK)
        return "sender starts, " + ("announces again" if again else "goes on"), new

    def _relabel(self, new: list[int], n: int, label: int) -> None:
        for i in (_HELD, *range(self.a, self.ages)):
            if new[i] == n:
                new[i] = label

    def _put(self, state: bytes, message: int, then: int) -> list[int]:
        new = list(state)
        for i in range(self.ages, self.queue):
            new[i] = self.older[new[i]]
        if message:
            new[self.ages + self.slot_of(message)] = self.fresh
        new.append(message)
        new[_SPC] = then
        return new

    def _between_blocks(self, state: bytes) -> Iterator[_Step]:
        n = state[_N]
        room = state[self.ages + self.slot_of(n)] == _FREE
        flushed = n == 1 or state[self.ages + self.slot_of(n - 1)] == _FREE
        if flushed and state[_CURSOR] < n - 1:
            yield "flush returns", Fault.UNFLUSHED
        if room:
            yield from self._work(state, _WORK)
        if not (room and flushed) and len(state) - self.queue < self.depth:
            yield "sender puts a NOOP", self._put(state, 0, _COUNT)

    def _work(self, state: bytes, at: int) -> Iterator[_Step]:
        program, n = self.rules.program, state[_N]
        slot = self.slot_of(n)
        step = program[at - _WORK]
        name = f"sender: {step}"
        new = list(state)
        if step == "commit" and n <= state[_CURSOR] != _UNKNOWN:
            yield name, Fault.LOST
            return
        if step == "announce":
            if len(state) - self.queue >= self.depth:
                return
            new = self._put(state, n, at)
        elif step == "commit":
            new[_ENTRIES + slot] = n
        elif step == "clear":
            new[_ENTRIES + slot] = 0
        elif step == "publish":
            new[_PUB] = n
        elif step == "note":
            new[_NOTE] = n
        elif step != "store sent":
            new[(self.a if step == "half a" else self.b) + slot] = n
        new[_SPC] = at + 1
        if at + 1 - _WORK == len(program):
            new[_SPC] = _IDLE
            new[_N] = n + 1
        yield name, new
        if "commit" in program[at - _WORK :] and at > _WORK:
            given_up = list(state)
            given_up[_SPC] = _IDLE
            self._relabel(given_up, n, _JUNK)
            yield "sender gives the block up", given_up

    # -- receiver -----------------------------------------------------------------------------------------

    def _receiver(self, state: bytes) -> Iterator[_Step]:
        at, k = state[_RPC], state[_K]
        new = list(state)
        if at == _DEAD:
            following = state[_CURSOR] + 1
            looks = self.rules.look and state[_CURSOR] != _UNKNOWN
            found = looks and state[_ENTRIES + self.slot_of(following)] == following
            new[_RPC] = _HALF_A if found else _IDLE
            new[_K] = following if found else 0
            yield "receiver starts, " + ("takes the block from its slot" if found else "has no block"), new
        elif at == _IDLE:
            if state[_STASH]:
                new[_STASH] = 0
                yield self._judge(new, state[_STASH] - 1)
            elif len(state) > self.queue:
                del new[self.queue]
                yield self._judge(new, state[self.queue])
        elif at == _HALF_A:
            new[_HELD] = state[self.a + self.slot_of(k)]
            new[_RPC] = _HALF_B
            yield "receiver reads half a", new
        elif at == _HALF_B:
            second = state[self.b + self.slot_of(k)]
            if state[_HELD] != second or second & ~_OLD != k:
                yield "receiver reads half b", Fault.TORN
            else:
                new[_HELD] = 0
                new[_RPC] = _DELIVER
                yield "receiver reads half b", new
        elif state[_CURSOR] not in (k - 1, _UNKNOWN):
            yield "receiver delivers", Fault.TWICE
        else:
            new[_CURSOR] = k
            new[_RPC], new[_K] = _IDLE, 0
            yield "receiver delivers", new
        if self.rules.eager and at > _IDLE and not state[_STASH] and len(state) > self.queue:
            early = list(state)
            early[_STASH] = 1 + early.pop(self.queue)
            yield "receiver takes a further message", early

    def _judge(self, new: list[int], message: int) -> _Step:
        if message == 0:
            return "receiver takes a NOOP", new
        came = self.arrival(message - 1 if new[_CURSOR] == _UNKNOWN else new[_CURSOR], message)
        if came is rule.Arrival.SEEN:
            return "receiver ignores a block it knows", new
        if came is rule.Arrival.GAP:
            return "receiver takes DATA", Fault.GAP
        if new[_ENTRIES + self.slot_of(message)] != message:
            return "receiver takes DATA", Fault.MISMATCH
        new[_RPC], new[_K] = _HALF_A, message
        return "receiver takes DATA", new

    def show(self, state: bytes) -> str:
        """One state for a witness; block numbers may have lost whole turns against the state before it."""
        return (
            f"entries {list(state[_ENTRIES : self.a])} a {list(state[self.a : self.b])} "
            f"b {list(state[self.b : self.ages])} published {state[_PUB]} noted {state[_NOTE]} "
            f"cursor {state[_CURSOR]} queue {list(state[self.queue :])}"
        )


def search(slots: int, depth: int, rules: Rules, *, until: frozenset[Fault] = frozenset()) -> Result:
    """Visit every reachable state breadth first, so that each witness is as short as can be.

    `until`: stop once faults of all these kinds were seen.  Weakened rules may have no end of states.
    """
    model = Model(slots, depth, rules)
    first = model.initial()
    states, index = [first], {first: 0}
    parents, labels = array("I", [0]), [""]
    # Steps without kills, as one list of targets and where each state's part of it ends: progress must not
    # depend on somebody being killed.
    targets, ends = array("I"), array("I")
    faults: dict[Fault, tuple[str, ...]] = {}
    taken: set[str] = set()

    def trace(at: int, *end: str) -> tuple[str, ...]:
        lines = list(end)
        while at:
            lines.append(f"{labels[at]:<50} {model.show(states[at])}")
            at = parents[at]
        return tuple(reversed(lines))

    def visit(at: int, found: Iterable[_Step]) -> Iterator[int]:
        for label, new in found:
            taken.add(label)
            if isinstance(new, Fault):
                if new not in faults:
                    faults[new] = trace(at, f"{label}: {new.name}")
                continue
            packed = model.pack(new)
            target = index.setdefault(packed, len(states))
            if target == len(states):
                states.append(packed)
                parents.append(at)
                labels.append(label)
            yield target

    for at, state in enumerate(states):  # grows as it goes
        targets.extend(visit(at, model.steps(state)))
        ends.append(len(targets))
        deque(visit(at, model.kills(state)), maxlen=0)
        if until and until <= faults.keys():
            return Result(visited=index.keys(), taken=frozenset(taken), faults=faults)
        if at > _LIMIT:
            raise AssertionError(f"slots {slots}, depth {depth}: more than {_LIMIT} states: {trace(at)[-1]}")

    good = bytearray(model.settled(state) for state in states)
    changed = True
    while changed:  # few rounds: most steps lead to a state found later
        changed = False
        for at in range(len(states) - 1, -1, -1):
            if not good[at] and any(good[to] for to in targets[ends[at - 1] if at else 0 : ends[at]]):
                good[at] = changed = True
    if 0 in good:
        faults[Fault.STUCK] = trace(good.index(0), "stuck")
    return Result(visited=index.keys(), taken=frozenset(taken), faults=faults)
