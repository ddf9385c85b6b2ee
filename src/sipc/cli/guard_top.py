# SPDX-License-Identifier: Apache-2.0
"""`sipc guard top`, `sipc guard metrics`: what the stages of guards say of themselves, for people and for Prometheus.

Owns the terminal: drawn with a handful of ANSI sequences on its alternate screen, and left as it was found, however
the command ends.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from sipc.cli.ending import end_in_order
from sipc.cli.exits import EPILOG, Exit
from sipc.cli.places import path_type
from sipc.errors import SpecError
from sipc.guard.metrics import exposition
from sipc.guard.observe import observe, places
from sipc.guard.storage import replace_file
from sipc.guard.text import fitted
from sipc.guard.top import Rates, as_dict, table

__all__ = ("metrics", "top")

# ECMA-48 and xterm's private modes: alternate screen and cursor, home, erase to the end of line and of screen.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_SHORTEST, _LONGEST = 0.1, 3600.0

_F = TypeVar("_F", bound=Callable[..., Any])


def _whose(command: _F) -> _F:
    for option in (
        click.argument("guard", required=False),
        click.option("--state", type=path_type(), help="Directory that the guards publish in (default: "
                     "/run/sipc-guards, where units do, and then $XDG_STATE_HOME/sipc-guards, where guards in the "
                     "foreground do)."),
    ):  # fmt: skip
        command = option(command)
    return command


def _number(context: click.Context, option: click.Parameter, value: float) -> float:
    if math.isnan(value):  # in any range, for click
        raise click.BadParameter("nan is no number of seconds", context, option)
    return value


@click.command(epilog=f"Example: sipc guard top json\n\n{EPILOG}")
@_whose
@click.option("--interval", type=click.FloatRange(_SHORTEST, _LONGEST), default=1.0, show_default=True,
              callback=_number, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Print one table, after two looks, and end; so it is without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def top(guard: str | None, state: Path | None, interval: float, once: bool, as_json: bool) -> int:  # fmt: skip
    """Show what the stages of GUARD (default: of all guards) say of themselves, until Ctrl-C.

    Needs no right but to read what they publish.  Exit code 0: shown; 3: there was nothing to show.
    """
    where = places(state)
    rates = Rates()
    rates.take(observe(where, guard), time.monotonic())
    terminal = sys.stdout is not None and sys.stdout.isatty()  # None: it is closed
    if not (once or as_json) and terminal and os.environ.get("TERM", "dumb") != "dumb":
        return _live(where, guard, interval, rates)
    time.sleep(interval)
    seen = observe(where, guard)
    speeds = rates.take(seen, time.monotonic())
    if as_json:
        click.echo(json.dumps(as_dict(seen, speeds, time.time())))
    else:
        click.echo("".join(f"{line}\n" for line in table(seen, speeds, time.time())).encode(), nl=False)
    return Exit.OK


@click.command(epilog=f"Example: sipc guard metrics -o /var/lib/prometheus/node-exporter/sipc.prom\n\n{EPILOG}")
@_whose
@click.option("--output", "-o", type=path_type(dir_okay=False), help="Write there, whole or not at "
              "all, instead of stdout: for node_exporter's textfile collector.")  # fmt: skip
def metrics(guard: str | None, state: Path | None, output: Path | None) -> int:
    """Print what the stages of GUARD (default: of all guards) say of themselves as Prometheus text.

    Exit code 0: printed; 3: there was nothing to print, and a file is as it was.
    """
    text = exposition(observe(places(state), guard))
    if output is None:
        click.echo(text.encode(), nl=False)
    else:
        replace_file(output, text.encode())
    return Exit.OK


def _live(where: list[Path], guard: str | None, interval: float, rates: Rates) -> int:
    end_in_order()
    try:
        with _screen() as draw:
            while True:
                try:
                    seen = observe(where, guard)
                except SpecError as error:  # it was stopped, and may come again
                    draw([str(error)])
                else:
                    draw(table(seen, rates.take(seen, time.monotonic()), time.time()))
                signal.sigtimedwait([signal.SIGWINCH], interval)  # another size is drawn at once
    except KeyboardInterrupt as ended:
        if ended.args:  # a signal from elsewhere; Ctrl-C is how one leaves
            raise
        return Exit.OK


@contextmanager
def _screen() -> Iterator[Callable[[list[str]], None]]:
    """The terminal, drawn on until left; given back also when the keyboard stops this (Ctrl-Z) or quits it."""

    def say(text: str) -> None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()

    def suspend(number: int, frame: FrameType | None) -> None:
        del frame
        say(_LEAVE)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, suspend)
        say(_ENTER)
        signal.raise_signal(signal.SIGWINCH)  # draw at once

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
    for number in (signal.SIGTSTP, signal.SIGQUIT):
        signal.signal(number, suspend)
    try:
        say(_ENTER)
        yield lambda lines: say(_page(lines, os.get_terminal_size(sys.stdout.fileno())))
    finally:
        with suppress(OSError):  # it is gone
            say(_LEAVE)


def _page(lines: list[str], size: os.terminal_size) -> str:
    """What fits, with what it is above it."""
    columns, height = (size.columns or 80), (size.lines or 24)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    shown = [f"sipc guard top   {now}   Ctrl-C ends", "", *lines]
    if len(shown) > height:
        hidden = len(shown) - height + 1
        shown = [*shown[: height - 1], f"... {hidden} more lines: make the window higher, or name one guard"]
    # Erased before it is written: behind a line that fills its row, erasing would take the last character.
    *above, last = (fitted(line, columns) for line in shown[:height])
    return _HOME + "".join(f"{_END_OF_LINE}{line}\r\n" for line in above) + _END_OF_SCREEN + last + _HOME
