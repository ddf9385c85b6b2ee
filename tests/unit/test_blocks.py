# SPDX-License-Identifier: Apache-2.0
"""A receiving end after its sender broke the protocol: finished, whichever way the violation was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.channels import make

import sipc
from sipc import helper
from sipc.proto import records
from sipc.proto.control import Flag
from sipc.sender import Sender


def _in_a_slot(sender: Sender) -> None:
    """A block that nobody announced, which recovery finds; its length is beyond the slot."""
    assert sender._segment is not None
    sender._segment.commit(0, 1, 5000, 0, 0)


def _announced(sender: Sender) -> None:
    sender._queue.send(b"\x09" * 32, 1, 0)


def _checksum(sender: Sender) -> None:
    sender.send(b"good", 5)
    assert sender._segment is not None
    sender._segment.slots[0][0] = 0


def _records(sender: Sender) -> None:
    block = records.pack([b"a", b"b"])[:-1]
    sender._put(block, len(block), int(Flag.RECORDS), None)


@pytest.mark.parametrize(
    "violate", [_in_a_slot, _announced, _checksum, _records], ids=lambda violate: violate.__name__.strip("_")
)
def test_after_a_violation_every_later_call_raises_the_same_at_once(
    violate: Callable[[Sender], None], tmp_path: Path
) -> None:
    """None waits for a message that will not come, none hands anything on, and the cursor stays."""
    registry = tmp_path / "registry"
    make(registry, "c", backend="memory", slot_size=4096, checksum=True)
    with (
        sipc.open_sender("c", registry=registry, timeout=0) as sender,
        sipc.open_receiver("c", registry=registry, timeout=0, cursor=tmp_path / "cursor") as receiver,
    ):
        violate(sender)
        with pytest.raises(sipc.RemoteProtocolError) as caught:
            receiver.receive(5)
        calls: tuple[Callable[[], object], ...] = (
            receiver.receive,
            lambda: receiver.receive(0),
            receiver.receive_many,
            lambda: receiver.receive_into(bytearray(9000)),
            lambda: next(iter(receiver)),
            lambda: receiver.unsafe_borrow().__enter__(),
        )
        for again in calls:
            with pytest.raises(sipc.RemoteProtocolError) as later:
                again()
            assert later.value is caught.value
        receiver.finish()
        assert receiver.last_seq == 0
        sender.abort()
    helper.destroy("c", registry)
