# SPDX-License-Identifier: Apache-2.0
"""`sipc policy install`, `remove`, `list`: channels' modules in the module store.

Owns the order of things: what is to change is decided on the store as it is, the policy that would come of it is
composed offline and proven, and only then semodule is run, once.  What is not proven is not installed, unless
`--unproven` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from sipc.cli.exits import Exit
from sipc.cli.places import path_type
from sipc.cli.policy import options_of, shaping, specs_of, texts_of
from sipc.errors import ChannelNotFound, SpecError
from sipc.registry import Registry, search_path
from sipc.selinux.binary import read_policy
from sipc.selinux.changes import installation, removal
from sipc.selinux.compose import compose
from sipc.selinux.report import Report
from sipc.selinux.store import Change, Store, Stored
from sipc.selinux.verify import verify
from sipc.spec import Enforcement

__all__ = ("LABELLED", "install", "list_", "remove")

# Where files of channels are: the labels of `base.py` and `policy.py`.
LABELLED = ("/usr/bin/sipc", "/usr/bin/sipc-helper", "/usr/local/bin/sipc", "/usr/local/bin/sipc-helper",
             "/usr/local/lib/systemd", "/etc/sipc", "/run/sipc", "/var/lib/sipc")  # fmt: skip

_F = TypeVar("_F", bound=Callable[..., Any])


def _stored(command: _F) -> _F:
    """Options about which store."""
    for option in (
        click.option("--root", type=path_type(), help="An image's root directory: its store is changed, "
                     "and nothing is loaded (default: this system)."),
        click.option("--store", help="Name of the policy store (default: SELINUXTYPE of etc/selinux/config)."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("install", epilog="Example: sipc policy install /etc/sipc/channels.d/feed.toml")
@click.argument("files", nargs=-1, type=path_type())
@click.option("--remove", "gone", multiple=True, metavar="CHANNEL", help="Remove this installed channel in the same "
              "step; may be repeated.")
@click.option("--unproven", is_flag=True, help="Install without a proof: whatever the policy then allows.")
@_stored
@shaping
def install(
    files: tuple[Path, ...], gone: tuple[str, ...], unproven: bool, root: Path | None, store: str | None,
    channel: tuple[str, ...], launcher: tuple[str, ...], switcher: tuple[str, ...], new: tuple[str, ...],
    sealed: tuple[str, ...], lockable: tuple[str, ...], profile: str, as_json: bool,
) -> int:  # fmt: skip
    """Install the modules of the channels that definition FILES describe (default: /etc/sipc/channels.d/*.toml).

    The policy that would come of it is composed and proven first, and refused if it is not one-way (exit code 1).
    All modules are installed in one transaction and loaded, or none.  Give all channels that share an end.
    """
    place = Store(root, store)
    place.ready()
    options = options_of(launcher, switcher, new, sealed, lockable, profile)
    specs, modules = specs_of(files, channel), place.read()
    texts = texts_of(specs, options)
    change = installation(place, modules, specs, texts, gone)
    report = None
    if not unproven:
        policy = compose(place.base_for(change, modules), texts)
        report = verify(read_policy(policy, f"composed of {place.modules} and the new modules"), specs, options)
        if not report.ok:
            if as_json:
                _print_json(None, report)
            else:
                click.echo("\n".join(report.lines()))
            click.echo("sipc: nothing was installed: change what was found, or take it as it is (--unproven)", err=True)
            return Exit.NO
    place.apply(change, modules, proven=report is not None)
    if as_json:
        _print_json(change, report)
    else:
        _print_change(change)
    if report is None:
        click.echo("nothing was proven (--unproven): 'sipc policy verify' shows what this policy allows", err=True)
    else:
        click.echo(f"proven before it was installed: {', '.join(report.subjects)}", err=True)
        for note in report.notes:
            click.echo(f"note: {note}", err=True)
    _hint(place)
    return Exit.OK


@click.command("remove", epilog="Example: sipc policy remove feed")
@click.argument("channels", nargs=-1, required=True)
@click.option("--registry", type=path_type(), help="Directory of descriptors, to see whether a channel "
              "is in use (default: as for 'sipc list'; none with --root).")
@click.option("--revoke", is_flag=True, help="Remove it although the channel exists: its queue stops at once.  End its "
              "processes too, a mapped segment stays.")
@_stored
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def remove(
    channels: tuple[str, ...], registry: Path | None, revoke: bool, root: Path | None, store: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Remove the modules of CHANNELS, of ends that no other channel has, and with the last channel the base module.

    All go in one transaction, or none.  Channels that share an end go together.
    """
    place = Store(root, store)
    place.ready()
    modules = place.read()
    change = removal(modules, channels)
    if not revoke:
        _refuse_live(channels, search_path(registry) if registry is not None or place.root is None else [])
    place.apply(change, modules, proven=False)
    if as_json:
        _print_json(change, None)
    else:
        _print_change(change)
    _hint(place)
    return Exit.OK


@click.command("list", epilog="Example: sipc policy list --json")
@_stored
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_(root: Path | None, store: str | None, as_json: bool) -> int:
    """List the modules of channels that are installed: priority, channel, ends, and whether they are in force."""
    place = Store(root, store)
    modules = [module for module in place.read() if module.kind]
    if as_json:
        rows = [{"name": module.name, "priority": module.priority, "kind": module.kind,
                 "channel": module.channel or None, "ends": list(module.ends), "in_force": not module.why_not,
                 "why_not": module.why_not or None} for module in modules]  # fmt: skip
        click.echo(json.dumps({"version": 1, "store": str(place.modules), "modules": rows}))
        return Exit.OK
    for module in modules:
        state = f"; NOT IN FORCE: {module.why_not}" if module.why_not else ""
        click.echo(f"{module.name} (priority {module.priority}): {_what(module, modules)}{state}")
    if not modules:
        click.echo("no module of sipc is installed", err=True)
    return Exit.OK


def _what(module: Stored, modules: list[Stored]) -> str:
    if module.kind == "channel":
        return f"channel {module.channel}: {' -> '.join(module.ends)}"
    if module.kind == "base":
        return "base, shared by all channels"
    having = sorted({other.channel for other in modules if other.channel and set(module.ends) & set(other.ends)})
    return f"end {module.ends[0]} of {', '.join(having) or 'no channel'}"


def _refuse_live(channels: Iterable[str], places: Iterable[Path]) -> None:
    """Without their types a channel's objects are unlabelled, and its ends and helper can not even clean up."""
    for directory in places:
        try:
            registry = Registry(directory)
        except ChannelNotFound:
            continue
        with registry:
            for name in sorted(set(channels) & set(registry.names())):
                if registry.read(name).spec.enforcement is Enforcement.SELINUX:
                    raise SpecError(
                        f"channel {name!r} exists in {directory} and relies on this policy: run 'sipc destroy {name}' "
                        "first, or cut it off with --revoke and end its processes"
                    )


def _print_change(change: Change) -> None:
    for name in change.install:
        click.echo(f"installed {name}")
    for module in change.remove:
        click.echo(f"removed {module.name}")


def _print_json(change: Change | None, report: Report | None) -> None:
    installed = [] if change is None else list(change.install)
    removed = [] if change is None else [module.name for module in change.remove]
    proof = None if report is None else report.as_dict()
    click.echo(json.dumps({"version": 1, "installed": installed, "removed": removed, "proof": proof}))


def _hint(place: Store) -> None:
    """Labels of files do not change with the policy."""
    if place.root is None:
        command = f"restorecon -RFi {' '.join(LABELLED)}"
    else:
        contexts = place.root / "etc/selinux" / place.name / "contexts/files/file_contexts"
        command = f"setfiles -Fi -r {place.root} {contexts} {' '.join(f'{place.root}{path}' for path in LABELLED)}"
    click.echo(f"files that are there keep their labels until you run: {command}", err=True)
