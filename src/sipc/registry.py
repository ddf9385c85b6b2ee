# SPDX-License-Identifier: Apache-2.0
"""Descriptors: what the helper publishes about a channel, and how an endpoint reads it without trust in paths.

Owns the directory (`/run/sipc`, or `$XDG_RUNTIME_DIR/sipc` for one user), the JSON schema, and the private
directories of each role.  Only the helper writes here.  Everything is opened relative to directory descriptors
with O_NOFOLLOW, and owner, mode and type are checked on the descriptor, after opening.  Source: DESIGN section 7.

    NAME.json                          the descriptor, last thing to appear
    .NAME.json.new                     its journal while the helper works: what to remove if it dies
    .private/NAME/                     its time of modification stands for the epoch: no role can change it
    .private/NAME/ROLE/{lock,state}    reachable by that role alone
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Self

from sipc.descriptor import Descriptor
from sipc.errors import Busy, ChannelNotFound, Denied, RegistryError
from sipc.spec import NAME, Role, check_name

__all__ = ("SYSTEM", "Registry", "RoleFiles", "search_path")

SYSTEM = Path("/run/sipc")
_MAX_BYTES = 64 * 1024  # a descriptor is about 1 KiB
HELPER_LOCK = ".helper-lock"  # open for writing in a helper as long as it works
DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY


def search_path(registry: str | os.PathLike[str] | None = None) -> list[Path]:
    """Directories a name is looked up in, in order.

    `registry` alone if given, else `$SIPC_REGISTRY` alone if set, else the system's, then the user's own.
    """
    given = registry if registry is not None else os.environ.get("SIPC_REGISTRY")
    if given:
        return [Path(given)]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    user = [Path(runtime) / "sipc"] if runtime and os.geteuid() != 0 else []
    return [SYSTEM, *user]


def epoch_stamp(epoch: int) -> int:
    """What stands for an epoch as the time of a directory, in seconds: 30 bits, which every file system keeps."""
    return epoch & 0x3FFFFFFF


def ipc_namespace() -> int:
    """Inode of this process's ipc namespace; 0 where /proc does not tell."""
    try:
        return Path("/proc/self/ns/ipc").stat().st_ino
    except OSError:
        return 0


