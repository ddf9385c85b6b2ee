# SPDX-License-Identifier: Apache-2.0
"""Channels and processes for the host tests: real kernel objects, bounded in time, nothing left behind."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sipc import helper
from sipc.definitions import parse
from sipc.descriptor import Descriptor
from sipc.spec import Enforcement

LONGEST = 60.0  # seconds that a child may take before it is killed and counts as failed


def definition(name: str, **keys: object) -> str:
    """A definition file's text."""

    def toml(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    lines = "".join(f"{key} = {toml(value)}\n" for key, value in keys.items())
    return f'[channel.{name}]\nenforcement = "dac"\n{lines}'


def make(registry: Path, name: str, *, replacing: bool = False, **keys: object) -> Descriptor:
    """Create a channel in this process."""
    spec = parse(definition(name, **keys), "test", enforcement=Enforcement.DAC)[name]
    return helper.create(spec, registry, replacing=replacing)


class Child:
    """A function running in a forked process; `result()` returns what it returned or raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(reading)
                try:
                    answer = (True, function())
                    status = 0
                except BaseException as error:
                    answer = (False, (error, traceback.format_exc()))
                try:
                    data = pickle.dumps(answer)
                except Exception:
                    data = pickle.dumps((False, (RuntimeError(repr(answer)), "")))
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(data)
            finally:
                os._exit(status)
        os.close(writing)
        self._reading = reading
        self._status: int | None = None

    def kill(self) -> None:
        """SIGKILL it, if it still runs."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Reap it; its wait status."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
            if self._reading >= 0:
                os.close(self._reading)
                self._reading = -1
        return self._status

    def done(self) -> bool:
        """Whether it has ended; reaps it."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    def ended_by_itself(self, timeout: float) -> bool:
        """Whether it ends within that time."""
        return self._status is not None or bool(select.select([self._reading], [], [], timeout)[0])

    def result(self, timeout: float = LONGEST) -> Any:
        """Wait for its result."""
        data = b""
        deadline = time.monotonic() + timeout
        while True:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise AssertionError(f"a child took longer than {timeout} s")
            chunk = os.read(self._reading, 1 << 20)
            if not chunk:
                break
            data += chunk
        self.wait()
        good, value = pickle.loads(data)
        if good:
            return value
        error, text = value
        error.add_note(text)
        raise error
