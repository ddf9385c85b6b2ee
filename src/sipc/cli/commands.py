# SPDX-License-Identifier: Apache-2.0
"""The commands and their options; what they do stands in the modules they call."""

from __future__ import annotations

import json
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sipc import enforcement
from sipc.cli import demo as demonstration
from sipc.cli import doctor as checks
from sipc.cli import modules, streams, watching
from sipc.cli.ending import end_in_order
from sipc.cli.exits import EPILOG, Exit
from sipc.cli.explain import explain
from sipc.cli.guard import guard
from sipc.cli.places import path_type
from sipc.cli.policy import policy
from sipc.descriptor import Descriptor
from sipc.errors import ChannelNotFound, RegistryError
from sipc.helping import run_helper
from sipc.registry import Registry, search_path
from sipc.watch import find

__all__ = ("cli",)

_registry = click.option(
    "--registry", type=path_type(), help="Directory of descriptors (default: $SIPC_REGISTRY, "
    "or /run/sipc and then $XDG_RUNTIME_DIR/sipc)."
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def _helpful(example: str) -> str:
    """What stands below every command's options."""
    return f"{example}\n\n{EPILOG}"


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sipc")
def cli() -> None:
    """Move data one way: a helper makes the channel and exits, the sender sends, the receiver receives."""


for _verb in (modules.install, modules.remove, modules.list_):
    policy.add_command(_verb)
cli.add_command(policy)
cli.add_command(explain)
cli.add_command(guard)


def _helped(verb: str, registry: Path | None, rest: list[str], *, as_json: bool) -> int:
    place = ["--registry", str(registry)] if registry is not None else []
    done = run_helper([*place, verb, *rest])
    click.echo(done.words, err=True, nl=False)
    code = Exit.BUG if done.bug and not os.environ.get("SIPC_DEBUG") else done.code
    # What is created is all or nothing; what is destroyed stays so.
    lines = list(done.lines) if code == 0 or verb == "destroy" else []
    if as_json:
        _print_json({"channels": lines, "ok": code == 0})
    else:
        for line in lines:
            if "created" in line:
                click.echo(f"created {line['created']} in {line['registry']} (helper pid {line['pid']}, exited)")
            else:
                click.echo(f"destroyed {line['destroyed']}")
    return code


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps({"version": 1, **document}))


@cli.command(epilog=_helpful("Example: sipc create feed.toml"))
@click.argument("files", nargs=-1, type=path_type())
@_registry
@click.option("--channel", multiple=True, help="Only this channel of the files; may be repeated.")
@click.option("--replace", is_flag=True, help="Destroy a channel of the same name first; both its ends are told.")
@_json
def create(
    files: tuple[Path, ...], registry: Path | None, channel: tuple[str, ...], replace: bool, as_json: bool
) -> int:
    """Create the channels that definition FILES describe (default: /etc/sipc/channels.d/*.toml)."""
    rest = [*map(str, files), *(part for name in channel for part in ("--channel", name))]
    return _helped("create", registry, [*rest, *(["--replace"] if replace else [])], as_json=as_json)


@cli.command(epilog=_helpful("Example: sipc destroy feed"))
@click.argument("names", nargs=-1, required=True)
@_registry
@_json
def destroy(names: tuple[str, ...], registry: Path | None, as_json: bool) -> int:
    """Destroy channels, and what a killed helper left under their names.  Both ends are told."""
    return _helped("destroy", registry, list(names), as_json=as_json)


def _row(place: Path, descriptor: Descriptor) -> dict[str, Any]:
    spec = descriptor.spec
    return {
        "name": spec.name,
        "registry": str(place),
        "backend": spec.backend,
        "transport": spec.transport,
        "wire": spec.wire,
        "slots": spec.geometry.slots,
        "depth": spec.geometry.depth,
        "slot_size": spec.geometry.slot_size,
        "tag": spec.tag,
        "enforcement": spec.enforcement,
    }


@cli.command("list", epilog=_helpful("Example: sipc list --json"))
@_registry
@_json
@click.option("--watch", is_flag=True, help="Go on: report each channel that appears, is replaced, is refused or goes, "
              "until interrupted; with --json one object in each line.")
def list_(registry: Path | None, as_json: bool, watch: bool) -> int:
    """List the channels there are."""
    if watch:
        return watching.report(registry, _row, as_json=as_json)
    rows = []
    code = Exit.OK
    for directory in search_path(registry):
        try:
            place = Registry(directory)
        except ChannelNotFound:
            continue
        with place:
            for name in place.names():
                try:
                    rows.append(_row(directory, place.read(name)))
                except ChannelNotFound:
                    continue  # destroyed in this moment
                except RegistryError as error:  # the others are listed all the same
                    click.echo(f"sipc: {error}", err=True)
                    code = Exit.REFUSED
    if as_json:
        _print_json({"channels": rows})
        return code
    for row in rows:
        click.echo(
            f"{row['name']:20} {row['backend']:6} {row['transport']:8} {row['slots']} slots of {row['slot_size']}, "
            f"depth {row['depth']}, {row['enforcement']}, {row['registry']}"
        )
    return code


def _owner(end: dict[str, Any], creator_uid: int) -> str:
    """Who may have a role, for a person."""
    if end["uid"] is None and end["type"] is None:
        return f"uid {creator_uid}, who created the channel"
    return ", ".join(f"{key} {value}" for key, value in end.items() if value is not None)


