# SPDX-License-Identifier: Apache-2.0
"""The Python counterpart of peer.c: the same verbs and the same forms on standard input and output.

peer.py create|unlink|send|receive shm|mq PATH [SIZE [COUNT]]
"""

from __future__ import annotations

import struct
import sys

from sipc import libsipc

_LENGTH = struct.Struct("=I")


def send(handle: libsipc.Handle) -> None:
    while head := sys.stdin.buffer.read(_LENGTH.size):
        (length,) = _LENGTH.unpack(head)
        handle.get_data_ptr()[:length] = sys.stdin.buffer.read(length)
        handle.send_data(length)


def receive(handle: libsipc.Handle, count: int) -> None:
    for _ in range(count):
        data = handle.recv_data()
        sys.stdout.buffer.write(_LENGTH.pack(len(data)))
        sys.stdout.buffer.write(data)
        if handle.ipc_type is libsipc.SYSV_SHM:
            handle.shm_recv_done()
    sys.stdout.buffer.flush()


def main(verb: str, transport: str, path: str, size: str = "0", count: str = "0") -> None:
    ipc_type = {"shm": libsipc.SYSV_SHM, "mq": libsipc.SYSV_MQUEUES}[transport]
    if verb == "unlink":
        libsipc.unlink(path, ipc_type)
        return
    role = {"create": libsipc.CREATOR, "send": libsipc.SENDER, "receive": libsipc.RECEIVER}[verb]
    with libsipc.open(path, role, ipc_type, int(size)) as handle:
        if verb == "send":
            send(handle)
        elif verb == "receive":
            receive(handle, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
