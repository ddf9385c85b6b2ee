# SPDX-License-Identifier: Apache-2.0
"""Command filters: the verdict is what the exit code or the frame says, and everything else is a quarantine."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.host.guard.test_filters import assert_gone

from sipc.errors import KernelError, SpecError
from sipc.guard.filters import CommandFilter, PersistentFilter
from sipc.guard.verdicts import Drop, Pass, Quarantine, Reason, Verdict

pytestmark = pytest.mark.host

ANSWERING = Path(__file__).parents[2] / "support" / "answering.py"
MESSAGE = b"bad-secret-payload"
LIMIT = 1_000_000


def shell(script: str, *arguments: str, timeout: float = 20.0) -> CommandFilter:
    return CommandFilter(["/bin/sh", "-c", script, "sh", *arguments], timeout=timeout, max_output=LIMIT)


def reason(verdict: Verdict) -> str:
    """The reason of a quarantine."""
    assert isinstance(verdict, Quarantine), verdict
    return verdict.reason


# -- one process for each message


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("cat", Pass(MESSAGE)),
        ("cat; echo", Pass(MESSAGE + b"\n")),
        ("echo other", Pass(b"other\n")),
        ("cat; exit 10", Drop()),
        ("exit 10", Drop()),
        ("cat; echo why >&2; exit 20", Quarantine(Reason.FILTER, "why\n")),
        ("cat; exit 1", Quarantine(Reason.EXIT, "exit code 1")),
        ("cat; exit 255", Quarantine(Reason.EXIT, "exit code 255")),
        ("cat; /nonexistent 2>/dev/null", Quarantine(Reason.EXIT, "exit code 127")),
        ("exit 0", Quarantine(Reason.NO_OUTPUT, "it said pass, and nothing to pass")),
        ("exec >&-; cat", Quarantine(Reason.EXIT, "exit code 1; it said: cat: standard output: Bad file descriptor\n")),
        ("exec >&-; exit 0", Quarantine(Reason.NO_OUTPUT, "it said pass, and nothing to pass")),
        ("cat; kill -KILL $$", Quarantine(Reason.DIED, "ended with -9, without a whole answer")),
        ("cat; kill -SEGV $$", Quarantine(Reason.DIED, "ended with -11, without a whole answer")),
    ],
)
def test_the_exit_code_is_the_verdict(script: str, expected: Verdict) -> None:
    """0 with output, 10 and 20; nothing else is a verdict."""
    with shell(script) as judge:
        assert judge.judge(MESSAGE) == expected


@pytest.mark.parametrize("code", sorted({*range(256)} - {0, 10, 20})[::17])
def test_no_other_exit_code_passes(code: int) -> None:
    """Whatever was written before."""
    assert reason(shell(f"cat; exit {code}").judge(MESSAGE)) == Reason.EXIT


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("cat; while :; do :; done", Reason.TIMEOUT),
        ("cat; trap '' TERM INT HUP; while :; do :; done", Reason.TIMEOUT),
        ("cat; kill -STOP $$", Reason.TIMEOUT),
        ("cat /dev/zero >&2", Reason.TIMEOUT),
    ],
)
def test_what_does_not_end_is_ended(script: str, expected: Reason) -> None:
    """Within the time; what it had said counts for nothing."""
    assert reason(shell(script, timeout=0.7).judge(MESSAGE)) == expected


def test_endless_output_is_ended_at_the_limit() -> None:
    """Not when memory is full."""
    assert reason(shell("cat /dev/zero").judge(MESSAGE)) == Reason.OUTPUT
    assert reason(shell(f"head -c {LIMIT + 1} /dev/zero").judge(MESSAGE)) == Reason.OUTPUT
    assert shell(f"head -c {LIMIT} /dev/zero").judge(MESSAGE) == Pass(bytes(LIMIT))


def test_a_message_larger_than_a_pipe_goes_through_or_is_not_read() -> None:
    """A command may say no, or yes, before it has read everything."""
    message = os.urandom(900_000)
    assert shell("cat").judge(message) == Pass(message)
    assert shell("exec <&-; exit 10").judge(message) == Drop()
    assert shell("head -c 3").judge(message) == Pass(message[:3])


def test_its_last_words_are_the_detail_and_no_more() -> None:
    """Four thousand bytes of stderr at most, the end of it; hostile bytes are made text."""
    verdict = shell("head -c 100000 /dev/zero >&2; printf 'end\\377' >&2; exit 20").judge(MESSAGE)
    assert isinstance(verdict, Quarantine)
    assert len(verdict.detail) <= 4096
    assert verdict.detail.endswith("end\ufffd")


def test_children_that_stay_are_killed_with_their_group(tmp_path: Path) -> None:
    """They hold the output open, and do not hold up the verdict."""
    log = tmp_path / "pids"
    with shell('sleep 1000 & echo $! >>"$1"; sleep 1000 & echo $! >>"$1"; cat', str(log)) as judge:
        assert judge.judge(MESSAGE) == Pass(MESSAGE)
    pids = [int(line) for line in log.read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        assert_gone(pid)


def test_a_child_that_left_the_group_can_not_make_a_pass(tmp_path: Path) -> None:
    """It can still write in the command's name, so the output has no end: a timeout, not what was read so far."""
    log = tmp_path / "pid"
    script = 'setsid sh -c \'echo $$ >"$1"; exec sleep 1000\' sh "$1" & while [ ! -s "$1" ]; do :; done; cat'
    try:
        assert reason(shell(script, str(log), timeout=1.0).judge(MESSAGE)) == Reason.TIMEOUT
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(log.read_text()), signal.SIGKILL)


