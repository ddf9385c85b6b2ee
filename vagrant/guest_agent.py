# SPDX-License-Identifier: Apache-2.0
"""The test agent inside the guest: one JSON line in, one JSON line out.

Over the virtio-serial port called `agent`, or over standard input and output when its argument is `-`.

Owns nothing but running things: each request is a fork, so what a test does to its own process never reaches the
next one.  `call` names a function of a module that the host sent; `argv` is a program; both may name a context,
which a call takes by setcon(3) before it does anything, and a program by setexeccon(3).  Every child is the leader
of a process group, which is killed when its time is over: an answer always comes, and in order.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import glob
import importlib
import io
import json
import os
import selectors
import signal
import struct
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator
from typing import Any

import selinux

OPT = "/opt/sipc"
SELINUX = "/sys/fs/selinux"
STREAMS = ("stdout", "stderr", "value")
RNDRESEEDCRNG = 0x5207  # include/uapi/linux/random.h


def port() -> tuple[int, int]:
    """Where requests come from and answers go; no act inherits either."""
    if sys.argv[1:] == ["-"]:
        ends = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        return ends
    for name in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(name) as file:
            if file.read().strip() == "agent":
                fd = os.open("/dev/" + os.path.basename(os.path.dirname(name)), os.O_RDWR)
                return fd, fd
    raise SystemExit("no port called agent")


def lines(fd: int) -> Iterator[bytes]:
    """Whole lines; an empty read of a port means that nobody is connected yet, of a pipe that all is over."""
    rest = b""
    while True:
        data = os.read(fd, 1 << 16)
        if not data:
            if sys.argv[1:] == ["-"]:
                return
            time.sleep(0.02)
            continue
        rest += data
        while b"\n" in rest:
            line, rest = rest.split(b"\n", 1)
            yield line


def write(fd: int, data: bytes) -> None:
    """All of it."""
    while data:
        data = data[os.write(fd, data) :]


class Child:
    """A fork that does one request, and what it has said so far."""

    def __init__(self, request: dict[str, Any]) -> None:
        pipes = {name: os.pipe() for name in STREAMS}
        self.pid = os.fork()
        if self.pid == 0:
            self._act(request, {name: writing for name, (_, writing) in pipes.items()})
        self.ends = {name: reading for name, (reading, _) in pipes.items()}
        for _, writing in pipes.values():
            os.close(writing)
        self.exit = os.pidfd_open(self.pid)
        self.data = dict.fromkeys(STREAMS, b"")

    @staticmethod
    def _act(request: dict[str, Any], fds: dict[str, int]) -> None:
        """In the fork; never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            os.dup2(fds["stdout"], 1)
            os.dup2(fds["stderr"], 2)
            if request.get("uid") is not None:
                os.setgroups([])
                os.setgid(request.get("gid", request["uid"]))
                os.setuid(request["uid"])
            if request.get("context") and selinux.is_selinux_enabled():
                if "argv" in request:
                    selinux.setexeccon(request["context"])
                else:
                    selinux.setcon(request["context"])
            os.environ.update(request.get("env") or {})
            if "argv" in request:
                os.execvp(request["argv"][0], request["argv"])
            module = importlib.import_module(request["module"])
            value = getattr(module, request["call"])(*request.get("arguments", []))
            sys.stdout.flush()
            write(fds["value"], json.dumps(value).encode())
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def read(self, deadline: float, *, line: bool) -> bool:
        """Read until a whole line of output is there, or the end of all and of the process; False when time is over."""
        with selectors.DefaultSelector() as selector:
            for name, fd in self.ends.items():
                selector.register(fd, selectors.EVENT_READ, name)
            if not line:
                selector.register(self.exit, selectors.EVENT_READ, "exit")
            while selector.get_map() and not (line and (b"\n" in self.data["stdout"] or "stdout" not in self.ends)):
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    return False
                for key, _ in events:
                    data = b"" if key.data == "exit" else os.read(key.fd, 1 << 16)
                    if data:
                        self.data[key.data] += data
                        continue
                    selector.unregister(key.fd)
                    if key.data == "exit":
                        self.kill_group()  # or what it left behind would keep its output open
                    else:
                        os.close(self.ends.pop(key.data))
        return True

    def kill_group(self) -> None:
        """Kill all that it started; it is not waited for yet, so the number is still its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def line(self, seconds: float) -> str:
        """Its next line of output; empty at its end."""
        if not self.read(time.monotonic() + seconds, line=True):
            raise TimeoutError(f"no line within {seconds} s")
        line, mark, self.data["stdout"] = self.data["stdout"].partition(b"\n")
        return (line + mark).decode(errors="replace")

    def end(self, seconds: float) -> dict[str, Any]:
        """Wait for its end, or bring it about when its time is over."""
        timed_out = not self.read(time.monotonic() + seconds, line=False)
        self.kill_group()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        for fd in (*self.ends.values(), self.exit):
            os.close(fd)
        value = self.data["value"]
        return {
            "code": code,
            "stdout": self.data["stdout"].decode(errors="replace"),
            "stderr": self.data["stderr"].decode(errors="replace"),
            "value": json.loads(value) if value and not timed_out else None,
            "timed_out": timed_out,
        }


class Log:
    """The kernel's messages, each told once."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)

    def new(self) -> dict[str, Any]:
        """Those since the last time, and how often the kernel says that it dropped some before they were read."""
        found: list[str] = []
        lost = 0
        while True:
            try:
                record = os.read(self.fd, 1 << 14)
            except BlockingIOError:
                return {"lines": found, "lost": lost}
            except BrokenPipeError:  # Documentation/ABI/testing/dev-kmsg: overwritten; reading goes on after the gap
                lost += 1
                continue
            head, _, text = record.partition(b";")
            micro = int(head.split(b",")[2])
            words = text.split(b"\n", 1)[0].decode(errors="replace")
            found.append(f"[{micro // 1_000_000:5d}.{micro % 1_000_000:06d}] {words}")


