# SPDX-License-Identifier: Apache-2.0
"""Python filters: a function that judges messages in a process of its own, many on their way at a time.

Owns what becomes of replies and of their absence: who is in quarantine for the worker's death, who is judged anew by
the next, and in which order verdicts are given.  A message is timed alone, however many were handed over with it: from
the reply before it, or from when the worker had nothing in hand.  Only while the stage looks after the worker: between
two calls, when it sends and nobody takes that, a pipe may be full, of a message or of a reply, and the worker waits.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Collection, Sequence

from sipc.errors import SpecError
from sipc.guard.area import SAME, TAG, Area
from sipc.guard.batches import AREA_SIZE, AS_IT_CAME, Batches
from sipc.guard.filter_base import DEFAULT_OUTPUT, DEFAULT_TIMEOUT, WORDS, FilterBase
from sipc.guard.framing import too_long
from sipc.guard.process import Child, environment
from sipc.guard.verdicts import Code, Drop, Pass, Quarantine, Reason, Verdict, check_reason

__all__ = ("PythonFilter",)

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_FORMATS = ("json", "msgpack")
_START = 30.0  # seconds that a module may take to be imported: some import half a distribution
# Looks at the pipe before sleeping, for the same reason as in `worker.py`; each takes more than a microsecond.
_LOOKS = range(4 if len(os.sched_getaffinity(0)) > 2 else 1)
# A message that hangs is found at most this part of its time too late: single replies wake nobody.
_SLICES = 8


class PythonFilter(FilterBase):
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
        self._interpreter = [sys.executable, *isolated, "-m", "sipc.guard.worker"]
        self._function = [function, str(max_output), decode or "", decode_format, *places]
        self._batches: Batches | None = None
        self._area: Area | None = None
        self._sizes: deque[int] = deque()  # of what was submitted and not collected
        self._messages: list[bytes] = []  # those, one behind the other
        self._verdicts: list[Verdict] = []  # on the first of them
        self._given = 0  # how many of them have a verdict, or are in the worker's hands
        self._left = 0.0  # when the last call ended (CLOCK_MONOTONIC)
        self._started()

    def _started(self) -> Batches:
        if self._batches is None:
            self._area = Area(AREA_SIZE)
            argv = [*self._interpreter, str(self._area.fd), str(self._area.size), *self._function]
            self._child = Child(argv, variables=environment(), share=(self._area.fd,))
            self._area.forget_descriptor()
            answer = self._hello(self._child)
            if isinstance(answer, Quarantine) or answer[0] is not Code.PASS:
                why = answer.detail if isinstance(answer, Quarantine) else answer[1].decode(errors="replace")
                self.close()
                raise SpecError(
                    f"filter {self.what} can not be loaded: {why}: name a module that this interpreter can import "
                    "and a function in it; a declared type needs msgspec (pip install 'sipc[guard]')"
                )
            self._batches = Batches(self._child, self._area, max(self.max_output, WORDS))
        return self._batches

    def _hello(self, child: Child) -> tuple[Code, bytes] | Quarantine:
        timeout, self.timeout = self.timeout, self._start_timeout
        try:
            return self._framed(child, b"", WORDS)
        finally:
            self.timeout = timeout

    def close(self) -> None:
        """Kill the process, if there is one; what it had in hand has no verdict."""
        super().close()
        area, self._area, self._batches = self._area, None, None
        self._given = len(self._verdicts)
        if area is not None:
            area.close()

    @property
    def pending(self) -> int:
        """How many lists of messages were submitted and not collected."""
        return len(self._sizes)

    def judge(self, data: bytes) -> Verdict:
        """The function's verdict, or `Quarantine`."""
        return self.judge_many((data,))[0]

    def judge_many(self, messages: Sequence[bytes]) -> list[Verdict]:
        """The function's verdict on each, in their order, as if they had been judged one by one.

        A message that costs the worker its life is in quarantine; those before it have their verdicts, and those
        behind it are judged by a new one.  When it raises, no verdict was given.
        """
        if self._sizes:
            raise SpecError(f"filter {self.what}: collect what was submitted before judging more")
        try:
            self.submit(messages)
            return self.collect()
        except BaseException:
            self._forget()
            raise

    def submit(self, messages: Sequence[bytes]) -> None:
        """Begin to judge `messages`, without waiting for anything but a new worker; `collect` gives the verdicts.

        They are held here until then.  Raises as `collect` does; then these messages were not submitted.
        """
        if messages:
            too_long(max(messages, key=len), 0xFFFFFFFF - TAG)
        self._return()
        try:
            self._messages += messages
            self._hand_over()
            self._sizes.append(len(messages))
        except BaseException:
            del self._messages[sum(self._sizes) :]
            del self._verdicts[len(self._messages) :]
            self.close()
            raise
        finally:
            self._left = time.monotonic()

    def collect(self, *, most: int | None = None, seconds: float | None = None) -> list[Verdict]:
        """The verdicts on the messages that were submitted first, in their order.

        With limits, on the first of them, at least one, as soon as what they pass has `most` bytes or `seconds` are
        over; the next call goes on.  Raises `KernelError`, `SpecError` when the worker was killed and none can be
        started; then nothing was collected, and the next call tries again.
        """
        if not self._sizes:
            raise SpecError(f"filter {self.what}: nothing was submitted that could be collected")
        size, counted, held = self._sizes[0], 0, 0
        self._return()
        until = None if seconds is None else time.monotonic() + seconds
        try:
            while len(self._verdicts) < size:
                self._hand_over()
                self._go_on()
                if most is not None:
                    held += sum([len(one.payload) for one in self._verdicts[counted:] if type(one) is Pass])
                    counted = len(self._verdicts)
                full = (most is not None and held >= most) or (until is not None and time.monotonic() >= until)
                if full and self._verdicts:
                    break
        except BaseException:
            self.close()  # who interrupted this may have done so between a reply and its verdict
            raise
        finally:
            self._left = time.monotonic()
        return self._collected(min(size, len(self._verdicts)))

    def _return(self) -> None:
        """The time since the last call is not the message's in turn."""
        if self._batches is not None:
            self._batches.since += time.monotonic() - self._left

    def _collected(self, count: int) -> list[Verdict]:
        if count == self._sizes[0]:
            self._sizes.popleft()
        else:
            self._sizes[0] -= count
        found, self._verdicts = self._verdicts[:count], self._verdicts[count:]
        del self._messages[:count]
        self._given -= count
        return found

    def _forget(self) -> None:
        """Give up what was submitted.  The worker goes with it: what it would say is an answer to nothing."""
        self._sizes.clear()
        self._messages, self._verdicts = [], []
        self.close()

    def _hand_over(self) -> None:
        """Give the worker as much as it takes."""
        if self._batches is not None and not self._batches.busy and self._given < len(self._messages):
            unasked = self._child.unasked() if self._child is not None else None
            if unasked != b"":
                self.close()
                if unasked is not None:
                    self._add(Quarantine(Reason.FRAMING, f"it said {len(unasked)} bytes before it was asked"))
        if self._given < len(self._messages):
            self._given = self._started().offer(self._messages, self._given)

    def _add(self, verdict: Verdict) -> None:
        self._verdicts.append(verdict)
        self._given = max(self._given, len(self._verdicts))

    def _go_on(self) -> None:
        """Take the replies that are there; when there are none, wait for one as long as the message in turn has."""
        batches = self._batches
        if batches is None:
            return
        for _ in _LOOKS:
            if self._take(batches) or not batches.busy:
                return
        left = batches.since + self.timeout - time.monotonic()
        if left <= 0:
            self._end(Quarantine(Reason.TIMEOUT, f"no answer within {self.timeout} s"))
        elif batches.wait(min(left, self.timeout / _SLICES)) and not self._take(batches):
            child = self._child
            self.close()
            code = child.returncode if child is not None else None
            self._add(Quarantine(Reason.DIED, f"ended with {code}, without a whole answer"))

    def _take(self, batches: Batches) -> bool:
        """Make verdicts of the replies that are there; whether there were any, or the worker was killed for them."""
        replies = batches.replies()
        messages, verdicts, at = self._messages, self._verdicts, len(self._verdicts)
        if batches.failure is None and replies.count(AS_IT_CAME) == len(replies):
            came = messages[at : at + len(replies)]
            if not came or len(max(came, key=len)) <= self.max_output:
                verdicts += map(Pass, came)
                return bool(replies)
        for data, (code, payload) in zip(messages[at : at + len(replies)], replies, strict=True):
            if code == SAME and len(data) <= self.max_output:
                verdicts.append(Pass(data))
                continue
            self._add(self._verdict(data, code, payload))
            if self._batches is None:  # it was killed for this one; what it said of others is void
                return True
        if batches.failure is not None:
            verdict = Quarantine(Reason.FRAMING, batches.failure)
            if batches.busy:
                self._end(verdict)
            else:  # it said more than the answer to the last one: so that is none
                verdicts.pop()
                self._end(verdict)
            return True
        return bool(replies)

    def _end(self, verdict: Quarantine) -> None:
        """Kill the worker for the message in turn."""
        self.close()
        self._add(verdict)

    def _verdict(self, data: bytes, code: int, payload: bytes) -> Verdict:
        if code in (Code.PASS, SAME):
            if code == Code.PASS and len(payload) <= self.max_output:
                return Pass(payload)
            self.close()
            return Quarantine(Reason.OUTPUT, f"more than {self.max_output} bytes")
        reason, _, detail = payload[:WORDS].partition(b"\0")
        try:
            word = check_reason(reason.decode())
        except (UnicodeDecodeError, SpecError):
            self.close()
            return Quarantine(Reason.FRAMING, "its reason is no word")
        if word not in self._reasons if self._reasons is not None else word not in set(Reason) and reason in data:
            # It would be logged, and may be a part of the message.
            word, detail = Reason.FILTER, b"reason: " + reason + b"; " + detail
        return Drop(word) if code == Code.DROP else Quarantine(word, detail.decode(errors="replace"))
