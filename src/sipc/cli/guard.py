# SPDX-License-Identifier: Apache-2.0
"""`sipc guard`: a guard file to begin with, and the check of one.

Neither touches anything but the files it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sipc.cli import guard_units
from sipc.cli.exits import EPILOG, Exit
from sipc.cli.guard_audit import audit
from sipc.cli.guard_graph import graph
from sipc.cli.guard_run import run
from sipc.cli.guard_stage import accused, stage
from sipc.cli.guard_top import metrics, top
from sipc.cli.places import contents, path_type
from sipc.errors import SpecError
from sipc.guard.check import Examined, examine, text_of
from sipc.guard.example import write_example
from sipc.guard.model import CommandFilter, Guard, PythonFilter, Stage
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import Policy

__all__ = ("guard",)


@click.group()
def guard() -> None:
    """Stages joined by one-way channels, from one file."""




@guard.command(epilog=f"Example: sipc guard check guard.toml\n\n{EPILOG}")
@click.argument("file", type=path_type())
@click.option(
    "--policy",
    "binary",
    type=path_type(),
    help="A binary policy file: no type that the guard's policy makes may be in it.",
)
@click.option(
    "--base",
    multiple=True,
    type=path_type(),
    help="The same for CIL: a file, a folder, or a module store; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(file: Path, binary: Path | None, base: tuple[Path, ...], as_json: bool) -> int:  # fmt: skip
    """Say what FILE describes, or all that is wrong with it, by line.  Nothing is touched.

    Exit code 0: it describes a guard, and its requirements hold; 1: it does not; 3: there is nothing to check.
    """
    if binary is not None and base:
        raise SpecError("--policy and --base are two policies: give one")
    text = text_of(file)
    found = examine(text, str(file), _policy(binary, base))
    if as_json:
        click.echo(json.dumps(_document(found)))
    else:
        for line in found.lines or _description(found):
            click.echo(line)
        for note in found.notes:
            click.echo(f"note: {note}")
    return Exit.OK if found.guard is not None else Exit.NO


@guard.command(epilog=f"Example: sipc guard init first\n\n{EPILOG}")
@click.argument("folder", metavar="[DIR]", default=".", type=path_type(file_okay=False))
def init(folder: Path) -> int:
    """Write a small guard to begin with into DIR (default: here): DIR/guard.toml, DIR/in and DIR/out.

    What is there is not overwritten.
    """
    path = write_example(folder)
    click.echo(f"wrote {path}: files from {folder / 'in'} go to {folder / 'out'}")
    click.echo(f"next: sipc guard check {path}")
    return Exit.OK


for _command in (
    accused, audit, graph, guard_units.down, guard_units.install, guard_units.status, guard_units.uninstall,
    guard_units.up, metrics, run, stage, top,
):  # fmt: skip
    guard.add_command(_command)


def _policy(binary: Path | None, base: tuple[Path, ...]) -> Policy | None:
    if base:
        return read_policy(compose(base), f"the policy composed of {', '.join(map(str, base))}")
    return None if binary is None else read_policy(contents(binary, "give a binary policy file"), str(binary))


def _description(found: Examined) -> Iterator[str]:
    guard = found.guard
    if guard is None:
        return
    stages, channels, requirements = (
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in (
            (len(guard.stages), "stage"), (len(guard.channels), "channel"), (len(guard.require), "requirement"),
        )
    )  # fmt: skip
    yield f"{found.source}: guard {guard.name}: {stages}, {channels}, {requirements}: no problem found"
    for name, channel in guard.channels.items():
        yield (
            f"  {name}: {channel.sender} ({_work(guard.stages[channel.sender])}) -> "
            f"{channel.receiver} ({_work(guard.stages[channel.receiver])}), {channel.spec.enforcement}"
        )
    for requirement in guard.require:
        yield f"  holds: {requirement}"
    if found.names is not None:
        yield f"  free: {found.names} types that its policy makes"


def _work(stage: Stage) -> str:
    work = stage.work
    if isinstance(work, PythonFilter):
        return f"filter {work.function}"
    if isinstance(work, CommandFilter):
        return f"filter {work.command[0]}"
    return f"{stage.kind} {work.path or ('stdin' if stage.kind == 'source' else 'stdout')}"


def _document(found: Examined) -> dict[str, Any]:
    return {
        "version": 1,
        "file": found.source,
        "ok": found.guard is not None,
        "problems": [
            {"line": problem.line, "table": problem.table, "key": problem.key, "reason": problem.reason,
             "fix": problem.fix, "text": problem.text(found.source)}
            for problem in found.problems
        ],
        "notes": list(found.notes),
        "guard": _summary(found.guard) if found.guard is not None else None,
        "types_looked_for": found.names,
    }  # fmt: skip


def _summary(guard: Guard) -> dict[str, Any]:
    return {
        "name": guard.name,
        "stages": {
            name: {"kind": stage.kind, "user": stage.user, "group": stage.group, "type": stage.type}
            for name, stage in guard.stages.items()
        },
        "channels": {
            name: {"from": channel.sender, "to": channel.receiver, "registered": channel.spec.name,
                   "enforcement": channel.spec.enforcement}
            for name, channel in guard.channels.items()
        },
        "require": [str(requirement) for requirement in guard.require],
    }  # fmt: skip