class Registry:
    """One registry directory, opened and checked.  Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open `path`; raises `ChannelNotFound` when it is not there, `RegistryError` when not to be trusted."""
        self.path = path
        try:
            self._fd = os.open(path, DIRECTORY)
        except FileNotFoundError as error:
            raise ChannelNotFound(f"no registry at {path}: no channel has been created there yet") from error
        except PermissionError as error:
            raise RegistryError(
                f"registry {path}: {error.strerror}; it is closed to uid {os.geteuid()}: name one of your own"
            ) from error
        except OSError as error:
            raise RegistryError(f"registry {path}: {error.strerror}; it must be a real directory") from error
        try:
            status = os.fstat(self._fd)
            if status.st_uid not in (0, os.geteuid()):
                raise RegistryError(f"registry {path} belongs to uid {status.st_uid}: trusted are root and yourself")
            if status.st_mode & 0o022:
                raise RegistryError(f"registry {path} is writable by others: run 'chmod go-w {path}'")
            self.owner = status.st_uid
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    @property
    def fd(self) -> int:
        """The directory's descriptor."""
        return self._fd

    @property
    def label(self) -> str | None:
        """The directory's SELinux context, None where there is none."""
        return _label(self._fd)

    def names(self) -> list[str]:
        """Names of published channels, sorted."""
        entries = (entry[: -len(".json")] for entry in os.listdir(self._fd) if entry.endswith(".json"))
        return sorted(name for name in entries if NAME.fullmatch(name))

    def journals(self) -> list[str]:
        """Names of channels whose helper died before publishing them."""
        return sorted(
            entry[1 : -len(".json.new")]
            for entry in os.listdir(self._fd)
            if entry.startswith(".") and entry.endswith(".json.new")
        )

    def read(self, name: str, *, journal: bool = False) -> Descriptor:
        """Read one descriptor; raises `ChannelNotFound`, or `RegistryError` naming what is wrong with it."""
        check_name(name)
        entry = f".{name}.json.new" if journal else f"{name}.json"
        where = str(self.path / entry)
        try:
            fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError as error:
            raise ChannelNotFound(
                f"no channel {name!r} in {self.path}: create it with 'sipc create', 'sipc list' shows what there is"
            ) from error
        except OSError as error:
            raise RegistryError(f"{where}: {error.strerror}; it must be a plain file the helper wrote") from error
        try:
            self._check_file(fd, where)
            text = os.read(fd, _MAX_BYTES + 1)
            label = _label(fd)
        finally:
            os.close(fd)
        if len(text) > _MAX_BYTES:
            raise RegistryError(f"{where}: larger than {_MAX_BYTES} bytes")
        try:
            descriptor = replace(Descriptor.from_json(text.decode(), where), label=label)
        except UnicodeDecodeError as error:
            raise RegistryError(f"{where}: not UTF-8") from error
        if descriptor.spec.name != name:
            raise RegistryError(f"{where}: describes {descriptor.spec.name!r}, not {name!r}")
        return descriptor

    def check_epoch(self, descriptor: Descriptor) -> None:
        """Refuse a descriptor that the helper withdrew and somebody put back; raises `RegistryError`.

        While a channel is published its private directories are there, with the stamp of its epoch.
        """
        name = descriptor.spec.name
        where = self.path / f"{name}.json"
        try:
            stamp = os.stat(f".private/{name}", dir_fd=self._fd, follow_symlinks=False).st_mtime_ns // 10**9
        except PermissionError:
            return  # whoever may not look can not open an end either
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RegistryError(
                f"{where}: stale, put back after the channel was destroyed (its private directories are gone): "
                f"run 'sipc destroy {name} --registry {self.path}', and create it anew"
            ) from error
        if stamp != epoch_stamp(descriptor.epoch):
            raise RegistryError(
                f"{where}: stale, of an earlier creation (epoch {descriptor.epoch}) than the channel that is there: "
                f"run 'sipc destroy {name} --registry {self.path}', create it anew, and look with 'sipc doctor' for "
                "what is left"
            )

    def _check_file(self, fd: int, where: str) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RegistryError(f"{where}: is not a plain file")
        if status.st_uid != self.owner:
            raise RegistryError(f"{where}: belongs to uid {status.st_uid}, the registry to {self.owner}: forged?")
        if status.st_mode & 0o022:
            raise RegistryError(f"{where}: is writable by others (mode {stat.S_IMODE(status.st_mode):04o}): forged?")
        if status.st_nlink != 1:
            raise RegistryError(f"{where}: has {status.st_nlink} links: forged?")

    def open_private(self, name: str, role: Role, entry: str) -> int:
        """Open a file of one role's private directory for reading and writing."""
        where = f".private/{check_name(name)}/{role}/{entry}"
        try:
            return os.open(where, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._fd)
        except FileNotFoundError as error:
            raise ChannelNotFound(f"{self.path / where} is gone: the channel was destroyed") from error
        except PermissionError as error:
            raise Denied(
                f"{self.path / where}: {error.strerror}; this process must run as the {role} named in the definition"
            ) from error
        except OSError as error:
            raise RegistryError(f"{self.path / where}: {error.strerror}; it must be a plain file") from error


def _label(fd: int) -> str | None:
    """SELinux context of an open file; None on hosts or file systems without."""
    try:
        return os.getxattr(fd, "security.selinux").rstrip(b"\0").decode()
    except (OSError, UnicodeDecodeError):
        return None


class RoleFiles:
    """One role's lock, held, and its 64 bytes of state as native 64-bit words, kept across processes."""

    def __init__(self, registry: Registry, name: str, role: Role) -> None:
        """Take the lock; raises `Busy` when another process has the role."""
        self._lock = registry.open_private(name, role, "lock")
        try:
            lock(self._lock, f"the {role} of channel {name!r} is open in another process, and only one may be")
            fd = registry.open_private(name, role, "state")
            try:
                self.state = memoryview(mmap.mmap(fd, 0)).cast("Q")
            finally:
                os.close(fd)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let the role go."""
        if self._lock >= 0:
            self.state.release()
            fd, self._lock = self._lock, -1
            os.close(fd)


def lock(fd: int, message: str) -> None:
    """Take an exclusive flock(2) without waiting; raises `Busy` with `message` when it is held."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(message) from error
