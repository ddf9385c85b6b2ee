# SPDX-License-Identifier: Apache-2.0
"""Audit: what became of each message, appended to a file or sent to the journal.

Owns where entries are written and how a log goes on after a kill; what an entry is stands in `chain.py`.  What may be
logged is fixed there: names, numbers, digests, and a reason that is one word.

A file: one write(2) for each line, then fsync(2).  A line without its end was torn by a crash: what is left of it is
kept in FILE.torn-N, cut off, and entry N says so.  The journal takes datagrams and gives nothing back, so the last line
is kept in a file of the stage's own before it is sent, and sent again when the log is opened: there a line may come
twice, and none is missing.  (journald drops what comes too fast; its unit needs LogRateLimitIntervalSec=0.)
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from sipc.errors import AuditError, Closed, SpecError
from sipc.guard.chain import GENESIS, MAX_LINE, MOST, PREFIX, Entry, decode
from sipc.guard.quarantine import digests, timestamp
from sipc.guard.storage import close_directory, doing, open_directory, read_file, remove, write_all, write_new
from sipc.guard.verdicts import Code, MessageId
from sipc.registry import lock

__all__ = ("JOURNAL", "Audit", "Block", "FileLog", "JournalLog", "Log")

Block = tuple[int, int, int]  # its number, the first record of it, how many

JOURNAL = Path("/run/systemd/journal/socket")
_ADVICE = "make room, or let this user write there; open the log again, and the message comes again"
_LOOK_BACK = 16 * MAX_LINE  # what is no verdict (a repair, a violation) stands alone, or a few in a row
_JOURNAL_WAIT = 10.0  # seconds that journald may be busy before that counts as a failure
_INFO, _NOTICE = 6, 5  # syslog(3)


class Log(Protocol):
    """Where lines go.  `tail` is the last whole line when it was opened, `torn` what came after it."""

    tail: bytes | None
    torn: bytes

    def append(self, entry: Entry) -> None:
        """Add one line; it is safe when this returns.  After an error, open the log anew."""
        ...

    def sync(self) -> None:
        """Bring to disk what was appended."""
        ...

    def last_of(self, verdicts: Collection[str]) -> Entry | None:
        """The newest entry with one of these verdicts, among the last that there are."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class FileLog:
    """JSON lines in a file; one process at a time."""

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = True) -> None:
        """Open or make `path`; cut off, and keep, a line that was torn.

        `sync` False leaves the disk to `sync()`: a power failure may then tear more than the last line off.
        Raises `AuditError` when the file ends in what is no log, `Busy` when another process has it open.
        """
        self.path = Path(path)
        self._sync = sync
        self._fd = self._directory = -1
        self._on_disk = 0  # bytes of it
        self.tail: bytes | None = None
        self.torn = b""
        try:
            self._directory = open_directory(self.path.parent, "directory of the audit log", private=True)
            with doing("open", self.path, _ADVICE):
                self._fd = os.open(
                    self.path.name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
                    0o600, dir_fd=self._directory,
                )  # fmt: skip
                status = os.fstat(self._fd)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    raise SpecError(
                        f"audit log {self.path} is no plain file of this user that nobody else may write: name another"
                    )
                lock(self._fd, f"audit log {self.path} is open in another process, and only one may be: end it")
                self._find_end(status.st_size)
                os.fsync(self._directory)
            self._settle()
        except BaseException:
            self.close()
            raise

    def _find_end(self, size: int) -> None:
        start = max(0, size - 2 * MAX_LINE)
        data = os.pread(self._fd, size - start, start)
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            self.tail = whole.rpartition(b"\n")[2] + newline
        entry = _entry_of(self.tail, self.path)
        name = f"{self.path.name}.torn-{(entry.number if entry else 0) + 1}"
        if rest:
            # A power failure may leave zeros where a line was going to be.
            if len(rest) > MAX_LINE or not (rest[: len(PREFIX)] == PREFIX[: len(rest)] or not rest.strip(b"\0")):
                raise AuditError(
                    f"audit log {self.path} ends in what is no entry: it was left alone; keep it, and begin another"
                )
            write_new(self._directory, name, rest, 0o600)
            os.fsync(self._directory)
            os.ftruncate(self._fd, size - len(rest))
        # Killed between the cut and the entry about it: the file of that name is the only one who knows.
        with suppress(FileNotFoundError):
            self.torn = read_file(self._directory, name, self.path.with_name(name), MAX_LINE)

    def _settle(self) -> None:
        """What a killed predecessor left is brought to disk, before anybody believes that it is there."""
        try:
            self._on_disk = os.fstat(self._fd).st_size
            os.fsync(self._fd)
        except OSError as error:
            raise self._in_doubt(error) from error

    def _in_doubt(self, error: OSError) -> AuditError:
        return AuditError(
            f"audit log {self.path}: {error.strerror}: what is in it may not be on the disk, and the kernel does not "
            "say so twice: look after the disk, and verify the log (sipc guard audit verify)"
        )

    def append(self, entry: Entry) -> None:
        """Add one line, on disk when this returns."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            raise Closed(f"audit log {self.path} was closed, or a line of it failed: open it again")
        try:
            with doing("write", self.path, _ADVICE):
                size = os.fstat(fd).st_size
                line = entry.line()
                try:
                    write_all(fd, line)
                    if self._sync:
                        os.fsync(fd)
                        self._on_disk = size + len(line)
                except BaseException:
                    with suppress(OSError):  # what can not be cut off now is cut off when the log is opened
                        os.ftruncate(fd, size)
                    raise
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def sync(self) -> None:
        """Bring to disk what was appended; what does not get there is cut off, and the log is to be opened again.

        A page that could not be written counts as clean, and the next fsync(2) says that all is well: a successor would
        find the entry, and not log the message again.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            with doing("fsync", self.path, _ADVICE):
                size = os.fstat(fd).st_size
                try:
                    os.fsync(fd)
                except OSError:
                    try:
                        os.ftruncate(fd, self._on_disk)
                    except OSError as error:
                        raise self._in_doubt(error) from error
                    raise
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._on_disk = fd, size

    def last_of(self, verdicts: Collection[str]) -> Entry | None:
        """The newest whole entry with one of these verdicts among the last in the file."""
        with doing("read", self.path, _ADVICE):
            size = os.fstat(self._fd).st_size
            start = max(0, size - _LOOK_BACK)
            data = os.pread(self._fd, size - start, start)
        for line in reversed(data.splitlines(keepends=True)[1 if start else 0 :]):
            entry = _entry_of(line, self.path)
            if entry is not None and entry.verdict in verdicts:
                return entry
        return None

    def close(self) -> None:
        """Close the file."""
        for fd in (self._fd, self._directory):
            if fd >= 0:
                close_directory(fd)
        self._fd = self._directory = -1


