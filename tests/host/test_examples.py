# SPDX-License-Identifier: Apache-2.0
"""The examples run as they are, and numpy arrays go in and out without a copy of ours."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.support.channels import Child, make

import sipc

pytestmark = pytest.mark.host

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_frames_arrive(registry: Path) -> None:
    """The numpy example does what it says, and leaves no kernel object (the fixture looks)."""
    del registry
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "numpy_frames.py")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "20 of 20 frames of 307200 bytes arrived whole\n"


def test_an_array_is_filled_where_the_segment_is_mapped(registry: Path) -> None:
    """`reserve` lends the slot itself, `unsafe_borrow` shows it: same bytes, no memory of ours between."""
    make(registry, "c", slot_size=1 << 20)
    with sipc.open_receiver("c", registry=registry) as receiver, sipc.open_sender("c", registry=registry) as sender:
        tracemalloc.start()
        try:
            with sender.reserve(1 << 20) as slot:
                array = np.frombuffer(slot.view, dtype=np.uint8)
                address = array.__array_interface__["data"][0]
                assert _inside_shared_memory(address)
                array[:] = 7
                del array
            with receiver.unsafe_borrow(5) as block:
                shown = np.frombuffer(block.view, dtype=np.uint8)
                assert _inside_shared_memory(shown.__array_interface__["data"][0])
                assert not shown.flags.writeable
                assert int(shown.sum(dtype=np.int64)) == 7 << 20
                del shown
            assert tracemalloc.get_traced_memory()[1] < 1 << 19
        finally:
            tracemalloc.stop()
        sender.abort()


def test_a_large_array_goes_out_and_in_without_a_copy(registry: Path) -> None:
    """32 MiB of floats through `send` and `receive_into`: neither end allocates anything of that size."""
    make(registry, "c")
    count = (32 << 20) // 8

    def send() -> int:
        array = np.arange(count, dtype=np.float64)
        with sipc.open_sender("c", registry=registry) as sender:
            tracemalloc.start()
            sender.send(array.data)
            return tracemalloc.get_traced_memory()[1]

    child = Child(send)
    target = np.zeros(count, dtype=np.float64)
    with sipc.open_receiver("c", registry=registry) as receiver:
        tracemalloc.start()
        try:
            assert receiver.receive_into(target.data) == 32 << 20
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
        with pytest.raises(sipc.EndOfStream):
            receiver.receive(10)
    assert child.result() < 4 << 20
    assert (target == np.arange(count, dtype=np.float64)).all()


def _inside_shared_memory(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, rest = line.partition("-")
        end = rest.split(" ", 1)[0]
        if int(start, 16) <= address < int(end, 16):
            return "/SYSV" in line or "/dev/shm/" in line
    return False