def test_a_command_must_be_there() -> None:
    """At the start, not at the first message; and a list, for no shell is involved."""
    with pytest.raises(SpecError, match="no such command"):
        CommandFilter(["no-such-command"])
    for argv in ("cat", [], [1]):
        with pytest.raises(SpecError, match="must be a list of words"):
            CommandFilter(argv)  # type: ignore[arg-type]


def test_a_command_that_is_gone_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    """Nothing was judged, so the message stays with the stage."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ncat\n")
    program.chmod(0o700)
    with CommandFilter([str(program)]) as judge:
        assert judge.judge(MESSAGE) == Pass(MESSAGE)
        program.unlink()
        with pytest.raises(KernelError, match="program"):
            judge.judge(MESSAGE)


def test_its_environment_is_short_and_its_directory_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stage was told by systemd, or has in its shell, is not the command's."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    with CommandFilter(["/bin/sh", "-c", 'pwd; echo "$GIVEN$NOTIFY_SOCKET"'], variables={"GIVEN": "given"},
                       directory=tmp_path) as judge:  # fmt: skip
        assert judge.judge(b"") == Pass(f"{tmp_path}\ngiven\n".encode())


# -- one process for all of them


def persistent(how: str, *more: str, timeout: float = 20.0) -> PersistentFilter:
    return PersistentFilter([sys.executable, str(ANSWERING), how, *more], timeout=timeout, max_output=LIMIT)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("garbage", {Reason.FRAMING}),
        ("unknown-code", {Reason.FRAMING}),
        ("half-a-header", {Reason.DIED}),
        ("half-a-frame", {Reason.DIED}),
        ("half-and-silence", {Reason.TIMEOUT}),
        ("oversize", {Reason.FRAMING}),
        ("huge", {Reason.FRAMING}),
        ("endless", {Reason.FRAMING}),
        ("more-than-one", {Reason.FRAMING}),
        ("close-stdout", {Reason.DIED}),
        ("exit", {Reason.DIED}),
        ("stop", {Reason.TIMEOUT}),
        ("loop", {Reason.TIMEOUT}),
        ("chatty-loop", {Reason.TIMEOUT}),
    ],
)
def test_a_hostile_command_never_passes_and_is_started_anew(how: str, expected: set[str]) -> None:
    """A quarantine; the next message meets a new process."""
    with persistent(how, timeout=0.7 if expected == {Reason.TIMEOUT} else 20.0) as judge:
        judge.timeout, timeout = 20.0, judge.timeout
        assert judge.judge(b"good") == Pass(b"good")
        first = judge._child
        judge.timeout = timeout
        assert reason(judge.judge(MESSAGE)) in expected
        assert first is not None
        assert_gone(first.pid)
        judge.timeout = 20.0
        assert judge.judge(b"good again") == Pass(b"good again")


@pytest.mark.parametrize("size", [0, 1, 65531, 65532, 65536, LIMIT])
def test_messages_of_any_size_are_framed_whole(size: int) -> None:
    """The process stays the same over many."""
    message = os.urandom(size)
    with persistent("none") as judge:
        assert judge.judge(message) == Pass(message)
        first = judge._child
        assert all(judge.judge(message) == Pass(message) for _ in range(3))
        assert judge._child is first


def test_drop_and_quarantine_are_verdicts_and_keep_the_process() -> None:
    """The text of a quarantine is its detail; a drop's is not used."""
    with persistent("drop") as judge:
        assert judge.judge(MESSAGE) == Drop()
        assert judge.judge(b"good") == Pass(b"good")
    with persistent("quarantine") as judge:
        assert judge.judge(MESSAGE) == Quarantine(Reason.FILTER, f"look at {MESSAGE.decode()}")
        first = judge._child
        assert judge.judge(b"good") == Pass(b"good")
        assert judge._child is first


def test_an_answer_to_a_message_that_was_not_read_is_none() -> None:
    """What was not looked at can not be passed."""
    with persistent("hasty") as judge:
        verdict = judge.judge(bytes(900_000))
        assert verdict == Quarantine(Reason.FRAMING, "it answered before it had read the message")
        assert judge.judge(b"good") == Pass(b"good")


def test_an_answer_too_many_is_not_the_next_messages(tmp_path: Path) -> None:
    """What lies there before a message is sent: that message is quarantined, the one after it judged anew."""
    flag = tmp_path / "flag"
    with persistent("late", str(flag)) as judge:
        verdict = judge.judge(b"late")
        if verdict == Pass(b"late"):
            while not flag.exists():
                pass
            verdict = judge.judge(b"next")
        assert reason(verdict) == Reason.FRAMING  # at once, when both answers came together
        assert judge.judge(b"good") == Pass(b"good")


def test_a_command_that_left_between_messages_is_started_anew() -> None:
    """Its leaving is not the next message's fault."""
    with persistent("leave") as judge:
        assert judge.judge(b"leave") == Pass(b"leave")
        child = judge._child
        assert child is not None
        select.select([child._pidfd], [], [], 30)
        assert judge.judge(b"good") == Pass(b"good")
