# SPDX-License-Identifier: Apache-2.0
"""Many messages at once: each verdict is the one that it would get alone, and one message costs only itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Never

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.host.guard.test_filters import ENDLESS, HOSTILE, SECRET, SUPPORT, filter_of

from sipc.errors import KernelError, SpecError
from sipc.guard.batches import AREA_SIZE
from sipc.guard.filters import CommandFilter, PythonFilter
from sipc.guard.verdicts import Pass, Quarantine, Reason, Verdict

pytestmark = pytest.mark.host

SIZES = (0, 1, 1000, 65536, AREA_SIZE // 4, AREA_SIZE // 2, 900_000)


def assert_only(verdicts: list[Verdict], messages: list[bytes], index: int, reasons: set[str]) -> None:
    """All are passed as they came, but for one, which is in quarantine for one of `reasons`."""
    assert len(verdicts) == len(messages)
    for number, (verdict, message) in enumerate(zip(verdicts, messages, strict=True)):
        if number == index:
            assert isinstance(verdict, Quarantine)
            assert verdict.reason in reasons
        else:
            assert verdict == Pass(message), number


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_function_costs_the_message_that_made_it_so(name: str) -> None:
    """Those before keep their verdicts, and those behind are judged by a new worker."""
    messages = [b"good %d" % number for number in range(40)]
    messages[17] = SECRET
    with filter_of(name, timeout=1.0 if name in ENDLESS else 20.0) as judge:
        assert_only(judge.judge_many(messages), messages, 17, HOSTILE[name])
        judge.timeout = 20.0
        assert judge.judge(b"good after") == Pass(b"good after")


@pytest.mark.parametrize("index", [0, 255, 256, 700, 999])
@pytest.mark.parametrize("name", ["loop", "kill"])
def test_a_hang_or_a_death_anywhere_in_many_parts_costs_one_message(name: str, index: int) -> None:
    """At the first and the last of a part, and of all; a mebibyte, so that the area was full meanwhile."""
    messages = [b"%d " % number + bytes(1500) for number in range(1000)]
    messages[index] = SECRET
    with filter_of(name, timeout=1.0) as judge:
        assert_only(judge.judge_many(messages), messages, index, HOSTILE[name])


@pytest.mark.parametrize("size", [100, 200_000, 600_000])
@pytest.mark.parametrize("function", ["judges:judge", "hostile:loop"])
def test_the_time_in_which_the_stage_was_elsewhere_is_not_the_messages(
    function: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sent, and nobody took that, it neither gave the worker the rest of a message nor took its answer."""
    away, clock = 0.0, time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + away)
    messages = [b"%d " % number + bytes(size) for number in range(8)]
    start = b"judged " if function.endswith("judge") else b""
    with PythonFilter(function, path=[SUPPORT], timeout=20.0) as judge:
        for message in messages:
            judge.submit([message])
            away += 3600.0
        for message in messages:
            assert judge.collect() == [Pass(start + message)]
            away += 3600.0


