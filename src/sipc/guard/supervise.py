# SPDX-License-Identifier: Apache-2.0
"""The supervisor of a guard in the foreground: what happens, and what is done about it, until nothing runs any more.

It waits for processes by pidfd, and for signals by a pipe.  Only while a guard is being stopped it looks, every 50 ms,
how far the receivers are: a cursor is memory that its owner stores to, and no event comes with that.

The order of a stop: sources are told to stop; a stage to which nothing can come any more, and that has finished all
that came, is told next; when the time is over all are told; who does not end then is killed.  Channels are destroyed
when everything in them was finished, and every stage ended in order; else they stay, all of them, with what is in them,
and the next run goes on with it: a stage's note of what it has sent holds for the channel that it sent it to.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any

from sipc.errors import SipcError, SpecError
from sipc.guard.channels import Channels
from sipc.guard.foreground import Interrupts, Strays, lines_of
from sipc.guard.held import blocks_in_hand
from sipc.guard.launch import Account, Running, judged, stage_command, start
from sipc.guard.model import Guard, Kind, Stage
from sipc.guard.places import Places
from sipc.guard.rules import Act, Ending, StartLimit, act_on
from sipc.guard.stage import StageExit
from sipc.guard.traces import accused, cursor_of, is_unfinished
from sipc.guard.vouchers import Vouchers

__all__ = ("LONGEST", "Event", "Report", "Settings", "Slot", "Supervisor")

LONGEST = 1e6  # seconds, eleven days; poll(2) takes milliseconds in an int
_PAUSE = 0.1  # seconds before a restart: RestartSec= of systemd
_PIECE = 65536  # bytes of a stage's words taken at once
_LOOK = 0.05  # seconds between two looks at the cursors, while stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened: `kind` for programs, `text` for people, and what it is about."""

    kind: str
    text: str
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a guard is run.

    `grace`: seconds that stages have to finish what is in the channels; `patience`: seconds from SIGTERM to SIGKILL.
    `burst` starts of a stage within `interval` seconds; the next one stops the guard.  `command` runs a stage, given
    FILE, NAME and --run RUN behind it.
    """

    state: Path | None = None
    registry: Path | None = None
    keep: bool = False
    grace: float = 10.0
    patience: float = 5.0
    burst: int = 5
    interval: float = 60.0
    command: tuple[str, ...] = field(default_factory=stage_command)

    def __post_init__(self) -> None:
        for key in ("grace", "patience", "interval"):
            if not 0 <= getattr(self, key) <= LONGEST:
                raise SpecError(f"{key} = {getattr(self, key)!r} must be seconds from 0 to {LONGEST:g}")
        if self.burst < 1:
            raise SpecError(f"burst = {self.burst!r} must be at least 1: a stage is started once")


Report = Callable[[Event], None]


@dataclass(slots=True, kw_only=True)
class Slot:
    """One stage as the supervisor has it."""

    stage: Stage
    who: Account
    place: Places
    limit: StartLimit
    running: Running | None = None
    restart_at: float | None = None
    kill_at: float | None = None  # when it was told to end, and has not
    told: bool = False
    code: int | None = None
    words: bytes = b""

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.running is None and self.restart_at is None


@dataclass(kw_only=True)
class Supervisor:
    """The loop, and what is done in it."""

    guard: Guard
    file: Path
    settings: Settings
    report: Report
    channels: Channels
    interrupts: Interrupts
    strays: Strays
    variables: Mapping[str, str]
    name: str  # of this run: a stage that has ended in it ends again at once
    slots: dict[str, Slot]
    vouchers: Vouchers
    ending: Ending = Ending.OK
    drain_until: float | None = None  # set: the guard is being stopped

    def run(self) -> Ending:
        """Start everything, and go on until nothing runs and nothing will."""
        for slot in sorted(self.slots.values(), key=lambda slot: slot.stage.kind is Kind.SOURCE):
            if self.drain_until is None:
                self._start(slot)  # who receives is there before who sends
        while True:
            self._advance(time.monotonic())
            if all(slot.over for slot in self.slots.values()):  # also since the line above: then nothing would wake us
                return self.ending
            self._wait()

    # -- waiting -----------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until something happens, or it is time for something."""
        poll = select.poll()
        poll.register(self.interrupts.fileno(), select.POLLIN)
        for slot in self.slots.values():
            for fd in (slot.running.pidfd, slot.running.errors) if slot.running is not None else ():
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._time_left())}
        for slot in self.slots.values():
            running = slot.running
            if running is None:
                continue
            if running.errors in ready:
                self._listen(slot, running)
            if running.pidfd in ready:
                self._ended(slot, running)
        for number in self.interrupts.take():
            self._interrupted(number)

    def _time_left(self) -> float | None:
        """Milliseconds until the next thing is due; None: nothing is."""
        due = [at for slot in self.slots.values() for at in (slot.restart_at, slot.kill_at) if at is not None]
        if self.drain_until is not None and any(slot.running and not slot.told for slot in self.slots.values()):
            due.append(min(self.drain_until, time.monotonic() + _LOOK))
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _advance(self, now: float) -> None:
        """Do what is due."""
        for slot in self.slots.values():
            if slot.restart_at is not None and slot.restart_at <= now:
                slot.restart_at = None
                self._start(slot)
            if slot.kill_at is not None and slot.kill_at <= now and slot.running is not None:
                slot.kill_at = None
                self._say("killed", slot, f"has not ended in {self.settings.patience:g} s: killed")
                slot.running.signal(SIGKILL)
        if self.drain_until is None:
            return
        late = now >= self.drain_until
        for slot in self.slots.values():
            if slot.running is not None and not slot.told and (late or self._is_done(slot)):
                self._tell(slot, "time is over: told to end" if late else "told to end")

    # -- stages ------------------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        name, limits = slot.stage.name, self.settings
        if not slot.limit.allows(time.monotonic()):
            self._say("limit", slot, f"was started {limits.burst} times in {limits.interval:g} s: not again")
            self._stop(Ending.REFUSED, f"{name} does not stay up")
            return
        argv = (*self.settings.command, str(self.file), name, "--run", self.name)
        second = int(time.time())
        try:
            slot.running = start(self.guard, slot.stage, slot.who, slot.place, argv, self.variables)
        except SipcError as error:
            self._say("refused", slot, f"not started: {error}")
            self._stop(Ending.REFUSED, f"{name} can not be started")
            return
        pid = slot.running.process.pid
        self._say("started", slot, f"started as uid {slot.who.uid}, pid {pid}", pid=pid, uid=slot.who.uid)
        verdict = judged(slot.running, slot.stage, slot.who, os.path.realpath(argv[0]))
        if verdict is not None and verdict.allowed:
            self.vouchers.began(name, pid, second)
        elif verdict is not None:
            slot.running.signal(SIGKILL)
            slot.told = True
            self._say("refused", slot, f"killed: pid {pid} is not what was started: {'; '.join(verdict.refusals)}")
            self._stop(Ending.REFUSED, f"{name} is not what it must be")

    def _listen(self, slot: Slot, running: Running) -> None:
        """What a stage says goes into the log, under its name."""
        try:
            piece = os.read(running.errors, _PIECE)
        except BlockingIOError:
            return
        lines, slot.words = lines_of(slot.words, piece)
        for line in lines:
            self._say("said", slot, line.removeprefix(f"sipc: guard {self.guard.name}: {slot.stage.name}: "))
        if not piece:
            running.deafen()

    def _ended(self, slot: Slot, running: Running) -> None:
        self.vouchers.ended(slot.stage.name, running.process.pid)  # before its number can be another's
        code = slot.code = running.process.wait()
        while running.errors >= 0:
            before = len(slot.words)
            self._listen(slot, running)
            if len(slot.words) == before:
                break  # a descendant holds the pipe open and says nothing
        slot.running, slot.kill_at = None, None
        running.close()
        how = f"killed by {Signals(-code).name}" if code < 0 else f"exit code {code}"
        act, ending, why = act_on(code, self.guard)
        asked = slot.told or self.drain_until is not None
        again = act is Act.RESTART and not asked
        self._say("ended", slot, f"ended ({why}, {how}){'; starts again' if again else ''}", code=code, why=why)
        self._clear_strays()
        if again:
            slot.restart_at = time.monotonic() + _PAUSE
        elif not asked or ending is Ending.ALARM:
            self._note(ending)
        if asked:
            return
        if act is Act.STOP_SENDER:
            self._stop_senders(slot)
        elif act is Act.STOP_GUARD:
            self._stop(ending, f"{slot.stage.name}: {why}")

    def _clear_strays(self) -> None:
        stages = {slot.running.process.pid for slot in self.slots.values() if slot.running is not None}
        for pid in self.strays.clear(stages):
            text = f"process {pid} outlived its stage: killed"
            self.report(Event(kind="stray", text=text, about={"pid": pid}))

    def _stop_senders(self, offended: Slot) -> None:
        """Who sends on the channel is the offender; where the stage can not say which channel, all who send to it."""
        coming = {name: one for name, one in self.guard.channels.items() if one.receiver == offended.stage.name}
        named = {one.spec.name: name for name, one in coming.items()}.get(accused(offended.place, self.guard.audit))
        for name in coming if named is None else (named,):
            sender = self.slots[coming[name].sender]
            sender.restart_at = None
            self._tell(sender, f"stopped: what it sent on {name} broke the protocol")

    def _tell(self, slot: Slot, text: str) -> None:
        """SIGTERM, and later SIGKILL."""
        if slot.running is not None and not slot.told:
            self._say("told", slot, text)
            slot.kill_at = time.monotonic() + self.settings.patience
            slot.running.signal(SIGTERM)
        slot.told = True

    # -- the guard ---------------------------------------------------------------------------------------------

    def _interrupted(self, number: Signals) -> None:
        self._note(Ending.INTERRUPTED)
        if self.drain_until is None:
            self._stop(Ending.INTERRUPTED, f"{number.name}; once more to wait for nothing")
        elif time.monotonic() < self.drain_until:
            self.drain_until = time.monotonic()
        else:
            for slot in self.slots.values():
                if slot.running is not None:
                    slot.running.signal(SIGKILL)

    def _note(self, ending: Ending) -> None:
        """The first thing that went wrong is how the run ended."""
        if ending is not Ending.OK and self.ending in (Ending.OK, Ending.INTERRUPTED):
            self.ending = ending

    def _stop(self, ending: Ending, why: str) -> None:
        """Begin to stop everything; nothing is started again from here on."""
        self._note(ending)
        if self.drain_until is not None:
            return
        self.drain_until = time.monotonic() + self.settings.grace
        for slot in self.slots.values():
            slot.restart_at = None
        self.report(Event(kind="stopping", text=f"stopping: {why}"))

    def _is_done(self, slot: Slot) -> bool:
        """Whether a stage has nothing more to do for a guard that is being stopped, or can not do it."""
        name = slot.stage.name
        if slot.stage.kind is Kind.SOURCE:
            return True
        channels = self.guard.channels.items()
        if any(self.slots[channel.receiver].over for _, channel in channels if channel.sender == name):
            return True  # nobody takes what it would send
        mine = [(which, channel) for which, channel in channels if channel.receiver == name]
        return all(self.slots[channel.sender].over for _, channel in mine) and not any(
            self._left(which) for which, _ in mine
        ) and not self._in_hand(slot)

    def _left(self, name: str) -> int:
        """How many blocks a channel has that are not finished; -1 when nobody can tell, which is not none."""
        place = self.slots[self.guard.channels[name].receiver].place
        try:
            return self.channels.left(name, cursor_of(place, name))
        except SipcError:
            return -1

    def _in_hand(self, slot: Slot) -> int:
        """How many blocks a filter has taken and not passed on; 1 when nobody can tell."""
        try:
            return blocks_in_hand(slot.place.state) if slot.stage.kind is Kind.FILTER else 0
        except OSError:
            return 1

    # -- the end -----------------------------------------------------------------------------------------------

    def kill_all(self) -> None:
        """Kill what still runs: after an error of ours; else nothing does."""
        for slot in self.slots.values():
            if slot.running is not None:
                slot.running.signal(SIGKILL)
                slot.code = slot.running.process.wait()
                slot.running.close()
                slot.running = None

    @property
    def complete(self) -> bool:
        """Whether every stage has passed on all its input."""
        return all(slot.code == StageExit.ENDED for slot in self.slots.values())

    def clear_up(self) -> bool:
        """End what is left, and destroy the channels unless something is in them.  Raises what the helper says.

        Returns whether the run is over: the next one is another.
        """
        self._clear_strays()
        left = {name: count for name in self.guard.channels if (count := self._left(name))}
        left |= {name: count for name, slot in self.slots.items() if (count := self._in_hand(slot))}
        unfinished = any(slot.code is not None and is_unfinished(slot.stage, slot.code) for slot in self.slots.values())
        in_doubt = unfinished and any(map(self._used, self.guard.channels))
        if self.settings.keep or left or in_doubt:
            why = "as asked" if self.settings.keep else "a stage did not end in order, or within a message"
            if left:
                counts = ", ".join(
                    f"{name} ({'unknown' if count < 0 else count})" for name, count in left.items()
                )
                why = f"blocks that nobody has finished are in {counts}"
            self.report(Event(kind="channels-kept", text=f"channels kept: {why}; the next run goes on with them",
                              about={"left": left}))  # fmt: skip
            return self.complete
        self.channels.destroy(self.guard.channels)
        self.report(Event(kind="channels-destroyed", text="channels destroyed: everything in them was finished"))
        return True

    def _used(self, name: str) -> bool:
        try:
            return self.channels.sent(name) > 0
        except SipcError:
            return True

    def _say(self, kind: str, slot: Slot, text: str, **about: object) -> None:
        name = slot.stage.name
        self.report(Event(kind=kind, text=f"{name}: {text}", about={"stage": name, **about}))
