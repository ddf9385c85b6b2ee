# SPDX-License-Identifier: Apache-2.0
"""A channel whose ends are killed at random moments, and the comparison of every block that came through.

Used by `tests/host/test_crash.py` and, for longer, by `python -m bench.crash`.
"""

from __future__ import annotations

import os
import random
import struct
import time
from itertools import pairwise
from pathlib import Path

from tests.support.channels import Child, make

import sipc

SLOT = 4096
BACKENDS = ("sysv", "posix")
GEOMETRIES = ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (4, 3), (5, 3))
_LINE = struct.Struct("<QQ")


def block(seq: int) -> bytes:
    """What block `seq` holds: of its own length, and wrong if a byte of another block is in it."""
    word = struct.pack("<Q", seq)
    return (word * (SLOT // 8))[: 8 + seq * 37 % (SLOT - 8)]


def send_from(registry: Path) -> None:
    """Send blocks for ever, beginning after the last one that survived."""
    with sipc.open_sender("c", registry=registry) as sender:
        assert sender.resumption.last_seq == sender.last_seq
        while True:
            sender.send(block(sender.last_seq + 1))


def receive_to(registry: Path, log: Path, cursor: Path) -> None:
    """Note each block in the log, then finish it; return at the end of the stream."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with sipc.open_receiver("c", registry=registry, cursor=cursor) as receiver:
        for data in receiver:
            seq = struct.unpack_from("<Q", data)[0]
            os.write(fd, _LINE.pack(seq, data == block(seq)))
            receiver.finish()


def kill_at_random(
    backend: str, geometry: tuple[int, int], registry: Path, folder: Path, *, kills: int, seed: int
) -> int:
    """Run one channel through `kills` SIGKILLs and two at its end; returns how many blocks went through it.

    Raises AssertionError when one is missing, torn, out of order, or came again although it was finished.
    """
    slots, depth = geometry
    make(registry, "c", slots=slots, depth=depth, slot_size=SLOT, backend=backend)
    chance = random.Random(seed)
    log, cursor = folder / "log", folder / "cursor"
    sender = Child(lambda: send_from(registry))
    receiver = Child(lambda: receive_to(registry, log, cursor))
    receiver_kills = 0
    try:
        for _ in range(kills):
            time.sleep(chance.random() * 0.06)  # the random moment of the kill, not a wait for something
            if chance.random() < 0.5:
                sender.kill()
                sender = Child(lambda: send_from(registry))
            else:
                receiver.kill()
                receiver_kills += 1
                receiver = Child(lambda: receive_to(registry, log, cursor))
    finally:
        receiver.kill()
        receiver_kills += 1
        sender.kill()
    with sipc.open_sender("c", registry=registry) as last_sender:
        last = last_sender.last_seq
        receiver = Child(lambda: receive_to(registry, log, cursor))
        last_sender.close(30)
    receiver.result()
    lines = list(_LINE.iter_unpack(log.read_bytes()))
    assert all(whole for _, whole in lines), "torn"
    seqs = [seq for seq, _ in lines]
    assert list(dict.fromkeys(seqs)) == list(range(1, last + 1)), "lost or out of order"
    repeated = [(a, b) for a, b in pairwise(seqs) if b != a + 1]
    assert all(a == b for a, b in repeated), "repeated out of turn"
    assert len(repeated) <= receiver_kills, "repeated although finished"
    return last
