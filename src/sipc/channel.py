# SPDX-License-Identifier: Apache-2.0
"""Opening a channel: yields a `Sender` or a `Receiver`, and neither has the other's verbs."""

from __future__ import annotations

import os

from sipc.endpoint import open_parts
from sipc.receiver import Receiver
from sipc.sender import Sender
from sipc.spec import Role

__all__ = ("open_receiver", "open_sender")


def open_sender(
    name: str, *, registry: str | os.PathLike[str] | None = None, timeout: float | None = None
) -> Sender:
    """Open the sending end of channel `name`; use it as a context manager.

    `registry` is the directory of descriptors; by default `$SIPC_REGISTRY`, or `/run/sipc` and then
    `$XDG_RUNTIME_DIR/sipc`.  Waits up to `timeout` seconds (None: for ever, 0: not at all) until the helper has
    published the channel, so start order does not matter.

    `Sender.resumption` tells what became of a predecessor's last block.  Raises `Busy` when another process is
    the sender, `Denied`, `RegistryError` for a descriptor not to be trusted, `ChannelNotFound` (timeout 0) or
    `Timeout`, `KernelError`.
    """
    parts = open_parts(name, Role.SENDER, registry, timeout)
    try:
        return Sender(parts)
    except BaseException:
        parts.close()
        raise


def open_receiver(
    name: str,
    *,
    cursor: str | os.PathLike[str] | None = None,
    registry: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
) -> Receiver:
    """Open the receiving end of channel `name`; use it as a context manager and iterate it for messages.

    `cursor` names a file of this receiver's own (made if it is not there) that keeps the last finished block:
    with it a restarted receiver misses nothing and repeats nothing that it had finished.  Without, it starts
    with whatever comes next.  The rest as in `open_sender`.
    """
    parts = open_parts(name, Role.RECEIVER, registry, timeout)
    try:
        return Receiver(parts, cursor)
    except BaseException:
        parts.close()
        raise
