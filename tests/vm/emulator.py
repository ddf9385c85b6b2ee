# SPDX-License-Identifier: Apache-2.0
"""The machine that a guest runs in: one QEMU process under software emulation.

Owns booting an image, saving the state of a booted one and going on from it, and the emulator's end: `close` ends
it, whatever happened.  It knows nothing of what is said to the agent.

The saved state is a migration stream (QEMU's docs/devel/migration) beside the image, one for each image, command
line and version of the emulator; nothing writes to it again.  The guest's root is mounted read-only, so the image
is what it was when the state was saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

__all__ = ("ROOT", "Emulator", "built")

ROOT = Path(__file__).parents[2]
BOOT = 120.0  # seconds that a guest may take to answer; it takes about eight
_QEMU = "qemu-system-x86_64"
_CPU = ("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-m", "768")
_BARE = ("-nodefaults", "-no-user-config", "-no-reboot")
_APPEND = (
    "console=ttyS0 lsm=selinux selinux=1 audit=1 audit_backlog_limit=8192 mitigations=off nokaslr cryptomgr.notests "
    "no_timer_check printk.devkmsg=on sysctl.kernel.printk_ratelimit=0 log_buf_len=4M"
)


def built(script: str, *arguments: str) -> Path:
    """Run a script that prints the directory it made; once made, it only prints."""
    argv = [str(ROOT / script), *arguments]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=900)
    return Path(done.stdout.strip().splitlines()[-1])


def _disk(image: Path, more: str = "") -> list[str]:
    return [
        "-kernel", str(image / "vmlinux"), "-initrd", str(image / "initrd"),
        "-append", f"{_APPEND} {(image / 'append').read_text().strip()} {more}",
        "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=root,snapshot=on",
        "-device", "virtio-blk-pci,drive=root",
    ]  # fmt: skip


class Emulator:
    """A running machine whose agent is ready."""

    def __init__(self, image: Path, *, warm: bool, cpus: int = 1, options: str = "") -> None:
        """Boot `image` (vmlinux, initrd, root.ext4, append: kernel options), with more kernel options or without.

        `warm` goes on from its saved state, which is made when missing; that was booted without more options.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="sipc-guest-")
        folder = Path(self._folder.name)
        self._agent = folder / "agent"
        self._console = folder / "console"
        self._control = folder / "control"
        devices = [
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={self._agent},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]  # fmt: skip
        argv = [
            _QEMU, *_CPU, "-smp", str(cpus), *_BARE, "-display", "none", "-serial", f"file:{self._console}",
            "-qmp", f"unix:{self._control},server=on,wait=off", *_disk(image, options), *devices,
        ]  # fmt: skip
        state = _state_of(image) if warm and not options else None
        self.warm = state is not None and state.exists()
        if self.warm:
            argv += ["-incoming", f"exec:cat {state}"]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        try:
            if self.warm:
                self._until(lambda: self._control.exists(), "make its control socket")
                with _Control(self._control) as control:
                    self._until(lambda: control.do("query-status")["status"] == "running", "go on from its saved state")
            else:
                self._until(lambda: "@@ agent ready" in self.console(), "start its agent")
                if state is not None:
                    self._save(state)
        except BaseException:
            self.close()
            raise

    def _until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOOT
        while not happened():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the guest did not {what}:\n{self.console()[-4000:]}")
            time.sleep(0.02)  # what another program does to a file or to itself: there is nothing to wait on

    def _save(self, state: Path) -> None:
        """Write the running machine's state; it stops for that, and goes on."""
        with tempfile.NamedTemporaryFile(dir=state.parent, prefix=".state.", delete=False) as new:
            pass
        try:
            with _Control(self._control) as control:
                control.do("migrate-set-parameters", **{"max-bandwidth": 10**11})
                control.do("migrate", uri=f"exec:cat > {new.name}")
                self._until(lambda: control.do("query-migrate").get("status") in ("completed", "failed"), "be saved")
                if (status := control.do("query-migrate")["status"]) != "completed":
                    raise RuntimeError(f"the guest's state could not be saved: {status}")
                control.do("cont")
            Path(new.name).replace(state)
        finally:
            Path(new.name).unlink(missing_ok=True)

    def connect(self) -> socket.socket:
        """The way to the agent: its port is a Unix socket on this side."""
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(self._agent))
        return link

    def close(self) -> None:
        """End the guest; nothing of it stays."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The emulator's process."""
        return self._process.pid

    def console(self) -> str:
        """The kernel's and init's words so far; of a warm start only those since then."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""


class _Control:
    """QEMU's own commands (its docs/interop/qmp-spec): one JSON object a line each way."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(BOOT)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._file.readline()  # its greeting
        self.do("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def do(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer; events in between are passed over."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                value: dict[str, Any] = answer["return"]
                return value
        raise RuntimeError(f"QEMU went away during {command}")


def _state_of(image: Path) -> Path:
    """Where the saved state of an image is, if it was made: beside it, by all that it depends on."""
    version = subprocess.run([_QEMU, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    content = repr((version, _CPU, _APPEND, Path(__file__).read_text())).encode()
    return image / f"warm-{hashlib.sha256(content).hexdigest()[:16]}"


def shell(image: Path) -> int:
    """An interactive shell in a guest, on this terminal."""
    argv = [
        _QEMU, *_CPU, *_BARE, "-nographic", "-serial", "mon:stdio", *_disk(image, "guest.shell"),
    ]  # fmt: skip
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    os._exit(shell(built("vagrant/build-image.sh")))
