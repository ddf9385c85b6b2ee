# SPDX-License-Identifier: Apache-2.0
"""Tags: what shows that a block was made by somebody who has the channel's key.

Owns how a tag is computed and compared, and nothing of where keys or blocks come from.  A tag is keyed BLAKE2b
(RFC 7693 section 2.5: with a key it is a MAC by itself, no HMAC around it) over everything that says what a block is:
epoch, seq, length, flags, payload.  So a block of another channel or creation, of another place in the stream, of
another kind, cut, or changed in one bit has another tag.

    K   = BLAKE2b-512(person = "sipc2 key", content of the key file)
    tag = BLAKE2b-128(key = K, person = "sipc2 block", u64 epoch, u64 seq, u64 length, u32 flags, payload)
"""

from __future__ import annotations

import hmac
import struct
from hashlib import blake2b

from sipc.errors import RemoteProtocolError
from sipc.spec import TAG_SIZE

__all__ = ("Tags",)

_HEAD = struct.Struct("<QQQI")  # of one size, so that no two blocks have the same bytes before them


class Tags:
    """Makes and checks the tags of one epoch's blocks.  `secret` is the content of the key file."""

    __slots__ = ("_epoch", "_keyed")

    def __init__(self, secret: bytes, epoch: int) -> None:
        key = blake2b(secret, person=b"sipc2 key").digest()
        self._keyed = blake2b(key=key, digest_size=TAG_SIZE, person=b"sipc2 block")
        self._epoch = epoch

    def make(self, seq: int, flags: int, payload: bytes | bytearray | memoryview) -> bytes:
        """The tag of one block; `payload` is what goes before it, and nobody else may be able to write it."""
        state = self._keyed.copy()
        state.update(_HEAD.pack(self._epoch, seq, len(payload), flags))
        state.update(payload)
        return state.digest()

    def check(self, seq: int, flags: int, payload: bytes, tag: bytes) -> None:
        """Refuse a block whose tag is another; both must be private copies.  Takes as long whatever differs."""
        if not hmac.compare_digest(self.make(seq, flags, payload), tag):
            raise RemoteProtocolError("tag", tag.hex(), f"that of block {seq} under this receiver's key")
