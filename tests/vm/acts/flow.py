# SPDX-License-Identifier: Apache-2.0
"""A writer, a reader and the maker of what lies between them, each in a domain of its own, driven step by step.

Owns the three processes of a row and the conversation with them.  What a mechanism is stands in the modules beside
this one; which steps are taken, and what must come of them, in `tests/vm/flow_table.py`.  The driver stays in the
lab's domain: it hands descriptors on and cleans up, and does nothing that is measured.  Each process is called (comm)
after the step it does, so that the kernel's log says which refusal belongs to which.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import selinux

from .flow_descriptors import DESCRIPTORS
from .flow_files import FILES
from .flow_kind import Kind, call, libc
from .flow_sockets import SOCKETS
from .flow_sysv import SYSTEM_V

KINDS: dict[str, type[Kind]] = {**DESCRIPTORS, **FILES, **SOCKETS, **SYSTEM_V}
ROLES = ("maker", "reader", "writer")
GO = "/tmp/flow-go"
ANSWER = 20.0  # seconds for one step; the longest waits five
_DESCRIPTORS = 1024  # as many as a process here may have
DISK = b"/var/tmp"
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_REMOUNT, _NOATIME, _BIND, _REC, _PRIVATE, _RELATIME = 0x20, 0x400, 0x1000, 0x4000, 1 << 18, 1 << 21
_SET_NAME = 15  # prctl(PR_SET_NAME)
_REFUSED = ("EACCES", "EPERM")


class Process:
    """One of the three, from outside."""

    def __init__(self, kind: str, tag: str, domain: str) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(ANSWER)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for low, high in ((3, other.fileno()), (other.fileno() + 1, _DESCRIPTORS)):
                    os.closerange(low, high)  # its siblings' sockets among them: they would not see their end
                selinux.setcon(f"system_u:system_r:{domain}:s0")
                _serve(other, KINDS[kind](tag))
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(0)
        other.close()

    def ask(self, step: str, method: str, *arguments: Any, fds: list[int] | None = None) -> None:
        """Send one step; its descriptors follow when it has its name."""
        self._socket.send(json.dumps([step, method, arguments, fds is not None]).encode())
        if fds is not None:
            socket.send_fds(self._socket, [b"f"], fds)

    def answer(self) -> tuple[dict[str, Any], list[int]]:
        """What came of it, and descriptors that it made."""
        data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 4)
        if not data:
            raise RuntimeError("a process of the row is gone")
        said: dict[str, Any] = json.loads(data)
        if "raised" in said:
            raise RuntimeError(said["raised"])
        return said, list(fds)

    def do(self, step: str, method: str, *arguments: Any, fds: list[int] | None = None) -> dict[str, Any]:
        """One step and what came of it."""
        self.ask(step, method, *arguments, fds=fds)
        return self.answer()[0]

    def end(self) -> None:
        """Whatever it does."""
        self._socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _serve(asked: socket.socket, end: Kind) -> None:
    while data := asked.recv(1 << 16):
        step, method, arguments, with_fds = json.loads(data)
        libc.prctl(_SET_NAME, step.encode(), 0, 0, 0)
        fds: list[int] = []
        if with_fds:  # refused ones are not among them (security_file_receive)
            _, fds, _, _ = socket.recv_fds(asked, 1, 4)
            arguments.append(list(fds))
        made: list[int] = []
        try:
            value = getattr(end, method)(*arguments)
            if method == "make":
                info, for_reader, for_writer = value
                made = [*for_reader, *for_writer]
                value = {"info": info, "reader": len(for_reader)}
            said = {"value": value}
        except OSError as error:
            said = {"errno": errno.errorcode.get(error.errno or 0, str(error))}
        except BaseException:
            said = {"raised": traceback.format_exc()}
        socket.send_fds(asked, [json.dumps(said).encode()], made)
        for fd in made:
            os.close(fd)


class Row:
    """The three processes, and one object after the other between them."""

    def __init__(self, kind: str, tag: str, domains: Mapping[str, str]) -> None:
        self.processes = {role: Process(kind, tag, domains[role]) for role in ROLES}
        self._janitor = KINDS[kind](tag)

    def open(self, step: str) -> str | None:
        """A new object, open on both sides; what refused it, if anything did."""
        maker = self.processes["maker"]
        maker.ask(step, "make")
        said, fds = maker.answer()
        if "errno" in said:
            raise RuntimeError(f"the maker can not make it: {said}")
        made = said["value"]
        parts = {"reader": fds[: made["reader"]], "writer": fds[made["reader"] :]}
        info = {**made["info"], "writer": self.processes["writer"].pid}
        refused = None
        for role in ("reader", "writer"):
            opened = self.processes[role].do(step, "open", role, info, fds=parts[role] or None)
            if "errno" in opened:
                refused = f"{role}: {opened['errno']}"
                break
            info |= opened["value"] or {}
        for fd in fds:
            os.close(fd)
        return refused

    def forward(self, step: str, number: int) -> str:
        """One datum across."""
        for role, method in (("writer", "write"), ("reader", "read")):
            said = self.processes[role].do(step, method, number)
            if "errno" in said:
                return f"{role}: {said['errno']}"
        return "flows" if said["value"] is True else "nothing arrives"

    def close(self) -> None:
        """Leave nothing of the object."""
        for role in ("writer", "reader"):
            self.processes[role].do("close", "close")
        self._janitor.drop()

    def probe(self, step: str, prepare: str, look: str, act: str, together: bool) -> str:
        """Whether what the reader does shows where the writer looks: alike twice, and different after it.

        `together`: the writer is looking while the reader acts.
        """
        writer, reader = self.processes["writer"], self.processes["reader"]
        if prepare and (refused := _refused("writer", writer.do(step, prepare))):
            return refused
        looks = [writer.do(step, look, *([False] if together else [])) for _ in range(2)]
        if refused := _refused("writer", looks[0]):
            return refused
        if together:
            writer.ask(step, look, True)
        acted = reader.do(step, act)
        looks.append(writer.answer()[0] if together else writer.do(step, look))
        if refused := _refused("reader", acted):
            return refused
        if looks[0] != looks[1]:
            raise RuntimeError(f"{look} differs with nothing done: {looks}")
        return "seen" if looks[2] != looks[1] else "not seen"

    def end(self) -> None:
        """All three."""
        for process in self.processes.values():
            process.end()
        self._janitor.drop()


def _refused(role: str, said: Mapping[str, Any]) -> str | None:
    return f"{role}: {said['errno']}" if said.get("errno") in _REFUSED else None


@contextlib.contextmanager
def _row(row: Mapping[str, Any]) -> Iterator[Row]:
    made = Row(row["kind"], row["tag"], row["domains"])
    try:
        yield made
    finally:
        made.end()


def _writable() -> None:
    """The guest's root is read-only, so that its saved state stays true; from here on it may be written."""
    call(libc.mount, None, b"/", None, _REMOUNT | _NOATIME, None)


