# SPDX-License-Identifier: Apache-2.0
"""Opening a channel: yields a `Sender` or a `Receiver`, and neither has the other's verbs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sipc.endpoint import Parts, open_parts
from sipc.endpoint_policy import EndpointPolicy
from sipc.errors import SpecError
from sipc.last_sender import Vouched
from sipc.receiver import Receiver
from sipc.sender import Sender
from sipc.spec import Role

if TYPE_CHECKING:
    from sipc.proto.tags import Tags

__all__ = ("open_receiver", "open_sender")


def open_sender(
    name: str,
    *,
    registry: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    key: str | os.PathLike[str] | None = None,
    policy: EndpointPolicy | None = None,
    linger: bool = False,
) -> Sender:
    """Open the sending end of channel `name`; use it as a context manager.

    `registry` is the directory of descriptors; by default `$SIPC_REGISTRY`, or `/run/sipc` and then
    `$XDG_RUNTIME_DIR/sipc`.  Waits up to `timeout` seconds (None: for ever, 0: not at all) until the helper has
    published the channel, so start order does not matter.

    `key` names the file with the key of a channel whose definition has a `tag`, and must be given for such a channel
    and for no other.  `policy` is what this process must be itself: `Denied` names every rule that it fails, before
    anything of the channel is touched.  With `linger`, `Sender.close` announces the end of the stream only when the
    receiver has finished everything before it: a receiver with a `peer` policy can judge this process until then.

    `Sender.resumption` tells what became of a predecessor's last block.  Raises `Busy` when another process is
    the sender, `Denied`, `RegistryError` for a descriptor not to be trusted, `ChannelNotFound` (timeout 0) or
    `Timeout`, `KernelError`.
    """
    secret = _before(name, Role.SENDER, key, policy)
    parts = open_parts(name, Role.SENDER, registry, timeout)
    try:
        return Sender(parts, _tags(parts, secret), linger=linger)
    except BaseException:
        parts.close()
        raise


def open_receiver(
    name: str,
    *,
    cursor: str | os.PathLike[str] | None = None,
    registry: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    key: str | os.PathLike[str] | None = None,
    policy: EndpointPolicy | None = None,
    peer: EndpointPolicy | None = None,
    vouched: Vouched | None = None,
) -> Receiver:
    """Open the receiving end of channel `name`; use it as a context manager and iterate it for messages.

    `cursor` names a file of this receiver's own (made if it is not there) that keeps the last finished block:
    with it a restarted receiver misses nothing and repeats nothing that it had finished.  Without, it starts
    with whatever comes next.

    `peer` is what the process must be that sent last, looked at before each block is handed on; it must still live
    then, or have passed before, and have sent no later than it was last seen alive (which is kept beside the cursor).
    For `enforcement = "dac"` and System V alone, as it takes IPC_STAT.  A process that it refuses is a
    `RemoteProtocolError`; so is one that has ended and did not pass before, unless `vouched(pid, second)` returns True:
    whoever starts senders knows which process had that number when it sent.  The end of a stream is not looked at: only
    a tag shows whose it is.  The rest as in `open_sender`.
    """
    secret = _before(name, Role.RECEIVER, key, policy)
    parts = open_parts(name, Role.RECEIVER, registry, timeout)
    try:
        return Receiver(parts, cursor, _tags(parts, secret), peer, vouched)
    except BaseException:
        parts.close()
        raise


def _before(
    name: str, role: Role, key: str | os.PathLike[str] | None, policy: EndpointPolicy | None
) -> bytes | None:
    """What comes before anything is opened: this process by its policy, and the key."""
    if policy is not None:
        policy.check_self(f"channel {name!r}: opening it as {role}")
    if key is None:
        return None
    from sipc import keyfile  # noqa: PLC0415 - only for those who have tags

    return keyfile.load(key)


def _tags(parts: Parts, secret: bytes | None) -> Tags | None:
    """Tags exactly where the channel has them: no end may take one for the other."""
    spec = parts.spec
    if spec.tag is not None and secret is None:
        raise SpecError(f"channel {spec.name!r} has tag = {spec.tag.value!r}: give key=FILE (--key FILE), its key file")
    if spec.tag is None and secret is not None:
        raise SpecError(
            f"channel {spec.name!r} has no tags, so a key protects nothing: put tag = 'blake2b' into its definition "
            "and create it anew, or leave the key out"
        )
    if secret is None:
        return None
    from sipc.proto.tags import Tags  # noqa: PLC0415 - brings OpenSSL, which only those pay for who have tags

    return Tags(secret, parts.descriptor.epoch)
