# SPDX-License-Identifier: Apache-2.0
"""`sipc list --watch`: what becomes of the channels, a line for each change, until interrupted or unread."""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sipc.cli.ending import end_in_order
from sipc.cli.exits import Exit
from sipc.descriptor import Descriptor
from sipc.finding import ChannelChange, ChannelEvent, ChannelWatch

__all__ = ("report",)

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL
_Row = Callable[[Path, Descriptor], dict[str, Any]]


def report(registry: Path | None, row: _Row, *, as_json: bool) -> int:
    """Print changes as they happen; `row` describes a channel as `sipc list` does.

    Ends with `Exit.NO` when nobody reads standard output any more, even when nothing happens; a signal ends it as any
    other command.
    """
    end_in_order()
    if sys.stdout is None:
        return Exit.NO
    poll = select.poll()
    reader = sys.stdout.fileno()
    poll.register(reader, 0)  # asks for nothing: that the other side is closed is always said
    with ChannelWatch(registry) as watch:
        poll.register(watch, select.POLLIN)
        while True:
            for event in watch.changes():
                click.echo(json.dumps(_object(event, row)) if as_json else _line(event, row))
            if any(fd == reader and what & _GONE for fd, what in poll.poll()):
                return Exit.NO


def _object(event: ChannelEvent, row: _Row) -> dict[str, Any]:
    descriptor = event.descriptor
    return {
        "version": 1,
        "event": event.change,
        "name": event.name,
        "registry": str(event.registry),
        "epoch": None if descriptor is None else descriptor.epoch,
        "old_epoch": event.old_epoch,
        "reason": event.reason,
        "channel": None if descriptor is None else row(event.registry, descriptor),
    }


def _line(event: ChannelEvent, row: _Row) -> str:
    start = f"{event.change:9} {event.name or '-':20}"
    if event.descriptor is None:
        return f"{start} {event.reason or event.registry}"
    what = row(event.registry, event.descriptor)
    old = f"epoch {event.old_epoch} before, " if event.change is ChannelChange.REPLACED else ""
    return (
        f"{start} {what['backend']:6} {what['transport']:8} {what['slots']} slots of {what['slot_size']}, depth "
        f"{what['depth']}, {what['enforcement']}, epoch {event.descriptor.epoch}, {old}{event.registry}"
    )
