# SPDX-License-Identifier: Apache-2.0
"""The wire of the C library libsipc 1.2, sans I/O: both transports, both sides.

Owns the bytes and types of every message, their order, and the judgement of what a sender controls.  Must not
know kernel objects, time or the segment: the caller moves messages, the machines say which one is due next
and what one that came means.

A message is `(body, mtype)`, as System V has it.  Shared memory: 3 (ready, with the length), 4 (reading), 5
(done), each with one native `size_t`; the queue holds one of them, so the sender gets rid of 5 only when the
receiver, finished, has taken 4.  Queue only: 9 (the length in ASCII with its NUL), any number of 3 (a chunk),
0xc (end).

A machine's progress is one tuple, replaced in one store: whatever a signal handler raises, and wherever, a
machine is before or after a step and never in the middle of one.  Source: DESIGN section 4, docs/libsipc.md.
"""

from __future__ import annotations

from sipc.proto.libsipc.queue import (
    QUEUE_RECEIVER_TABLE,
    QUEUE_SENDER_TABLE,
    QueueReceiver,
    QueueReceiverEvent,
    QueueReceiverState,
    QueueSender,
    QueueSenderEvent,
    QueueSenderState,
)
from sipc.proto.libsipc.shm import (
    SHM_RECEIVER_TABLE,
    SHM_SENDER_TABLE,
    ShmReceiver,
    ShmReceiverEvent,
    ShmReceiverState,
    ShmSender,
    ShmSenderEvent,
    ShmSenderState,
)
from sipc.proto.libsipc.wire import CONTROL_SIZE, LONGEST_LENGTH, Message, MessageType, chunk_size

__all__ = (
    "CONTROL_SIZE",
    "LONGEST_LENGTH",
    "QUEUE_RECEIVER_TABLE",
    "QUEUE_SENDER_TABLE",
    "SHM_RECEIVER_TABLE",
    "SHM_SENDER_TABLE",
    "Message",
    "MessageType",
    "QueueReceiver",
    "QueueReceiverEvent",
    "QueueReceiverState",
    "QueueSender",
    "QueueSenderEvent",
    "QueueSenderState",
    "ShmReceiver",
    "ShmReceiverEvent",
    "ShmReceiverState",
    "ShmSender",
    "ShmSenderEvent",
    "ShmSenderState",
    "chunk_size",
)
