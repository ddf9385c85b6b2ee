# SPDX-License-Identifier: Apache-2.0
"""The module store: which modules of channels it holds, and changing them, all at once or not at all.

Owns every touch of the store: its files are read, and only semodule changes it, one transaction per change
(semodule(8): one run of it commits once).  libsemanage leaves a store alone whose new policy does not build; one that
was built and could not be loaded stays changed, and is put back here.  Must not know what a proof is: who proves
composes `Store.base_for` with the modules to come, and `Store.apply` then refuses any other store than that.

Our modules are told from others by their first line, which the generator writes (`policy.py`, `base.py`).
"""

from __future__ import annotations

import bz2
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sipc.errors import Denied, PolicyUnavailable, SpecError
from sipc.selinux.compose import in_force

__all__ = ("PRIORITY", "Change", "Store", "Stored", "describe", "uninterrupted")

PRIORITY = 400  # semodule's default for an administrator's modules; a distribution's have 100
_STORES = Path("/var/lib/selinux")  # unless semanage.conf says store-root
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KINDS = (
    ("channel", re.compile(r"; sipc channel (?P<channel>\S+): (?P<sender>\w+) -> (?P<receiver>\w+)\n")),
    ("end", re.compile(r"; sipc end (?P<end>\w+)\n")),
    ("base", re.compile(r"; sipc: what all channels share\.")),
)
_DISABLED = "disabled"
_HEADER = 512  # bytes; the first line, with a channel's longest name and two types, is shorter

