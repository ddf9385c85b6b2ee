# SPDX-License-Identifier: Apache-2.0
"""Reading the key of a channel's tags from a file that nobody else may read or write.

Owns which files are trusted.  Everything is checked on the open descriptor, never on the path; what the bytes are
used for is `proto/tags.py`.
"""

from __future__ import annotations

import errno
import os
import stat

from sipc.errors import Denied, SpecError

__all__ = ("load",)

# 256 bits, the strength that RFC 7693 gives keyed BLAKE2b at most here; more bytes are taken in, up to a bound that a
# key never needs, so that a wrong file name does not read a whole disk.
_LEAST, _MOST = 32, 4096


def load(path: str | os.PathLike[str]) -> bytes:
    """The content of a key file, as it is: 32 to 4096 bytes that nobody can guess.

    Raises `Denied` when others could read or write it, or put another in its place by a link, `SpecError` when it is
    not there or of another size.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    remedy = f"make one with 'head -c {_LEAST} /dev/urandom > {path}; chmod 400 {path}'"
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EACCES, errno.EPERM):
            raise Denied(
                f"key file {path}: {error.strerror}: it must be a plain file of this user's, not a link"
            ) from error
        raise SpecError(f"key file {path}: {error.strerror}: {remedy}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Denied(f"key file {path} is not a plain file: {remedy}")
        if status.st_uid not in (0, os.geteuid()):
            raise Denied(f"key file {path} belongs to uid {status.st_uid}: trusted are root and uid {os.geteuid()}")
        if status.st_mode & 0o077:
            raise Denied(
                f"key file {path} has mode {stat.S_IMODE(status.st_mode):04o}, so that others may get at the key: "
                f"make a new one, as this may be known by now, and run 'chmod 400 {path}'"
            )
        data = b""
        while len(data) <= _MOST and (piece := os.read(fd, _MOST + 1 - len(data))):
            data += piece
    except OSError as error:
        if isinstance(error, Denied):
            raise
        raise SpecError(f"key file {path}: {error.strerror}: {remedy}") from error
    finally:
        os.close(fd)
    if not _LEAST <= len(data) <= _MOST:
        raise SpecError(f"key file {path} has {len(data)} bytes or more, not {_LEAST} to {_MOST}: {remedy}")
    return data
