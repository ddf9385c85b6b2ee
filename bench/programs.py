# SPDX-License-Identifier: Apache-2.0
"""Whole programs: `sipc send FILE` to `sipc recv` against `cat FILE | cat`, their memory, and the import.

A pipeline's time runs from just before the first process is started until both have ended, so it includes
Python's start.  Peak memory is what wait4(2) reports; a child's figure starts at its parent's size (execve
keeps the old image's peak), so a bare Python of its own starts each program there.
"""

from __future__ import annotations

import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from bench.contest import MIB
from bench.harness import Failed, Place, pin, signals_held

_SECONDS = 120.0
_STARTS = 5
_PEAK = (
    "import os,sys;p=os.spawnvp(os.P_NOWAIT,sys.argv[2],sys.argv[2:]);_,s,u=os.wait4(p,0);"
    "open(sys.argv[1],'w').write(str(u.ru_maxrss));sys.exit(os.waitstatus_to_exitcode(s)&255)"
)


@contextmanager
def real_file(size: int) -> Iterator[Path]:
    """A file of `size` random bytes, no holes, in the page cache; removed afterwards."""
    block = random.Random(size).randbytes(16 * MIB)
    with tempfile.TemporaryDirectory(prefix="sipc-bench-") as directory:
        path = Path(directory) / "data"
        with path.open("wb") as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
        with path.open("rb") as file:
            while file.read(len(block)):
                pass
        yield path


def _on(core: int | None) -> Callable[[], None]:
    return partial(pin, set() if core is None else {core})


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a program and its children: each was started as a process group of its own."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_all(running: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended well; raises `Failed` as soon as one has not, or when the time is over."""
    until = time.monotonic() + _SECONDS
    poller = select.poll()
    with ExitStack() as stack:
        left: dict[int, subprocess.Popen[bytes]] = {}
        for process in running:
            fd = os.pidfd_open(process.pid)
            stack.callback(os.close, fd)
            poller.register(fd, select.POLLIN)
            left[fd] = process
        while left:
            ended = poller.poll(max(0.0, until - time.monotonic()) * 1000)
            if not ended:
                raise Failed(f"{next(iter(left.values())).args!r} did not end within {_SECONDS:.0f} s")
            for fd, _ in ended:
                poller.unregister(fd)
                process = left.pop(fd)
                if process.wait():
                    raise Failed(f"{process.args!r} ended with {process.returncode}")


def _pipeline(producer: list[str], consumer: list[str], place: Place, *, piped: bool) -> float:
    """Seconds from starting both to the end of both; with `piped`, through a pipe between them."""
    with tempfile.TemporaryFile() as errors, ExitStack() as stack:
        try:
            start = time.perf_counter()
            first = subprocess.Popen(
                producer,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=_on(place.sender_core),
                process_group=0,
            )
            stack.callback(_end, first)
            second = subprocess.Popen(
                consumer,
                stdin=first.stdout if piped else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=_on(place.receiver_core),
                process_group=0,
            )
            stack.callback(_end, second)
            if first.stdout is not None:
                first.stdout.close()
            _wait_all([first, second])
            return time.perf_counter() - start
        except OSError as error:
            raise Failed(f"cannot start: {error}") from None
        except Failed as failure:
            errors.seek(0)
            raise Failed(f"{failure}: {errors.read(1000).decode(errors='replace').strip()}") from None


def cat(file: Path, place: Place) -> float:
    """Seconds of `cat FILE | cat > /dev/null`."""
    return _pipeline(["cat", str(file)], ["cat"], place, piped=True)


@contextmanager
def _channel() -> Iterator[tuple[Callable[[Path], list[str]], list[str]]]:
    """A new channel of the default geometry: the command that sends a file, and the one that receives."""
    from bench.adapters_sipc import Channel

    channel = Channel("sysv", 4, 2)
    try:
        with signals_held():
            try:
                channel.create()
            except Exception as error:
                raise Failed(f"setup: {error}") from error
        yield channel.send_file_argv, channel.receive_argv()
    finally:
        with signals_held():
            channel.destroy()


def sipc_file(file: Path, place: Place) -> float:
    """Seconds of `sipc send FILE` to `sipc recv > /dev/null`; making the channel is outside."""
    with _channel() as (send, receive):
        return _pipeline(send(file), receive, place, piped=False)


def sipc_peaks(file: Path, place: Place) -> tuple[int, int]:
    """Peak resident KiB of `sipc send` and of `sipc recv` for this file."""
    with _channel() as (send, receive), tempfile.TemporaryDirectory(prefix="sipc-bench-") as directory:
        paths = [Path(directory) / role for role in ("send", "recv")]
        wrapped = [
            [sys.executable, "-I", "-S", "-c", _PEAK, str(path), *argv]
            for path, argv in zip(paths, (send(file), receive), strict=True)
        ]
        _pipeline(wrapped[0], wrapped[1], place, piped=False)
        return int(paths[0].read_text()), int(paths[1].read_text())


def start_seconds(code: str, place: Place) -> float:
    """Median seconds of a few runs of `python -I -c CODE`."""
    values = []
    argv = [sys.executable, "-I", "-c", code]
    for _ in range(_STARTS):
        start = time.perf_counter()
        try:
            subprocess.run(argv, check=True, timeout=_SECONDS, capture_output=True, preexec_fn=_on(place.sender_core))
        except (subprocess.SubprocessError, OSError) as error:
            raise Failed(f"python -I -c {code!r}: {error}") from None
        values.append(time.perf_counter() - start)
    return statistics.median(values)
