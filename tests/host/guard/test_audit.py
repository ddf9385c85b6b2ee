# SPDX-License-Identifier: Apache-2.0
"""Audit logs: they go on over kills and full disks, say what was torn, and hold no byte of a message."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.support.channels import Child
from tests.support.faults import Faults, at_every_step, with_every_failure

from sipc.cli.exits import Exit
from sipc.cli.guard_audit import audit as command
from sipc.errors import AuditError, Busy, Closed, KernelError, SpecError
from sipc.guard.audit import Audit, FileLog, JournalLog
from sipc.guard.chain import GENESIS, MOST, decode, read_lines, verify
from sipc.guard.verdicts import Code

pytestmark = pytest.mark.host

SECRET = b"secret-payload-7f3a"


def opened(path: Path) -> Audit:
    return Audit(FileLog(path, sync=False), stage="scrub")


def record(log: Audit, seq: int, **more: Any) -> None:
    given = {"channel": "raw", "epoch": 0xABCD, "verdict": Code.DROP, "reason": "filter", **more}
    log.record([SECRET], [(seq, 0, 1)], **given)


def seq_of(entry: dict[str, Any]) -> int:
    ((seq, _, _),) = entry["blocks"]
    assert isinstance(seq, int)
    return seq


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(path: Path) -> bool:
    with path.open("rb") as stream:
        return verify(read_lines(stream)).ok


def test_a_log_says_what_became_of_each_message(folder: Path) -> None:
    """Verdict, reason, sizes and digests, in a chain that goes on over restarts."""
    path = folder / "log"
    with opened(path) as log:
        assert log.head == GENESIS
        record(log, 1, verdict=Code.PASS, reason="", passed=[b"clean"])
        record(log, 2)
        head = log.head
    with opened(path) as log:
        assert log.head == head
        record(log, 3, verdict=Code.QUARANTINE, reason="type")
    found = entries(path)
    assert [(e["number"], seq_of(e), e["verdict"], e["reason"]) for e in found] == [
        (1, 1, "pass", ""), (2, 2, "drop", "filter"), (3, 3, "quarantine", "type"),
    ]  # fmt: skip
    assert {(e["stage"], e["channel"], e["epoch"], *e["sizes"]) for e in found} == {
        ("scrub", "raw", "000000000000abcd", len(SECRET))
    }
    assert [e["passed_sizes"] for e in found] == [[5], [], []]
    assert [e["previous"] for e in found] == [GENESIS, found[0]["hash"], found[1]["hash"]]
    assert right(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_messages_that_fare_alike_are_one_entry_up_to_a_limit(folder: Path) -> None:
    """Of one block or many; each message with its own digest, the first and the last too."""
    path = folder / "log"
    messages = [b"%d" % number for number in range(2 * MOST + 3)]
    blocks = [(7, 2, 1), (8, 0, MOST), (9, 0, 1), (10, 5, len(messages) - MOST - 2)]
    with opened(path) as log:
        log.record(messages, blocks, channel="raw", epoch=1, verdict=Code.PASS, passed=messages[::-1])
        log.record(messages[:2], [(11, 0, 2)], channel="raw", epoch=1, verdict=Code.PASS)
    first, second, third, fourth = found = entries(path)
    assert [len(entry["sizes"]) for entry in found] == [MOST, MOST, 3, 2]
    assert first["blocks"] == [[7, 2, 1], [8, 0, MOST - 1]]
    assert second["blocks"] == [[8, MOST - 1, 1], [9, 0, 1], [10, 5, MOST - 2]]
    assert third["blocks"] == [[10, 5 + MOST - 2, 3]]
    digests = [hashlib.sha256(message).hexdigest() for message in messages]
    assert [*first["digests"], *second["digests"], *third["digests"]] == digests
    assert [*first["passed_digests"], *second["passed_digests"], *third["passed_digests"]] == digests[::-1]
    assert (fourth["digests"], fourth["passed_digests"]) == (digests[:2], [])
    assert right(path)


def test_no_byte_of_a_message_is_in_the_log(folder: Path) -> None:
    """Nor can one be put there by a reason or a name: the entry is refused, and the log goes on."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1, verdict=Code.PASS, reason="", passed=[SECRET])
        for more in ({"reason": "two words"}, {"reason": f"{SECRET.decode()}\n"}, {"reason": "x" * 41}):
            with pytest.raises(SpecError, match="audit: reason"):
                record(log, 2, **more)
        with pytest.raises(SpecError, match="audit: channel"):
            record(log, 2, channel="Raw\n")
        record(log, 3)
    assert SECRET not in path.read_bytes()
    assert len(entries(path)) == 2
    assert right(path)