_Key = tuple[int, str]  # priority and name


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One module in a store.

    `kind` is "base", "end" or "channel" for a module of ours, else "".  `ends` are a channel's sender and receiver, or
    the one end.  `why_not` says why it is not in force; empty when it is.  `data` is its file, as it stands.
    """

    name: str
    priority: int
    path: Path
    kind: str = ""
    channel: str = ""
    ends: tuple[str, ...] = ()
    why_not: str = ""
    data: bytes = field(repr=False, default=b"")

    @property
    def key(self) -> _Key:
        """What semodule knows it by."""
        return self.priority, self.name

    @property
    def disabled(self) -> bool:
        """Whether somebody said that no module of this name is to be in force."""
        return self.why_not == _DISABLED

    def text(self) -> str:
        """The module's CIL."""
        return _unpacked(self.data).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transaction: module texts to install by name, all at our priority, and modules to remove."""

    install: Mapping[str, str]
    remove: tuple[Stored, ...]

    @property
    def keys(self) -> set[_Key]:
        """What it touches."""
        return {(PRIORITY, name) for name in self.install} | {module.key for module in self.remove}


def describe(name: str, text: str) -> tuple[str, str, tuple[str, ...]]:
    """Kind, channel and ends of a module by its name and its beginning; kind "" for one that is not ours."""
    for kind, pattern in _KINDS:
        if (name == "sipc") is (kind == "base") and (found := pattern.match(text)):
            parts = found.groupdict()
            ends = tuple(parts[key] for key in ("sender", "receiver", "end") if key in parts)
            return kind, parts.get("channel", ""), ends
    return "", "", ()


class Store:
    """The store of one policy, of this system or of an image below `root`."""

    def __init__(self, root: Path | None = None, name: str | None = None) -> None:
        """Find it: by `name`, else by SELINUXTYPE in /etc/selinux/config, else the only one there is.

        Raises `PolicyUnavailable` when there is none, `SpecError` for a name that can not be one or when there are
        several, `Denied` when only another user may look.
        """
        self.root = None if root is None or root.absolute() == Path("/") else root.absolute()
        root_setting = _setting(self._below(Path("/etc/selinux/semanage.conf")), "store-root")
        stores = self._below(Path("/", root_setting) if root_setting else _STORES)
        if name is None:
            name = _setting(self._below(Path("/etc/selinux/config")), "SELINUXTYPE")
        if name is not None and not _NAME.fullmatch(name):
            raise SpecError(f"{name!r} is no name of a policy store: give one like 'default' or 'targeted'")
        with _permitted(stores):
            there = sorted(path.parents[1].name for path in stores.glob("*/active/modules"))
        if name is None and len(there) > 1:
            raise SpecError(f"{stores}: several policy stores, {', '.join(there)}: choose one with --store")
        self.name = name or (there[0] if there else "")
        self.path = stores / self.name / "active"
        if self.name not in there:
            with _permitted(self.path):
                here = bool(self.name) and (self.path / "modules").is_dir()
            if not here:
                raise PolicyUnavailable(
                    f"{stores / self.name}: no module store is there{', only ' + ', '.join(there) if there else ''}: "
                    "install a policy (Debian: apt-get install selinux-policy-default), or name the root that has one "
                    "with --root (of 'sipc policy' also the store, with --store)"
                )

    @property
    def modules(self) -> Path:
        """The folder of its modules."""
        return self.path / "modules"

    @property
    def place(self) -> tuple[str, ...]:
        """Options by which semodule finds it; an image's policy is not loaded here."""
        return (*(() if self.root is None else ("-p", str(self.root), "-n")), "-s", self.name)

    def read(self) -> list[Stored]:
        """Every module, by name and then by priority; raises `Denied` when only another user may look."""
        with _permitted(self.path):
            folders = [folder for number in self.modules.iterdir() if number.name.isdigit()
                       for folder in number.iterdir()]  # fmt: skip
            force = set(in_force(folder / "cil" for folder in folders))
            disabled = {path.name for path in self.modules.glob("disabled/*")}
            found = []
            for folder in sorted(folders, key=lambda folder: (folder.name, folder.parent.name)):
                path = folder / "cil"
                data = path.read_bytes() if path.exists() else b""
                head = _unpacked(data, _HEADER) if folder.name.startswith("sipc") else b""  # as all of ours
                kind, channel, ends = describe(folder.name, head.decode(errors="replace"))
                why_not = ""
                if folder.name in disabled:
                    why_not = _DISABLED
                elif path not in force:
                    top = max(int(other.parent.name) for other in folders if other.name == folder.name)
                    why_not = f"hidden by priority {top}"
                found.append(
                    Stored(name=folder.name, priority=int(folder.parent.name), path=path, kind=kind, channel=channel,
                           ends=ends, why_not=why_not, data=data)
                )  # fmt: skip
        return found

    def base_for(self, change: Change, modules: Iterable[Stored]) -> list[Path]:
        """Files of what will be in force beside the modules that a change installs."""
        left = [module for module in modules if module not in change.remove and module.name not in change.install]
        files = in_force(module.path for module in left)
        for path in files:
            if not path.exists():
                raise PolicyUnavailable(
                    f"module {path.parent.name} of the store has no CIL: run '{self.command('-B')}', which makes it"
                )
        return files

    def command(self, *arguments: str) -> str:
        """A semodule command on this store, for people."""
        return " ".join(("semodule", *(self.place if self.root is not None else ()), *arguments))

    def ready(self) -> str:
        """The path of semodule; raises `PolicyUnavailable` without one, `Denied` for a user who may not use it."""
        program = shutil.which("semodule", path=f"{os.environ.get('PATH') or os.defpath}:/usr/sbin:/sbin")
        if program is None:
            raise PolicyUnavailable(
                "no semodule here to change the module store with: install it (Debian: apt-get install policycoreutils)"
            )
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise Denied(f"{self.path}: uid {os.geteuid()} may not change this module store: run it as root")
        return program

    def apply(self, change: Change, before: Iterable[Stored], *, proven: bool) -> None:
        """Make one change, and load the policy (an image's is only built).

        `before` is the store that the change was made for; with `proven`, a store that another program changed since
        then is put back too: it is not the one that was proven.  Raises `PolicyUnavailable` and `Denied` as `ready`
        does, and `Denied` with semodule's words when it fails; the store is then as before, unless the message says
        that it is not.  Ctrl-C and SIGTERM wait until all of it is done.
        """
        program, old = self.ready(), {module.key: module for module in before}
        with tempfile.TemporaryDirectory(prefix="sipc-modules-") as work, uninterrupted():
            arguments = []
            for module in change.remove:
                arguments += ["-X", str(module.priority), "-r", module.name]
            for name, text in change.install.items():
                file = Path(work, f"{name}.cil")
                file.write_text(text)
                arguments += ["-X", str(PRIORITY), "-i", str(file)]
            failure = self._semodule(program, arguments)
            try:
                new = {module.key: module for module in self.read()}
            except FileNotFoundError as error:
                raise Denied(
                    f"{failure or 'semodule ended well'}; and {self.path} is NOT there now: libsemanage keeps the "
                    "store as it was beside it, under the name 'previous'"
                ) from error
            if not failure:
                strange = _strange(change, old, new) if proven else []
                if not strange:
                    return
                failure = f"another program changed {', '.join(strange)} in the store since the proof: run it again"
            if left := self._undo(program, change.keys, old, new):
                raise Denied(f"{failure}; and it could NOT be undone ({left}): run '{self.command('-lfull')}' and look")
        raise Denied(f"{failure}; nothing was changed")

    def _undo(self, program: str, keys: set[_Key], old: Mapping[_Key, Stored], new: Mapping[_Key, Stored]) -> str:
        """Put the modules back that differ; returns what went wrong if they still do."""
        differ = [key for key in sorted(keys) if old.get(key) != new.get(key)]
        if not differ:
            return ""
        with tempfile.TemporaryDirectory(prefix="sipc-modules-") as work:
            arguments = []
            for priority, name in differ:
                arguments += ["-X", str(priority)]
                if (priority, name) in old:
                    file = Path(work, f"{name}.cil")
                    file.write_text(old[priority, name].text())
                    arguments += ["-i", str(file)]
                else:
                    arguments += ["-r", name]
            failure = self._semodule(program, arguments)
        now = {module.key: module for module in self.read()}
        return (failure or "semodule is silent") if any(old.get(key) != now.get(key) for key in differ) else ""

    def _semodule(self, program: str, arguments: list[str]) -> str:
        """Run one transaction, for as long as it takes: to kill it could leave no store.  Returns why it failed."""
        done = subprocess.run(
            [program, *self.place, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return ""
        said = "; ".join(line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip())
        return f"semodule refuses: {said or f'exit code {done.returncode}'}"

    def _below(self, path: Path) -> Path:
        return path if self.root is None else self.root / path.relative_to("/")


def _strange(change: Change, old: Mapping[_Key, Stored], new: Mapping[_Key, Stored]) -> list[str]:
    """Modules that are not as this change, made to the store as it was, would have left them."""
    then, now = ({(module.key, module.data, module.disabled) for module in found.values()} for found in (old, new))
    names = {key[1] for key, *_ in then ^ now if key not in change.keys}
    for name, text in change.install.items():
        made = new.get((PRIORITY, name))
        if made is None or made.why_not or made.text() != text:
            names.add(name)
    return sorted(names)


def _unpacked(data: bytes, limit: int = -1) -> bytes:
    """A module's file as CIL: libsemanage packs it, unless its bzip-blocksize is 0."""
    return bz2.BZ2Decompressor().decompress(data, limit) if data.startswith(b"BZh") else data


def _setting(path: Path, key: str) -> str | None:
    """A `KEY=value` of a file of settings, None where it is not set."""
    try:
        with _permitted(path):
            text = path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    found = re.findall(rf"^\s*{key}\s*=\s*(\S+)", text, re.MULTILINE)
    return str(found[-1]) if found else None


@contextmanager
def _permitted(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise Denied(f"{error.filename or path}: uid {os.geteuid()} may not read it: run it as root") from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that would end us come when this is over; programs that are run in it inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
