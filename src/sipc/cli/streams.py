# SPDX-License-Identifier: Apache-2.0
"""`sipc send` and `sipc recv`: one byte stream across a channel, exact to its end or known to be cut.

Memory stays flat: the file is read straight into slots, and written straight out of them.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from sipc.channel import open_receiver, open_sender
from sipc.cli.ending import end_in_order
from sipc.errors import Broken, ChannelNotFound, EndOfStream, SipcError, SpecError, Timeout
from sipc.proto.records import unpack
from sipc.receiver import Receiver
from sipc.sender import Sender

__all__ = ("receive", "send")

_PATIENCE = 1.0  # seconds before we say that we are waiting
_BAR = 24  # characters in the progress bar


class _EndOfInput(Exception):
    """Leaves a reservation unsent."""


class _Progress:
    def __init__(self, label: str, total: int | None, *, shown: bool) -> None:
        self._label, self._total, self._shown = label, total, shown
        self._started = self._last = time.monotonic()
        self._unfinished = False  # the cursor stands behind a bar
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last line; after a failure only room for its message."""
        if self._shown and kind is None:
            self._show("\r")
        if self._unfinished:
            click.echo(err=True)

    def add(self, count: int) -> None:
        self.bytes += count
        if self._shown and time.monotonic() - self._last > 0.1:
            self._show("\r")

    def _show(self, start: str) -> None:
        self._last = time.monotonic()
        self._unfinished = True
        rate = self.bytes / max(self._last - self._started, 1e-9) / 1e6
        share = ""
        if self._total:
            done = min(1.0, self.bytes / self._total)
            share = f" [{'#' * int(_BAR * done):{_BAR}}] {100 * done:3.0f} %"
        click.echo(f"{start}{self._label}{share} {self.bytes / 1e6:,.1f} MB, {rate:,.0f} MB/s ", nl=False, err=True)


def _opened_sender(name: str, registry: Path | None, wait: float | None, key: Path | None) -> Sender:
    try:
        return open_sender(name, registry=registry, timeout=_PATIENCE if wait is None else wait, key=key)
    except (Timeout, ChannelNotFound):
        if wait is not None:
            raise
    click.echo(f"sipc: waiting for channel {name!r} to be created", err=True)
    return open_sender(name, registry=registry, key=key)


def send(name: str, file: Path | None, registry: Path | None, wait: float | None, *, progress: bool,
         confine: bool = False, key: Path | None = None) -> int:  # fmt: skip
    """Send one file or standard input; returns the bytes sent."""
    end_in_order()
    source, total = _standard(sys.stdin, "input") if file is None else _opened(file)
    what = "standard input" if file is None else str(file)
    with (
        _Progress(f"send {name}", total, shown=progress) as shown,
        _opened_sender(name, registry, wait, key) as sender,
    ):
        if confine:
            sender.confine()
        size = min(sender.spec.block_size, sender.spec.max_message)
        try:
            while True:
                with sender.reserve(size) as slot:
                    slot.length = _read(source, slot.view, what)
                    if not slot.length:
                        raise _EndOfInput
                shown.add(slot.length)
        except _EndOfInput:
            pass
    return shown.bytes


def _standard(stream: object, which: str) -> tuple[int, None]:
    """The descriptor of standard input or output, which whoever started us may have closed.

    Then its number is another file's by now, or will be.
    """
    number = {"input": 0, "output": 1}[which]
    if stream is None:
        raise SpecError(f"standard {which} is closed: name a FILE, or redirect it")
    return number, None


def _read(source: int, view: memoryview, what: str) -> int:
    while True:
        try:
            return os.readv(source, [view])
        except BlockingIOError:  # whoever gave us the pipe made it non-blocking
            select.select([source], [], [])
        except OSError as error:
            raise SpecError(
                f"{what}: {error.strerror}: the stream ends here, and the receiver is told that it was cut; "
                "name a file or a pipe that can be read"
            ) from error


