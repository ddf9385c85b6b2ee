# SPDX-License-Identifier: Apache-2.0
"""One-way IPC on Linux: a helper makes the channel and exits, data moves forward only.

    with sipc.open_sender("feed") as sender:
        sender.send(b"hello")

    with sipc.open_receiver("feed") as receiver:
        for message in receiver:
            ...

`sipc.aio` has both ends for asyncio, `sipc.libsipc` speaks the wire of the C library libsipc.
"""

from __future__ import annotations

from sipc.channel import open_receiver, open_sender
from sipc.descriptor import Descriptor
from sipc.errors import (
    AuditError,
    Broken,
    Busy,
    ChannelExists,
    ChannelNotFound,
    Closed,
    Denied,
    EndOfStream,
    KernelError,
    LocalProtocolError,
    PolicyUnavailable,
    QuarantineFull,
    RegistryError,
    RemoteProtocolError,
    SipcError,
    SpecError,
    Timeout,
)
from sipc.finding import ChannelChange, ChannelEvent, ChannelWatch, wait_for_channel, watch_channels
from sipc.proto.sender import Resumption
from sipc.receiver import Block, Receiver
from sipc.sender import Reservation, Sender

__all__ = (
    "AuditError",
    "Block",
    "Broken",
    "Busy",
    "ChannelChange",
    "ChannelEvent",
    "ChannelExists",
    "ChannelNotFound",
    "ChannelWatch",
    "Closed",
    "Denied",
    "Descriptor",
    "EndOfStream",
    "KernelError",
    "LocalProtocolError",
    "PolicyUnavailable",
    "QuarantineFull",
    "Receiver",
    "RegistryError",
    "RemoteProtocolError",
    "Reservation",
    "Resumption",
    "Sender",
    "SipcError",
    "SpecError",
    "Timeout",
    "open_receiver",
    "open_sender",
    "wait_for_channel",
    "watch_channels",
)

__version__ = "0.1.0"
