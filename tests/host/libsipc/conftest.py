# SPDX-License-Identifier: Apache-2.0
"""A C program and a Python one to put at either side of a channel, and a check that nothing is left over."""

from __future__ import annotations

import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sysv_ipc

from sipc import libsipc
from sipc.kernel import Keys, backend
from sipc.spec import Backend

HERE = Path(__file__).parent
LONGEST = 30.0  # seconds that anything here may take
_RAW = struct.Struct("=qI")
_FRAME = struct.Struct("=I")


class Interrupted(Exception):
    """What the signal handler in `Lab.interrupt` raises."""


class Program:
    """One running peer, its input and output in files, so that nobody waits for a pipe."""

    def __init__(self, argv: list[str], stdin: bytes, folder: Path) -> None:
        self._output, self._errors = folder / "output", folder / "errors"
        (folder / "input").write_bytes(stdin)
        source = str(Path(libsipc.__file__).parents[2])
        with (
            (folder / "input").open("rb") as given,
            self._output.open("wb") as output,
            self._errors.open("wb") as errors,
        ):
            self._process = subprocess.Popen(
                argv, stdin=given, stdout=output, stderr=errors, env={**os.environ, "PYTHONPATH": source}
            )
        self.pid = self._process.pid

    def finish(self) -> bytes:
        """Wait for the end, which must be a good one; returns what was written."""
        code = self._process.wait(timeout=LONGEST)
        assert code == 0, self._errors.read_text()
        return self._output.read_bytes()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(timeout=LONGEST)


class Lab:
    """One channel's file, whoever works on it, and the objects seen under its key."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self._folder = folder
        self._binary = binary
        self._programs: list[Program] = []
        self._seen: set[tuple[str, int]] = set()
        self.path = folder / "key"
        self.path.touch()
        self.key: int = sysv_ipc.ftok(str(self.path), ord("a"), silence_warning=True)

    def start(self, language: str, verb: str, *arguments: object, stdin: bytes = b"") -> Program:
        """Run a peer: `language` is c or py; the path goes where the verb expects it."""
        program = (
            [str(self._binary)] if language == "c" else [sys.executable, "-W", "error", str(HERE / "peer.py")]
        )
        words = [str(word) for word in arguments]
        words.insert(0 if verb in ("put", "get") else 1, str(self.path))
        folder = self._folder / f"{len(self._programs)}-{language}-{verb}"
        folder.mkdir()
        self._programs.append(Program([*program, verb, *words], stdin, folder))
        return self._programs[-1]

    def run(self, language: str, verb: str, *arguments: object, stdin: bytes = b"") -> bytes:
        """Run a peer to its end."""
        output = self.start(language, verb, *arguments, stdin=stdin).finish()
        self.note()
        return output

    def put(self, language: str, messages: Iterable[tuple[bytes, int]]) -> Program | None:
        """Queue raw (body, mtype) messages: by the C program, in the background, or by sysv_ipc, at once."""
        if language == "c":
            return self.start("c", "put", stdin=b"".join(_RAW.pack(t, len(b)) + b for b, t in messages))
        queue = sysv_ipc.MessageQueue(self.key, mode=0o200, max_message_size=65536)
        for body, mtype in messages:
            queue.send(body, True, mtype)
        return None

    @staticmethod
    def raw(output: bytes) -> list[tuple[bytes, int]]:
        """Read what `peer get` wrote, as (body, mtype)."""
        found = []
        while output:
            mtype, length = _RAW.unpack(output[: _RAW.size])
            output = output[_RAW.size :]
            found.append((output[:length], mtype))
            output = output[length:]
        return found

    @staticmethod
    def frame(messages: Iterable[bytes]) -> bytes:
        """Messages in the form that `peer send` reads and `peer receive` writes."""
        return b"".join(_FRAME.pack(len(message)) + message for message in messages)

    def rows(self, kind: str, *, id_: int | None = None) -> list[dict[str, str]]:
        """Find the lines of /proc/sysvipc/{msg,shm} with this channel's key, or with an identifier."""
        head, *lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
        names = ["key", "id", *head.split()[2:]]
        found = [dict(zip(names, line.split(), strict=True)) for line in lines]
        if id_ is not None:
            return [row for row in found if int(row["id"]) == id_]
        return [row for row in found if int(row["key"]) == self.key]

    def note(self) -> None:
        """Remember every object there is under the key now, to look for it at the end."""
        for kind in ("msg", "shm"):
            self._seen |= {(kind, int(row["id"])) for row in self.rows(kind)}

    def unlink(self) -> None:
        try:
            self.note()
        finally:
            backend(Backend.SYSV).remove(Keys(queue=str(self.key), segment=str(self.key)))

    def left_over(self) -> set[tuple[str, int]]:
        """Objects seen here that still exist, under this key or under none."""
        return {(kind, id_) for kind, id_ in self._seen if self.rows(kind, id_=id_)}

    def close(self) -> None:
        self.unlink()
        for program in self._programs:
            program.stop()
        gc.collect()  # the tracebacks that a test caught hold views
        assert self.left_over() == set()

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        """Wait for something that another process or thread does."""
        deadline = time.monotonic() + LONGEST
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.001)

    @staticmethod
    @contextmanager
    def interrupt(when: Callable[[], object] = lambda: True) -> Iterator[None]:
        """Send signals to the main thread until `when()` holds in the handler, which raises `Interrupted`.

        Signals before that show that an interrupted system call is taken up again.
        """
        fired = threading.Event()

        def handler(number: int, frame: object) -> None:
            if not fired.is_set() and when():
                fired.set()
                raise Interrupted

        main = threading.main_thread().ident
        assert main is not None
        given_up = time.monotonic() + LONGEST

        def pester() -> None:
            while not fired.wait(0.002) and time.monotonic() < given_up:
                signal.pthread_kill(main, signal.SIGUSR1)

        old = signal.signal(signal.SIGUSR1, handler)
        thread = threading.Thread(target=pester, daemon=True)
        thread.start()
        try:
            with pytest.raises(Interrupted):
                yield
        finally:
            fired.set()
            thread.join()
            signal.signal(signal.SIGUSR1, old)


@pytest.fixture(scope="session")
def peer_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """peer.c, compiled."""
    binary = tmp_path_factory.mktemp("libsipc") / "peer"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", str(binary), str(HERE / "peer.c")],
        check=True,
        timeout=LONGEST,
    )
    return binary


@pytest.fixture
def lab(tmp_path: Path, peer_binary: Path) -> Iterator[Lab]:
    """One channel; its objects and programs are gone afterwards, or the test fails."""
    laboratory = Lab(tmp_path, peer_binary)
    assert laboratory.rows("msg") == laboratory.rows("shm") == []
    yield laboratory
    laboratory.close()
