# SPDX-License-Identifier: Apache-2.0
"""The program in which a Python filter runs.

`python -m sipc.guard.worker AREA SIZE FUNCTION LIMIT DECODE FORMAT PATH...`

Owns loading the function and the type, and turning whatever the function does into one answer.  Its standard input and
output are the stage's alone: the function finds /dev/null there.  Nothing here bounds time: the stage kills this
process (`batches.py`).  The first answer, whether the function could be loaded, is a frame of `framing.py`; from then
on it is notices and replies (`area.py`).  A reply has the tag of its notice and a number, so that it can never be taken
for one to another message, and is written before the next message is looked at.  Standard error becomes the bell: a
byte there wakes the stage, which so sleeps while there is nothing but single verdicts to take.
"""

from __future__ import annotations

import importlib
import os
import resource
import select
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from sipc.guard.area import NOTICE, REPLY, SAME, attach, messages_in, notices
from sipc.guard.framing import answer
from sipc.guard.verdicts import Code, Drop, Pass, Quarantine, Reason

__all__ = ("main",)

_DETAIL = 4096  # bytes of detail: a traceback's last line, with room
# Looks at the count of notices before sleeping: a few 10 us, about what it takes to be woken on another core.  Not
# where the stage would need the core that looks.
_LOOKS = range(400 if len(os.sched_getaffinity(0)) > 2 else 0)


def main(arguments: list[str]) -> int:
    """Say that the function is loaded, or why not; then answer until the input ends."""
    area, size, function, limit, decode, form, *path = arguments
    source, sink, bell = os.dup(0), os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for fd in (sink, bell):  # nothing but this process writes to these pipes, so the mode is ours alone
        os.set_blocking(fd, False)
    memory = attach(int(area), int(size))
    sys.path[:0] = path
    try:
        judge = _load(function)
        if not callable(judge):
            raise TypeError(f"{function} is no function")
        decoder = _decoder(_load(decode), form) if decode else None
    except BaseException as error:  # noqa: BLE001 - import runs foreign code, which may raise anything
        _say(sink, bell, answer(Code.QUARANTINE, _text(error).encode(errors="replace")))
        return 1
    _say(sink, bell, answer(Code.PASS, b""))
    me, most = os.getpid(), int(limit)
    seen, noticed = 0, notices(memory)
    while True:
        for _ in _LOOKS:
            if noticed[0] != seen:
                break
        notice = _take(source, NOTICE.size)
        if notice is None:
            return 0
        seen += 1
        tag, count, offset, ring = NOTICE.unpack(notice)
        for number, message in enumerate(_messages(source, memory, count, offset)):
            code, payload = _judged(judge, decoder, message, most)
            if os.getpid() != me:
                os._exit(0)  # a copy that the function made of us: it has no say
            _say(sink, bell, REPLY.pack(tag, number, code, len(payload)) + payload)
        if ring:
            _ring(bell)


def _messages(source: int, area: memoryview, count: int, offset: int) -> Iterable[bytes]:
    if count:
        return messages_in(area, offset, count)
    large = _take(source, offset)
    return () if large is None else (large,)


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
) -> tuple[int, bytes]:
    """The answer to one message.  No way through this function but the one return under `Pass` is a pass."""
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
        if len(verdict.payload) > limit:
            return _refused(Reason.OUTPUT, f"{len(verdict.payload)} bytes, and {limit} may be passed")
        return (SAME, b"") if verdict.payload == message else (Code.PASS, verdict.payload)
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


def _ring(bell: int) -> None:
    with suppress(BlockingIOError):  # it is full of rings already
        os.write(bell, b"\0")


def _say(fd: int, bell: int, data: bytes) -> None:
    try:
        written = os.write(fd, data)
    except BlockingIOError:
        written = 0
    left = memoryview(data)[written:]
    while left:
        _ring(bell)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.poll()
        with suppress(BlockingIOError):
            left = left[os.write(fd, left) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
