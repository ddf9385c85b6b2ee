# SPDX-License-Identifier: Apache-2.0
"""`sipc guard stage`, `sipc guard accused`: what units and the supervisor run of a guard."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from sipc.cli.exits import Exit
from sipc.cli.places import path_type
from sipc.guard.check import load
from sipc.guard.places import Places, default_state
from sipc.guard.policy import state_place
from sipc.guard.stage import run_stage
from sipc.guard.traces import accused as accused_channel

__all__ = ("accused", "stage")


@click.command(hidden=True, epilog="Example: sipc guard stage /etc/sipc/guards/json.toml scrub")
@click.argument("file", type=path_type())
@click.argument("name")
@click.option(
    "--state",
    metavar="DIR",
    type=path_type(file_okay=False),
    help="Keep the stage's state in DIR/GUARD/STAGE/state and its status in DIR/GUARD/STAGE/run, instead of where "
    "systemd says.",
)
@click.option(
    "--registry",
    metavar="DIR",
    type=path_type(file_okay=False),
    help="Directory of descriptors; default: $SIPC_REGISTRY, or /run/sipc, then $XDG_RUNTIME_DIR/sipc.",
)
@click.option(
    "--run",
    metavar="NAME",
    default="",
    help="A name for this run of the guard: a stage that has ended in it in order does so again at once, and a file is "
    "sent once in each.",
)
def stage(file: Path, name: str, state: Path | None, registry: Path | None, run: str) -> int:
    """Be the stage NAME of the guard that FILE describes.

    Exit codes: 0 all input has ended and was passed on; 3 the file or the input is wrong; 4 refused by the environment;
    75 start it again; 76 the sender broke the protocol; 77 the quarantine is full; 130 stopped, and nothing is lost.
    """
    guard = load(file)
    places = None if state is not None else Places.of_service(os.environ, registry=registry)
    if places is None:
        base = state if state is not None else default_state(os.environ)
        places = Places.below(base, guard.name, name, registry=registry)

    def report(line: str) -> None:
        with suppress(OSError):  # nobody reads it; the stage goes on
            print(f"sipc: guard {guard.name}: {name}: {line}", file=sys.stderr)

    return run_stage(guard, name, places, report, run=run)


@click.command(hidden=True, epilog="Example: sipc guard accused /etc/sipc/guards/json.toml scrub")
@click.argument("file", type=path_type())
@click.argument("name")
@click.option("--root", type=path_type(file_okay=False), default=Path("/"), help="An image's root.")
def accused(file: Path, name: str, root: Path) -> int:
    """Say on which channel the stage NAME saw the protocol broken, by the end of its audit log.

    Nothing: it is not said there.  For the unit that follows a violation, of a stage whose state is where systemd
    puts it.
    """
    guard = load(file)
    place = state_place(guard.name, name)
    channel = accused_channel(Places(state=root / "var/lib" / place, run=root / "run" / place), guard.audit)
    if channel:
        click.echo(channel)
    return Exit.OK
