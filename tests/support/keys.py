# SPDX-License-Identifier: Apache-2.0
"""Key files, and a stranger who writes to a channel's objects by its own rules."""

from __future__ import annotations

from pathlib import Path

from sipc.descriptor import Descriptor
from sipc.endpoint import open_parts
from sipc.proto.tags import Tags
from sipc.sender import Sender
from sipc.spec import Role

RIGHT, WRONG = bytes(range(32)), bytes(range(1, 33))


def key_file(directory: Path, content: bytes = RIGHT, *, name: str = "key", mode: int = 0o400) -> Path:
    """A key file of this user's."""
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def squatter(descriptor: Descriptor, registry: Path, secret: bytes | None) -> Sender:
    """A sender that does everything right, with another key or with none at all."""
    tags = None if secret is None else Tags(secret, descriptor.epoch)
    return Sender(open_parts(descriptor.spec.name, Role.SENDER, registry, 0), tags)
