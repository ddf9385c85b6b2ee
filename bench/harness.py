# SPDX-License-Identifier: Apache-2.0
"""Runs one contestant once: two forked processes, each on its own core, every wait bounded.

Owns processes, signals, deadlines and the order opening -> go -> done -> close.  Nothing here depends on what
is measured: the bodies are functions.  A child that fails, dies or hangs is killed by its id and reported as
`Failed`; kernel objects are removed in every case, by the `finally`, or by `atexit` when that is interrupted.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from bench.contest import Contestant

_FORK = multiprocessing.get_context("fork")
_PR_SET_PDEATHSIG = 1
_CLOSE_SECONDS = 5.0


class Failed(Exception):
    """One measurement did not give a value; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the two ends run and how long one measurement may take, in seconds."""

    sender_core: int | None
    receiver_core: int | None
    deadline: float = 30.0

    def cores(self, contestant: Contestant) -> tuple[set[int], set[int]]:
        """Where the sender and where the receiver may run; an empty set: anywhere."""
        if self.sender_core is None or self.receiver_core is None:
            return set(), set()
        if contestant.both_cores:
            return {self.sender_core, self.receiver_core}, {self.sender_core, self.receiver_core}
        return {self.sender_core}, {self.receiver_core}


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep SIGINT and SIGTERM waiting, so that making and removing kernel objects is not cut in half."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pin(cores: set[int]) -> None:
    """Keep this process on these cores; none: where it is."""
    if cores:
        os.sched_setaffinity(0, cores)


def _child(
    link: Connection,
    cores: set[int],
    start: Callable[[], None],
    body: Callable[[], object],
    close: Callable[[], None],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it kills by id
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    pin(cores)
    try:
        start()
        link.send(("ready", None))
        link.recv()
        link.send(("done", body()))
        link.recv()
        close()
    except BaseException:
        with suppress(OSError):
            link.send(("error", traceback.format_exc(limit=-2).strip()))
        os._exit(1)


class End:
    """One child and the pipe to it."""

    def __init__(
        self,
        role: str,
        cores: set[int],
        start: Callable[[], None],
        body: Callable[[], object],
        close: Callable[[], None],
    ) -> None:
        self.role = role
        self.link, theirs = _FORK.Pipe()
        self.process: ForkProcess = _FORK.Process(target=_child, args=(theirs, cores, start, body, close), daemon=True)
        self.process.start()
        theirs.close()

    def read(self, word: str) -> object:
        """The value that came with `word`; raises `Failed` when something else came."""
        try:
            kind, value = self.link.recv()
        except (EOFError, OSError):
            self.process.join(1)
            raise Failed(f"the {self.role} died (exit code {self.process.exitcode})") from None
        if kind != word:
            raise Failed(f"the {self.role} failed: {value}")
        return value

    def go(self) -> None:
        """Let it do the next step."""
        with suppress(OSError):  # it died meanwhile: the next read says so
            self.link.send(None)

    def finish(self, patience: float) -> None:
        """Wait for its end, and make one after `patience` seconds."""
        self.process.join(max(0.0, patience))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(_CLOSE_SECONDS)
        self.link.close()


def awaited(ends: list[End], word: str, until: float) -> list[object]:
    """The values of `word` from all of `ends`, whichever comes first; the first failure ends the wait."""
    values: dict[str, object] = {}
    while len(values) < len(ends):
        missing = [end for end in ends if end.role not in values]
        ready = wait([end.link for end in missing], timeout=max(0.0, until - time.monotonic()))
        if not ready:
            roles = " and the ".join(end.role for end in missing)
            raise Failed(f"the {roles} did not say {word!r} in time")
        for end in missing:
            if end.link in ready:
                values[end.role] = end.read(word)
    return [values[end.role] for end in ends]


def run_pair(
    contestant: Contestant, size: int, send: Callable[[], object], receive: Callable[[], object], place: Place
) -> tuple[object, object]:
    """Run `send` in one child and `receive` in another, both between `open_*` and `close`; their results."""
    atexit.register(contestant.teardown)
    try:
        with signals_held():
            try:
                contestant.prepare(size)
            except Exception as error:
                raise Failed(f"setup: {type(error).__name__}: {error}") from error
        return _run(contestant, send, receive, place)
    finally:
        with signals_held():
            try:
                contestant.teardown()
            except Exception as error:
                raise Failed(f"teardown: {type(error).__name__}: {error}") from error
            finally:
                atexit.unregister(contestant.teardown)


def _run(
    contestant: Contestant, send: Callable[[], object], receive: Callable[[], object], place: Place
) -> tuple[object, object]:
    until = time.monotonic() + place.deadline
    sender_cores, receiver_cores = place.cores(contestant)
    ends: list[End] = []
    clean = False
    try:
        receiver = End("receiver", receiver_cores, contestant.open_receiver, receive, contestant.close)
        ends.append(receiver)
        awaited(ends, "ready", until)
        sender = End("sender", sender_cores, contestant.open_sender, send, contestant.close)
        ends.append(sender)
        awaited([sender], "ready", until)
        receiver.go()
        sender.go()
        received, sent = awaited([receiver, sender], "done", until)
        receiver.go()
        sender.go()
        clean = True
    finally:
        until = time.monotonic() + (_CLOSE_SECONDS if clean else 0.0)
        for end in ends:
            end.finish(until - time.monotonic())
    for end in ends:
        if end.process.exitcode != 0:
            raise Failed(f"the {end.role} ended with exit code {end.process.exitcode} while closing")
    return sent, received
