# SPDX-License-Identifier: Apache-2.0
"""Filters: message bytes in, one verdict out, whatever the filter does.

Owns the three kinds (a Python function, a command for each message, a command that stays) and the rule that they
share: only an explicit, whole and timely pass is a pass.  An exception, a timeout, a death, a value of another type,
garbage, too much output: each is a `Quarantine`, the process is killed with its group, and the next message meets a
new one.  An error is raised only when no filter can be started; then no message was judged.

No filter runs in the stage's process: a C loop does not see a signal's handler, and only SIGKILL ends `while True`.
Being started by exec it has no segment mapped and no queue open, and sees only the bytes it is given.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from sipc.errors import SpecError
from sipc.guard.framing import ANSWER, FramingError, message, read_answer, too_long
from sipc.guard.process import Child, End, Exchange, environment
from sipc.guard.verdicts import Code, Drop, Pass, Quarantine, Reason, Verdict, check_reason
from sipc.guard.worker import TAG

__all__ = ("CommandFilter", "Filter", "PersistentFilter", "PythonFilter")

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_FORMATS = ("json", "msgpack")
DEFAULT_TIMEOUT = 5.0
# A filter seldom makes more of a message than there was; 64 MiB is far beyond one message of most guards.
DEFAULT_OUTPUT = 64 << 20
_START = 30.0  # seconds that a module may take to be imported: some import half a distribution
_WORDS = 8192  # room for a reason and its detail, and for why a function can not be loaded


class Filter(Protocol):
    """What a stage does with a message; one caller at a time."""

    def judge(self, data: bytes) -> Verdict:
        """The verdict on one message.  Raises `KernelError`, `SpecError` when the filter can not be started."""
        ...

    def close(self) -> None:
        """Kill what runs."""
        ...


class _Base:
    """What the kinds share: limits, and a process that is there or not."""

    def __init__(self, what: str, timeout: float, max_output: int) -> None:
        if not 0 < timeout < float("inf"):
            raise SpecError(f"filter {what}: timeout must be more than 0 seconds, not {timeout!r}, for example 5.0")
        if not 0 < max_output <= 0xFFFFFFFF - TAG:
            raise SpecError(f"filter {what}: max_output must be from 1 to {0xFFFFFFFF - TAG} bytes, not {max_output!r}")
        self.what = what
        self.timeout = timeout
        self.max_output = max_output
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _framed(self, start: Child, request: bytes, room: int) -> tuple[Code, bytes] | Quarantine:
        """One request and its answer over frames; the process is gone when the answer is a `Quarantine` of ours."""
        child = start
        answers: list[tuple[Code, bytes]] = []

        def complete(output: bytearray) -> bool:
            found = read_answer(output, room)
            answers.extend([found] if found is not None else [])
            return found is not None

        kept = False
        try:
            try:
                done = child.exchange(request, timeout=self.timeout, limit=ANSWER.size + room, complete=complete)
            except FramingError as error:
                return Quarantine(Reason.FRAMING, str(error))
            if done.end is End.ANSWERED and not done.taken:
                return Quarantine(Reason.FRAMING, "it answered before it had read the message")
            kept = done.end is End.ANSWERED
        finally:
            if not kept:
                self.close()
        return answers[0] if kept else self._failed(done, child.returncode)

    def _failed(self, done: Exchange, code: int | None) -> Quarantine:
        if done.end is End.TIMEOUT:
            return Quarantine(Reason.TIMEOUT, _said(f"no answer within {self.timeout} s", done.errors))
        if done.end is End.OVERFLOW:
            return Quarantine(Reason.OUTPUT, _said(f"more than {self.max_output} bytes", done.errors))
        return Quarantine(Reason.DIED, _said(f"ended with {code}, without a whole answer", done.errors))


def _said(what: str, errors: str) -> str:
    return f"{what}; it said: {errors}" if errors else what


class PythonFilter(_Base):
    """A function from bytes, or from a value of a declared type, to a verdict."""

    def __init__(
        self,
        function: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        decode: str | None = None,
        decode_format: str = "json",
        max_output: int = DEFAULT_OUTPUT,
        path: Sequence[str | os.PathLike[str]] = (),
        start_timeout: float = _START,
        reasons: Collection[str] | None = None,
    ) -> None:
        """Load `function` ("module:function") in a process of its own, and there again whenever that was killed.

        `decode` names a type that msgspec decodes each message to (from JSON, or `decode_format="msgpack"`); the
        function then gets the value, and what does not validate never reaches it.  `timeout` is in seconds for one
        message, decoding included.  `path` is put before `sys.path`.  `reasons` are the words that it may give;
        without them any will do that is not in the message.  Raises `SpecError` when it can not be loaded.
        """
        super().__init__(function, timeout, max_output)
        for key, name in (("python", function), ("decode", decode)):
            if name is not None and not _FUNCTION.fullmatch(name):
                raise SpecError(f"filter: {key} must be 'module:name', for example 'orders:check', not {name!r}")
        if decode_format not in _FORMATS:
            raise SpecError(f"filter {function}: decode_format must be one of {_FORMATS}, not {decode_format!r}")
        self._start_timeout = start_timeout
        self._reasons = None if reasons is None else {*map(check_reason, reasons), *Reason}
        # -I where nothing was set up on purpose: neither the current directory nor a user's own packages are ours.
        isolated = ["-P"] if os.environ.get("PYTHONPATH") else ["-I"]
        places = [os.path.abspath(place) for place in path]  # noqa: PTH100 - Path.resolve would follow links
        self._argv = [
            sys.executable, *isolated, "-m", "sipc.guard.worker", function, str(max_output), decode or "",
            decode_format, *places,
        ]  # fmt: skip
        self._started()

    def _started(self) -> Child:
        if self._child is None:
            self._child = Child(self._argv, variables=environment())
            answer = self._hello(self._child)
            if isinstance(answer, Quarantine) or answer[0] is not Code.PASS:
                why = answer.detail if isinstance(answer, Quarantine) else answer[1].decode(errors="replace")
                self.close()
                raise SpecError(
                    f"filter {self.what} can not be loaded: {why}: name a module that this interpreter can import "
                    "and a function in it; a declared type needs msgspec (pip install 'sipc[guard]')"
                )
        return self._child

    def _hello(self, child: Child) -> tuple[Code, bytes] | Quarantine:
        timeout, self.timeout = self.timeout, self._start_timeout
        try:
            return self._framed(child, b"", _WORDS)
        finally:
            self.timeout = timeout

    def judge(self, data: bytes) -> Verdict:
        """The function's verdict, or `Quarantine`."""
        too_long(data, 0xFFFFFFFF - TAG)
        if self._child is not None and (unasked := self._child.unasked()) != b"":
            self.close()
            if unasked is not None:
                return Quarantine(Reason.FRAMING, f"it said {len(unasked)} bytes before it was asked")
        tag = secrets.token_bytes(TAG)
        answer = self._framed(self._started(), message(tag + data), TAG + max(self.max_output, _WORDS))
        if isinstance(answer, Quarantine):
            return answer
        code, payload = answer
        if payload[:TAG] != tag:
            self.close()
            return Quarantine(Reason.FRAMING, "it answered another message")
        return self._verdict(data, code, payload[TAG:])

    def _verdict(self, data: bytes, code: Code, payload: bytes) -> Verdict:
        if code is Code.PASS and len(payload) <= self.max_output:
            return Pass(payload)
        reason, _, detail = payload[:_WORDS].partition(b"\0")
        try:
            word = check_reason(reason.decode())
        except (UnicodeDecodeError, SpecError):
            self.close()
            return Quarantine(Reason.FRAMING, "its reason is no word")
        if word not in self._reasons if self._reasons is not None else word not in set(Reason) and reason in data:
            # It would be logged, and may be a part of the message.
            word, detail = Reason.FILTER, b"reason: " + reason + b"; " + detail
        return Drop(word) if code is Code.DROP else Quarantine(word, detail.decode(errors="replace"))