def test_a_message_that_hangs_while_the_stage_is_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no more than its time when the stage is back."""
    away, clock = 0.0, time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + away)
    messages = [b"good", SECRET, b"good too"]
    with filter_of("loop", timeout=1.0) as judge:
        judge.submit(messages)
        away += 3600.0
        assert_only(judge.collect(), messages, 1, {Reason.TIMEOUT})


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("turncoat", Reason.FRAMING, "another message"),
        ("oversized", Reason.FRAMING, "1000001 bytes"),
        ("unknown_code", Reason.FRAMING, "begins with 2"),
        ("ringing", Reason.TIMEOUT, "no answer"),
        ("scribble", Reason.DIED, "ended with -11"),
    ],
)
def test_a_worker_that_was_taken_over_changes_no_verdict_and_no_message(name: str, reason: str, detail: str) -> None:
    """With the tag in hand, the bell, and the addresses of the messages that wait."""
    messages = [b"good %d" % number for number in range(600)]
    messages[300] = SECRET
    with filter_of(name, timeout=1.0) as judge:
        verdicts = judge.judge_many(messages)
    assert_only(verdicts, messages, 300, {reason})
    said = verdicts[300]
    assert isinstance(said, Quarantine)
    assert detail in said.detail


def test_a_verdict_that_was_given_can_not_be_taken_back() -> None:
    """A message that takes the worker over does not free the one that was refused before it."""
    with filter_of("turncoat", timeout=1.0) as judge:
        verdicts = judge.judge_many([b"no", b"bad", b"free"])
    assert verdicts == [
        Quarantine("refused"), Quarantine(Reason.FRAMING, "it answered another message"), Pass(b"free"),
    ]  # fmt: skip


def test_the_area_can_be_read_and_nothing_else() -> None:
    """Not by mprotect(2), nor by opening it anew, writing, resizing or mapping it."""
    with filter_of("reach") as judge:
        verdict = judge.judge(b"?")
    assert isinstance(verdict, Pass)
    permissions, *said = verdict.payload.decode().split("\n")
    assert permissions == "r--s"
    assert said
    assert set(said) <= {"EPERM", "EACCES"}


def test_an_answer_to_what_was_not_read_is_none() -> None:
    """A large message goes through the pipe, which does not hold it; its tag goes before."""
    messages = [b"bad", bytes(900_000), b"good"]
    with filter_of("impatient", timeout=5.0) as judge:
        assert judge.judge_many(messages) == [
            Pass(b"bad"), Quarantine(Reason.FRAMING, "it answered before it had read the message"), Pass(b"good"),
        ]  # fmt: skip


def test_passing_a_message_larger_than_the_output_may_be_is_refused() -> None:
    """As it came is not a way around the limit."""
    messages = [b"x", bytes(1_000_001), b"y"]
    with filter_of("loop") as judge:
        assert_only(judge.judge_many(messages), messages, 1, {Reason.OUTPUT})


def test_messages_of_all_sizes_keep_their_order() -> None:
    """Through the area, and the largest through the pipe between them."""
    messages = [os.urandom(size) for size in (*SIZES, *reversed(SIZES)) for _ in range(3)]
    with filter_of("loop") as judge:
        assert judge.judge_many(messages) == [Pass(message) for message in messages]
        assert judge.judge_many([]) == []


def test_the_time_is_for_each_message_and_not_for_all() -> None:
    """Eight messages that take less than it, and together more."""
    messages = [b"0.4"] * 8
    with filter_of("slow", timeout=1.5) as judge:
        assert judge.judge_many(messages) == [Pass(message) for message in messages]
        assert_only(judge.judge_many([b"0.4", b"60", b"0.4"]), [b"0.4", b"60", b"0.4"], 1, {Reason.TIMEOUT})


# -- as one by one


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PythonFilter, PythonFilter]]:
    with filter_of("every_kind") as one, filter_of("every_kind") as other:
        yield one, other


kinds = st.sampled_from([b"p", b"d", b"q", b"c", b"e", b"n", b"l", b""])
a_message = st.tuples(kinds, st.binary(max_size=100)).map(b"".join)
deadly = st.one_of(a_message, a_message, a_message, st.just(b"kill"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(a_message, max_size=400))
def test_many_are_judged_as_one_by_one(messages: list[bytes], pair: tuple[PythonFilter, PythonFilter]) -> None:
    """Passed, changed, enlarged, dropped, refused, raised on: the same verdicts in the same order."""
    one, other = pair
    assert one.judge_many(messages) == [other.judge(message) for message in messages]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(deadly, max_size=12))
def test_many_are_judged_as_one_by_one_by_workers_that_die(
    messages: list[bytes], pair: tuple[PythonFilter, PythonFilter]
) -> None:
    """Also when several of them kill the worker."""
    one, other = pair
    assert one.judge_many(messages) == [other.judge(message) for message in messages]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(st.lists(a_message, max_size=30), min_size=1, max_size=8), ahead=st.integers(1, 4))
def test_what_was_submitted_first_is_collected_first(
    lists: list[list[bytes]], ahead: int, pair: tuple[PythonFilter, PythonFilter]
) -> None:
    """However many are on their way."""
    one, other = pair
    found: list[list[Verdict]] = []
    for messages in lists:
        one.submit(messages)
        if one.pending >= ahead:
            found.append(one.collect())
    while one.pending:
        found.append(one.collect())
    assert found == [[other.judge(message) for message in messages] for messages in lists]


def test_commands_judge_many_one_by_one() -> None:
    """A process for each."""
    with CommandFilter(["/bin/cat"]) as judge:
        assert judge.judge_many([b"a", b"b"]) == [Pass(b"a"), Pass(b"b")]


# -- submitted and not collected


def test_a_death_with_several_on_their_way_costs_one_message() -> None:
    """The others are handed to the new worker."""
    with filter_of("kill") as judge:
        for messages in ([b"a"], [b"b", SECRET, b"c"], [b"d"]):
            judge.submit(messages)
        assert judge.pending == 3
        assert judge.collect() == [Pass(b"a")]
        before, died, after = judge.collect()
        assert isinstance(died, Quarantine)
        assert (before, died.reason, after) == (Pass(b"b"), Reason.DIED, Pass(b"c"))
        assert judge.collect() == [Pass(b"d")]


def test_calls_out_of_turn_are_refused() -> None:
    """Collecting nothing, and judging between submitting and collecting."""
    with filter_of("loop") as judge:
        with pytest.raises(SpecError, match="nothing was submitted"):
            judge.collect()
        judge.submit([b"a"])
        with pytest.raises(SpecError, match="collect what was submitted"):
            judge.judge(b"b")
        assert judge.collect() == [Pass(b"a")]


class Interrupted(Exception):
    """What the handler below raises."""


def test_what_was_interrupted_can_be_collected_again() -> None:
    """A signal's handler that raises loses no message and shifts no verdict."""

    def interrupt(number: int, frame: FrameType | None) -> Never:
        raise Interrupted

    messages = [b"0", b"1", SECRET, b"3"]
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with filter_of("loop", timeout=20.0) as judge:
            judge.submit(messages)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Interrupted):
                judge.collect()
            assert judge.pending == 1
            judge.timeout = 1.0
            assert_only(judge.collect(), messages, 2, {Reason.TIMEOUT})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_worker_that_can_not_be_started_leaves_all_that_was_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting tries again; what `judge_many` raised for is forgotten, and submitting it did not happen."""
    messages = [b"a", SECRET, b"b"]
    with filter_of("exit_at_once") as judge:
        judge.submit(messages)
        with monkeypatch.context() as broken:
            broken.setattr(judge, "_interpreter", ["/nonexistent/python"])
            for _ in range(2):
                with pytest.raises(KernelError, match="/nonexistent/python"):
                    judge.collect()
        assert_only(judge.collect(), messages, 1, {Reason.DIED})
        with monkeypatch.context() as broken:
            broken.setattr(judge, "_interpreter", ["/nonexistent/python"])
            with pytest.raises(KernelError, match="/nonexistent/python"):
                judge.judge_many(messages)
            with pytest.raises(KernelError, match="/nonexistent/python"):
                judge.submit([b"c"])
        assert judge.pending == 0
        assert judge.judge_many([b"d"]) == [Pass(b"d")]


# -- within limits


def test_a_part_is_collected_when_it_is_large_or_old_enough() -> None:
    """At least one verdict each time, all of them in the end, in their order; of a command too."""
    messages = [b"l%d" % number for number in range(100)]  # 40,000 to 60,000 bytes are passed for each
    with filter_of("every_kind") as judge, CommandFilter(["/bin/cat"]) as command:
        judge.submit(messages)
        sizes = []
        found: list[Verdict] = []
        while judge.pending:
            part = judge.collect(most=100_000)
            sizes.append(len(part))
            found += part
        assert found == [Pass(message * 20_000) for message in messages]
        assert len(sizes) > 1
        few = messages[:4]
        command.submit(few)
        assert command.collect(seconds=0) == [Pass(few[0])]
        assert command.collect(most=1) == [Pass(few[1])]
        assert command.collect() == [Pass(few[2]), Pass(few[3])]
        with pytest.raises(SpecError, match="nothing was submitted"):
            command.collect()


def test_a_part_that_takes_too_long_is_collected_without_the_rest() -> None:
    """What is judged does not wait for what is not."""
    with filter_of("slow", timeout=4.0) as judge:
        judge.submit([b"0", b"0", b"60", b"0"])
        found: list[Verdict] = []
        while len(found) < 2:
            found += judge.collect(seconds=0)
        assert found == [Pass(b"0")] * 2
        assert_only(judge.collect(), [b"60", b"0"], 0, {Reason.TIMEOUT})
