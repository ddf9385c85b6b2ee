# SPDX-License-Identifier: Apache-2.0
"""One stage of a guard as a process: its ends opened, its work done, and how it ended as one exit code.

Owns what is opened, in which order, and which error ends in which code: the supervisor and the units' restart rules
depend on these.  What is done with a message is `work.py`.
"""

from __future__ import annotations

import enum
import errno
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from sipc.channel import open_receiver, open_sender
from sipc.errors import (
    AuditError,
    Broken,
    Busy,
    ChannelNotFound,
    Denied,
    KernelError,
    PolicyUnavailable,
    QuarantineFull,
    RegistryError,
    RemoteProtocolError,
    SipcError,
    SpecError,
    Timeout,
)
from sipc.guard.area import TAG
from sipc.guard.audit import Audit, FileLog, JournalLog, Log
from sipc.guard.endpoints import is_judged, own_policy, peer_policy
from sipc.guard.filtering import FilterFailed, Filtering, Judged
from sipc.guard.filters import CommandFilter, Filter, PersistentFilter, PythonFilter
from sipc.guard.held import Held
from sipc.guard.inputs import Inputs
from sipc.guard.intents import Intents
from sipc.guard.model import AuditPlace, Guard, Kind, Medium, Stage
from sipc.guard.model import CommandFilter as CommandWork
from sipc.guard.model import PythonFilter as PythonWork
from sipc.guard.model import Sink as SinkWork
from sipc.guard.model import Source as SourceWork
from sipc.guard.outputs import Outputs
from sipc.guard.places import Places
from sipc.guard.quarantine import QuarantineStore
from sipc.guard.sinks import DirectorySink, FileSink, Sink, StreamSink
from sipc.guard.sockets import SocketSink, SocketSource
from sipc.guard.sources import DirectorySource, FileSource, Source, StreamSource
from sipc.guard.status import Counts, StageState, Status, count_start
from sipc.guard.stopping import Stopped, Stopping
from sipc.guard.storage import close_directory, doing
from sipc.guard.verdicts import MessageId
from sipc.guard.vouchers import vouching
from sipc.guard.work import run_filter, run_sink, run_source
from sipc.receiver import Receiver
from sipc.sender import Sender

__all__ = ("StageExit", "run_stage")

_APPEAR = 30.0  # seconds until a channel that its helper has not made counts as not there
AUDIT = "audit.jsonl"  # in the state directory
LAST = "journal/last"  # likewise, of a log that is the journal's
_SETTLE = 2.0  # seconds for the receiver of a stage that stops, to judge what it sent; less than anybody kills after
MAX_OUTPUT = 0xFFFFFFFF - TAG  # what an answer frame can hold


class StageExit(enum.IntEnum):
    """How a stage ended.  Of these only `TEMPORARY` is a reason to start it again by itself."""

    ENDED = 0  # all input has ended and was passed on, in order
    BAD_FILE = 3
    REFUSED = 4  # by the environment or a policy
    TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h: a peer or a channel is gone, a filter could not be started
    VIOLATED = 76  # EX_PROTOCOL: the stage that sends broke the protocol
    FULL = 77  # the quarantine is full
    STOPPED = 130


_STATES = {
    StageExit.ENDED: StageState.STOPPED, StageExit.STOPPED: StageState.STOPPED,
    StageExit.VIOLATED: StageState.VIOLATED, StageExit.FULL: StageState.FULL,
}  # fmt: skip
_CODES: tuple[tuple[type[BaseException], StageExit], ...] = (
    (Stopped, StageExit.STOPPED),
    (RemoteProtocolError, StageExit.VIOLATED),
    (QuarantineFull, StageExit.FULL),
    (FilterFailed, StageExit.TEMPORARY),
    (SpecError, StageExit.BAD_FILE),
    (Broken, StageExit.TEMPORARY),
    (ChannelNotFound, StageExit.TEMPORARY),
    (Timeout, StageExit.TEMPORARY),
    (Busy, StageExit.TEMPORARY),
    (Denied, StageExit.REFUSED),
    (RegistryError, StageExit.REFUSED),
    (AuditError, StageExit.REFUSED),
)


def _code_of(error: BaseException) -> StageExit:
    if isinstance(error, KernelError):
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        return StageExit.REFUSED if refused else StageExit.TEMPORARY
    return next((code for kind, code in _CODES if isinstance(error, kind)), StageExit.REFUSED)


