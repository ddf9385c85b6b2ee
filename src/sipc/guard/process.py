# SPDX-License-Identifier: Apache-2.0
"""A child process that is not trusted to end, to answer, or to stop answering.

Owns starting it with nothing of ours open, talking to it within a time and a number of bytes, and killing it with its
process group.  Knows nothing of verdicts.

The child is started by exec, so the segments mapped here are not mapped there.  It dies with the thread that started
it (prctl(2) PR_SET_PDEATHSIG; the kernel forgets that where exec changes the SELinux domain, and there the unit's
cgroup does it), leaves no core file, which would hold the message, and sees a short list of environment variables.  A
process that it makes and that leaves its group outlives it here, and can hold its pipes open until the time is over.
"""

from __future__ import annotations

import ctypes
import enum
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sipc.errors import KernelError

__all__ = ("Child", "End", "Exchange", "environment")

_PIECE = 65536  # what a pipe holds by default
_ERRORS = 4096  # bytes kept of what a child says on stderr: its last words are what matters
# The rest (NOTIFY_SOCKET, LISTEN_FDS, SSH_*, what a shell exports) is between us and who started us.
_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl
_LONGEST_POLL = 3600.0  # seconds; poll(2) takes milliseconds in an int
_WAIT = 10.0  # seconds until a killed process that the kernel can not end (disk, NFS) is left to init


class End(enum.Enum):
    """How an exchange ended."""

    ANSWERED = enum.auto()
    EXITED = enum.auto()
    TIMEOUT = enum.auto()
    OVERFLOW = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One exchange: how it ended, what came on stdout and (its end) on stderr, whether all input was taken."""

    end: End
    output: bytes
    errors: str
    taken: bool


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child sees of our environment, and `more`."""
    return {**{name: os.environ[name] for name in _VARIABLES if name in os.environ}, **(more or {})}


class Child:
    """A running child.  Close it: that kills it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        directory: str | None = None,
        share: tuple[int, ...] = (),
    ) -> None:
        """Start `argv`, with the descriptors `share` under their numbers here.

        Raises `KernelError` when the kernel does not let us.
        """
        parent = os.getpid()

        def prepare() -> None:
            _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # it died before the line above
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        try:
            self._process = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                start_new_session=True, close_fds=True, pass_fds=share, env=dict(variables), cwd=directory,
                preexec_fn=prepare,  # noqa: PLW1509 - a stage has one thread
            )  # fmt: skip
        except OSError as error:
            raise KernelError(
                error.errno or 0, f"{error.strerror}: it is run for every message, so nothing goes on without it",
                syscall="execve", obj=argv[0],
            ) from error  # fmt: skip
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._fds = [pipe.fileno() for pipe in pipes if pipe is not None]
        self._audible = True  # its stderr is open
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
            for fd in self._fds:
                os.set_blocking(fd, False)
        except OSError as error:
            self._process.kill()
            self._reap()
            raise KernelError(error.errno or 0, error.strerror or "", syscall="pidfd_open", obj=argv[0]) from error

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal, once closed."""
        return self._process.returncode

    def unasked(self) -> bytes | None:
        """What it has said although nothing was asked; b"" for nothing, None when it has ended or closed its side."""
        try:
            return os.read(self._fds[1], _PIECE) or None
        except BlockingIOError:
            return b""

    def take(self, data: memoryview) -> int:
        """Hand it as much of `data` as it takes at once; how many bytes that were.  All, when it listens no more."""
        try:
            return os.write(self._fds[0], data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)

    def wait(self, timeout: float, *, writing: bool) -> bool:
        """Sleep until it says something on stderr (which is thrown away), or ends, or, if `writing`, takes more.

        No more than `timeout` seconds.  Returns whether it has ended; then its group is killed, and what it has said
        on stdout can still be read.
        """
        poll = select.poll()
        stdin, _, stderr = self._fds
        if self._audible:
            poll.register(stderr, select.POLLIN)
        if writing:
            poll.register(stdin, select.POLLOUT)
        poll.register(self._pidfd, select.POLLIN)
        ready = dict(poll.poll(min(timeout, _LONGEST_POLL) * 1000 + 1))
        if stderr in ready:
            self._audible = bool(os.read(stderr, _PIECE))  # closed, it would be ready for ever
        if self._pidfd not in ready:
            return False
        self._kill_group()  # who is left of it can not answer in its name
        return True

    def exchange(
        self, data: bytes, *, timeout: float, limit: int, complete: Callable[[bytearray], bool] | None
    ) -> Exchange:
        """Hand it `data`, and take what it says until `complete` says that this is all.

        With `complete` None the input is closed behind `data`, and all is what it has said when it has ended.  No more
        than `timeout` seconds, nor than `limit` bytes and one pipe's worth.  The child is not closed here, whatever
        happened; what `complete` raises is passed on.
        """
        deadline = time.monotonic() + timeout
        poll = select.poll()
        stdin, stdout, stderr = self._fds
        left, output, errors = memoryview(data), bytearray(), bytearray()
        writing, exited, silent = True, False, False
        poll.register(stdin, select.POLLOUT)
        for fd in (stdout, stderr, self._pidfd):
            poll.register(fd, select.POLLIN)

        def ended(end: End) -> Exchange:
            with suppress(OSError):  # its last words may have come together with its end
                errors.extend(os.read(stderr, _PIECE))
            text = bytes(errors[-_ERRORS:]).decode(errors="replace")
            return Exchange(end=end, output=bytes(output), errors=text, taken=not left)

        while True:
            if writing and not left:
                writing = False
                self._stop_writing(poll, stdin, close=complete is None)
            if silent and (exited or complete is not None):
                return ended(End.EXITED)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return ended(End.TIMEOUT)
            for fd, _ in poll.poll(min(remaining, _LONGEST_POLL) * 1000 + 1):
                if fd == stdin:
                    try:
                        left = left[os.write(stdin, left[:_PIECE]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:  # it may say no without reading
                        writing = False
                        self._stop_writing(poll, stdin, close=complete is None)
                elif fd == self._pidfd:
                    exited = True
                    poll.unregister(fd)
                    self._kill_group()  # who is left of it can not answer in its name
                elif fd == stderr:
                    piece = os.read(fd, _PIECE)
                    if not piece:
                        poll.unregister(fd)
                    errors = (errors + piece)[-_ERRORS:]
                else:
                    piece = os.read(fd, _PIECE)
                    if not piece:
                        poll.unregister(fd)
                        silent = True
                    output += piece
                    if len(output) > limit:
                        return ended(End.OVERFLOW)
                    if complete is not None and complete(output):
                        return ended(End.ANSWERED)

    def _stop_writing(self, poll: select.poll, stdin: int, *, close: bool) -> None:
        poll.unregister(stdin)
        if close and self._process.stdin is not None:
            self._process.stdin.close()

    def _kill_group(self) -> None:
        # Before it is reaped its number, and so its group's, is nobody else's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it and its process group; `returncode` says how it ended."""
        if self._pidfd < 0:
            return
        try:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except PermissionError as error:
            raise KernelError(
                error.errno or 0, "it changed its user and can not be killed: let no filter do that",
                syscall="pidfd_send_signal", obj=f"process {self._process.pid}",
            ) from error  # fmt: skip
        self._kill_group()
        self._reap()
        os.close(self._pidfd)
        self._pidfd = -1

    def _reap(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
