# SPDX-License-Identifier: Apache-2.0
"""How a stage is: `status.json`, written by the stage itself, read by whoever shows or counts.

Owns the file's form and the counters behind it.  Counting is adding to numbers; the file is written by a timer's signal
(setitimer(2)) half a second after something was counted, and at once when the state changes for good.  So a busy stage
writes twice a second, an idle one not at all, and none has a thread for it.  What can not be written is not: a full
/run stops no message.
"""

from __future__ import annotations

import enum
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sipc.endpoint import Endpoint
from sipc.errors import KernelError, SpecError
from sipc.guard.quarantine import QuarantineStore
from sipc.guard.storage import close_directory, doing, open_directory, write_all, write_new
from sipc.guard.verdicts import Code
from sipc.receiver import Receiver
from sipc.registry import lock
from sipc.sender import Sender

__all__ = ("Counts", "StageState", "Status", "count_start", "read_status")

VERSION = 1
INTERVAL = 0.5  # seconds; `sipc guard top` refreshes no faster
_LARGEST = 1 << 20  # bytes of a status file; a channel takes some hundred


class StageState(enum.StrEnum):
    """What a stage is doing, or how it ended."""

    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"
    VIOLATED = "violated"
    FULL = "full"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Counts:
    """One channel of the stage; numbers since the stage was started.  A `with` of it is a call that may wait."""

    direction: str
    messages: int = 0
    bytes: int = 0
    blocked: float = 0.0  # seconds in such calls
    end: Endpoint | None = None
    _since: float | None = None

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        since, self._since = self._since, None
        if since is not None:
            self.blocked += time.monotonic() - since

    def document(self) -> dict[str, Any]:
        """As it stands in the file."""
        end, since = self.end, self._since
        blocked = self.blocked + (time.monotonic() - since if since is not None else 0.0)
        last = end.last_seq if isinstance(end, Sender | Receiver) else None
        return {
            "direction": self.direction, "messages": self.messages, "bytes": self.bytes,
            "blocked_seconds": round(blocked, 3), "last_seq": last or 0, "epoch": end.epoch if end else 0,
        }  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Status:
    """The status of one running stage."""

    path: Path
    guard: str
    stage: str
    kind: str
    starts: int
    channels: Mapping[str, Counts]
    quarantine: QuarantineStore | None = None
    quarantined: int = 0  # messages in the quarantine
    state: StageState = StageState.WAITING
    reason: str = ""
    since: float = field(default_factory=time.time)
    verdicts: dict[Code, int] = field(default_factory=lambda: dict.fromkeys(Code, 0))
    _armed: bool = False
    _writing: bool = False

    def start(self) -> None:
        """Write the file, and from now on when something was counted.  For the main thread alone."""
        signal.signal(signal.SIGALRM, lambda *_: self._tick())
        self.write()

    def touch(self) -> None:
        """Something was counted."""
        if not self._armed:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, INTERVAL)

    def end(self, state: StageState, reason: str) -> None:
        """The last word."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._armed = True  # no timer again
        self.state, self.reason = state, reason
        self.write()

    def _tick(self) -> None:
        self._armed = False
        if not self._writing:  # the main thread is at it, where this signal came
            self.write()

    def document(self) -> dict[str, Any]:
        """What the file says."""
        store = self.quarantine
        return {
            "version": VERSION, "guard": self.guard, "stage": self.stage, "kind": self.kind, "pid": os.getpid(),
            "starts": self.starts, "since": self.since, "updated": time.time(), "state": self.state.value,
            "reason": self.reason,
            "channels": {name: counts.document() for name, counts in self.channels.items()},
            "verdicts": {code.name.lower(): number for code, number in self.verdicts.items()},
            "quarantine": None if store is None else {
                "messages": self.quarantined, "bytes": store.used, "limit": store.limit,
            },
        }  # fmt: skip

    def write(self) -> None:
        """Replace the file; readers see the old one or the new one."""
        new = self.path.with_name(f".{self.path.name}.new")
        self._writing = True
        with suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                os.fchmod(fd, 0o644)  # whatever the umask of a unit is: who may look is said by the directory
                write_all(fd, json.dumps(self.document()).encode() + b"\n")
            finally:
                os.close(fd)
            new.rename(self.path)
        self._writing = False


def count_start(state: Path) -> tuple[int, int]:
    """Take the stage's state directory, and count this start: a descriptor that holds it, and the number of starts.

    Raises `Busy` when another process of this stage runs, `SpecError` for a directory that is not this user's own.
    """
    fd = open_directory(state, "state directory", private=True)
    try:
        lock(fd, f"the stage of {state} runs already, in another process: end that one")
        with doing("write", state / "starts", "make room, or let this user write there"):
            try:
                before = int((state / "starts").read_bytes()[:20])
            except (FileNotFoundError, ValueError):
                before = 0
            write_new(fd, ".starts.new", f"{before + 1}\n".encode(), 0o600)
            os.rename(".starts.new", "starts", src_dir_fd=fd, dst_dir_fd=fd)
    except BaseException:
        close_directory(fd)
        raise
    return fd, before + 1


def read_status(path: Path) -> dict[str, Any] | None:
    """A stage's status; None when it has none yet.  Raises `SpecError` for what is no status."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST)
        found = json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(
            error.errno or 0, f"{error.strerror}: run as a user that may read it", syscall="open", obj=str(path)
        ) from error
    except ValueError as error:
        raise SpecError(f"{path} is no status: {error}: is something else writing there?") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise SpecError(f"{path} is no status of version {VERSION}: stage and reader must be of one release")
    return found