class _Command(_Base):
    def __init__(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_output: int = DEFAULT_OUTPUT,
        variables: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        """Check `argv`; no shell is involved.

        `timeout` is in seconds for one message, `variables` are added to a short list of ours, `directory` is where it
        runs.  Raises `SpecError` when there is no such command.
        """
        if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
            raise SpecError(f"filter: command must be a list of words, for example ['/usr/bin/jq', '.'], not {argv!r}")
        super().__init__(" ".join(argv), timeout, max_output)
        found = shutil.which(argv[0])
        if found is None:
            raise SpecError(f"filter {argv[0]}: there is no such command that this user may run: name it by its path")
        self._argv = [str(Path(found).absolute()), *argv[1:]]
        self._variables = environment(variables)
        self._directory = None if directory is None else os.fspath(directory)

    def _start(self) -> Child:
        return Child(self._argv, variables=self._variables, directory=self._directory)


class CommandFilter(_Command):
    """A command that is started for each message.

    The message is on stdin, what to pass on stdout, the verdict is the exit code (`Code`).  Everything else is a
    quarantine, and so is a pass without a single byte: a command that did nothing looks like that.
    """

    def judge(self, data: bytes) -> Verdict:
        """The command's verdict, or `Quarantine`; its last words on stderr are the detail."""
        child = self._child = self._start()
        try:
            done = child.exchange(data, timeout=self.timeout, limit=self.max_output, complete=None)
        finally:
            self.close()
        if done.end is not End.EXITED:
            return self._failed(done, child.returncode)
        if child.returncode == Code.PASS:
            if done.output:
                return Pass(done.output)
            return Quarantine(Reason.NO_OUTPUT, _said("it said pass, and nothing to pass", done.errors))
        if child.returncode == Code.DROP:
            return Drop()
        if child.returncode == Code.QUARANTINE:
            return Quarantine(Reason.FILTER, done.errors)
        if child.returncode is None or child.returncode < 0:
            return self._failed(done, child.returncode)
        return Quarantine(Reason.EXIT, _said(f"exit code {child.returncode}", done.errors))


class PersistentFilter(_Command):
    """A command that is started once and answers messages as frames (`framing.py`)."""

    def judge(self, data: bytes) -> Verdict:
        """The command's verdict, or `Quarantine`."""
        too_long(data)
        if self._child is not None and (unasked := self._child.unasked()) != b"":
            self.close()
            if unasked is not None:
                return Quarantine(Reason.FRAMING, f"it said {len(unasked)} bytes before it was asked")
        if self._child is None:
            self._child = self._start()
        answer = self._framed(self._child, message(data), self.max_output)
        if isinstance(answer, Quarantine):
            return answer
        code, payload = answer
        if code is Code.PASS:
            return Pass(payload)
        return Drop() if code is Code.DROP else Quarantine(Reason.FILTER, payload[:_WORDS].decode(errors="replace"))
