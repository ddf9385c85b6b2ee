# SPDX-License-Identifier: Apache-2.0
"""A guard in the foreground: channels made, stages started, watched, restarted and stopped; nothing left behind.

Owns what systemd does elsewhere: for development, and for containers, where there is none.  Stages learn nothing of
each other from it: what one stage's end means for the others is done here, by the rules of `rules.py`.

How a guard is supervised stands in `supervise.py`, how a stage is started in `launch.py`, what a channel is to it in
`channels.py`.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from sipc.errors import Denied
from sipc.guard.channels import Channels
from sipc.guard.foreground import Interrupts, Strays
from sipc.guard.launch import account_of, make_places
from sipc.guard.model import Guard
from sipc.guard.places import default_state
from sipc.guard.policy import channel_specs
from sipc.guard.rules import Ending, StartLimit
from sipc.guard.storage import close_directory, doing, open_directory, write_new
from sipc.guard.supervise import Event, Report, Settings, Slot, Supervisor
from sipc.guard.vouchers import Vouchers
from sipc.helper import default_registry
from sipc.registry import lock
from sipc.spec import Enforcement

__all__ = ("run_guard",)

_RUN = ".run"  # beside the stages' directories, and no stage can have such a name
_NAME = re.compile(r"[0-9a-f]{32}")


def run_guard(guard: Guard, file: Path, settings: Settings, report: Report) -> Ending:
    """Run a guard until every stage has ended, or SIGINT, SIGTERM or SIGHUP stops it; for the main thread alone.

    Raises before anything is started `Denied` for users that it can not become or a guard that asks for SELinux, `Busy`
    when the guard runs already, `SpecError`, and what the helper says.
    """
    for name, channel in guard.channels.items():
        if channel.spec.enforcement is Enforcement.SELINUX:
            raise Denied(
                f"{guard.source}: channel {name} asks for SELinux, and in the foreground a stage gets no domain: its "
                "policy lets init alone start them; run the guard by systemd, or set enforcement = 'dac'"
            )
    who = {name: account_of(stage) for name, stage in guard.stages.items()}
    specs = channel_specs(guard)
    state = (settings.state or default_state(os.environ)).absolute()
    registry = (settings.registry or default_registry()).absolute()
    places = make_places(state, guard, who)
    held = _take(state / guard.name, guard)
    try:
        with Interrupts() as interrupts, Strays() as strays:
            channels = Channels(specs, registry, state / guard.name / "channels.toml")
            try:
                for names, kind, text in (
                    (channels.made, "channel-made", "made"), (channels.found, "channel-found", "found, and used again"),
                ):  # fmt: skip
                    for name in names:
                        report(Event(kind=kind, text=f"channel {specs[name].name}: {text}", about={"channel": name}))
                supervisor = Supervisor(
                    guard=guard, file=file.absolute(), settings=settings, report=report, channels=channels,
                    interrupts=interrupts, strays=strays, variables={"SIPC_REGISTRY": str(registry)},
                    name=_name(state / guard.name, going_on=bool(channels.found)),
                    slots={name: Slot(stage=stage, who=who[name], place=places[name],
                                       limit=StartLimit(burst=settings.burst, interval=settings.interval))
                           for name, stage in guard.stages.items()},
                    vouchers=Vouchers.of(guard, places, {name: one.gid for name, one in who.items()}),
                )  # fmt: skip
                try:
                    return supervisor.run()
                finally:
                    supervisor.kill_all()
                    if supervisor.clear_up():
                        (state / guard.name / _RUN).unlink(missing_ok=True)
            finally:
                channels.close()
    finally:
        os.close(held)


def _name(place: Path, *, going_on: bool) -> str:
    """The name of this run: that of the one before where that is not over and its channels are there, else a new one.

    It is on disk before a stage is started.  What a stage has ended in one run it does anew in the next.
    """
    with doing("write", place / _RUN, "make room, or let this user write there"):
        if going_on:
            with suppress(FileNotFoundError):
                found = (place / _RUN).read_text(encoding="ascii", errors="replace")
                if _NAME.fullmatch(found):
                    return found
        name = secrets.token_hex(16)
        fd = open_directory(place, "state directory", private=True)
        try:
            write_new(fd, f"{_RUN}.new", name.encode(), 0o600)
            os.rename(f"{_RUN}.new", _RUN, src_dir_fd=fd, dst_dir_fd=fd)
        finally:
            close_directory(fd)
    return name


def _take(place: Path, guard: Guard) -> int:
    """A descriptor that holds the guard's state directory."""
    where = place / ".lock"
    with doing("open", where, "the state directory must be this user's"):
        fd = os.open(where, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        lock(fd, f"guard {guard.name} runs already, with its state in {place}: stop that one, or give another --state")
    except BaseException:
        os.close(fd)
        raise
    return fd
