# SPDX-License-Identifier: Apache-2.0
"""A source that was taken over: `python guard_sender.py CHANNEL [deaf]` in the place of its program.

It sends one good message, announces a block that is none, and waits to be stopped; `deaf`: it does not heed SIGTERM.
"""

from __future__ import annotations

import signal
import sys

import sipc


def main() -> None:
    """Never returns."""
    if "deaf" in sys.argv[2:]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sender = sipc.open_sender(sys.argv[1], timeout=60)
    sender.send(b"msg-before-the-bad-one\n")
    sender.flush(60)
    message = bytearray(sender._machine.noop)
    message[1] = 77  # no kind of control message
    sender._queue.send(bytes(message), 1, None)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
