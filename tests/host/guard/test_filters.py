# SPDX-License-Identifier: Apache-2.0
"""Python filters: whatever the function does, it passes only by saying so, and the next message is judged again."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sysv_ipc
from tests.support.channels import Child

from sipc.errors import KernelError, SpecError
from sipc.guard.filters import PythonFilter
from sipc.guard.verdicts import Drop, Pass, Quarantine, Reason

pytestmark = pytest.mark.host

SUPPORT = Path(__file__).parents[2] / "support"
SECRET = b"bad-secret-payload-7f3a"
ENDLESS = {"loop", "c_loop", "deaf_loop", "stop", "forged_alone", "two_copies"}
# What each does with a message that begins with `bad`, and what must be said of it.
HOSTILE: dict[str, set[str]] = {
    "loop": {Reason.TIMEOUT},
    "c_loop": {Reason.TIMEOUT},
    "deaf_loop": {Reason.TIMEOUT},
    "stop": {Reason.TIMEOUT},
    "kill": {Reason.DIED},
    "segv": {Reason.DIED},
    "exit_at_once": {Reason.DIED},
    "exit_politely": {Reason.EXCEPTION},
    "quote": {Reason.EXCEPTION},
    "unspeakable": {Reason.EXCEPTION},
    "recurse": {Reason.EXCEPTION},
    "c_recurse": {Reason.DIED, Reason.EXCEPTION},  # by version: the stack ends, or CPython's count of it
    "nothing": {Reason.VERDICT},
    "true": {Reason.VERDICT},
    "plain_bytes": {Reason.VERDICT},
    "the_class": {Reason.VERDICT},
    "lookalike": {Reason.VERDICT},
    "smuggled": {Reason.VERDICT},
    "wordy": {Reason.FRAMING},
    "wordy_quarantine": {Reason.FILTER},
    "huge": {Reason.OUTPUT},
    "close_all": {Reason.DIED},
    "garbage": {Reason.FRAMING},
    "flood": {Reason.FRAMING},
    "half_a_frame": {Reason.DIED},
    "half_a_header": {Reason.DIED},
    "forged": {Reason.FRAMING},
    "forged_alone": {Reason.FRAMING},
    "two_copies": {Reason.TIMEOUT},
}


def filter_of(name: str, *, timeout: float = 20.0, decode: str | None = None, form: str = "json") -> PythonFilter:
    return PythonFilter(
        f"hostile:{name}", path=[SUPPORT], timeout=timeout, max_output=1_000_000, decode=decode, decode_format=form
    )


def assert_gone(pid: int) -> None:
    """The process has ended, or ends now."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 30)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_function_never_passes_and_the_next_message_is_judged(name: str) -> None:
    """A quarantine by the reason that it is, without a byte of the message in it; then a good message passes."""
    with filter_of(name, timeout=1.0 if name in ENDLESS else 20.0) as judge:
        assert judge.judge(b"good before") == Pass(b"good before")
        verdict = judge.judge(SECRET)
        assert isinstance(verdict, Quarantine)
        assert verdict.reason in HOSTILE[name]
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,39}", verdict.reason)
        judge.timeout = 20.0
        assert judge.judge(b"good after") == Pass(b"good after")


def test_an_exception_is_told_beside_the_message_and_not_in_the_reason() -> None:
    """Exceptions quote what they choked on: that is for the quarantine, never for the log."""
    with filter_of("quote") as judge:
        verdict = judge.judge(SECRET)
    assert verdict == Quarantine("exception", f"ValueError: {SECRET.decode()}")


def test_a_reason_that_is_a_part_of_the_message_is_not_logged() -> None:
    """It may be a word by its form and a secret by its content: it goes into the detail."""
    with filter_of("wordy_quarantine") as judge:
        assert judge.judge(SECRET) == Quarantine("filter", f"reason: {SECRET.decode()}; ")


def test_declared_reasons_are_the_only_ones() -> None:
    """Any other word becomes `filter`; a declared one counts even when the message has it."""
    message = b'{"amount": 500, "to": "over-limit"}'
    for reasons, expected in ((["over-limit"], "over-limit"), (["other"], "filter"), (None, "filter")):
        with PythonFilter("hostile:order", path=[SUPPORT], decode="hostile:Order", reasons=reasons) as judge:
            verdict = judge.judge(message)
            assert isinstance(verdict, Quarantine)
            assert verdict.reason == expected
    with pytest.raises(SpecError, match="a reason must be"):
        PythonFilter("m:f", reasons=["no word"])


