# SPDX-License-Identifier: Apache-2.0
"""`sipc guard install`, `up`, `down`, `status`, `uninstall`: a guard as a system's service.

Owns the order of things: a guard is checked as a whole and its policy is proven before anything is written.  Then files
come first and the policy last, because semodule is the one step that is whole or not at all by itself: what fails
before it, or in it, is undone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from sipc.cli.exits import EPILOG, Exit
from sipc.cli.guard_policy import LABELLED, missing_policy, plan_policy, plan_removal
from sipc.cli.places import path_type
from sipc.errors import Denied, PolicyUnavailable, SpecError
from sipc.guard import check
from sipc.guard.model import Guard, Stage
from sipc.guard.policy import account, by_selinux, channel_specs, file_places, own_places
from sipc.guard.systemd import (
    Systemd,
    UnitState,
    files_of,
    guard_file,
    installed,
    obsolete,
    replace_all,
    replaced,
    status_of,
    unit_files,
)
from sipc.guard.text import clean
from sipc.guard.units import GUARDS, channel_name, stage_name, target_name
from sipc.selinux.store import uninterrupted

__all__ = ("down", "install", "status", "uninstall", "up")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"  # where systemd looks for programs
_SYSTEM = Path("/")

_root = click.option("--root", type=path_type(file_okay=False), default=_SYSTEM,
                     help="An image's root directory: files are changed there, and nothing is run.")  # fmt: skip
_name = click.argument("name", metavar="[GUARD]", required=False)


@click.command(epilog=f"Example: sipc guard install guard.toml --policy\n\n{EPILOG}")
@click.argument("file", type=path_type())
@click.option("--policy", is_flag=True, help="Prove and install the guard's SELinux policy first.")
@click.option("--without-policy", is_flag=True, help="Do not look whether that policy is installed.")
@_root
def install(file: Path, *, policy: bool, without_policy: bool, root: Path) -> int:
    """Make units of the guard that FILE describes: a target, and below it one for each channel and each stage.

    FILE is copied to /etc/sipc/guards, with the Python modules of its filters that lie beside it.  Nothing is started.
    """
    text = check.text_of(file)
    guard = check.load(file)
    files = files_of(guard, file, text, root)
    system = Systemd() if _is_system(root) else None
    if system is not None:
        _fits(guard, system, root, set(files))
    plan = None
    if by_selinux(guard):
        store = None if system is not None else root
        if policy:
            plan = plan_policy(guard, store)
            if plan.report is not None and not plan.report.ok:
                click.echo("\n".join(plan.report.lines()))
                click.echo("sipc: nothing was installed: change what was found", err=True)
                return Exit.NO
        elif not without_policy and (missing := _missing(guard, store)):
            raise SpecError(
                f"{file}: the policy of this guard is not installed ({', '.join(missing)}): say --policy, which proves "
                "and installs it, or --without-policy"
            )
    old = obsolete(root, guard.name, files)
    with (
        uninterrupted(), _reloaded(system), replaced({**files, **dict.fromkeys(old)}) as changed,
        _quarantines(guard if system is not None else None) as made,
    ):  # fmt: skip
        if system is not None:
            system.call("daemon-reload")
        if plan is not None:
            plan.apply()
    for path in changed:
        click.echo(f"{'wrote' if path in files else 'removed'} {path}")
    for path in made:
        click.echo(f"made {path}")
    if system is not None and by_selinux(guard):
        _relabel(guard)
    click.echo(f"next: sipc guard up {guard.name}", err=True)
    return Exit.OK


def _missing(guard: Guard, store: Path | None) -> list[str]:
    try:
        return missing_policy(guard, store)
    except PolicyUnavailable as error:
        raise PolicyUnavailable(f"{error}; or say --without-policy, which does not look") from error


@click.command(epilog=f"Example: sipc guard up json\n\n{EPILOG}")
@_name
@click.option("--renew", is_flag=True, help="Make the channels anew first, as after a violation: what is on them "
              "is lost.")
def up(name: str | None, *, renew: bool) -> int:
    """Start a guard's channels and stages.  GUARD may be left out where one is installed."""
    system, guard = Systemd(), _installed(name)
    stages = [stage_name(guard.name, stage) for stage in guard.stages]
    system.call("reset-failed", "--", *stages, check=False)
    if renew:
        system.call("stop", "--", *stages)
        system.call("restart", "--", *(channel_name(guard.name, channel) for channel in guard.channels))
    system.call("start", "--", target_name(guard.name), *stages)
    return _say_states(guard, system, err=True)


@click.command(epilog=f"Example: sipc guard down json\n\n{EPILOG}")
@_name
def down(name: str | None) -> int:
    """Stop a guard's stages, sources first.  Its channels stay, with what is on them."""
    system, guard = Systemd(), _installed(name)
    system.call("stop", "--", target_name(guard.name), *(stage_name(guard.name, stage) for stage in guard.stages))
    return Exit.OK