class JournalLog:
    """Entries as messages to journald, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    `journalctl --all -o cat SIPC_GUARD=GUARD SIPC_AUDIT=STAGE | sipc guard audit verify --journal -` verifies them.
    """

    def __init__(
        self, state: str | os.PathLike[str], *, guard: str = "", address: str | os.PathLike[str] = JOURNAL
    ) -> None:
        """Open; `state` is a file in a directory of this user's own, for the last line, which is sent again."""
        self.path = Path(state)
        self._guard = guard
        self._address = os.fspath(address)
        self.tail: bytes | None = None
        self.torn = b""
        self._socket: socket.socket | None = None
        self._directory = open_directory(self.path.parent, "directory of the audit state", private=True)
        try:
            with doing("open", self.path, _ADVICE):
                lock(self._directory, f"{self.path.parent} is in use by another process: give each log its own")
                with suppress(FileNotFoundError):
                    self.tail = read_file(self._directory, self.path.name, self.path, MAX_LINE)
            entry = _entry_of(self.tail, self.path)
            with doing("socket", self._address, "this process must be allowed sockets (AF_UNIX) to reach journald"):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_JOURNAL_WAIT)
            if entry is not None:
                with doing("fsync", self.path, _ADVICE):
                    os.fsync(self._directory)  # who kept it may have been killed before this
                self._send(self._socket, entry)
        except BaseException:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Keep the line, then send it."""
        peer, self._socket = self._socket, None
        if peer is None:
            raise Closed(f"the audit log of {self.path} was closed, or a line of it failed: open it again")
        try:
            new = f".{self.path.name}.new"
            with doing("write", self.path, _ADVICE):
                write_new(self._directory, new, entry.line(), 0o600)
                os.rename(new, self.path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                os.fsync(self._directory)
            self._send(peer, entry)
        except BaseException:
            peer.close()
            raise
        self._socket = peer

    def sync(self) -> None:
        """Nothing: the line is kept before it is sent."""

    def last_of(self, verdicts: Collection[str]) -> Entry | None:
        """The newest entry when this was opened, if it has one of these verdicts."""
        entry = _entry_of(self.tail, self.path)
        return entry if entry is not None and entry.verdict in verdicts else None

    def _send(self, peer: socket.socket, entry: Entry) -> None:
        priority = _INFO if entry.verdict == "pass" else _NOTICE
        fields = (
            b"MESSAGE=" + entry.line().rstrip(b"\n"), f"PRIORITY={priority}".encode(),
            b"SYSLOG_IDENTIFIER=sipc-guard", f"SIPC_GUARD={self._guard}".encode(), f"SIPC_AUDIT={entry.stage}".encode(),
        )  # fmt: skip
        with doing(
            "sendto", self._address, "journald must be running; the line is kept, and sent when this opens again"
        ):
            peer.sendto(b"".join(part + b"\n" for part in fields), self._address)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._directory >= 0:
            with suppress(OSError):
                remove(self._directory, f".{self.path.name}.new")
            close_directory(self._directory)
            self._directory = -1


def _entry_of(tail: bytes | None, path: Path) -> Entry | None:
    if tail is None:
        return None
    try:
        return decode(tail)
    except SpecError as error:
        raise AuditError(
            f"audit log {path}: its last line is no entry: {error}; it was left alone: "
            "verify it (sipc guard audit verify), keep it, and begin another"
        ) from error


class Audit:
    """The audit of one stage: what became of every message, each entry bound to the one before."""

    def __init__(self, log: Log, *, stage: str) -> None:
        """Go on where `log` ends, which is closed with this; a torn line of it becomes an entry of its own."""
        self._log = log
        self._stage = stage
        self._last = decode(log.tail) if log.tail is not None else None
        self._inherited = True
        if log.torn:
            self._append([log.torn], [(0, 0, 1)], 0, channel="", verdict="repair", reason="torn-line")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def sync(self) -> None:
        """Bring to disk what was recorded, where the log does not do that for each entry."""
        self._log.sync()

    @property
    def head(self) -> str:
        """The hash of the last entry: note it where who may write the log may not write."""
        return self._last.hash if self._last is not None else GENESIS

    def record(
        self, messages: Sequence[bytes], blocks: Sequence[Block], *, channel: str, epoch: int, verdict: Code,
        reason: str = "", passed: Sequence[bytes] = (),
    ) -> None:  # fmt: skip
        """Say what became of messages that came one behind the other, and fared alike.

        `blocks` says which they are: (seq, first record, count) of each block; `passed` is what was handed on, where
        that is not what came.  With a log that syncs it is on disk when this returns.  What comes again after a crash,
        with the same result, is the same entry.
        """
        start = 0
        for some in _parts(blocks):
            end = start + sum(count for _, _, count in some)
            self._append(
                messages[start:end], some, epoch, channel=channel, verdict=verdict.name.lower(), reason=reason,
                passed=passed[start:end],
            )  # fmt: skip
            start = end

    def violation(self, identity: MessageId, *, channel: str, reason: str) -> None:
        """Say that a block broke the protocol; nothing of it was read."""
        self._append((), [(identity.seq, 0, 0)], identity.epoch, channel=channel, verdict="violation", reason=reason)

    def _append(
        self, messages: Sequence[bytes], blocks: Sequence[Block], epoch: int, *, channel: str, verdict: str,
        reason: str, passed: Sequence[bytes] = (),
    ) -> None:  # fmt: skip
        last = self._last
        entry = Entry(
            number=(last.number if last is not None else 0) + 1,
            time=timestamp(time.time()),
            stage=self._stage,
            channel=channel,
            epoch=f"{epoch:016x}",
            blocks=tuple(blocks),
            verdict=verdict,
            reason=str(reason),
            sizes=tuple(map(len, messages)),
            digests=digests(messages),
            passed_sizes=tuple(map(len, passed)),
            passed_digests=digests(passed),
            previous=self.head,
        )
        if self._inherited and last is not None and _same(last, entry):
            self._inherited = False
            return
        self._log.append(entry)
        self._last, self._inherited = entry, False


def _parts(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """The same messages, as many at a time as an entry has."""
    part: list[Block] = []
    room = MOST
    for seq, first, count in blocks:
        record, left = first, count
        while left:
            taken = min(left, room)
            part.append((seq, record, taken))
            record, left, room = record + taken, left - taken, room - taken
            if not room:
                yield part
                part, room = [], MOST
    if part:
        yield part


def _same(one: Entry, other: Entry) -> bool:
    keys = ("stage", "channel", "epoch", "blocks", "verdict", "reason", "digests", "passed_digests")
    return all(getattr(one, key) == getattr(other, key) for key in keys)
