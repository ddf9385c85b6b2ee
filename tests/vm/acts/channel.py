# SPDX-License-Identifier: Apache-2.0
"""Helper, sender and receiver as the guest runs them: the real library, nothing else."""

from __future__ import annotations

import ctypes
import hashlib
import signal
from pathlib import Path
from typing import Any

import sipc
from sipc import helper
from sipc.definitions import parse
from sipc.errors import SipcError
from sipc.registry import Registry
from sipc.spec import Enforcement

REGISTRY = "/run/sipc"


def outcome(error: SipcError) -> dict[str, str]:
    """A refusal as the host compares it."""
    return {"error": type(error).__name__, "text": str(error)}


def create(text: str, replacing: bool = False) -> dict[str, Any]:
    """Make the one channel of a definition."""
    (spec,) = parse(text, "test", enforcement=Enforcement.SELINUX).values()
    try:
        return {"epoch": helper.create(spec, Path(REGISTRY), replacing=replacing).epoch}
    except SipcError as error:
        return outcome(error)


def claim_selinux(name: str) -> dict[str, Any]:
    """Make a descriptor say that its channel is held by SELinux, as one that was made where it was."""
    path = Path(REGISTRY) / f"{name}.json"
    path.write_text(path.read_text().replace('"enforcement": "dac"', '"enforcement": "selinux"'))
    return {"claims": '"enforcement": "selinux"' in path.read_text()}


def destroy(name: str) -> dict[str, Any]:
    """Remove a channel."""
    try:
        helper.destroy(name, Path(REGISTRY))
    except SipcError as error:
        return outcome(error)
    return {}


def payload(size: int) -> bytes:
    """Bytes that both sides know."""
    return hashlib.shake_256(b"sipc").digest(size)


def send(name: str, sizes: list[int]) -> dict[str, Any]:
    """Send messages of these sizes, then many small ones, and close."""
    try:
        with sipc.open_sender(name, registry=REGISTRY, timeout=20) as sender:
            for size in sizes:
                sender.send(payload(size), 20)
            sender.send_many([b"%d" % number for number in range(100)], 20)
            sender.flush(20)
            sender.close(20)
    except SipcError as error:
        return outcome(error)
    return {"sent": len(sizes)}


def receive(name: str, sizes: list[int]) -> dict[str, Any]:
    """Receive what `send` sends; how many messages arrived whole."""
    good = 0
    try:
        with sipc.open_receiver(name, registry=REGISTRY, timeout=20) as receiver:
            for size in sizes:
                good += receiver.receive(20) == payload(size)
            good += [receiver.receive(20) for _ in range(100)] == [b"%d" % number for number in range(100)]
            try:
                receiver.receive(20)
            except sipc.EndOfStream:
                good += 1
    except SipcError as error:
        return {**outcome(error), "good": good}
    return {"good": good}


def hold(name: str, role: str) -> None:
    """Open one end and stay, until killed."""
    if role == "sender":
        with sipc.open_sender(name, registry=REGISTRY, timeout=20) as sender:
            sender.send(b"held", 20)
            print("held", flush=True)
            signal.pause()
    else:
        with sipc.open_receiver(name, registry=REGISTRY, timeout=20) as receiver:
            receiver.receive(20)
            print("held", flush=True)
            signal.pause()


def steps(name: str, role: str) -> None:
    """Open one end, then send or receive one message for every SIGUSR1, and print what came of it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    end = (sipc.open_sender if role == "sender" else sipc.open_receiver)(name, registry=REGISTRY, timeout=20)
    print("open", flush=True)
    while True:
        signal.sigwait((signal.SIGUSR1,))
        try:
            if isinstance(end, sipc.Sender):
                end.send(b"step", 2)
                said = "ok"
            else:
                said = "ok" if end.receive(2) == b"step" else "wrong"
        except sipc.Timeout as error:
            said = "Timeout: may not read" if "may not read" in str(error) else "Timeout"
        except SipcError as error:
            said = type(error).__name__
        print(said, flush=True)


def objects(name: str) -> dict[str, Any]:
    """Keys and identifiers of a channel's objects, for those who attack them."""
    with Registry(Path(REGISTRY)) as registry:
        keys = registry.read(name).keys
    libc = ctypes.CDLL(None)
    queue = int(keys.queue) if keys.queue.isdigit() else 0
    segment = int(keys.segment) if keys.segment and keys.segment.isdigit() else 0
    return {
        "queue_key": queue,
        "segment_key": segment,
        "queue": libc.msgget(queue, 0),
        "segment": libc.shmget(segment, 0, 0),
        "queue_name": keys.queue,
    }


def open_end(name: str, role: str) -> dict[str, Any]:
    """Try to open one end, and let go of it."""
    try:
        end = (sipc.open_sender if role == "sender" else sipc.open_receiver)(name, registry=REGISTRY, timeout=0)
        if isinstance(end, sipc.Sender):
            end.abort()
        else:
            end.close()
    except SipcError as error:
        return outcome(error)
    return {"opened": role}


def status(name: str) -> dict[str, Any]:
    """What `sipc status` would say of what holds the direction."""
    from sipc import enforcement

    with Registry(Path(REGISTRY)) as registry:
        account = enforcement.account(registry.read(name))
    return {"summary": account.summary, "holds": account.holds, "open": account.open}


def setenforce(value: int) -> dict[str, Any]:
    """Switch enforcement; the test switches it back."""
    Path("/sys/fs/selinux/enforce").write_text(str(value))
    return {}