@click.command(epilog=f"Example: sipc guard status json --json\n\n{EPILOG}")
@_name
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def status(name: str | None, *, as_json: bool) -> int:
    """Show each stage: what systemd says of it, and what it says of itself.

    Exit code 0: every stage runs, or has ended in order; 1: not.
    """
    system, guard = Systemd(), _installed(name)
    if not as_json:
        return _say_states(guard, system, err=False)
    states = _states(guard, system)
    click.echo(json.dumps({
        "version": 1,
        "guard": guard.name,
        "stages": {
            stage: {"kind": guard.stages[stage].kind, "unit": state.unit, "active": state.active, "sub": state.sub,
                    "result": state.result, "exit_status": state.exit_status, "pid": state.pid or None,
                    "restarts": state.restarts, "status": status_of(_SYSTEM, guard.name, stage)}
            for stage, state in states.items()
        },
        "channels": {
            channel: system.states([unit])[unit].active
            for channel, unit in ((name, channel_name(guard.name, name)) for name in guard.channels)
        },
    }))  # fmt: skip
    return _verdict(states)


@click.command(epilog=f"Example: sipc guard uninstall json\n\n{EPILOG}")
@_name
@click.option("--purge", is_flag=True, help="Remove the stages' state, audit logs and quarantines too.")
@click.option("--policy", is_flag=True, help="Remove the guard's SELinux policy too.")
@_root
def uninstall(name: str | None, *, purge: bool, policy: bool, root: Path) -> int:
    """Stop a guard, destroy its channels, and remove its units.  State, audit logs and quarantines stay.

    What fails can be done again: the guard's file goes last.
    """
    system, guard = Systemd() if _is_system(root) else None, _installed(name, root)
    units = unit_files(root, guard.name)
    if system is not None:
        system.call("disable", "--", target_name(guard.name), check=False)
        stages = [path.name for path in units if "-stage-" in path.name or path.suffix == ".target"]
        system.call("stop", "--", *stages)
        system.call("stop", "--", *(path.name for path in units if path.name not in stages))
    kept = _kept(guard, root)
    for place in kept if purge else ():
        _purge(place, root)
        click.echo(f"removed {place}")
    if policy and by_selinux(guard):
        for module in plan_removal(guard, None if system is not None else root).apply():
            click.echo(f"removed {module}")
        if system is not None:
            _relabel(guard)  # or what stays has a type that is gone
    folder = guard_file(root, guard.name).with_suffix("")
    files = [*units, *(path for path in folder.rglob("*") if path.is_file()), guard_file(root, guard.name)]
    for path in replace_all(dict.fromkeys(files)):
        click.echo(f"removed {path}")
    shutil.rmtree(folder, ignore_errors=True)
    if system is not None:
        system.call("daemon-reload")
        system.call("reset-failed", "--", *(path.name for path in units), check=False)
    for place in () if purge else kept:
        click.echo(f"kept {place}", err=True)
    if purge:
        _remove_empty(folder.parent, _below(root, "/etc/sipc/guards"))
    return Exit.OK


def _is_system(root: Path) -> bool:
    return root.absolute() == _SYSTEM


def _installed(name: str | None, root: Path = _SYSTEM) -> Guard:
    there = installed(root)
    if name is None and len(there) == 1:
        name = there[0]
    if name not in there:
        what = "no guard is named" if name is None else f"no guard {name!r} is installed"
        raise SpecError(f"{what}: installed are {', '.join(there) or 'none'}: 'sipc guard install FILE' installs one")
    return check.load(guard_file(root, str(name)))


def _fits(guard: Guard, system: Systemd, root: Path, files: set[Path]) -> None:
    """Refuse what would not start, before anything is written."""
    channel_specs(guard)  # every user is here
    for program in ("sipc", "sipc-helper"):
        if shutil.which(program, path=_PATH) is None:
            raise Denied(
                f"{program} is not where systemd looks for programs ({_PATH}): install sipc for the system, "
                "as root: pip install 'sipc[cli]'"
            )
    for name, stage in guard.stages.items():
        own = () if stage.quarantine is None else (stage.quarantine.directory,)
        for place in file_places(stage):
            if place not in own and not Path(place).is_dir():
                group = "" if stage.group is None else f" -g {stage.group}"
                raise SpecError(
                    f"{guard.source}: stage {name}: {place} is no directory: make it, for example "
                    f"'install -d -o {stage.user}{group} -m 0750 {place}'"
                )
    stages = [stage_name(guard.name, stage) for stage in guard.stages]
    running = [state.unit for state in _of(system, [*stages, *(path.name for path in unit_files(root, guard.name)
               if path not in files)]) if state.active not in ("inactive", "failed")]  # fmt: skip
    if running:
        raise Denied(f"{running[0]} runs: 'sipc guard down {guard.name}' stops the stages (and 'sipc guard uninstall "
                     f"{guard.name}' the channels too): then install again")  # fmt: skip


def _of(system: Systemd, units: list[str]) -> list[UnitState]:
    states = system.states(units)
    return [states[unit] for unit in units]