@pytest.mark.parametrize("before", [0, 2])
def test_a_torn_line_is_kept_cut_off_and_said(before: int, folder: Path) -> None:
    """Torn at any byte: the log is right again, an entry says how much, and the remains lie beside it."""
    path = folder / "log"
    with opened(path) as log:
        for seq in range(before + 1):
            record(log, seq)
    whole = path.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        with opened(path) as log:
            record(log, 7)
        found = entries(path)
        repair = found[before]
        assert (repair["verdict"], repair["reason"], repair["sizes"]) == ("repair", "torn-line", [end - start])
        assert len(found) == before + 2
        assert right(path)
        torn = folder / f"log.torn-{before + 1}"
        assert torn.read_bytes() == whole[start:end]
        torn.unlink()


def test_zeros_where_a_line_was_going_to_be_are_a_torn_line(folder: Path) -> None:
    """As a power failure leaves them."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)
    with path.open("ab") as file:
        file.write(bytes(300))
    with opened(path) as log:
        record(log, 2)
    assert [e["verdict"] for e in entries(path)] == ["drop", "repair", "drop"]
    assert right(path)


@pytest.mark.parametrize("end", [b"note", b"x" * 200_000, b'{"version":3,"number":1', b"\n", b"line\n", b"{}\n"])
def test_what_is_no_log_is_left_alone(end: bytes, folder: Path) -> None:
    """Somebody's file, or a log that was edited: refused, and not a byte of it changed."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)
    content = path.read_bytes() + end
    path.write_bytes(content)
    with pytest.raises(AuditError, match="left alone"):
        opened(path)
    assert path.read_bytes() == content
    assert os.listdir(folder) == ["log"]


def test_an_edited_last_entry_is_not_built_upon(folder: Path) -> None:
    """The next entry would make the edit look right."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)
    path.write_bytes(path.read_bytes().replace(b'"drop"', b'"pass"'))
    with pytest.raises(AuditError, match="it was edited"):
        opened(path)


def test_a_killed_stage_leaves_a_log_that_goes_on(faults: Faults, folder: Path) -> None:
    """Killed at every step of opening and writing, with a torn line to begin with: nothing is lost, all is said."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)
        record(log, 2)
    torn = path.read_bytes()[:-7]

    def fresh() -> None:
        for name in os.listdir(folder):
            (folder / name).unlink()
        path.write_bytes(torn)
        path.chmod(0o600)

    def stage() -> int:
        with Audit(FileLog(path), stage="scrub") as log:
            record(log, 3)
        return 0

    def check(whole: bool) -> None:
        if not whole:
            stage()
        assert right(path)
        assert [(e["verdict"], seq_of(e)) for e in entries(path)] == [("drop", 1), ("repair", 0), ("drop", 3)]
        assert (folder / "log.torn-2").read_bytes() == torn.splitlines(keepends=True)[1]
        fresh()

    fresh()
    assert at_every_step(faults, stage, check) > 15


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failing_disk_is_told_and_the_log_stays_right(code: int, faults: Faults, folder: Path) -> None:
    """Every call fails in turn; opened again, the log goes on, and what was said to be there is."""
    path = folder / "log"

    def stage() -> int:
        with Audit(FileLog(path), stage="scrub") as log:
            record(log, 1)
            record(log, 2)
        return 0

    def check(well: bool) -> None:
        before = [seq_of(e) for e in entries(path) if e["verdict"] == "drop"] if path.exists() else []
        if well:
            assert before == [1, 2]
        with Audit(FileLog(path), stage="scrub") as log:
            record(log, 3)
        assert right(path)
        assert [seq_of(e) for e in entries(path)] == [*before, 3]
        path.unlink()

    with_every_failure(faults, stage, check, code)


