# SPDX-License-Identifier: Apache-2.0
"""`sipc explain`: SELinux denials, one paragraph each, and the command that settles them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import click

from sipc.cli.exits import Exit
from sipc.cli.places import contents, path_type, standard_input
from sipc.definitions import DEFINITIONS, load
from sipc.errors import SpecError
from sipc.selinux.denials import Kind, collapse, judge, parse
from sipc.spec import Enforcement

__all__ = ("explain",)

_FINE = (Kind.DIRECTION, Kind.FOREIGN)


@click.command(epilog=(
    "Examples: sipc explain /var/log/audit/audit.log;  journalctl -k | sipc explain -d feed.toml\n\n"
    "Exit codes: 0 all denials are by design or concern no channel; 1 something is to be fixed; 2 usage; 3 no denial "
    "in the input, or bad input; 4 the environment refused; 5 timeout; 70 a bug in sipc; 130 interrupted."
))  # fmt: skip
@click.argument("log", required=False, type=path_type())
@click.option("-d", "--definitions", multiple=True, type=path_type(),
              help=f"Files that define the channels; may be repeated (default: {DEFINITIONS}/*.toml).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per denial on stdout.")
def explain(log: Path | None, definitions: tuple[Path, ...], as_json: bool) -> int:  # fmt: skip
    """Explain the SELinux denials (AVC lines) in LOG, or on standard input: by design, or what to fix."""
    if not definitions and not DEFINITIONS.is_dir():
        raise SpecError(f"no channel is defined in {DEFINITIONS}: give the files that define them with -d FILE")
    specs = list(load(list(definitions) or [DEFINITIONS], enforcement=Enforcement.SELINUX).values())
    if log is None:
        with standard_input() as stream:
            text = stream.read()
    else:
        text = contents(log, "name a log that this user can read, or give its lines (dmesg | sipc explain)")
    counts = collapse(parse(text.decode(errors="replace").splitlines()))
    if not counts:
        raise SpecError("no AVC denial in the input: give an audit log, 'journalctl -k' or dmesg output")
    code = Exit.OK
    for denial, count in counts.items():
        verdict = judge(denial, specs)
        if verdict.kind not in _FINE:
            code = Exit.NO
        if as_json:
            click.echo(json.dumps({
                "version": 1, "kind": verdict.kind, "channel": verdict.channel, "role": verdict.role, "count": count,
                "text": verdict.text, "command": verdict.command, "permissions": denial.permissions,
                "scontext": denial.source_context, "tcontext": denial.target_context, "tclass": denial.cls,
            }))  # fmt: skip
        else:
            times = f" [{count} times]" if count > 1 else ""
            click.echo(textwrap.fill(f"{verdict.kind}{times}: {verdict.text}", 100))
            click.echo(f"  {verdict.command}\n" if verdict.command else "")
    return code