def kernel_state() -> dict[str, Any]:
    """Whether the kernel enforces, and how many policies it was given.

    From struct selinux_kernel_status of security/selinux/include/security.h.
    """
    with open(SELINUX + "/status", "rb") as file:
        _, _, enforcing, loads, _ = struct.unpack("<5I", file.read(20))
    return {"enforcing": enforcing == 1, "loads": loads}


def loaded_policy() -> bytes:
    """The policy that the kernel runs, as it writes it out."""
    with open(SELINUX + "/policy", "rb") as file:
        return file.read()


def wake(request: dict[str, Any]) -> None:
    """Take the host's time and some of its randomness: a saved state has neither, and would repeat its own."""
    time.clock_settime(time.CLOCK_REALTIME, request["time"])
    with open("/dev/urandom", "wb", buffering=0) as urandom:
        urandom.write(base64.b64decode(request["seed"]))
        fcntl.ioctl(urandom, RNDRESEEDCRNG)


running: dict[int, Child] = {}


def handle(request: dict[str, Any], log: Log) -> dict[str, Any]:
    """Answer one request."""
    kind = request["do"]
    seconds = float(request.get("seconds", 30.0))
    if kind == "hello":
        wake(request)
        return {}
    if kind == "files":
        os.makedirs(OPT, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(request["tar"]))) as tar:
            tar.extractall(OPT)
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.split(".")[0] in ("sipc", "acts")]:
            del sys.modules[name]
        for name in request.get("warm", ()):
            importlib.import_module(name)
        return {}
    if kind == "load":
        fd = os.open(SELINUX + "/load", os.O_RDWR)
        try:
            os.write(fd, base64.b64decode(request["policy"]))
        finally:
            os.close(fd)
        return {}
    if kind == "state":
        return kernel_state()
    if kind == "policy":
        return {"policy": base64.b64encode(loaded_policy()).decode()}
    if kind == "log":
        return log.new()
    if kind == "run":
        child = Child(request)
        if request.get("background"):
            running[child.pid] = child
            return {"pid": child.pid}
        return child.end(seconds)
    if kind == "line":
        return {"line": running[request["pid"]].line(seconds)}
    if kind == "wait":
        return running.pop(request["pid"]).end(seconds)
    if kind == "kill":
        os.kill(running[request["pid"]].pid, request.get("signal", signal.SIGKILL))
        return {}
    raise ValueError(kind)


def main() -> None:
    """Serve for ever, or until nobody asks any more."""
    sys.path.insert(0, OPT)
    asked, answered = port()
    log = Log()
    print("@@ agent ready", selinux.getcon()[1] if selinux.is_selinux_enabled() else "without SELinux", flush=True)
    for line in lines(asked):
        answer: dict[str, Any] = {}
        try:
            request = json.loads(line)
            answer = {"number": request["number"]}
            answer |= handle(request, log)
        except BaseException:
            answer["failed"] = traceback.format_exc()
        write(answered, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
