# SPDX-License-Identifier: Apache-2.0
"""`sipc guard audit`: questions about the logs that stages write.

Owns the commands; the group `audit` is attached by `sipc guard`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from sipc.cli.exits import Exit
from sipc.cli.places import path_type, standard_input
from sipc.errors import SpecError
from sipc.guard.chain import Report, read_lines, verify

__all__ = ("audit",)

_SHOWN = 20  # problems; a log that was cut in the middle has one, a file that is no log has one for each line


@click.group()
def audit() -> None:
    """Check the audit logs of a guard's stages."""


@audit.command("verify", epilog="Example: sipc guard audit verify scrub.log --head HASH")
@click.argument("file", type=path_type())
@click.option("--head", metavar="HASH", help="Hash of an entry, noted earlier in another place: the log must have it, "
              "or its end was cut off or rewritten.")
@click.option("--journal", is_flag=True, help="FILE is from journalctl -o cat, where a line may come twice.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify_(file: Path, head: str | None, journal: bool, as_json: bool) -> int:  # fmt: skip
    """Find entries of the log FILE ('-': standard input) that were edited, are missing, or are not in their place.

    Without --head a log whose end was cut off, or written anew, looks like a shorter or another log.  Exit code 0: all
    is in order; 1: not, and where; 3: nothing to verify.
    """
    report = _verified(file, head, journal=journal)
    if as_json:
        problems = [{"line": line, "problem": text} for line, text in report.problems]
        document = {
            "version": 1, "ok": report.ok, "entries": report.entries,
            "messages": report.messages, "repeats": report.repeats, "head": report.head,
            "head_found_at": report.head_found_at, "problems": problems,
        }  # fmt: skip
        click.echo(json.dumps(document))
        return Exit.OK if report.ok else Exit.NO
    for line, text in report.problems[:_SHOWN]:
        click.echo(f"{file}:{line}: {text}")
    if len(report.problems) > _SHOWN:
        click.echo(f"and {len(report.problems) - _SHOWN} more")
    if report.ok:
        click.echo(
            f"{report.messages} messages in {report.entries} entries, each bound to the one before; head {report.head}"
        )
    if report.head_found_at is not None:
        click.echo(f"the noted head is entry {report.head_found_at} of {report.entries}")
    elif report.ok:
        click.echo("not proven: that this is the whole log, and the one that was written; note the head, give --head")
    return Exit.OK if report.ok else Exit.NO


def _verified(file: Path, head: str | None, *, journal: bool) -> Report:
    if str(file) == "-":
        with standard_input() as stream:
            return verify(read_lines(stream), head=head, repeats=journal)
    try:
        if file.is_char_device():
            raise SpecError(f"{file} is a device, which has no end: name a log")
        with file.open("rb") as stream:
            return verify(read_lines(stream), head=head, repeats=journal)
    except OSError as error:
        raise SpecError(f"{file}: {error.strerror}: name a log that this user can read") from error