def test_the_whole_process_group_goes(tmp_path: Path) -> None:
    """Every copy that a function made of itself is killed with it."""
    log = tmp_path / "pids"
    with filter_of("bomb", timeout=1.5) as judge:
        assert judge.judge(b"bad " + os.fsencode(log)) == Quarantine(Reason.TIMEOUT, "no answer within 1.5 s")
        pids = [int(line) for line in log.read_text().split()]
        assert len(pids) == 4
        for pid in pids:
            assert_gone(pid)


def test_a_copy_of_the_worker_has_no_say() -> None:
    """A function that forks and returns twice answers each message once."""
    with filter_of("copies") as judge:
        for number in range(20):
            message = str(number).encode()
            assert judge.judge(message) == Pass(message)


def test_what_is_printed_is_not_an_answer() -> None:
    """The function's standard output and error are nowhere."""
    with filter_of("chatty") as judge:
        for message in (b"\0\0\0\0\0", b"\x0a", b"text"):
            assert judge.judge(message) == Pass(message)


def test_what_is_said_unasked_is_no_answer_to_the_next(tmp_path: Path) -> None:
    """A frame that came after the answer: the next message is quarantined, and the one after it judged."""
    flag = tmp_path / "flag"
    with filter_of("late") as judge:
        assert judge.judge(os.fsencode(flag)) == Pass(os.fsencode(flag))
        flag.touch()
        while flag.exists():
            pass
        verdict = judge.judge(b"next")
        assert isinstance(verdict, Quarantine)
        assert verdict.reason == Reason.FRAMING
        assert judge.judge(b"/nonexistent/file") == Pass(b"/nonexistent/file")


def test_a_filter_that_died_between_messages_is_started_anew() -> None:
    """Its death is not the next message's fault."""
    with filter_of("look") as judge:
        first = judge.judge(b"pid")
        assert isinstance(first, Pass)
        os.kill(int(first.payload), signal.SIGKILL)
        child = judge._child
        assert child is not None
        select.select([child._pidfd], [], [], 30)
        second = judge.judge(b"pid")
        assert isinstance(second, Pass)
        assert second != first


def test_a_filter_sees_neither_segments_nor_descriptors_nor_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mapping and no descriptor of the stage is there, not even an inheritable one; no core file is left."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/secret")
    memory = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, 0o600, 4096)
    leak = os.memfd_create("leak")
    os.set_inheritable(leak, True)  # the mistake
    try:
        assert "SYSV" in Path("/proc/self/maps").read_text()
        with filter_of("look") as judge:
            maps, fds, variables, limits = (judge.judge(what) for what in (b"maps", b"fds", b"environ", b"limits"))
    finally:
        memory.detach()
        memory.remove()
        os.close(leak)
    assert isinstance(maps, Pass)
    assert b"SYSV" not in maps.payload
    assert isinstance(fds, Pass)
    seen = fds.payload.decode().split("\n")
    assert seen[:3] == ["/dev/null"] * 3
    assert all(place.startswith("pipe:") for place in seen[3:]), seen
    assert isinstance(variables, Pass)
    assert b"NOTIFY_SOCKET" not in variables.payload
    assert isinstance(limits, Pass)
    assert re.search(rb"Max core file size\s+0\s+0", limits.payload)


def test_a_filter_dies_with_its_stage(tmp_path: Path) -> None:
    """SIGKILL of the stage leaves no function looping for ever."""
    log = tmp_path / "pids"

    def stage() -> None:
        with filter_of("bomb", timeout=1000) as judge:
            assert judge._child is not None
            (tmp_path / "worker").write_text(str(judge._child.pid))
            (tmp_path / "worker").rename(tmp_path / "ready")
            judge.judge(b"bad " + os.fsencode(log))

    child = Child(stage)
    try:
        while not (log.exists() and log.read_text().count("\n") == 4):
            assert not child.done()
    finally:
        child.kill()
    worker = int((tmp_path / "ready").read_text())
    try:
        assert_gone(worker)
    finally:
        for pid in map(int, log.read_text().split()):  # its copies are the unit's cgroup's to kill
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 900_000])
def test_messages_of_any_size_come_back_whole(size: int) -> None:
    """Larger than a pipe, and empty."""
    message = os.urandom(size)
    with filter_of("loop") as judge:
        assert judge.judge(message) == Pass(message)