def _opened(file: Path) -> tuple[int, int | None]:
    """A file to send and, when it is a plain one, its size in bytes."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SpecError(f"{file}: {error.strerror}: name a file that this user can read") from error
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        os.close(fd)
        raise SpecError(f"{file}: is a directory: pack it first (tar c {file} | sipc send NAME)")
    return fd, status.st_size if stat.S_ISREG(status.st_mode) else None


def _opened_receiver(
    name: str, registry: Path | None, wait: float | None, cursor: Path | None, key: Path | None
) -> Receiver:
    patience = _PATIENCE if wait is None else wait
    try:
        return open_receiver(name, registry=registry, cursor=cursor, timeout=patience, key=key)
    except (Timeout, ChannelNotFound):
        if wait is not None:
            raise
    click.echo(f"sipc: waiting for channel {name!r} to be created", err=True)
    return open_receiver(name, registry=registry, cursor=cursor, key=key)


def receive(
    name: str,
    file: Path | None,
    registry: Path | None,
    wait: float | None,
    timeout: float | None,
    cursor: Path | None,
    *,
    progress: bool,
    confine: bool = False,
    key: Path | None = None,
) -> int:
    """Receive one stream to a file or to standard output; returns the bytes received.

    Raises `SpecError` for a plain file with a cursor: killed and run again it would get the rest of the stream alone.
    """
    if cursor is not None and file is not None and _is_plain(file):
        raise SpecError(
            f"--cursor goes on in the middle of a stream, and {file} would hold only the rest of it: write to standard "
            "output and append (sipc recv NAME --cursor CURSOR >> FILE), or leave out --cursor"
        )
    end_in_order()
    plain = file is not None and _is_plain(file)
    if file is None:
        target, _ = _standard(sys.stdout, "output")
    elif plain:
        file = Path(os.path.realpath(file))  # a link goes on pointing to what we write
        _check_folder(file)
    with (
        _Progress(f"recv {name}", None, shown=progress) as shown,
        _opened_receiver(name, registry, wait, cursor, key) as receiver,
    ):
        if confine:
            receiver.confine()
        if file is None:
            _copy_out(receiver, target, timeout, shown, "standard output")
        elif plain:
            _to_file(receiver, file, timeout, shown)
        else:
            target = _opened_target(file)
            try:
                _copy_out(receiver, target, timeout, shown, str(file))
            finally:
                os.close(target)
    return shown.bytes


def _is_plain(file: Path) -> bool:
    """Whether FILE is a plain file, or one that we would make."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise SpecError(f"{file}: {error.strerror}: name a file that this user can write") from error


def _check_folder(file: Path) -> None:
    """Say before anything is received that FILE can not be made there."""
    if not file.parent.is_dir():
        raise SpecError(f"{file}: {file.parent} is not a directory: make it first (mkdir -p {file.parent})")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise SpecError(
            f"{file}: uid {os.geteuid()} may not write in {file.parent}: name a file in a directory of your own"
        )


def _opened_target(file: Path) -> int:
    try:
        return os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SpecError(f"{file}: {error.strerror}: name a file, pipe or device that this user can write") from error


def _to_file(receiver: Receiver, file: Path, timeout: float | None, shown: _Progress) -> None:
    """Write beside the file and rename at the end, so that a cut stream leaves no half file."""
    fd, temporary = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        _copy_out(receiver, fd, timeout, shown, str(file))
        os.fchmod(fd, _mode_for(file))
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _mode_for(file: Path) -> int:
    """A file that is there keeps its mode (it may be secret); a new one has the usual."""
    try:
        return stat.S_IMODE(file.stat().st_mode) & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _copy_out(receiver: Receiver, target: int, timeout: float | None, shown: _Progress, what: str) -> None:
    while True:
        try:
            # Bytes pass through unlooked at, so it does not matter that the sender can still change them.
            with receiver.unsafe_borrow(timeout) as block:
                if receiver.sender_restarted:
                    raise Broken(
                        f"channel {receiver.name!r}: the stream was cut: its sender went away and another began"
                    )
                if block.records:
                    for record in unpack(bytes(block.view)):
                        _write_all(target, memoryview(record), what)
                else:
                    _write_all(target, block.view, what)
                shown.add(block.view.nbytes)
        except EndOfStream:
            return


def _write_all(target: int, view: memoryview, what: str) -> None:
    done = 0
    while done < view.nbytes:
        try:
            done += os.write(target, view[done:])
        except BlockingIOError:  # whoever gave us the pipe made it non-blocking
            select.select([], [target], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SipcError(
                f"{what}: {error.strerror}: the stream was not received whole; "
                "make room or name another place, and have it sent again"
            ) from error