def _states(guard: Guard, system: Systemd) -> dict[str, UnitState]:
    units = _of(system, [stage_name(guard.name, stage) for stage in guard.stages])
    return dict(zip(guard.stages, units, strict=True))


def _verdict(states: dict[str, UnitState]) -> int:
    runs = {"active", "activating", "reloading"}
    fine = all(
        state.active in runs or (state.loaded and state.active == "inactive" and state.result == "success")
        for state in states.values()
    )
    return Exit.OK if fine else Exit.NO


def _say_states(guard: Guard, system: Systemd, *, err: bool) -> int:
    states = _states(guard, system)
    for stage, state in states.items():
        click.echo(_line(guard, stage, state), err=err)
    return _verdict(states)


def _line(guard: Guard, stage: str, state: UnitState) -> str:
    """One stage on one line; what it says of itself is shown as text, whatever it is."""
    parts = [f"{state.active} ({state.sub})"]
    if state.pid:
        parts.append(f"pid {state.pid}")
    if state.restarts:
        parts.append(f"restarted {state.restarts} times")
    if state.active == "failed":
        parts.append(f"{state.result}, exit code {state.exit_status}")
    said = status_of(_SYSTEM, guard.name, stage) or {}
    parts += [_shown(said[key]) for key in ("state", "reason") if isinstance(said.get(key), str) and said[key]]
    channels = said.get("channels")
    for name, counts in channels.items() if isinstance(channels, dict) else ():
        if name in guard.channels and isinstance(counts, dict) and isinstance(counts.get("messages"), int):
            parts.append(f"{name}: {counts['messages']} messages")
    return f"{stage} ({guard.stages[stage].kind}): {', '.join(parts)}"


def _shown(text: str) -> str:
    return text[:200] if text.isprintable() else repr(text)[:200]


@contextmanager
def _reloaded(system: Systemd | None) -> Iterator[None]:
    """What systemd was told of is gone again if the body fails: tell it."""
    try:
        yield
    except BaseException:
        if system is not None:
            system.call("daemon-reload", check=False)
        raise


@contextmanager
def _quarantines(guard: Guard | None) -> Iterator[list[Path]]:
    """Make them: a filter can not make its own in a directory that is not its.  Gone again if the body fails."""
    made: list[Path] = []
    folders: list[Path] = []
    try:
        for stage in guard.stages.values() if guard is not None else ():
            if stage.quarantine is not None and not (path := Path(stage.quarantine.directory)).exists():
                _make_quarantine(stage, path, folders)
                made.append(path)
        yield made
    except BaseException:
        for path in reversed(folders):
            with suppress(OSError):
                path.rmdir()
        raise


def _make_quarantine(stage: Stage, path: Path, folders: list[Path]) -> None:
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.exists():
                folder.mkdir(mode=0o700 if folder == path else 0o755)
                folders.append(folder)
        uid, gid = account(stage)
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
    except OSError as error:
        raise Denied(f"{error.filename}: {error.strerror}: stage {stage.name} needs it for its quarantine; nothing was "
                     "installed: make it, or give another") from error  # fmt: skip


def _relabel(guard: Guard) -> None:
    """Files that are there keep their labels when a policy comes."""
    places = [place for stage in guard.stages.values() for place in own_places(guard, stage)]
    there = [path for path in (*LABELLED, GUARDS, *places) if Path(path).exists()]
    program = shutil.which("restorecon", path=f"{_PATH}:/sbin")
    if program is None or not there:
        click.echo(f"note: no restorecon here: give {', '.join(there)} their labels", err=True)
        return
    done = subprocess.run([program, "-RFi", "--", *there], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", check=False)  # fmt: skip
    if done.returncode:  # it quotes names of files that anybody made
        said = clean("; ".join(done.stderr.split("\n")).strip("; "), 1000)
        click.echo(f"note: restorecon: {said or f'exit code {done.returncode}'}", err=True)


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _purge(place: Path, root: Path) -> None:
    """Remove what a stage kept, and what `install` and systemd made to hold it, as far as that is empty now."""
    try:
        shutil.rmtree(place)
    except OSError as error:
        raise Denied(f"{error.filename}: {error.strerror}: remove it, and uninstall again") from error
    for holder in ("/var/lib/sipc-guards", "/run/sipc-guards", "/var/lib/sipc"):
        _remove_empty(place.parent, _below(root, holder))


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it up to `top`, while they are empty."""
    with suppress(OSError):
        while folder.is_relative_to(top):
            folder.rmdir()
            folder = folder.parent


def _kept(guard: Guard, root: Path) -> list[Path]:
    """What a guard leaves behind."""
    places = [f"/var/lib/sipc-guards/{guard.name}", f"/run/sipc-guards/{guard.name}"]
    places += [stage.quarantine.directory for stage in guard.stages.values() if stage.quarantine is not None]
    return [path for path in (_below(root, place) for place in places) if path.is_dir() and not path.is_symlink()]
