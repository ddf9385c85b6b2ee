# SPDX-License-Identifier: Apache-2.0
"""An enforcing SELinux guest under software emulation, driven from the host.

Owns one QEMU process and the conversation with the agent in it (`vagrant/guest_agent.py`): files in, policies in,
calls in a domain, AVC and kernel log out.  QEMU is ended by `close`, whatever happened.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import bits

ROOT = Path(__file__).parents[2]
LAB = "sipc_lab_t"
BOOT = 120.0  # seconds that a guest may take to answer; it takes about eight
ANSWER = 60.0
_CPU = ("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-m", "512", "-smp", "1")
_APPEND = (
    "root=/dev/vda console=ttyS0 lsm=selinux selinux=1 audit=1 audit_backlog_limit=8192 quiet mitigations=off nokaslr "
    "cryptomgr.notests no_timer_check printk.devkmsg=on sysctl.kernel.printk_ratelimit=0 log_buf_len=4M"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one act in the guest ended: exit code (negative: signal), its output, the value a call returned."""

    code: int
    output: str
    value: Any


def context(domain: str) -> str:
    """A domain's full context in the guest."""
    return f"system_u:system_r:{domain}:s0"


def built(script: str) -> Path:
    """Run a script that prints the directory it made; once made, it only prints."""
    done = subprocess.run([str(ROOT / script)], check=True, stdout=subprocess.PIPE, text=True, timeout=900)
    return Path(done.stdout.strip().splitlines()[-1])


class Guest:
    """One running guest; use it as a context manager."""

    def __init__(self, image: Path, base: Path) -> None:
        """Boot; `image` from vagrant/build-image.sh, `base` (CIL modules) from scripts/base_policy.sh."""
        self._base = [base / "small", ROOT / "vagrant" / "lab.cil"]
        self._folder = tempfile.TemporaryDirectory(prefix="sipc-guest-")
        folder = Path(self._folder.name)
        self._console = folder / "console"
        argv = [
            "qemu-system-x86_64", *_CPU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-serial", f"file:{self._console}", "-kernel", str(image / "vmlinux"), "-initrd", str(image / "initrd"),
            "-append", _APPEND,
            "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=root,snapshot=on",
            "-device", "virtio-blk-pci,drive=root", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={folder / 'agent'},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self._socket = socket.socket(socket.AF_UNIX)
        self._rest = b""
        self._policy: bytes | None = None
        try:
            self._wait_for("@@ agent ready")
            self._socket.connect(str(folder / "agent"))
        except BaseException:
            self.close()
            raise

    def _wait_for(self, words: str) -> None:
        deadline = time.monotonic() + BOOT
        while words not in self.console():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the guest did not say {words!r}:\n{self.console()[-4000:]}")
            time.sleep(0.05)  # a file that another program writes: there is nothing to wait on

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the guest; nothing of it stays."""
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The emulator's process."""
        return self._process.pid

    def console(self) -> str:
        """The kernel's and init's words so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request to the agent."""
        self._socket.settimeout(ANSWER)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while b"\n" not in self._rest:
            data = self._socket.recv(1 << 20)
            if not data:
                raise RuntimeError(f"the guest is gone:\n{self.console()[-4000:]}")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
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
        policy = compose(self._base, modules, dontaudit=dontaudit)
        if policy != self._policy:
            self.ask(do="load", policy=base64.b64encode(policy).decode())
            self._policy = policy

    def run(self, argv: Sequence[str], *, domain: str = LAB, uid: int | None = None, **env: str) -> Result:
        """Run a program in a domain; waits for its end."""
        answer = self.ask(do="run", argv=list(argv), context=context(domain), uid=uid, env=env)
        return Result(**answer)

    def call(self, module: str, name: str, *arguments: Any, domain: str = LAB, uid: int | None = None) -> Result:
        """Call a function of a module that `put` brought, in a fork that has taken `domain`."""
        answer = self.ask(
            do="run", module=module, call=name, arguments=list(arguments), context=context(domain), uid=uid
        )
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

    def wait(self, pid: int) -> Result:
        """The end of what `start` began."""
        return Result(**self.ask(do="wait", pid=pid))

    def kill(self, pid: int) -> None:
        """SIGKILL what `start` began; `wait` for it afterwards."""
        self.ask(do="kill", pid=pid)

    def kernel_log(self) -> str:
        """The kernel's ring buffer."""
        done = self.run(["dmesg"])
        if done.code != 0 or not done.output:
            raise RuntimeError(f"the kernel log can not be read: {done}")
        return done.output

    def denials(self) -> list[str]:
        """All AVC lines since boot, in order."""
        return [line for line in self.kernel_log().splitlines() if "avc:  denied" in line]

    def enforcing(self) -> bool:
        """Whether the kernel enforces."""
        return self.run(["cat", "/sys/fs/selinux/enforce"]).output.strip() == "1"

    def check(self) -> None:
        """Raise unless this guest enforces for everybody: no test in another counts."""
        if not self.enforcing():
            raise AssertionError("the guest is not enforcing")
        policy = self._policy if self._policy is not None else compose(self._base)
        read = read_policy(policy, "the guest's policy")
        permissive = [read.type_names[number] for number in bits(read.permissive)]
        if permissive:
            raise AssertionError(f"the guest has permissive domains: {' '.join(permissive)}")


def running(pid: int) -> bool:
    """Whether a process of this host is there and no zombie."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False


def shell(image: Path) -> int:
    """An interactive shell in a guest, on this terminal."""
    argv = [
        "qemu-system-x86_64", *_CPU, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial",
        "mon:stdio",
        "-kernel", str(image / "vmlinux"), "-initrd", str(image / "initrd"), "-append", f"{_APPEND} guest.shell",
        "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=root,snapshot=on",
        "-device", "virtio-blk-pci,drive=root",
    ]  # fmt: skip
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    os._exit(shell(built("vagrant/build-image.sh")))