@cli.command(epilog=_helpful("Example: sipc status feed"))
@click.argument("name")
@_registry
@_json
def status(name: str, registry: Path | None, as_json: bool) -> int:
    """Show a channel's geometry, owners, epoch, and what enforces its direction right now and what does not."""
    place, descriptor = find(name, search_path(registry))
    with place:
        account = enforcement.account(descriptor)
        row = _row(place.path, descriptor)
    ends = {
        role: {"uid": who.uid, "gid": who.gid, "type": who.type}
        for role, who in (("sender", descriptor.spec.sender), ("receiver", descriptor.spec.receiver))
    }
    row |= {"epoch": descriptor.epoch, "creator_uid": descriptor.creator_uid, "created": descriptor.created, **ends}
    row |= {"queue_key": descriptor.keys.queue, "segment_key": descriptor.keys.segment}
    if as_json:
        _print_json({**row, "summary": account.summary, "holds": account.holds, "open": account.open})
        return Exit.OK
    row |= {role: _owner(end, descriptor.creator_uid) for role, end in ends.items()}
    row["created"] = datetime.fromtimestamp(descriptor.created, UTC).isoformat()
    for key, value in row.items():
        click.echo(f"{key + ':':14}{value}")
    click.echo(f"\n{account.summary}\n\nWhat holds the direction:")
    for line in account.holds:
        click.echo(f"  + {line}")
    click.echo("What does not:")
    for line in account.open:
        click.echo(f"  - {line}")
    return Exit.OK


class _Seconds(click.FloatRange):
    """A time that can be waited for: not negative, and a number."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


_wait = click.option(
    "--wait", type=_Seconds(), help="Seconds to wait for the channel to be created (default: for ever)."
)


_confine = click.option(
    "--confine/--no-confine", default=False, show_default=True,
    help="Give up, by seccomp filters, the system calls that this end has no use for.",
)  # fmt: skip

_key = click.option(
    "--key", type=path_type(dir_okay=False), help="Key file of a channel whose definition has a tag."
)


@cli.command(epilog=_helpful("Examples: sipc send feed FILE;  tar c DIR | sipc send feed"))
@click.argument("name")
@click.argument("file", required=False, type=path_type())
@_registry
@_wait
@click.option("--no-progress", is_flag=True, help="No progress on stderr, even on a terminal.")
@_confine
@_key
@_json
def send(
    name: str, file: Path | None, registry: Path | None, wait: float | None, no_progress: bool, confine: bool,
    key: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Send FILE (default: standard input) as one stream; its end is announced, or that it was cut."""
    shown = not no_progress and sys.stderr.isatty()
    count = streams.send(name, file, registry, wait, progress=shown, confine=confine, key=key)
    if as_json:
        _print_json({"name": name, "bytes": count, "ok": True})
    return Exit.OK


@cli.command(epilog=_helpful("Examples: sipc recv feed FILE;  sipc recv feed | tar x"))
@click.argument("name")
@click.argument("file", required=False, type=path_type(dir_okay=False))
@_registry
@_wait
@click.option("--timeout", type=_Seconds(), help="Give up when nothing comes for this many seconds (exit code 5).")
@click.option("--cursor", type=path_type(dir_okay=False), help="File that keeps what is finished: "
              "run again, this goes on there.  Only with standard output, a pipe or a device.")
@click.option("--no-progress", is_flag=True, help="No progress on stderr, even on a terminal.")
@_confine
@_key
@_json
def recv(
    name: str, file: Path | None, registry: Path | None, wait: float | None, timeout: float | None,
    cursor: Path | None, no_progress: bool, confine: bool, key: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Receive one stream into FILE (default: standard output).

    FILE appears only when the whole stream has come.  A stream that was cut ends with exit code 1.
    """
    if as_json and file is None:
        raise click.UsageError("--json needs FILE: standard output is the stream's")
    shown = not no_progress and sys.stderr.isatty()
    count = streams.receive(name, file, registry, wait, timeout, cursor, progress=shown, confine=confine, key=key)
    if as_json:
        _print_json({"name": name, "bytes": count, "ok": True})
    return Exit.OK


@cli.command(epilog=_helpful("Example: sipc doctor"))
@_registry
@_json
def doctor(registry: Path | None, as_json: bool) -> int:
    """Check kernel limits, mounts, namespace, users and leftovers, and say what fixes each."""
    findings = checks.examine(search_path(registry))
    bad = any(finding.level == "bad" for finding in findings)
    if as_json:
        _print_json({"ok": not bad, "findings": [finding.as_dict() for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.level:5} {finding.text}" + (f"\n      fix: {finding.fix}" if finding.fix else ""))
    return Exit.NO if bad else Exit.OK


@cli.command(epilog=_helpful("Example: sipc demo /etc/services"))
@click.argument("file", required=False, type=path_type())
@click.option("--size", type=click.IntRange(min=0), default=16 << 20, show_default=True,
              help="Bytes of random data, when no FILE is given.")  # fmt: skip
@_json
def demo(file: Path | None, size: int, as_json: bool) -> int:
    """Watch a file cross a channel whose helper has already exited."""
    end_in_order()
    result = demonstration.run(file, size)
    if as_json:
        _print_json(result)
    else:
        for line in demonstration.describe(result):
            click.echo(line)
    return Exit.OK if result["equal"] else Exit.NO
