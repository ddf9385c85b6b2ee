# SPDX-License-Identifier: Apache-2.0
"""A receiver's cursor: the last block it finished, in a file of its own that outlives it.

Owns two files: FILE, eight native 64-bit words (magic, epoch, last finished seq, records finished of the block
after it, last block that ended a stream, three unused), and FILE.partial, the blocks of a message not yet whole.  Each
update that matters is one aligned 8-byte store into a shared mapping, so a SIGKILL leaves the old value or the new one
(see `proto/segment.py`).  Against power loss nothing is promised: the channel itself does not survive that.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
from pathlib import Path

from sipc.errors import KernelError, SpecError

__all__ = ("Cursor", "finished", "own_words")

_MAGIC = int.from_bytes(b"SIPCCUR1", "little")
_SIZE = 64
_FRAME = struct.Struct("<QQ")  # seq, length of the block that follows
_MAGIC_WORD, _EPOCH, _SEQ, _RECORDS, _ENDED = range(5)


def finished(path: Path, epoch: int) -> int:
    """The last block that a receiver with this cursor has finished, read from outside; 0 without one.

    Whoever writes the file may be hostile: what is no cursor of this epoch says that nothing is finished.  Raises
    `OSError` when it can not be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return 0
    try:
        data = os.read(fd, _SIZE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    if len(data) < _SIZE:
        return 0
    words = memoryview(data).cast("Q")
    return words[_SEQ] if (words[_MAGIC_WORD], words[_EPOCH]) == (_MAGIC, epoch) else 0


def own_words(path: Path, what: str) -> memoryview:
    """The eight words of a file of this process's user, made if it is not there, that nobody else may write.

    `what` names it in messages.  Raises `SpecError`, `KernelError` when the disk has no room.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            return _mapped(fd, path, what)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # not the name's fault
            reason = f"{error.strerror}: make room and open again"
            raise KernelError(error.errno, reason, syscall="fallocate", obj=str(path)) from error
        raise SpecError(f"{what} {path}: {error.strerror}: name a file in a directory of your own") from error


def _mapped(fd: int, path: Path, what: str) -> memoryview:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size not in (0, _SIZE):
        raise SpecError(f"{what} {path} is no {what} file ({status.st_size} bytes, not {_SIZE}): name another file")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise SpecError(
            f"{what} {path} (uid {status.st_uid}, mode {mode:04o}) can be changed by others, who could make "
            "this receiver skip or believe blocks: name a file of your own that nobody else may write"
        )
    os.posix_fallocate(fd, 0, _SIZE)  # a store to a page that the disk has no room for would be SIGBUS
    return memoryview(mmap.mmap(fd, _SIZE)).cast("Q")


class Cursor:
    """An open cursor of one epoch.  The role's lock keeps a second receiver away from it."""

    def __init__(self, path: str | os.PathLike[str], epoch: int) -> None:
        """Open or make the files; a cursor of another epoch starts anew at block 0.

        Raises `SpecError` when `path` can not be used or is no cursor, `KernelError` when the disk is full or
        FILE.partial can not go.
        """
        self.path = Path(path)
        self._words = own_words(self.path, "cursor")
        if self._words[_MAGIC_WORD] not in (0, _MAGIC):
            raise SpecError(f"cursor {self.path} is no cursor file: name another file")
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._partial_fd = -1
        self._partial_end = 0
        self._may_be_partial = True  # a file to be removed
        if self._words[_EPOCH] != epoch:
            # Epoch last: a cursor that dies here is still the old epoch's, and starts anew again.
            self.drop_kept()
            self._words[_SEQ] = self._words[_RECORDS] = self._words[_ENDED] = 0
            self._words[_MAGIC_WORD] = _MAGIC
            self._words[_EPOCH] = epoch

    @property
    def seq(self) -> int:
        """Last finished block."""
        return self._words[_SEQ]

    @seq.setter
    def seq(self, value: int) -> None:
        self._words[_SEQ] = value

    @property
    def records(self) -> int:
        """How many records of block `seq + 1` are finished."""
        word = self._words[_RECORDS]
        return word & 0xFFFFFFFF if word >> 32 == (self.seq + 1) & 0xFFFFFFFF else 0

    def finished_records(self, count: int) -> None:
        """Note that the first `count` records of block `seq + 1` are finished."""
        self._words[_RECORDS] = ((self._words[_SEQ] + 1) & 0xFFFFFFFF) << 32 | count

    def ended(self, seq: int) -> None:
        """Block `seq` closes its stream: finish it."""
        self._words[_ENDED] = seq  # first: a successor that finds the stream finished must know that it has ended
        self.seq = seq

    @property
    def at_end(self) -> bool:
        """Whether the last finished block closed its stream."""
        return self.seq > 0 and self._words[_ENDED] == self.seq

    def keep(self, seq: int, block: bytes) -> None:
        """Keep a block of an unfinished message; to be called before `seq` is stored.  Raises `KernelError`."""
        self._may_be_partial = True
        data = memoryview(_FRAME.pack(seq, len(block)) + block)
        start = self._partial_end
        try:
            if self._partial_fd < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._partial_fd = os.open(self._partial, flags, 0o600)
                os.ftruncate(self._partial_fd, start)  # what is behind was never finished, or is not ours
            while data:
                written = os.pwrite(self._partial_fd, data, start)
                start, data = start + written, data[written:]
        except OSError as error:
            raise KernelError(
                error.errno or 0,
                f"{error.strerror}: the block was not taken; make room and receive again",
                syscall="write",
                obj=str(self._partial),
            ) from error
        self._partial_end = start

    def kept(self) -> list[bytes]:
        """The blocks of the message that was unfinished at `seq`; empty when none was."""
        try:
            data = self._partial.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SpecError(f"cursor {self._partial}: {error.strerror}: remove it, or name another file") from error
        blocks: list[bytes] = []
        last = offset = 0
        while offset + _FRAME.size <= len(data):
            seq, length = _FRAME.unpack_from(data, offset)
            if seq > self.seq or offset + _FRAME.size + length > len(data):
                break  # written, but its block was never marked finished
            offset += _FRAME.size
            blocks.append(data[offset : offset + length])
            offset += length
            last = seq
        if last != self.seq:
            self.drop_kept()
            return []
        self._partial_end = offset
        return blocks

    def drop_kept(self) -> None:
        """Forget kept blocks: their message is finished, or was given up."""
        if self._partial_fd >= 0:
            os.close(self._partial_fd)
            self._partial_fd = -1
        self._partial_end = 0
        if not self._may_be_partial:
            return
        try:
            self._partial.unlink(missing_ok=True)
        except OSError as error:
            raise KernelError(
                error.errno or 0, f"{error.strerror}: remove it by hand", syscall="unlink", obj=str(self._partial)
            ) from error
        self._may_be_partial = False

    def close(self) -> None:
        """Close the files; they stay."""
        self._words.release()
        if self._partial_fd >= 0:
            os.close(self._partial_fd)
            self._partial_fd = -1
