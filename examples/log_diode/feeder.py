#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fill the spool of the log diode: `feeder.py LOG SPOOL` follows a file, `... | feeder.py - SPOOL` a stream.

Owns making whole files of whole lines out of a log that grows.  It runs in the sealed domain, beside the log, and uses
nothing but the standard library.

A batch is written under a name that begins with a dot, which the guard leaves alone, and renamed when it is whole and
on disk.  Between the two the place in the log is noted, so that after a kill at any step no line of a file is missing
and none comes twice: a batch of a number below the noted one is published, any other is forgotten and read again.  A
stream has no place to go back to: what was read and not yet published is lost with the process.

When a log is rotated by renaming, the rest of the old file comes before the new one, also if that happened (once) while
nothing ran here, as long as the old file stands beside the log and is not compressed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

BATCH = 64 << 10  # bytes of a batch; of the filter's limits a sixteenth
PAUSE = 0.2  # seconds between looks at a file that does not grow; a stream is waited for
_STATE = ".feeder.json"
_PART = ".part-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far the log has been read: the next batch's number, and which file up to which byte."""

    number: int = 0
    device: int = 0
    inode: int = 0
    offset: int = 0


class Spool:
    """The directory of batches."""

    def __init__(self, path: Path) -> None:
        """Finish what a killed predecessor began."""
        self._path = path
        state = path / _STATE
        self.place = Place(**json.loads(state.read_bytes())) if state.exists() else Place()
        for part in sorted(path.glob(f"{_PART}*")):
            if int(part.name.removeprefix(_PART)) < self.place.number:
                part.rename(path / f"{part.name.removeprefix(_PART)}.log")
            else:
                part.unlink()
        self._sync()

    def put(self, data: bytes, *, device: int = 0, inode: int = 0, offset: int = 0) -> None:
        """Publish one batch, and note that the log was read up to its end."""
        number = f"{self.place.number:020d}"
        part = self._path / f"{_PART}{number}"
        _write(part, data)
        self.note(Place(number=self.place.number + 1, device=device, inode=inode, offset=offset))
        part.rename(self._path / f"{number}.log")
        self._sync()

    def note(self, place: Place) -> None:
        """Keep a place."""
        new = self._path / f"{_STATE}.new"
        _write(new, json.dumps(asdict(place)).encode())
        new.rename(self._path / _STATE)
        self._sync()
        self.place = place

    def _sync(self) -> None:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def batch(data: bytes, *, ended: bool) -> tuple[bytes, int]:
    """As much of `data`, which is no more than a batch, as is whole lines; and how many of its bytes that were.

    A line of more than a batch is broken; a last line without its end gets one, when no more can come.
    """
    end = data.rfind(b"\n") + 1
    if end:
        return data[:end], end
    if data and (ended or len(data) >= BATCH):
        return data + b"\n", len(data)
    return b"", 0


def follow(log: Path, spool: Spool, *, once: bool) -> None:
    """Publish what the log has and gets; `once`: what it has."""
    while True:
        moved = False
        try:
            with log.open("rb") as file:
                # Opened first: what was rotated before that is found beside it.  Its last line has ended when the new
                # file has one: a log has one writer.
                moved |= _drain_rotated(log, spool, os.fstat(file.fileno()))
                moved |= _drain(file, spool, ended=False)
        except FileNotFoundError:
            pass  # rotated just now, or not there yet
        if not moved:
            if once:
                return
            time.sleep(PAUSE)


def _drain_rotated(log: Path, spool: Spool, new: os.stat_result) -> bool:
    last = spool.place.device, spool.place.inode
    if spool.place.inode == 0 or (new.st_dev, new.st_ino) == last:
        return False
    for path in log.parent.iterdir():
        if path == log or not path.name.startswith(log.name) or not path.is_file():
            continue
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) == last:
                return _drain(file, spool, ended=new.st_size > 0)
    return False


def _drain(file: BinaryIO, spool: Spool, *, ended: bool) -> bool:
    status, place, moved = os.fstat(file.fileno()), spool.place, False
    offset = place.offset if (place.device, place.inode) == (status.st_dev, status.st_ino) else 0
    if offset > status.st_size:
        offset = 0  # emptied in place (copytruncate)
    while True:
        file.seek(offset)
        data = file.read(BATCH)
        whole, used = batch(data, ended=ended and len(data) < BATCH)
        if not used:
            return moved
        offset += used
        spool.put(whole, device=status.st_dev, inode=status.st_ino, offset=offset)
        moved = True


def stream(fd: int, spool: Spool) -> None:
    """Publish what a stream brings, until it ends."""
    data, ended, due = b"", False, 0.0
    while not ended:
        piece = os.read(fd, BATCH)
        ended = not piece
        due = due if data else time.monotonic() + PAUSE
        data += piece
        # What comes within a pause goes as one batch.
        left = due - time.monotonic()
        if not ended and len(data) < BATCH and left > 0 and select.select([fd], [], [], left)[0]:
            continue
        while (found := batch(data[:BATCH], ended=ended))[1]:
            spool.put(found[0])
            data = data[found[1] :]


def main() -> int:
    """Run until the stream ends, or until told to stop."""
    parser = argparse.ArgumentParser(description="Turn a growing log into files of whole lines, in a spool.")
    parser.add_argument("log", help="the log file, which may be rotated; '-': standard input")
    parser.add_argument("spool", type=Path, help="the source directory of the guard's first stage")
    parser.add_argument("--once", action="store_true", help="publish what the log has, and end")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    spool = Spool(given.spool)
    if given.log == "-":
        stream(0, spool)
    else:
        follow(Path(given.log), spool, once=given.once)
    return 0


if __name__ == "__main__":
    sys.exit(main())
