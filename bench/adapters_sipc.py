# SPDX-License-Identifier: Apache-2.0
"""This library as a contestant: the only module of bench/ that knows its interface.

Channels are made and removed by the helper program, as a user does it, in a registry of their own.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.contest import SLOT_SIZE, Contestant, Private

from sipc import open_receiver, open_sender

GEOMETRIES = ((4, 2), (3, 1), (1, 1))
BACKENDS = ("sysv", "posix")
_HELPER_SECONDS = 20.0
_RECORDS_PER_CALL = 2048
_NAME = "bench"


class Channel:
    """One channel, made by the helper; `destroy` may be called at any time and more than once."""

    def __init__(self, backend: str, slots: int, depth: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="sipc-bench-")
        base = Path(self._directory.name)
        self.registry = base / "registry"
        self.registry.mkdir(mode=0o700)
        self._tried = self._made = False
        self._definition = base / "channel.toml"
        self._definition.write_text(
            f"[channel.{_NAME}]\nslots = {slots}\ndepth = {depth}\nslot_size = {SLOT_SIZE}\n"
            f'backend = "{backend}"\nenforcement = "dac"\n'
        )

    def create(self) -> None:
        """Run the helper; after a failure nothing is left."""
        self._tried = True
        self._helper("create", str(self._definition))
        self._made = True

    def destroy(self) -> None:
        """Remove the channel and its registry; after a failed `create`, whatever its helper may have left."""
        tried, made = self._tried, self._made
        self._tried = self._made = False
        try:
            if tried:
                self._helper("destroy", _NAME, must=made)
        finally:
            self._directory.cleanup()

    def _helper(self, verb: str, argument: str, *, must: bool = True) -> None:
        argv = [sys.executable, "-I", "-m", "sipc.helper", "--registry", str(self.registry), verb, argument]
        done = subprocess.run(argv, check=False, timeout=_HELPER_SECONDS, capture_output=True, text=True)
        if must and done.returncode:
            raise RuntimeError(f"helper {verb} ended with {done.returncode}: {done.stderr.strip()}")

    def send_file_argv(self, file: Path) -> list[str]:
        """`sipc send` of a whole file."""
        return [_program(), "send", "--registry", str(self.registry), _NAME, str(file)]

    def receive_argv(self) -> list[str]:
        """`sipc recv` to standard output, until the sender closes."""
        return [_program(), "recv", "--registry", str(self.registry), _NAME]


def _program() -> str:
    return str(Path(sysconfig.get_path("scripts")) / "sipc")


class Sipc(Contestant):
    """send; receive up to one slot, receive_into above."""

    def __init__(self, backend: str, slots: int, depth: int, *, name: str | None = None) -> None:
        super().__init__(name or f"sipc {backend} {slots}/{depth}")
        self.geometry = (backend, slots, depth)
        self.ends = ExitStack()

    def setup(self) -> None:
        channel = Channel(*self.geometry)
        self.removing(channel.destroy)
        channel.create()
        self.registry = channel.registry

    def open_sender(self) -> None:
        self.sender = self.ends.enter_context(open_sender(_NAME, registry=self.registry))
        self.message = Private.message(self.size)

    def open_receiver(self) -> None:
        self.receiver = self.ends.enter_context(open_receiver(_NAME, registry=self.registry))
        self.into = Private.buffer(self.size)

    def give(self, count: int) -> None:
        send, message = self.sender.send, self.message
        for _ in range(count):
            send(message)

    def take(self, count: int) -> None:
        if self.private == "buffer":
            receive_into, into = self.receiver.receive_into, self.into
            for _ in range(count):
                receive_into(into)
            self.got = into
            return
        receive, got = self.receiver.receive, b""
        for _ in range(count):
            got = receive()
        self.got = got

    def give_one(self, data: bytes) -> None:
        self.sender.send(data)

    def take_one(self) -> bytes:
        return self.receiver.receive()

    def close(self) -> None:
        if hasattr(self, "receiver"):
            for _ in self.receiver:  # takes the sender's CLOSE, so that its close() can end
                raise RuntimeError(f"{self.name}: a message more than was sent")
        self.ends.close()


class SipcRecords(Sipc):
    """send_many of lists of records; receive_many gives the records of one block."""

    def __init__(self, backend: str, slots: int, depth: int) -> None:
        super().__init__(backend, slots, depth, name=f"sipc {backend} {slots}/{depth}, send_many")
        self.over = 0

    def give(self, count: int) -> None:
        send_many = self.sender.send_many
        records = [bytes(bytearray(self.message)) for _ in range(_RECORDS_PER_CALL)]
        whole, rest = divmod(count, len(records))
        for _ in range(whole):
            send_many(records)
        if rest:
            send_many(records[:rest])

    def take(self, count: int) -> None:
        receive_many = self.receiver.receive_many
        have, records = self.over, list[bytes]()
        while have < count:
            records = receive_many()
            have += len(records)
        self.over = have - count
        if records:
            self.got = records[-1]


def throughput_contestants() -> list[Contestant]:
    """Every geometry of the table on both backends."""
    return [Sipc(backend, slots, depth) for backend in BACKENDS for slots, depth in GEOMETRIES]


def record_contestants() -> list[Contestant]:
    """Packed records, default geometry."""
    return [SipcRecords(backend, *GEOMETRIES[0]) for backend in BACKENDS]


def latency_contestants() -> list[Contestant]:
    """One message at a time, default geometry."""
    return [Sipc(backend, *GEOMETRIES[0]) for backend in BACKENDS]
