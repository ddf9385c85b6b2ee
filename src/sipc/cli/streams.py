# SPDX-License-Identifier: Apache-2.0
"""`sipc send` and `sipc recv`: one byte stream across a channel, exact to its end or known to be cut.

Memory stays flat: the file is read straight into slots, and written straight out of them.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Never

import click

from sipc.channel import open_receiver, open_sender
from sipc.cli.exits import Exit
from sipc.errors import Broken, ChannelNotFound, EndOfStream, SpecError, Timeout
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
        self.bytes = 0

    def add(self, count: int) -> None:
        self.bytes += count
        if self._shown and time.monotonic() - self._last > 0.1:
            self._show("\r")

    def _show(self, start: str) -> None:
        self._last = time.monotonic()
        rate = self.bytes / max(self._last - self._started, 1e-9) / 1e6
        share = ""
        if self._total:
            done = min(1.0, self.bytes / self._total)
            share = f" [{'#' * int(_BAR * done):{_BAR}}] {100 * done:3.0f} %"
        click.echo(f"{start}{self._label}{share} {self.bytes / 1e6:,.1f} MB, {rate:,.0f} MB/s ", nl=False, err=True)

    def end(self) -> None:
        if self._shown:
            self._show("\r")
            click.echo(err=True)


def _terminated(number: int, frame: FrameType | None) -> Never:
    del frame
    raise KeyboardInterrupt(signal.Signals(number).name)


def _opened_sender(name: str, registry: Path | None, wait: float | None) -> Sender:
    try:
        return open_sender(name, registry=registry, timeout=_PATIENCE if wait is None else wait)
    except (Timeout, ChannelNotFound):
        if wait is not None:
            raise
    click.echo(f"sipc: waiting for channel {name!r} to be created", err=True)
    return open_sender(name, registry=registry)


def send(name: str, file: Path | None, registry: Path | None, wait: float | None, *, progress: bool,
         confine: bool = False) -> int:  # fmt: skip
    """Send one file or standard input."""
    signal.signal(signal.SIGTERM, _terminated)
    source, total = (0, None) if file is None else _opened(file)
    shown = _Progress(f"send {name}", total, shown=progress)
    with _opened_sender(name, registry, wait) as sender:
        if confine:
            sender.confine()
        size = min(sender.spec.geometry.slot_size, sender.spec.max_message)
        try:
            while True:
                with sender.reserve(size) as slot:
                    slot.length = os.readv(source, [slot.view])
                    if not slot.length:
                        raise _EndOfInput
                shown.add(slot.length)
        except _EndOfInput:
            pass
    shown.end()
    return Exit.OK


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


def _opened_receiver(name: str, registry: Path | None, wait: float | None, cursor: Path | None) -> Receiver:
    try:
        return open_receiver(name, registry=registry, cursor=cursor, timeout=_PATIENCE if wait is None else wait)
    except (Timeout, ChannelNotFound):
        if wait is not None:
            raise
    click.echo(f"sipc: waiting for channel {name!r} to be created", err=True)
    return open_receiver(name, registry=registry, cursor=cursor)


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
) -> int:
    """Receive one stream to a file or to standard output.

    Raises `SpecError` for a plain file with a cursor: killed and run again it would get the rest of the stream alone.
    """
    if cursor is not None and file is not None and (file.is_file() or not file.exists()):
        raise SpecError(
            f"--cursor goes on in the middle of a stream, and {file} would hold only the rest of it: write to standard "
            "output and append (sipc recv NAME --cursor CURSOR >> FILE), or leave out --cursor"
        )
    signal.signal(signal.SIGTERM, _terminated)
    shown = _Progress(f"recv {name}", None, shown=progress)
    with _opened_receiver(name, registry, wait, cursor) as receiver:
        if confine:
            receiver.confine()
        if file is None:
            _copy_out(receiver, sys.stdout.fileno(), timeout, shown)
        elif file.exists() and not file.is_file():
            target = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            _copy_out(receiver, target, timeout, shown)
        else:
            _to_file(receiver, file, timeout, shown)
    shown.end()
    return Exit.OK


def _to_file(receiver: Receiver, file: Path, timeout: float | None, shown: _Progress) -> None:
    """Write beside the file and rename at the end, so that a cut stream leaves no half file."""
    fd, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        _copy_out(receiver, fd, timeout, shown)
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(fd, 0o666 & ~mask)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _copy_out(receiver: Receiver, target: int, timeout: float | None, shown: _Progress) -> None:
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
                        _write_all(target, memoryview(record))
                else:
                    _write_all(target, block.view)
                shown.add(block.view.nbytes)
        except EndOfStream:
            return


def _write_all(target: int, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:
        done += os.write(target, view[done:])
