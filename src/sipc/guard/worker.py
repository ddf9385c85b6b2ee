# SPDX-License-Identifier: Apache-2.0
"""The program in which a Python filter runs: `python -m sipc.guard.worker FUNCTION LIMIT DECODE FORMAT PATH...`.

Owns loading the function and the type, and turning whatever the function does into one answer.  Its standard input and
output are the stage's alone: the function finds /dev/null there.  Nothing here bounds time: the stage kills this
process (`filters.py`).  Frames are those of `framing.py`, each payload beginning with the tag of the request, so that
an answer can never be taken for one to another message.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from sipc.guard.framing import ANSWER, MESSAGE
from sipc.guard.verdicts import Code, Drop, Pass, Quarantine, Reason

__all__ = ("TAG", "main")

TAG = 16  # bytes; as many as nobody guesses
_DETAIL = 4096  # bytes of detail: a traceback's last line, with room


def main(arguments: list[str]) -> int:
    """Say that the function is loaded, or why not; then answer until the input ends."""
    function, limit, decode, form, *path = arguments
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path[:0] = path
    try:
        judge = _load(function)
        if not callable(judge):
            raise TypeError(f"{function} is no function")
        decoder = _decoder(_load(decode), form) if decode else None
    except BaseException as error:  # noqa: BLE001 - import runs foreign code, which may raise anything
        _say(sink, Code.QUARANTINE, _text(error).encode(errors="replace"))
        return 1
    _say(sink, Code.PASS, b"")
    me = os.getpid()
    while (header := _take(source, MESSAGE.size)) is not None:
        request = _take(source, MESSAGE.unpack(header)[0])
        if request is None:
            break
        code, payload = _judged(judge, decoder, request[TAG:], int(limit))
        if os.getpid() != me:
            os._exit(0)  # a copy that the function made of us: it has no say
        _say(sink, code, request[:TAG] + payload)
    return 0


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value


def _decoder(kind: Any, form: str) -> Callable[[bytes], Any]:
    import msgspec  # noqa: PLC0415 - an extra, and only for filters that declare a type

    if form == "msgpack":
        return msgspec.msgpack.Decoder(kind).decode
    return msgspec.json.Decoder(kind).decode


def _judged(
    judge: Callable[[Any], Any], decoder: Callable[[bytes], Any] | None, message: bytes, limit: int
) -> tuple[Code, bytes]:
    """The answer to one message.  No way through this function but the first return is a pass."""
    try:
        value = message if decoder is None else decoder(message)
    except BaseException as error:  # noqa: BLE001 - types have hooks, which may raise anything
        return _refused(Reason.TYPE, _text(error))
    try:
        verdict = judge(value)
    except BaseException as error:  # noqa: BLE001 - SystemExit too: it is no verdict
        return _refused(Reason.EXCEPTION, _text(error))
    # The very types: what else calls itself one may be made to look different each time.
    if type(verdict) is Pass and type(verdict.payload) is bytes:
        if len(verdict.payload) <= limit:
            return Code.PASS, verdict.payload
        return _refused(Reason.OUTPUT, f"{len(verdict.payload)} bytes, and {limit} may be passed")
    if type(verdict) is Drop and isinstance(verdict.reason, str):
        return Code.DROP, str(verdict.reason).encode(errors="replace")
    if type(verdict) is Quarantine and isinstance(verdict.reason, str) and isinstance(verdict.detail, str):
        return _refused(str(verdict.reason), verdict.detail)
    return _refused(Reason.VERDICT, f"returned {type(verdict).__name__}, not Pass, Drop or Quarantine")


def _refused(reason: str, detail: str) -> tuple[Code, bytes]:
    text = detail[:_DETAIL].encode(errors="replace")[:_DETAIL]
    return Code.QUARANTINE, reason.encode(errors="replace") + b"\0" + text


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_DETAIL]
    except BaseException:  # noqa: BLE001 - its __str__ is foreign code too
        return "an exception that can not be shown"


def _take(fd: int, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        piece = os.read(fd, min(count - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _say(fd: int, code: Code, payload: bytes) -> None:
    data = memoryview(ANSWER.pack(code, len(payload)) + payload)
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