@pytest.mark.parametrize("sync", [False, True])
def test_an_entry_that_did_not_reach_the_disk_is_not_there(sync: bool, faults: Faults, folder: Path) -> None:
    """The kernel says once that it could not be written; who opens the log then would take it for safe."""
    path = folder / "log"

    def stage() -> int:
        with Audit(FileLog(path, sync=sync), stage="scrub") as log:
            record(log, 1)
            log.sync()
            record(log, 2)
            record(log, 3)
            if not sync:
                log.sync()
        return 0

    calls = faults.act(stage).calls
    last = max(number for number, call in enumerate(calls, 1) if call == "fsync")
    path.unlink()
    run = faults.act(stage, first=last)
    assert "KernelError" in run.errors.splitlines()[-1]
    there = [1, 2] if sync else [1]
    assert [seq_of(entry) for entry in entries(path)] == there
    with opened(path) as log:
        record(log, 4)
    assert right(path)
    assert [seq_of(entry) for entry in entries(path)] == [*there, 4]


def test_entries_that_are_on_the_disk_are_not_cut_off(faults: Faults, folder: Path) -> None:
    """Each was synced when it was made, and its message may be sent: what fails later is not about it."""
    path = folder / "log"

    def stage() -> int:
        with Audit(FileLog(path), stage="scrub") as log:
            record(log, 1)
            record(log, 2)
            log.sync()
        return 0

    last = max(number for number, call in enumerate(faults.act(stage).calls, 1) if call == "fsync")
    path.unlink()
    assert "KernelError" in faults.act(stage, first=last).errors.splitlines()[-1]
    assert [seq_of(entry) for entry in entries(path)] == [1, 2]


def test_what_a_killed_stage_did_not_sync_is_on_disk_or_the_log_is_refused(faults: Faults, folder: Path) -> None:
    """Before anybody believes an entry that is there."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)

    def stage() -> int:
        opened(path).close()
        return 0

    calls = faults.act(stage).calls
    assert "fsync" in calls
    run = faults.act(stage, first=calls.index("fsync") + 1 + calls[calls.index("fsync") + 1 :].index("fsync") + 1)
    assert "AuditError" in run.errors.splitlines()[-1]
    assert len(entries(path)) == 1


def test_a_full_disk_leaves_no_half_line(folder: Path) -> None:
    """A write that was short is taken back; the log is then to be opened again."""
    import resource
    import signal

    path = folder / "log"

    def act() -> tuple[int | None, bool]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with opened(path) as log:
            record(log, 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))
            with pytest.raises(KernelError) as caught:
                record(log, 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            with pytest.raises(Closed, match="open it again"):
                record(log, 2)
        return caught.value.errno, right(path)

    assert Child(act).result() == (errno.EFBIG, True)
    assert len(entries(path)) == 1


def test_a_message_that_comes_again_after_a_restart_is_one_entry(folder: Path) -> None:
    """With the same result; another result is another entry, and so is a repeat within one process."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)
    with opened(path) as log:
        record(log, 1)
        record(log, 1)
    with opened(path) as log:
        record(log, 1, reason="timeout")
    assert [(seq_of(e), e["reason"]) for e in entries(path)] == [(1, "filter"), (1, "filter"), (1, "timeout")]


def test_a_log_is_one_process_alones_and_private(folder: Path) -> None:
    """A second opener is `Busy`; links, pipes and what others may write are refused."""
    path = folder / "log"

    def second() -> None:
        with pytest.raises(Busy):
            FileLog(path)

    with opened(path) as log:
        Child(second).result()
    with pytest.raises(Closed):
        record(log, 1)
    path.chmod(0o620)
    with pytest.raises(SpecError, match="nobody else may write"):
        FileLog(path)
    (folder / "link").symlink_to("log")
    with pytest.raises(KernelError, match="link"):
        FileLog(folder / "link")
    folder.chmod(0o777)
    with pytest.raises(SpecError, match="can be changed by others"):
        FileLog(folder / "new")


# -- the journal


