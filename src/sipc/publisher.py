# SPDX-License-Identifier: Apache-2.0
"""The helper's writing side of a registry: journal, private directories, publication, withdrawal.

Owns the order of things on disk.  An endpoint never imports this: registration by an endpoint would be a way
back (DESIGN section 7).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from sipc.descriptor import Descriptor
from sipc.errors import Busy, RegistryError
from sipc.registry import DIRECTORY, HELPER_LOCK, SYSTEM, Registry, epoch_stamp, lock
from sipc.spec import ChannelSpec, Role

__all__ = ("Publisher",)

STATE_SIZE = 64


class Publisher:
    """A registry opened for writing.

    Holds the registry's helper lock, so that two helpers never work in it at once.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """Open the registry for writing, making its last directory if need be; `shared` lets others read."""
        try:
            with suppress(FileExistsError):
                path.mkdir(mode=0o755 if shared or path == SYSTEM else 0o700)
        except OSError as error:
            raise RegistryError(
                f"registry {path} cannot be made ({error.strerror}): name another --registry"
            ) from error
        self.registry = Registry(path)
        self._lock = -1
        try:
            self._lock = self._open(HELPER_LOCK, os.O_RDWR | os.O_CREAT)
            deadline = time.monotonic() + 10
            while True:
                try:
                    lock(self._lock, f"another helper works in {path}: try again")
                    break
                except Busy:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the helper lock and the directory."""
        # The kernel lets both go whatever close(2) says, and all that matters has been synced: a complaint here
        # must not turn a published channel into a failure.
        with suppress(OSError):
            if self._lock >= 0:
                fd, self._lock = self._lock, -1
                os.close(fd)
        with suppress(OSError):
            self.registry.close()

    def _open(self, entry: str, flags: int, mode: int = 0o600) -> int:
        try:
            return os.open(entry, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=self.registry.fd)
        except OSError as error:
            raise RegistryError(
                f"{self.registry.path / entry}: {error.strerror}; the helper must own the registry"
            ) from error

    def write_journal(self, descriptor: Descriptor) -> None:
        """Put the descriptor under its temporary name, on disk, before any object exists."""
        fd = self._open(f".{descriptor.spec.name}.json.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.fchmod(fd, 0o644)
            data = descriptor.to_json().encode()
            if os.write(fd, data) != len(data):
                raise RegistryError(f"{self.registry.path}: no room for the descriptor")
            os.fsync(fd)
        finally:
            os.close(fd)

    def publish(self, name: str) -> None:
        """Give the journal the channel's name: from here on the channel exists."""
        fd = self.registry.fd
        os.rename(f".{name}.json.new", f"{name}.json", src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)

    def unpublish(self, name: str) -> None:
        """Make the descriptor, if it is there, a journal again: the channel exists no more, its keys stay known."""
        fd = self.registry.fd
        with suppress(FileNotFoundError):
            os.rename(f"{name}.json", f".{name}.json.new", src_dir_fd=fd, dst_dir_fd=fd)

    def make_private(self, spec: ChannelSpec, epoch: int) -> None:
        """Make both roles' private directories, each reachable by its role alone, stamped with the epoch.

        The directories stay the helper's: their times and modes are visible to the other role, so a role
        must not be able to change them.
        """
        base = self.registry.fd
        with suppress(FileExistsError):
            os.mkdir(".private", 0o711, dir_fd=base)
        os.mkdir(f".private/{spec.name}", 0o711, dir_fd=base)
        for role, who in ((Role.SENDER, spec.sender), (Role.RECEIVER, spec.receiver)):
            where = f".private/{spec.name}/{role}"
            os.mkdir(where, 0o700, dir_fd=base)
            fd = os.open(where, DIRECTORY, dir_fd=base)
            try:
                for entry, size in (("lock", 0), ("state", STATE_SIZE)):
                    file = os.open(entry, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
                    try:
                        os.ftruncate(file, size)
                        if who.uid is not None:
                            os.fchown(file, who.uid, -1 if who.gid is None else who.gid)
                    finally:
                        os.close(file)
                if who.uid is not None:
                    os.fchown(fd, -1, -1 if who.gid is None else who.gid)
                    os.fchmod(fd, 0o710)
            finally:
                os.close(fd)
        stamp = epoch_stamp(epoch)  # last: an entry made in the directory would change its time
        os.utime(f".private/{spec.name}", (stamp, stamp), dir_fd=base, follow_symlinks=False)

    def remove_private(self, name: str) -> None:
        """Remove both roles' private directories, as far as they exist."""
        base = self.registry.fd
        for role in Role:
            for entry in ("lock", "state"):
                with suppress(FileNotFoundError):
                    os.unlink(f".private/{name}/{role}/{entry}", dir_fd=base)
            with suppress(FileNotFoundError):
                os.rmdir(f".private/{name}/{role}", dir_fd=base)
        with suppress(FileNotFoundError):
            os.rmdir(f".private/{name}", dir_fd=base)

    def forget(self, name: str) -> None:
        """Remove the journal, if it is there: the last step of every removal."""
        with suppress(FileNotFoundError):
            os.unlink(f".{name}.json.new", dir_fd=self.registry.fd)
