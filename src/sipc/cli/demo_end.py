# SPDX-License-Identifier: Apache-2.0
"""One end of the demo, a process of its own: sends or receives a file, reports one JSON line."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sipc.channel import open_receiver, open_sender
from sipc.cli.exits import Exit, code_of
from sipc.endpoint import Endpoint
from sipc.errors import KernelError, PolicyUnavailable, SipcError
from sipc.kernel import Queue
from sipc.proto.control import ControlMessage

__all__ = ("main",)

_FIRST = 12  # so many messages are shown, and the last


class _Listening(Queue):
    """A queue that notes the control messages its receiver consumes."""

    def __init__(self, queue: Queue, epoch: int) -> None:
        self._queue, self._epoch = queue, epoch
        self.shown: list[tuple[int, str, int, int, int]] = []
        self.counts: Counter[str] = Counter()

    def send(self, message: bytes, kind: int, timeout: float | None) -> bool:
        return self._queue.send(message, kind, timeout)

    def receive(self, timeout: float | None) -> tuple[bytes, int | None] | None:
        got = self._queue.receive(timeout)
        if got is not None:
            message = ControlMessage.decode(got[0], epoch=self._epoch)
            self.counts[message.kind.name] += 1
            if len(self.shown) > _FIRST:
                self.shown.pop()
            row = (self.counts.total(), message.kind.name, message.slot, message.seq, message.length)
            self.shown.append(row)
        return got

    def done(self) -> None:
        self._queue.done()

    def close(self) -> None:
        self._queue.close()


def main(role: str, registry: str, name: str, path: str) -> int:
    """Be one end; returns its exit code, for `sipc demo` to pass on."""
    try:
        report = _send(registry, name, Path(path)) if role == "sender" else _receive(registry, name, Path(path))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED  # the demo says so
    except SipcError as error:
        print(f"sipc: demo: {role}: {error}", file=sys.stderr)
        return code_of(error)
    except OSError as error:
        print(f"sipc: demo: {role}: {path}: {error.strerror}", file=sys.stderr)
        return Exit.REFUSED
    print(json.dumps({"pid": os.getpid(), **report}))
    return Exit.OK


def _send(registry: str, name: str, path: Path) -> dict[str, Any]:
    digest, total = hashlib.sha256(), 0
    with open_sender(name, registry=registry, timeout=10) as sender, path.open("rb") as file:
        confined = _confined(sender)
        while data := file.read(sender.spec.geometry.slot_size):
            digest.update(data)
            total += len(data)
            sender.send(data)
    return {"bytes": total, "sha256": digest.hexdigest(), "confined": confined}


def _confined(end: Endpoint) -> bool:
    """Whether the filters for what SELinux does not see are on: where libseccomp is, they are."""
    try:
        end.confine()
    except (PolicyUnavailable, KernelError):
        return False
    return True


def _receive(registry: str, name: str, path: Path) -> dict[str, Any]:
    digest, total = hashlib.sha256(), 0
    with open_receiver(name, registry=registry, timeout=10) as receiver, path.open("wb") as file:
        confined = _confined(receiver)
        listening = _Listening(receiver._queue, receiver.epoch)
        receiver._queue = listening
        for data in receiver:
            digest.update(data)
            total += len(data)
            file.write(data)
    return {
        "bytes": total,
        "sha256": digest.hexdigest(),
        "confined": confined,
        "messages": listening.shown,
        "counts": dict(listening.counts),
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
