# SPDX-License-Identifier: Apache-2.0
"""`sipc guard run`: a guard in the foreground, and its log."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import click

from sipc.cli.exits import EPILOG
from sipc.cli.places import path_type
from sipc.guard.check import load
from sipc.guard.model import Guard, Kind, Medium
from sipc.guard.run import run_guard
from sipc.guard.supervise import LONGEST, Event, Report, Settings

__all__ = ("run",)

_DEFAULT = Settings()
_SECONDS = click.FloatRange(min=0, max=LONGEST)


@click.command(epilog=f"Example: sipc guard run guard.toml\n\n{EPILOG}")
@click.argument("file", type=path_type())
@click.option(
    "--state",
    type=path_type(file_okay=False),
    help="Where stages keep what outlives them (default: $XDG_STATE_HOME/sipc-guards or ~/.local/state/sipc-guards).",
)
@click.option(
    "--registry",
    type=path_type(file_okay=False),
    help="Directory of descriptors (default: $SIPC_REGISTRY, for root /run/sipc, else $XDG_RUNTIME_DIR/sipc).",
)
@click.option("--keep", is_flag=True, help="Leave the channels when everything has ended.")
@click.option("--grace", type=_SECONDS, default=_DEFAULT.grace, show_default=True,
              help="Seconds that stages have to finish what is in the channels, when the guard is stopped.")
@click.option("--patience", type=_SECONDS, default=_DEFAULT.patience, show_default=True,
              help="Seconds that a stage has to end when it is told to; then it is killed.")
@click.option("--burst", type=click.IntRange(min=1), default=_DEFAULT.burst, show_default=True,
              help="How often a stage may be started within --interval; the next time the guard stops.")
@click.option("--interval", type=_SECONDS, default=_DEFAULT.interval, show_default=True,
              help="Seconds for --burst.")
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on stdout.")  # fmt: skip
def run(
    file: Path, state: Path | None, registry: Path | None, keep: bool, grace: float, patience: float, burst: int,
    interval: float, as_json: bool,
) -> int:  # fmt: skip
    """Run the guard of FILE here: make its channels, start its stages, restart those that die, until all have ended.

    Ctrl-C, SIGTERM or SIGHUP stops it in order: sources first, the rest when they have finished what came.  A second
    one waits no longer, a third kills.  Channels with something unfinished in them stay, and the next run goes on.

    Exit code 0: every stage ended by itself, all done; 1: a stage broke the protocol, or a quarantine is full; 3: bad
    file; 4: refused, or a stage that ended too often; 130: stopped.
    """
    guard = load(file)
    if as_json and (name := _with_stdout(guard)) is not None:
        raise click.UsageError(f"--json needs standard output, which is stage {name}'s: leave one of the two out")
    settings = Settings(
        state=state, registry=registry, keep=keep, grace=grace, patience=patience, burst=burst, interval=interval
    )
    return int(run_guard(guard, file, settings, _reporter(guard, as_json=as_json)))


def _with_stdout(guard: Guard) -> str | None:
    for name, stage in guard.stages.items():
        if stage.kind is Kind.SINK and getattr(stage.work, "medium", None) is Medium.STREAM:
            return name
    return None


def _reporter(guard: Guard, *, as_json: bool) -> Report:
    def report(event: Event) -> None:
        with suppress(OSError):  # nobody reads the log; the guard goes on
            if as_json:
                document = {"version": 1, "time": time.time(), "guard": guard.name, "event": event.kind,
                            **event.about, "text": event.text}  # fmt: skip
                click.echo(json.dumps(document))
            else:
                click.echo(f"{guard.name}: {event.text}", err=True)

    return report
