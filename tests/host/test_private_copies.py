# SPDX-License-Identifier: Apache-2.0
"""What a receiver was handed stays as it was, whatever its sender writes to the segment afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.channels import make

import sipc
from sipc.kernel import backend, limits
from sipc.receiver import Receiver
from sipc.spec import Role

pytestmark = pytest.mark.host

SLOT = 64
Got = bytes | memoryview
SMALL, RECORDS, LARGE = b"s" * SLOT, [b"one", b"", b"three"], bytes(range(256)) * 2


def into(receiver: Receiver) -> list[Got]:
    """With a buffer of the caller's; read when the segment has been overwritten."""
    got: list[Got] = []
    for _ in range(2 + len(RECORDS)):
        buffer = bytearray(len(LARGE))
        got.append(memoryview(buffer)[: receiver.receive_into(buffer, 10)])
    return got


def many(receiver: Receiver) -> list[Got]:
    """By blocks of records."""
    got: list[Got] = []
    while len(got) < 2 + len(RECORDS):
        got += receiver.receive_many(10)
    return got


WAYS: dict[str, Callable[[Receiver], list[Got]]] = {
    "receive": lambda receiver: [receiver.receive(10) for _ in range(2 + len(RECORDS))],
    "receive_many": many,
    "receive_into": into,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["sysv", "posix"])
@pytest.mark.parametrize("kept", [False, True], ids=["no cursor", "cursor"])
def test_what_was_received_does_not_change_with_the_segment(
    way: str, kernel: str, kept: bool, registry: Path, tmp_path: Path
) -> None:
    """A hostile sender overwrites the whole segment: the messages handed out are as they were."""
    descriptor = make(registry, "c", slots=12, depth=10, slot_size=SLOT, backend=kernel)
    key = descriptor.keys.segment
    assert key is not None
    cursor = tmp_path / "cursor" if kept else None
    with (
        sipc.open_sender("c", registry=registry, timeout=0) as sender,
        sipc.open_receiver("c", registry=registry, timeout=0, cursor=cursor) as receiver,
    ):
        sender.send(SMALL)
        sender.send_many(RECORDS)
        sender.send(LARGE)
        got = WAYS[way](receiver)
        spec = descriptor.spec
        memory = backend(spec.backend).open_segment(key, Role.SENDER, limits.size_of_segment(spec))
        assert memory is not None
        before = bytes(memory.view)
        assert SMALL in before
        memory.view[4096:] = b"\xff" * (len(before) - 4096)  # every slot; the header, so that closing stays possible
        memory.close()
        assert [bytes(message) for message in got] == [SMALL, *RECORDS, LARGE]