# -- declared types


@pytest.fixture(scope="module")
def orders() -> Iterator[PythonFilter]:
    with filter_of("order", decode="hostile:Order") as judge:
        yield judge


@pytest.mark.parametrize(
    "message",
    [
        b"", b"{", b"null", b"[]", b"\xff", b'{"amount": 1}', b'{"amount": "1", "to": "x"}', b"[" * 100_000,
        b'{"amount": 1, "to": "x", "more": 1}', b'{"amount": 1.5, "to": "x"}', b'{"amount": 1, "to": "x"} x',
        b'{"amount": 1, "to": "\xff"}', b'{"amount": true, "to": "x"}',
    ],
)  # fmt: skip
def test_a_message_that_is_not_of_the_declared_type_never_reaches_the_function(
    message: bytes, orders: PythonFilter
) -> None:
    """It is quarantined as such."""
    verdict = orders.judge(message)
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == Reason.TYPE


def test_the_function_gets_the_value_and_its_verdict_counts(orders: PythonFilter) -> None:
    """Pass with new bytes, drop, and quarantine with a reason of its own."""
    assert orders.judge(b' {"to": "x", "amount": 7} ') == Pass(b'{"amount":7,"to":"x"}')
    assert orders.judge(b'{"amount": 0, "to": "x"}') == Drop("empty")
    assert orders.judge(b'{"amount": 101, "to": "x"}') == Quarantine("over-limit", "101 to x")


def test_messagepack_is_decoded_too() -> None:
    """`decode_format` says which of the two."""
    import msgspec

    with filter_of("order", decode="hostile:Order", form="msgpack") as judge:
        assert judge.judge(msgspec.msgpack.encode({"amount": 7, "to": "x"})) == Pass(b'{"amount":7,"to":"x"}')
        assert isinstance(judge.judge(b'{"amount": 7, "to": "x"}'), Quarantine)


# -- what can not be loaded


@pytest.mark.parametrize(
    ("module", "name", "why"),
    [
        ("", "absent:f", "No module named 'absent'"),
        ("f = 1", "given:g", "has no attribute 'g'"),
        ("f = 1", "given:f", "is no function"),
        ("raise RuntimeError('at import')", "given:f", "at import"),
        ("import sys; sys.exit(0)", "given:f", "SystemExit"),
        ("import os; os._exit(0)", "given:f", "ended with 0"),
        ("def f(:", "given:f", "SyntaxError"),
        ("while True: pass", "given:f", "no answer within 1.0 s"),
    ],
)
def test_a_function_that_can_not_be_loaded_is_refused_at_once(module: str, name: str, why: str, tmp_path: Path) -> None:
    """A `SpecError` that says why, and no process is left."""
    (tmp_path / "given.py").write_text(module)
    with pytest.raises(SpecError, match=re.escape(why)) as caught:
        PythonFilter(name, path=[tmp_path], start_timeout=1.0 if "while" in module else 30.0)
    assert name in str(caught.value)


def test_a_module_of_the_current_directory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage was started from says nothing about whom it trusts."""
    (tmp_path / "given.py").write_text("def f(m): return m")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="No module named 'given'"):
        PythonFilter("given:f")


@pytest.mark.parametrize("name", ["f", "m:", ":f", "m:f:g", "m f", "m:f()", "../m:f", "-m:f", "m:f\n", ""])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    """Before anything is started."""
    with pytest.raises(SpecError, match="'module:name'"):
        PythonFilter(name)
    with pytest.raises(SpecError, match="'module:name'"):
        PythonFilter("m:f", decode=name)


def test_other_arguments_are_checked() -> None:
    """Time, size and format."""
    for timeout in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SpecError, match="timeout"):
            PythonFilter("m:f", timeout=timeout)
    with pytest.raises(SpecError, match="max_output"):
        PythonFilter("m:f", max_output=0)
    with pytest.raises(SpecError, match="decode_format"):
        PythonFilter("m:f", decode_format="xml")


def test_a_filter_that_can_not_be_started_any_more_is_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was judged, so the message stays with the stage."""
    with filter_of("exit_at_once") as judge:
        assert isinstance(judge.judge(SECRET), Quarantine)
        monkeypatch.setattr(judge, "_interpreter", ["/nonexistent/python"])
        with pytest.raises(KernelError, match="/nonexistent/python"):
            judge.judge(b"good")
