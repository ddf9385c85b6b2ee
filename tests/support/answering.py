# SPDX-License-Identifier: Apache-2.0
"""A persistent command filter: passes any message on, but does what its argument says with one that begins with `bad`.

Run as a program.  It knows the framing by its description alone, and imports nothing of sipc.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from pathlib import Path


def _take(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def _say(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _answer(code: int, payload: bytes) -> None:
    _say(struct.pack("<BI", code, len(payload)) + payload)


def _misbehave(how: str, message: bytes) -> None:
    match how:
        case "drop":
            _answer(10, b"not wanted")
        case "quarantine":
            _answer(20, b"look at " + message)
        case "garbage":
            _say(b"\x07" + os.urandom(100))
        case "unknown-code":
            _say(struct.pack("<BI", 1, 0))
        case "half-a-header":
            _say(b"\0\1")
            sys.exit(0)
        case "half-a-frame":
            _say(struct.pack("<BI", 0, 100) + b"half")
            sys.exit(0)
        case "half-and-silence":
            _say(struct.pack("<BI", 0, 100) + b"half")
            signal.pause()
        case "oversize":
            _say(struct.pack("<BI", 0, 1_000_001))
            signal.pause()
        case "huge":
            _answer(0, bytes(1_000_001))
        case "endless":
            _say(struct.pack("<BI", 0, 0xFFFFFFFF))
            while True:
                _say(bytes(65536))
        case "more-than-one":
            _say(struct.pack("<BI", 0, 2) + b"ok" + struct.pack("<BI", 0, 2) + b"ok")
        case "close-stdout":
            os.close(1)
            signal.pause()
        case "exit":
            sys.exit(0)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            _answer(0, message)
        case "loop":
            while True:
                pass
        case "chatty-loop":
            while True:
                os.write(2, b"x" * 65536)


def main(how: str, where: str) -> None:
    """Answer until the input ends."""
    while True:
        (length,) = struct.unpack("<I", _take(4))
        if how == "hasty" and length > 100_000:
            _answer(0, b"without reading")
            signal.pause()
        message = _take(length)
        if message.startswith(b"bad"):
            _misbehave(how, message)
        else:
            _answer(0, message)
        if how == "late" and message == b"late":
            _answer(0, b"once more")
            Path(where).touch()
        if how == "leave" and message == b"leave":
            sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
