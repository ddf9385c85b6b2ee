# SPDX-License-Identifier: Apache-2.0
"""iceoryx2 publish-subscribe: slices of bytes, the receiver polling.

Nothing may be lost: no overflow of the subscriber's buffer, and a publisher that retries until delivered.
The payload's address is used directly with one memmove per copy, which is faster than its Slice objects.  Its
files have a prefix and a directory of this run's own, so that what a killed process leaves can be removed.
"""

from __future__ import annotations

import ctypes
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iceoryx2
from bench.contest import Contestant, Private

_BUFFERED = 2  # samples, its default; 1 to 16 made no difference
_SHARED_MEMORY = Path("/dev/shm")


class Iceoryx2(Contestant):
    """One publisher, one subscriber, one service."""

    def __init__(self) -> None:
        super().__init__("iceoryx2, polling")

    def setup(self) -> None:
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self.prefix = f"sipcbench{secrets.token_hex(6)}_"
        self.root = tempfile.mkdtemp(prefix="sipc-bench-")
        self.removing(self._remove_files)

    def _remove_files(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        for path in _SHARED_MEMORY.glob(f"{self.prefix}*"):
            path.unlink(missing_ok=True)

    def _service(self) -> Any:
        config = iceoryx2.config.default()
        config.global_cfg.prefix = iceoryx2.FileName.new(self.prefix)
        config.global_cfg.root_path = iceoryx2.Path.new(self.root)
        mode = iceoryx2.SignalHandlingMode.Disabled
        builder = iceoryx2.NodeBuilder.new().signal_handling_mode(mode).config(config)
        self.node = builder.create(iceoryx2.ServiceType.Ipc)
        service = self.node.service_builder(iceoryx2.ServiceName.new("bench"))
        return (
            service.publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .history_size(0)
            .subscriber_max_buffer_size(_BUFFERED)
            .subscriber_max_borrowed_samples(1)
            .max_publishers(1)
            .max_subscribers(1)
            .open_or_create()
        )

    def open_receiver(self) -> None:
        self.into = Private.buffer(self.size)
        self.service = self._service()
        self.port = self.service.subscriber_builder().buffer_size(_BUFFERED).create()

    def open_sender(self) -> None:
        self.message = Private.message(self.size)
        self.service = self._service()
        self.port = (
            self.service.publisher_builder()
            .initial_max_slice_len(self.size)
            .max_loaned_samples(1)
            .backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )

    def give(self, count: int) -> None:
        loan, message, size, memmove = self.port.loan_slice_uninit, self.message, self.size, ctypes.memmove
        for _ in range(count):
            reached = 0
            while not reached:  # it refuses, without waiting, until the subscriber has polled once
                sample = loan(size)
                memmove(sample.payload_ptr, message, size)
                reached = sample.assume_init().send()

    def take(self, count: int) -> None:
        receive, size = self.port.receive, self.size
        copy_out = self._copy_out()
        while count:
            sample = receive()
            if sample is not None:
                copy_out(sample.payload_ptr, size)
                del sample
                count -= 1

    def _copy_out(self) -> Callable[[int, int], None]:
        string_at, memmove = ctypes.string_at, ctypes.memmove
        if self.private == "bytes":

            def to_bytes(address: int, size: int) -> None:
                self.got = string_at(address, size)

            return to_bytes
        self.got = self.into
        into = ctypes.addressof(ctypes.c_char.from_buffer(self.into))

        def to_buffer(address: int, size: int) -> None:
            memmove(into, address, size)

        return to_buffer

    def close(self) -> None:
        del self.port, self.service, self.node


def contestants() -> list[Contestant]:
    """The one."""
    return [Iceoryx2()]