def run_stage(guard: Guard, name: str, places: Places, report: Callable[[str], None], *, run: str = "") -> StageExit:
    """Be one stage until it ends, fails or is stopped; what there is to say goes to `report`, a line at a time.

    `run` names the run of the whole guard, if that has a name: a stage that has ended in it does not begin again.  For
    the main thread of a process of its own: it takes SIGTERM, SIGINT and SIGALRM.
    """
    try:
        if name not in guard.stages:
            raise SpecError(f"{guard.source} has no stage {name!r}: it has {', '.join(guard.stages)}")
        held, starts = count_start(places.state)
    except SipcError as error:
        report(str(error))
        return _code_of(error)
    try:
        return _Running(guard, guard.stages[name], places, starts, report, run).run()
    finally:
        close_directory(held)


class _Running:
    def __init__(
        self, guard: Guard, stage: Stage, places: Places, starts: int, report: Callable[[str], None], run: str
    ) -> None:
        self.run_name = run
        self.guard, self.stage, self.places, self.report = guard, stage, places, report
        self.names = {name: channel.spec.name for name, channel in guard.channels.items()}
        self.counts = {
            name: Counts(direction="out" if channel.sender == stage.name else "in")
            for name, channel in guard.channels.items() if stage.name in (channel.sender, channel.receiver)
        }  # fmt: skip
        self.status = Status(
            path=places.run / "status.json", guard=guard.name, stage=stage.name, kind=stage.kind.value, starts=starts,
            channels=self.counts,
        )  # fmt: skip
        self.stop = Stopping()
        self.audit: Audit | None = None
        self.receivers: dict[str, Receiver] = {}

    def run(self) -> StageExit:
        """Everything, and the last word of it."""
        self.stop.listen()
        self.status.start()
        try:
            with ExitStack() as stack:
                try:
                    self._work(stack)
                except RemoteProtocolError as error:
                    self._log_violation(stack, error)
                    raise
            code, reason = StageExit.ENDED, "all input has ended"
        except (SipcError, FilterFailed, Stopped) as error:
            code, reason = _code_of(error), str(error) or "asked to stop"
            if code is not StageExit.STOPPED:
                self.report(reason)
        except BaseException as error:
            self.status.end(StageState.FAILED, f"a bug in sipc: {error!r}")
            raise
        self.status.end(_STATES.get(code, StageState.FAILED), reason)
        return code

    def _work(self, stack: ExitStack) -> None:
        held = None
        if self.stage.kind is Kind.FILTER:
            held = Held(self.places.state)
            stack.callback(held.close)
        intents = Intents(self.places.state, held)
        stack.callback(intents.close)
        if self.run_name and intents.last is not None and intents.last.ended and intents.last.run == self.run_name:
            return  # killed after everything was done, before anybody was told
        with self.stop:
            outputs = self._open_ends(stack)
        self.status.write()
        work = self.stage.work
        if isinstance(work, SourceWork):
            source = _source(work, outputs.largest, self.report)
            stack.callback(source.close)
            self._confine(outputs.first)
            run_source(source, outputs, intents, self.status, self.stop, run=self.run_name)
            return
        # A sink that knows what it has done knows one message, and is given one.
        packed = not isinstance(work, SinkWork) or work.medium is Medium.STREAM
        inputs = Inputs(self.receivers, self.counts, self.status, self.stop, packed=packed)
        if isinstance(work, SinkWork):
            sink = _sink(work, self.report)
            stack.callback(sink.close)
            # One that judges who sends, if there is one: the filter is for the whole process.
            self._confine(max(self.receivers.values(), key=lambda end: end._looks))
            run_sink(
                self.receivers,
                inputs,
                sink,
                intents,
                self.stop,
                may_repeat=work.medium is Medium.SOCKET,
                run=self.run_name,
            )
            return
        if held is None:
            raise TypeError(f"{self.stage.kind} is no kind of stage")
        judged = self._judged(stack, work, outputs.largest)
        filtering = Filtering(self.receivers, inputs, judged, outputs, held, intents, self.stop, self.report)
        run_filter(self.receivers, inputs, filtering, outputs, intents, self.stop, run=self.run_name)

    def _open_ends(self, stack: ExitStack) -> Outputs:
        policy = own_policy(self.guard, self.stage)
        senders: dict[str, Sender] = {}
        outputs = Outputs(senders, self.counts, self.status)
        stack.callback(outputs.leave)
        registry = self.places.registry
        for name, counts in self.counts.items():
            registered = self.names[name]
            channel = self.guard.channels[name]
            key = channel.keys.get(self.stage.name)
            if counts.direction == "in":
                end = open_receiver(
                    registered, cursor=self.places.state / f"{name}.cursor", registry=registry, timeout=_APPEAR,
                    key=key, policy=policy, peer=peer_policy(self.guard, channel),
                    vouched=vouching(self.places, channel.sender),
                )  # fmt: skip
                self.receivers[name] = end
                counts.end = end
                stack.callback(_close, end)
                continue
            judged = is_judged(self.guard, channel)
            counts.end = senders[name] = sender = open_sender(
                registered, registry=registry, timeout=_APPEAR, key=key, policy=policy, linger=judged
            )
            if judged:
                stack.callback(_settle, sender)
            if sender.pending:
                sender._announce(None)  # a predecessor's block, and perhaps nothing comes after it to announce it
        return outputs

    def _judged(self, stack: ExitStack, work: PythonWork | CommandWork, largest: int) -> Judged:
        log = self._log(sync=False)
        stack.callback(log.close)
        audited = log.last_of(("pass", "drop", "quarantine"))
        self.audit = Audit(log, stage=self.stage.name)
        store = None
        if self.stage.quarantine is not None:
            where = self.stage.quarantine
            with suppress(OSError):  # what is wrong with it is said when it is opened
                Path(where.directory).mkdir(0o700)
            store = QuarantineStore(where.directory, stage=self.stage.name, limit=where.limit)
            stack.callback(store.close)
            self.status.quarantine, self.status.quarantined = store, len(store.kept())
        try:
            with self.stop:  # loading takes as long as its author likes
                made = _filter(work, largest)
        except SipcError as error:
            raise FilterFailed(str(error)) from error
        stack.callback(made.close)
        return Judged(made, self.audit, store, self.status, self.names, audited)

    def _log(self, *, sync: bool) -> Log:
        if self.guard.audit is AuditPlace.FILE:
            return FileLog(self.places.state / AUDIT, sync=sync)
        last = self.places.state / LAST
        with doing("mkdir", last.parent, "make room, or let this user write there"), suppress(FileExistsError):
            last.parent.mkdir(0o700)
        return JournalLog(last, guard=self.guard.name)

    def _log_violation(self, stack: ExitStack, error: RemoteProtocolError) -> None:
        if self.audit is None:
            log = self._log(sync=True)
            stack.callback(log.close)
            self.audit = Audit(log, stage=self.stage.name)
        name = next((name for name, end in self.receivers.items() if end.violated), next(iter(self.counts)))
        end = self.receivers.get(name)
        word = re.sub(r"[^a-z0-9]+", "-", error.field.lower()).strip("-")[:40]
        identity = MessageId(epoch=0, seq=0)
        if end is not None:
            identity = MessageId(epoch=end.epoch, seq=(end.last_seq or 0) + 1)
        self.audit.violation(identity, channel=self.names[name], reason=word)
        self.audit.sync()

    def _confine(self, end: Sender | Receiver) -> None:
        """Give up the calls that this stage has no use for, where the filters for it are installed."""
        try:
            end.confine()
        except (PolicyUnavailable, KernelError) as error:
            self.report(f"note: not confined: {error}")


