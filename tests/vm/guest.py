# SPDX-License-Identifier: Apache-2.0
"""An enforcing SELinux guest, and the conversation with the agent in it (`vagrant/guest_agent.py`).

Owns files in, policies in, calls in a domain, AVC and kernel log out.  The machine below is `emulator.py`.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import socket
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.vm.emulator import ROOT

from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import bits

LAB = "sipc_lab_t"
ANSWER = 60.0  # seconds that an act may take before the agent ends it
GRACE = 60.0  # seconds more, after which the guest itself counts as hung


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one act in the guest ended: exit code (negative: signal), its output, the value a call returned.

    `timed_out` says that the agent ended it because its time was over.
    """

    code: int
    stdout: str
    stderr: str
    value: Any
    timed_out: bool

    @property
    def output(self) -> str:
        """Both streams, for a message."""
        return self.stdout + self.stderr


def context(domain: str) -> str:
    """A domain's full context in the guest."""
    return f"system_u:system_r:{domain}:s0"


class Machine(Protocol):
    """What a guest runs in: `emulator.py`'s, or another that a command reaches (`remote.py`)."""

    def connect(self) -> socket.socket:
        """The way to the agent."""

    def console(self) -> str:
        """What the machine said, for a message."""

    def close(self) -> None:
        """End it, or leave it."""


class Guest:
    """One running guest; use it as a context manager."""

    def __init__(self, machine: Machine, base: Path | None, *, domain: str = LAB) -> None:
        """Talk to the agent of a machine, which is closed with this.

        `base` is the folder of CIL modules from scripts/base_policy.sh; without it the guest has a policy store of
        its own.  `domain` is the agent's.
        """
        self._base = [base / "small", ROOT / "vagrant" / "lab.cil"] if base is not None else []
        self._domain = domain
        self._numbers = itertools.count(1)
        self._rest = b""
        self._policy: bytes | None = None
        self._loads = -1
        self._socket: socket.socket | None = None
        self._log: list[str] = []
        self.machine = machine
        try:
            self._socket = machine.connect()
            self.ask(do="hello", time=time.time(), seed=base64.b64encode(os.urandom(64)).decode())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the guest; nothing of it stays."""
        if self._socket is not None:
            self._socket.close()
        self.machine.close()

    def ask(self, *, seconds: float = ANSWER, **request: Any) -> dict[str, Any]:
        """One request to the agent, which has `seconds` for it.

        Raises `RuntimeError` when the agent failed.  A guest that does not answer, or answers something else, is
        closed: a late answer must never be taken for the next one.
        """
        number = next(self._numbers)
        link = self._socket
        if link is None:
            raise RuntimeError("this guest was never reached")
        link.settimeout(seconds + GRACE)
        try:
            link.sendall(json.dumps({**request, "number": number, "seconds": seconds}).encode() + b"\n")
            while b"\n" not in self._rest:
                data = link.recv(1 << 20)
                if not data:
                    raise RuntimeError(f"the guest is gone:\n{self.machine.console()[-4000:]}")
                self._rest += data
            line, self._rest = self._rest.split(b"\n", 1)
            answer: dict[str, Any] = json.loads(line)
            if answer.pop("number") != number:
                raise RuntimeError(f"the agent answered another request: {line[:200]!r}")
        except BaseException:
            self.close()
            raise
        if "failed" in answer:
            raise RuntimeError(f"the agent failed: {answer['failed']}")
        return answer

    def put(self, folders: Sequence[Path], *, warm: Sequence[str] = ()) -> None:
        """Copy folders (packages) to where the guest's Python finds them; `warm` are imported at once."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for folder in folders:
                tar.add(folder, folder.name, filter=lambda info: None if "__pycache__" in info.name else info)
        self.ask(do="files", tar=base64.b64encode(data.getvalue()).decode(), warm=list(warm))

    def load(self, modules: dict[str, str], *, dontaudit: bool = True) -> None:
        """Load Debian's policy with these modules (name: CIL) into the running kernel."""
        if not self._base:
            raise RuntimeError("this guest loads its policy from its own store")
        policy = compose(self._base, modules, dontaudit=dontaudit)
        if policy != self._policy:
            self.ask(do="load", policy=base64.b64encode(policy).decode())
            self._policy = policy

    def run(
        self, argv: Sequence[str], *, domain: str | None = None, uid: int | None = None, seconds: float = ANSWER,
        **env: str,
    ) -> Result:  # fmt: skip
        """Run a program in a domain (default: the agent's); waits for its end."""
        own = context(self._domain if domain is None else domain)
        answer = self.ask(do="run", argv=list(argv), context=own, uid=uid, env=env, seconds=seconds)
        return Result(**answer)

    def call(
        self, module: str, name: str, *arguments: Any, domain: str = LAB, uid: int | None = None,
        seconds: float = ANSWER,
    ) -> Result:  # fmt: skip
        """Call a function of a module that `put` brought, in a fork that has taken `domain`."""
        answer = self.ask(
            do="run", module=module, call=name, arguments=list(arguments), context=context(domain), uid=uid,
            seconds=seconds,
        )  # fmt: skip
        return Result(**answer)

    def start(self, module: str, name: str, *arguments: Any, domain: str = LAB, uid: int | None = None) -> int:
        """Like `call`, without waiting for its end; returns its pid in the guest."""
        answer = self.ask(
            do="run", module=module, call=name, arguments=list(arguments), context=context(domain), uid=uid,
            background=True,
        )  # fmt: skip
        return int(answer["pid"])

    def line(self, pid: int) -> str:
        """The next line of output of what `start` began; empty at its end."""
        return str(self.ask(do="line", pid=pid)["line"])

    def wait(self, pid: int, *, seconds: float = ANSWER) -> Result:
        """The end of what `start` began."""
        return Result(**self.ask(do="wait", pid=pid, seconds=seconds))

    def kill(self, pid: int, number: int = 9) -> None:
        """Signal what `start` began (SIGKILL unless told); `wait` for it afterwards."""
        self.ask(do="kill", pid=pid, signal=number)

    def kernel_log(self) -> str:
        """All that the kernel said since boot; a test may rely on a line that is not in it."""
        answer = self.ask(do="log")
        if answer["lost"]:
            raise RuntimeError("the kernel dropped messages before they were read: make log_buf_len larger")
        self._log += answer["lines"]
        return "\n".join(self._log)

    def denials(self) -> list[str]:
        """All AVC lines since boot, in order."""
        self.kernel_log()
        return [line for line in self._log if "avc:  denied" in line]

    def enforcing(self) -> bool:
        """Whether the kernel enforces, by its own status page."""
        return bool(self.ask(do="state")["enforcing"])

    def check(self) -> None:
        """Raise unless this guest enforces for everybody: no test in another counts.

        The policy that is looked at is the one the kernel gives back, not the one that was sent.
        """
        state = self.ask(do="state")
        if not state["enforcing"]:
            raise AssertionError("the guest is not enforcing")
        if state["loads"] == self._loads:
            return
        read = read_policy(base64.b64decode(self.ask(do="policy")["policy"]), "the guest's policy")
        permissive = [read.type_names[number] for number in bits(read.permissive)]
        if permissive:
            raise AssertionError(f"the guest has permissive domains: {' '.join(permissive)}")
        self._loads = state["loads"]


def running(pid: int) -> bool:
    """Whether a process of this host is there and no zombie."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
