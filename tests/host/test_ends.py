# SPDX-License-Identifier: Apache-2.0
"""Corners of both ends where a caller could lose something: loops left early, a second thread, odd messages."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import sysv_ipc
from tests.support.channels import make

import sipc
from sipc.registry import Registry

pytestmark = pytest.mark.host

SLOT = 4096


def test_a_loop_that_is_left_early_leaves_the_rest_to_the_next(registry: Path) -> None:
    """Records of one block: what the loop did not come to is there for whoever asks next."""
    make(registry, "c", slot_size=SLOT)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send_many([b"%d" % number for number in range(10)])
        sender.close()
        seen = []
        for message in receiver:
            seen.append(message)
            if message == b"3":
                break
        seen.append(receiver.receive())
        seen += list(receiver)
    assert seen == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("verb", ["close", "abort"])
def test_a_second_thread_is_refused_and_closes_nothing(verb: str, registry: Path) -> None:
    """While one thread waits in `send`, another's `close` or `abort` is Busy, and the first goes on."""
    make(registry, "c", slots=1, depth=1, slot_size=SLOT)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send(b"0")

        def send() -> None:
            for number in range(1, 4):
                sender.send(b"%d" % number)

        waiting = threading.Thread(target=send)
        waiting.start()
        refused = 0
        while not refused:  # until the other thread is in its wait
            try:
                sender.flush(0)
            except sipc.Busy:
                refused = 1
            except sipc.Timeout:
                pass
        with pytest.raises(sipc.Busy):
            getattr(sender, verb)()
        assert not sender.closed
        assert [receiver.receive(20) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
        waiting.join()
        sender.abort()


def test_a_channel_whose_segment_is_gone_is_said_at_once(registry: Path) -> None:
    """Nobody will make it again: no end waits for it, whatever its patience."""
    make(registry, "c", slot_size=SLOT)
    with Registry(registry) as place:
        key = place.read("c").keys.segment
    assert key is not None
    segment = sysv_ipc.SharedMemory(int(key))
    segment.remove()
    segment.detach()
    for opening in (sipc.open_sender, sipc.open_receiver):
        with pytest.raises(sipc.ChannelNotFound):
            opening("c", registry=registry, timeout=1000)  # longer than a test may take


def test_packed_records_respect_max_message(registry: Path) -> None:
    """A block that send_many packs is no larger than the receiver takes."""
    make(registry, "c", slot_size=SLOT, max_message=1000)
    records = [bytes([number]) * 90 for number in range(100)]
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:

        def send() -> None:
            sender.send_many(records)
            sender.close()

        thread = threading.Thread(target=send)
        thread.start()
        assert list(receiver) == records
        thread.join()


@pytest.mark.parametrize("number", [0, 7, 1 << 20])
def test_a_number_is_no_message(number: int, registry: Path) -> None:
    """bytes(7) would be seven zeros, which nobody meant."""
    make(registry, "c", slot_size=SLOT)
    with sipc.open_sender("c", registry=registry) as sender:
        with pytest.raises(TypeError):
            sender.send_many([b"good", number])  # type: ignore[list-item]
        sender.abort()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5, 2)])
def test_an_array_without_elements_is_an_empty_message(shape: tuple[int, ...], registry: Path) -> None:
    """Sent and received into."""
    make(registry, "c", slot_size=SLOT)
    with sipc.open_sender("c", registry=registry) as sender, sipc.open_receiver("c", registry=registry) as receiver:
        sender.send(np.zeros(shape).data)
        assert receiver.receive_into(np.zeros(shape).data) == 0
        sender.abort()