def _close(end: Receiver) -> None:
    with suppress(Busy):  # a thread waits in it, as long as this process lives
        end.close()


def _settle(end: Sender) -> None:
    """Give a receiver that judges this process the time to do so while it lives."""
    with suppress(SipcError):
        if not end.closed:
            end.flush(_SETTLE)


def _source(work: SourceWork, largest: int, report: Callable[[str], None]) -> Source:
    if work.path is None:
        return StreamSource(0, max_message=largest)
    if work.medium is Medium.FILE:
        return FileSource(work.path, max_message=largest)
    if work.medium is Medium.DIRECTORY:
        return DirectorySource(work.path, max_message=largest, report=report)
    return SocketSource(work.path, max_message=largest)


def _sink(work: SinkWork, report: Callable[[str], None]) -> Sink:
    if work.path is None:
        return StreamSink(1)
    if work.medium is Medium.FILE:
        return FileSink(work.path)
    return DirectorySink(work.path) if work.medium is Medium.DIRECTORY else SocketSink(work.path, report=report)


def _filter(work: PythonWork | CommandWork, largest: int) -> Filter:
    """The filter; what it passes fits into a message of every output, or is refused."""
    largest = min(largest, MAX_OUTPUT)
    if isinstance(work, PythonWork):
        return PythonFilter(work.function, timeout=work.timeout, decode=work.decode, max_output=largest)
    kind = PersistentFilter if work.persistent else CommandFilter
    return kind(work.command, timeout=work.timeout, max_output=largest)
