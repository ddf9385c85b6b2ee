# SPDX-License-Identifier: Apache-2.0
"""Who put the last message on a queue, judged by a policy: the one thing that a receiver under `dac` can ask of it.

Owns the two cases.  A process that lives is read and judged, and held by a pidfd: as long as it lives nobody else has
its number.  One that has ended can not be read, and its number may be another's by now; but if it passed while it
lived, and the message was put no later than it was last seen alive, then it was that process who put it.  The kernel
notes whole seconds, so that is true up to one: a number must be given out again within that time to pass for it.

Source: msgctl(2), `msg_lspid` and `msg_stime`.  It is the *last* sender: of a message that was put before it nothing
is known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Protocol

from sipc import process
from sipc.cursor import own_words
from sipc.endpoint_policy import EndpointPolicy, Failed, Verdict
from sipc.process import Process

__all__ = ("LastSender", "Memory", "Vouched")

_TURNS = 3  # a sender that is replaced so often while it is looked at is denied
_SLACK = 1  # seconds by which the kernel's clock of whole seconds may be behind
_MAGIC = int.from_bytes(b"SIPCPEER", "little")
_MAGIC_WORD, _EPOCH, _RULES, _PID, _ALIVE = range(5)


# Asked with a pid and the second, since 1970, in which it put a message.
Vouched = Callable[[int, int], bool]


class _Tells(Protocol):
    def last_sender(self) -> tuple[int, int] | None:
        """(pid, second) of the last message put, None when there was none."""
        ...


class Memory:
    """Which process passed last, under which rules, and when it was last seen alive.

    With a cursor it is kept in CURSOR.peer, words like the cursor's, and outlives the receiver; else in this object.
    """

    def __init__(self, policy: EndpointPolicy, epoch: int, cursor: str | os.PathLike[str] | None = None) -> None:
        """Raises `SpecError` for a file that others may write."""
        if cursor is None:
            self._words = memoryview(bytearray(64)).cast("Q")
        else:
            self._words = own_words(Path(f"{os.fspath(cursor)}.peer"), "peer")
        rules = _number(policy)
        if (self._words[_MAGIC_WORD], self._words[_EPOCH], self._words[_RULES]) != (_MAGIC, epoch, rules):
            self._words[_ALIVE] = 0
            self._words[_PID], self._words[_RULES], self._words[_EPOCH] = 0, rules, epoch
            self._words[_MAGIC_WORD] = _MAGIC

    def note(self, pid: int, second: int) -> None:
        """A process that passed was alive then."""
        if self._words[_PID] != pid:
            self._words[_ALIVE] = 0  # first: killed between two stores, it is about nobody
            self._words[_PID] = pid
        self._words[_ALIVE] = second

    def covers(self, pid: int, sent_at: int) -> bool:
        """Whether a message from this number, put in this second, is the one's that passed."""
        return pid == self._words[_PID] and 0 <= sent_at <= self._words[_ALIVE] + _SLACK and self._words[_ALIVE] > 0


def _number(policy: EndpointPolicy) -> int:
    """A number for what a policy asks; of a callback nobody can tell in another process what it asks."""
    if policy.callback is not None:
        return int.from_bytes(os.urandom(8), "little")
    import hashlib  # noqa: PLC0415 - brings OpenSSL, which only those pay for who judge

    rules = []
    for field in fields(policy):
        value = getattr(policy, field.name)
        rules.append((field.name, sorted(map(repr, value)) if isinstance(value, frozenset) else value))
    return int.from_bytes(hashlib.blake2b(repr(rules).encode(), digest_size=8).digest(), "little")


class LastSender:
    """The process that put the last message on a queue, as the kernel notes it, judged by a policy."""

    def __init__(
        self, policy: EndpointPolicy, queue: _Tells, memory: Memory | None = None, vouched: Vouched | None = None
    ) -> None:
        """`vouched` is asked of a process that has ended and is not remembered: whether it was one that may send."""
        self._policy = policy
        self._queue = queue
        self._vouched = vouched
        self._memory = memory if memory is not None else Memory(policy, 0)
        self._passed: tuple[int, int, Verdict] | None = None  # pid, its pidfd, what was said of it

    def verdict(self) -> Verdict:
        """Judge whoever sent last; one that is replaced in the meantime is judged anew.

        `Failed.PROCESS` says that nobody can tell, as the process has ended, or that it is not the one.
        """
        last = self._queue.last_sender()
        for _ in range(_TURNS):
            if last is None or last[0] <= 0:
                return self._refused(0, "nobody has sent yet, or from outside this pid namespace")
            now = int(time.time())  # before the looks, which find it alive after
            if self._passed is not None:
                pid, pidfd, verdict = self._passed
                if pid == last[0] and not process.ended(pidfd):
                    self._memory.note(pid, now)
                    return verdict
                self.close()
            verdict = self._judge(*last)
            if verdict.failed & Failed.PROCESS:
                if self._memory.covers(*last):
                    return Verdict(pid=last[0], failed=Failed.NONE, report=("ok process: it passed before it ended",))
                # True and nothing else, as with a callback of a policy.
                if self._vouched is not None and self._vouched(*last) is True:
                    return Verdict(pid=last[0], failed=Failed.NONE, report=("ok process: its starter vouches for it",))
            before, last = last, self._queue.last_sender()
            if last is not None and last[0] == before[0]:
                if verdict.allowed:
                    self._memory.note(last[0], now)
                return verdict
            self.close()
        return self._refused(0, "it changed again and again while it was looked at")

    def _judge(self, pid: int, sent_at: int) -> Verdict:
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            return self._refused(pid, f"it can not be looked at: {error}")
        keep = False
        try:
            subject = process.read(pid, digest=self._policy.digest is not None, pidfd=pidfd)
            # Who has the pid now but began after the message was put did not put it.  The kernel notes whole seconds.
            began = subject.started_at
            if subject.stale is None and (began is None or began > sent_at + _SLACK):
                return self._refused(pid, "it began after the last message was put: the pid was another's then")
            verdict = self._policy.judge(subject)
            if keep := verdict.allowed:
                self._passed = (pid, pidfd, verdict)
            return verdict
        finally:
            if not keep:
                os.close(pidfd)

    def _refused(self, pid: int, why: str) -> Verdict:
        return self._policy.judge(Process(pid=pid, stale=why))

    def close(self) -> None:
        """Forget whom this process holds; the memory stays."""
        if self._passed is not None:
            _, pidfd, _ = self._passed
            self._passed = None
            os.close(pidfd)
