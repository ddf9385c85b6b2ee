# SPDX-License-Identifier: Apache-2.0
"""Camera frames as numpy arrays, one way, without a copy that is not needed.

The sender computes each frame in the slot itself; the receiver reads it into an array of its own, or looks at it
where it lies.  Run it: it makes a channel, uses it from two processes, and removes it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sipc
from sipc import helper
from sipc.definitions import parse
from sipc.spec import Enforcement

SHAPE = (480, 640)  # rows, columns; one byte a pixel
SIZE = SHAPE[0] * SHAPE[1]
COUNT = 20
DEFINITION = f'[channel.frames]\nenforcement = "dac"\nslot_size = {SIZE}\n'


def frame(number: int) -> npt.NDArray[np.uint8]:
    """Make the picture with this number."""
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return ((rows * number + columns) % 251).astype(np.uint8)


def send(registry: Path) -> None:
    """Half the frames are computed in their slot, half are arrays that exist already."""
    with sipc.open_sender("frames", registry=registry) as sender:
        for number in range(0, COUNT, 2):
            with sender.reserve(SIZE) as slot:
                in_place = np.frombuffer(slot.view, dtype=np.uint8).reshape(SHAPE)
                in_place[:] = frame(number)
                del in_place  # a slot can only be let go when nothing looks at it
            sender.send(frame(number + 1).data)


def receive(registry: Path) -> int:
    """Take the frames in two ways; returns how many arrived as they should be."""
    good = 0
    own = np.empty(SHAPE, dtype=np.uint8)
    with sipc.open_receiver("frames", registry=registry) as receiver:
        for number in range(0, COUNT, 2):
            # A private array: the sender can not change it any more.
            receiver.receive_into(own.data.cast("B"))
            good += bool((own == frame(number)).all())
            # In place: no copy at all, for senders that are trusted not to write meanwhile.
            with receiver.unsafe_borrow() as block:
                shared = np.frombuffer(block.view, dtype=np.uint8).reshape(SHAPE)
                good += bool((shared == frame(number + 1)).all())
                del shared
    return good


def main() -> int:
    """Sender in a child process, receiver here."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder) / "registry"
        registry.mkdir(mode=0o700)
        helper.create(parse(DEFINITION, "example", enforcement=Enforcement.DAC)["frames"], registry)
        try:
            child = os.fork()
            if child == 0:
                send(registry)
                os._exit(0)
            good = receive(registry)
            os.waitpid(child, 0)
        finally:
            helper.destroy("frames", registry)
    print(f"{good} of {COUNT} frames of {SIZE} bytes arrived whole")
    return 0 if good == COUNT else 1


if __name__ == "__main__":
    sys.exit(main())
