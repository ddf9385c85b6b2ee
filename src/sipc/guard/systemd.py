# SPDX-License-Identifier: Apache-2.0
"""A guard's files and units on a system: written all or none, and systemd driven by systemctl.

Owns every touch of systemd.  What is written, `units.py` says.  A stage's status file is written by the stage, which is
not trusted: it is read as a regular file of a few bytes, and never followed elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sipc.errors import Denied, PolicyUnavailable, SpecError
from sipc.guard.model import Guard
from sipc.guard.policy import state_place
from sipc.guard.storage import NoMessage, read_file
from sipc.guard.units import CHANNELS, GUARDS, definitions, modules_of, prefix, render

__all__ = (
    "UNITS",
    "Systemd",
    "UnitState",
    "files_of",
    "guard_file",
    "installed",
    "obsolete",
    "replace_all",
    "replaced",
    "status_of",
    "unit_files",
)

UNITS = "/etc/systemd/system"
_RUNNING = Path("/run/systemd/system")  # sd_booted(3)
_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "MainPID", "NRestarts")
_LARGEST_STATUS = 1 << 16
_LARGEST_MODULE = 1 << 22
_SECONDS = 300.0  # for a transaction of systemd; stages have 20 s each to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """What systemd says of one unit."""

    unit: str
    loaded: bool
    active: str
    sub: str
    result: str
    exit_status: int
    pid: int
    restarts: int


class Systemd:
    """The system's service manager.  Making one raises `PolicyUnavailable` where there is none."""

    def __init__(self) -> None:
        self._program = shutil.which("systemctl")
        if self._program is None or not _RUNNING.is_dir():
            raise PolicyUnavailable(
                f"systemd does not run this machine ({_RUNNING} is not there): run the guard in the foreground, "
                "sipc guard run FILE, or write the units elsewhere, sipc guard install FILE --root DIR"
            )

    def call(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl.  Raises `Denied` with its words."""
        argv = [self._program or "systemctl", "--no-ask-password", "--no-pager", *arguments]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                                  check=False, timeout=_SECONDS)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Denied(f"systemctl {arguments[0]} has not ended in {_SECONDS:.0f} s: look at 'systemctl list-jobs'"
                         ) from error  # fmt: skip
        if check and done.returncode:
            said = "; ".join(line for line in (done.stdout + done.stderr).splitlines() if line.strip())
            raise Denied(f"systemctl {arguments[0]}: {said or f'exit code {done.returncode}'}: run it as root, and "
                         "see 'journalctl -xe'")  # fmt: skip
        return done.stdout

    def states(self, units: Sequence[str]) -> dict[str, UnitState]:
        """What systemd says of units, by name."""
        found = {}
        text = self.call("show", f"--property={','.join(_PROPERTIES)}", "--", *units) if units else ""
        for block in text.strip().split("\n\n"):
            value = dict(line.partition("=")[::2] for line in block.splitlines())
            if "Id" in value:
                found[value["Id"]] = UnitState(
                    unit=value["Id"], loaded=value.get("LoadState") == "loaded", active=value.get("ActiveState", ""),
                    sub=value.get("SubState", ""), result=value.get("Result", ""),
                    exit_status=int(value.get("ExecMainStatus") or 0), pid=int(value.get("MainPID") or 0),
                    restarts=int(value.get("NRestarts") or 0),
                )  # fmt: skip
        return found


def guard_file(root: Path, guard: str) -> Path:
    """Where an installed guard's file is."""
    return _below(root, GUARDS) / f"{guard}.toml"


def installed(root: Path) -> list[str]:
    """Names of the guards that are installed."""
    return sorted(path.stem for path in _below(root, GUARDS).glob("*.toml"))


def files_of(guard: Guard, source: Path, text: str, root: Path) -> dict[Path, bytes]:
    """All files of a guard: its file, its channels' definitions, its units, and filters' modules that lie beside it."""
    place = _below(root, GUARDS)
    files = {
        place / f"{guard.name}.toml": text.encode(),
        place / guard.name / CHANNELS: definitions(guard).encode(),
    }
    for name in modules_of(guard):
        for path in _module(source.parent, name):
            files[place / guard.name / path.relative_to(source.parent)] = path.read_bytes()
    units = _below(root, UNITS)
    return files | {units / name: unit.encode() for name, unit in render(guard).items()}


def _module(folder: Path, name: str) -> Iterator[Path]:
    """The files of a Python module in a folder, if it is there; else it must be installed for the system's Python."""
    single, package = folder / f"{name}.py", folder / name
    found = [single] if single.is_file() else []
    if not found and (package / "__init__.py").is_file():
        found = sorted(package.rglob("*.py"))
    for path in found:
        if path.stat().st_size > _LARGEST_MODULE:
            raise SpecError(f"{path}: more than {_LARGEST_MODULE} bytes: install it for the system's Python instead")
        yield path


def unit_files(root: Path, guard: str) -> list[Path]:
    """The unit files of a guard that are there, of an older version of it too."""
    units, begin = _below(root, UNITS), prefix(guard)
    exact = [units / f"{begin}.target", units / f"{begin}.slice"]
    more = [path for path in units.glob("sipc-guard-*.service")
            if any(path.name.startswith(f"{begin}-{kind}-") for kind in ("channel", "stage", "act"))]  # fmt: skip
    return [path for path in (*exact, *sorted(more)) if path.is_file()]


def obsolete(root: Path, guard: str, files: Iterable[Path]) -> list[Path]:
    """Files of an older version of a guard that the new one has not."""
    folder = _below(root, GUARDS) / guard
    there = [*unit_files(root, guard), *(path for path in sorted(folder.rglob("*")) if path.is_file())]
    return [path for path in there if path not in set(files)]


def replace_all(files: Mapping[Path, bytes | None]) -> list[Path]:
    """As `replaced`, where nothing else has to go well."""
    with replaced(files) as changed:
        return changed


@contextmanager
def replaced(files: Mapping[Path, bytes | None]) -> Iterator[list[Path]]:
    """Write (bytes) and remove (None) files: all of them if the body ends well, else none.  Gives those that change.

    Each is there whole or not at all, whatever happens.  What was there is kept under a second name meanwhile, so that
    a full disk does not stop it from coming back.  Raises `Denied` for what the system refuses.
    """
    made: list[Path] = []
    done: list[Path] = []
    changed: list[Path] = []
    try:
        with _translated():
            old = {path: path.read_bytes() if path.is_file() else None for path in files}
            changed += [path for path, data in files.items() if old[path] != data]
            for path in changed:
                if files[path] is not None:
                    _make_folders(path.parent, made)
                    _write(_fresh(path), files[path] or b"")
                _kept(path).unlink(missing_ok=True)
                if old[path] is not None:
                    os.link(path, _kept(path))
            for path in changed:
                done.append(path)
                _put(path, files[path])
        yield changed
    except BaseException:
        with _translated("and NOT all files are as before"):
            for path in reversed(done):
                if old[path] is not None:
                    _kept(path).replace(path)
                elif path.is_file():
                    path.unlink()
            for path in changed:
                _fresh(path).unlink(missing_ok=True)
            for folder in reversed(made):
                with suppress(OSError):
                    folder.rmdir()
        raise
    finally:
        for path in changed:
            with suppress(OSError):
                _kept(path).unlink(missing_ok=True)


def status_of(root: Path, guard: str, stage: str) -> dict[str, Any] | None:
    """What a stage says of itself; None when it has said nothing that can be read."""
    path = _below(root, f"/run/{state_place(guard, stage)}") / "status.json"
    try:
        value = json.loads(read_file(None, str(path), path, _LARGEST_STATUS))
    except (OSError, NoMessage, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.get("version") == 1 else None


def _below(root: Path, path: str) -> Path:
    return root / path.removeprefix("/")


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _kept(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _make_folders(folder: Path, made: list[Path]) -> None:
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o755)
            part.chmod(0o755)
            made.append(part)


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(fd, 0o644)
        os.fsync(fd)


def _put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        _fresh(path).rename(path)


@contextmanager
def _translated(after: str = "no file was changed") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Denied(
            f"{error.filename}: {error.strerror}; {after}: run it as root, or write elsewhere: --root DIR"
        ) from error