class Journal:
    """What journald would get."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def messages(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        while True:
            try:
                data = self.socket.recv(1 << 20).decode()
            except BlockingIOError:
                return found
            assert data.endswith("\n")
            found.append(dict(line.split("=", 1) for line in data[:-1].split("\n")))


def test_the_journal_gets_a_chain_that_verifies(folder: Path, tmp_path: Path) -> None:
    """As messages of its native protocol, over restarts; a repeat after a restart is allowed for."""
    journal = Journal(tmp_path / "socket")
    for seq in (1, 2):
        with Audit(JournalLog(folder / "last", address=tmp_path / "socket"), stage="scrub") as log:
            record(log, seq)
            record(log, seq + 10, verdict=Code.PASS, reason="", passed=[b"x"])
    found = journal.messages()
    journal.socket.close()
    assert [(m["PRIORITY"], m["SYSLOG_IDENTIFIER"], m["SIPC_AUDIT"]) for m in found] == [
        (priority, "sipc-guard", "scrub") for priority in "56656"
    ]
    lines = [m["MESSAGE"].encode() + b"\n" for m in found]
    assert SECRET not in b"".join(lines)
    report = verify(lines, repeats=True)
    assert (report.ok, report.entries, report.repeats) == (True, 4, 1)
    assert decode((folder / "last").read_bytes()).hash == report.head


def test_a_killed_stage_leaves_no_gap_in_the_journal(faults: Faults, folder: Path, tmp_path: Path) -> None:
    """Killed at every step: with what the next process sends, the chain is whole."""
    journal = Journal(tmp_path / "socket")

    def stage() -> int:
        with Audit(JournalLog(folder / "last", address=tmp_path / "socket"), stage="scrub") as log:
            record(log, 1)
            record(log, 2)
        return 0

    def check(whole: bool) -> None:
        if not whole:
            stage()
        lines = [m["MESSAGE"].encode() + b"\n" for m in journal.messages()]
        report = verify(lines, repeats=True)
        assert report.ok, report.problems
        assert {decode(line).blocks[0][0] for line in lines} == {1, 2}
        for name in os.listdir(folder):
            (folder / name).unlink()

    assert at_every_step(faults, stage, check) > 15
    journal.socket.close()


def test_without_a_journal_the_stage_is_told_and_the_line_is_kept(folder: Path, tmp_path: Path) -> None:
    """Nothing goes on unlogged; when the journal is back the line comes."""
    with Audit(JournalLog(folder / "last", address=tmp_path / "socket"), stage="scrub") as log:
        with pytest.raises(KernelError, match="journald must be running"):
            record(log, 1)
        with pytest.raises(Closed):
            record(log, 1)
    journal = Journal(tmp_path / "socket")
    with Audit(JournalLog(folder / "last", address=tmp_path / "socket"), stage="scrub") as log:
        record(log, 1)  # the message comes again
    lines = [m["MESSAGE"].encode() + b"\n" for m in journal.messages()]
    journal.socket.close()
    assert [decode(line).blocks[0][0] for line in lines] == [1]


# -- the command


def run(*arguments: str | Path) -> int:
    result = command.main(args=["verify", *map(str, arguments)], prog_name="sipc guard audit", standalone_mode=False)
    assert isinstance(result, int)
    return result


def test_the_command_says_yes_or_no_and_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit codes, text and JSON."""
    path = folder / "log"
    with opened(path) as log:
        for seq in range(4):
            record(log, seq)
        head = log.head
    assert run(path) == Exit.OK
    assert f"4 messages in 4 entries, each bound to the one before; head {head}\nnot proven:" in capsys.readouterr().out
    assert run(path, "--head", head) == Exit.OK
    assert capsys.readouterr().out.endswith("the noted head is entry 4 of 4\n")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert run(path) == Exit.NO
    assert capsys.readouterr().out == f"{path}:2: entry 2 is missing\n"
    path.write_bytes(b"".join(lines[:2]))
    assert run(path, "--head", head, "--json") == Exit.NO
    document = json.loads(capsys.readouterr().out)
    assert [document[key] for key in ("version", "ok", "entries", "messages")] == [1, False, 2, 2]
    assert document["problems"] == [
        {"line": 2, "problem": f"no entry has the hash {head}: the end of the log was cut off, or rewritten"}
    ]


def test_the_command_takes_a_journal_from_its_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With repeats when told so."""
    path = folder / "log"
    with opened(path) as log:
        record(log, 1)

    for arguments, expected in ((("-", "--journal"), Exit.OK), (("-",), Exit.NO)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes() * 2)))
        assert run(*arguments) == expected
    assert "not in its place" in capsys.readouterr().out


def test_the_command_refuses_what_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty log, no log; and a file that is no log has its problems counted, not printed without end."""
    (folder / "empty").touch()
    with pytest.raises(SpecError, match="nothing to verify"):
        run(folder / "empty")
    with pytest.raises(SpecError, match="absent"):
        run(folder / "absent")
    with pytest.raises(SpecError, match="has no end"):
        run("/dev/zero")
    (folder / "noise").write_bytes(b"line\n" * 1000)
    assert run(folder / "noise") == Exit.NO
    out = capsys.readouterr().out
    assert out.count("\n") == 21
    assert out.endswith("and 980 more\n")
