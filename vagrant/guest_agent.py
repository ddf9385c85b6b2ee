# SPDX-License-Identifier: Apache-2.0
"""The test agent inside the guest: one JSON line in, one JSON line out, over a virtio-serial port.

Owns nothing but running things: each request is a fork, so what a test does to its own process never reaches the
next one.  `call` names a function of a module that the host sent; `argv` is a program; both may name a context,
which the child takes by setcon(3) before it does anything.
"""

from __future__ import annotations

import base64
import glob
import importlib
import io
import json
import os
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator
from typing import Any

import selinux

OPT = "/opt/sipc"


def port() -> int:
    """The virtio-serial port called `agent`."""
    for name in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(name) as file:
            if file.read().strip() == "agent":
                return os.open("/dev/" + os.path.basename(os.path.dirname(name)), os.O_RDWR)
    raise SystemExit("no port called agent")


def lines(fd: int) -> Iterator[bytes]:
    """Whole lines; an empty read means that nobody is connected."""
    rest = b""
    while True:
        data = os.read(fd, 1 << 16)
        if not data:
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


def run(request: dict[str, Any]) -> dict[str, Any]:
    """One request in a child; its output and how it ended."""
    reading, writing = os.pipe()
    answer_in, answer_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(answer_in)
        status = 1
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            if request.get("uid") is not None:
                os.setgroups([])
                os.setgid(request.get("gid", request["uid"]))
                os.setuid(request["uid"])
            if request.get("context"):
                if "argv" in request:
                    selinux.setexeccon(request["context"])
                else:
                    selinux.setcon(request["context"])
            os.environ.update(request.get("env", {}))
            if "argv" in request:
                os.execvp(request["argv"][0], request["argv"])
            module = importlib.import_module(request["module"])
            value = getattr(module, request["call"])(*request.get("arguments", []))
            os.write(answer_out, json.dumps(value).encode())
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    os.close(answer_out)
    if request.get("background"):
        os.set_blocking(reading, False)
        running[pid] = (reading, answer_in)
        return {"pid": pid}
    return collect(pid, reading, answer_in)


running: dict[int, tuple[int, int]] = {}  # pid: where its output and its answer come


def collect(pid: int, reading: int, answer_in: int) -> dict[str, Any]:
    """Wait for a child's end."""
    os.set_blocking(reading, True)
    with open(reading, "rb") as output, open(answer_in, "rb") as answer:
        text = output.read()
        value = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "output": text.decode(errors="replace"), "value": json.loads(value) if value else None}


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request."""
    kind = request["do"]
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
        fd = os.open("/sys/fs/selinux/load", os.O_RDWR)
        try:
            os.write(fd, base64.b64decode(request["policy"]))
        finally:
            os.close(fd)
        return {}
    if kind == "run":
        return run(request)
    if kind == "line":
        reading = running[request["pid"]][0]
        os.set_blocking(reading, True)
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(reading, 1)):
            line += byte
        return {"line": line.decode(errors="replace")}
    if kind == "wait":
        return collect(request["pid"], *running.pop(request["pid"]))
    if kind == "kill":
        os.kill(request["pid"], request.get("signal", 9))
        return {}
    raise ValueError(kind)


def main() -> None:
    """Serve for ever."""
    sys.path.insert(0, OPT)
    fd = port()
    print("@@ agent ready", selinux.getcon()[1], flush=True)
    for line in lines(fd):
        try:
            answer = handle(json.loads(line))
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        write(fd, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