def _keep_times() -> None:
    """That root is mounted without access times, which is not usual: with them, for this process's own view."""
    call(libc.unshare, _NEW_MOUNTS)
    for source, target, flags in ((None, b"/", _REC | _PRIVATE), (DISK, DISK, _BIND),
                                  (None, DISK, _REMOUNT | _BIND | _RELATIME)):  # fmt: skip
        call(libc.mount, source, target, None, flags, None)


def measure(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """For each row: `forward`, and every probe by its step."""
    _writable()
    _keep_times()
    results = []
    for row in rows:
        with _row(row) as three:
            said = {"forward": three.open("forward") or three.forward("forward", 1)}
            three.close()
            for step, *how in row["probes"]:
                said[step] = three.open(step) or three.probe(step, *how)
                three.close()
        results.append(said)
    return results


def revoke(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Open everything, wait while another policy is loaded, and use what is open; then open it again."""
    _writable()
    with contextlib.suppress(FileExistsError):
        os.mkfifo(GO)
    results = []
    with contextlib.ExitStack() as stack:
        live = [stack.enter_context(_row(row)) for row in rows]
        for three in live:
            opened = three.open("ready") or three.forward("ready", 1)
            if opened != "flows":
                raise RuntimeError(f"not before either: {opened}")
            three.processes["writer"].do("ready", "write", 2)
        print("ready", flush=True)
        with open(GO) as go:
            go.read()
        for three in live:
            writer, reader = three.processes["writer"], three.processes["reader"]
            said = {"reader": _used(reader.do("read", "read", 2)), "writer": _used(writer.do("write", "write", 3))}
            arrived = reader.do("last", "read", 3) if said["writer"] == "works" and said["reader"] == "works" else {}
            said["flows on"] = str(arrived.get("value") is True)
            three.close()
            said["again"] = three.open("again") or "works"
            three.close()
            results.append(said)
    return results


def _used(said: Mapping[str, Any]) -> str:
    return str(said["errno"] if "errno" in said else "works" if said["value"] in (True, None) else "nothing")


def go() -> None:
    """Let `revoke` go on."""
    with open(GO, "w"):
        pass


def sentinel(name: str) -> str:
    """A refusal whose place in the kernel's log is known."""
    libc.prctl(_SET_NAME, name.encode(), 0, 0, 0)
    try:
        os.open("/etc/shadow", os.O_RDONLY)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"
