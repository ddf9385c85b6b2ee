# SPDX-License-Identifier: Apache-2.0
"""The descriptor: what the helper publishes about one channel, as JSON.

Owns the schema and its strict reading: every key is taken exactly once and has the right type, and the channel
it describes passes the same checks as a definition.  Must not know where descriptors are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sipc.errors import RegistryError, SpecError
from sipc.kernel.base import Keys
from sipc.spec import (
    Backend,
    ChannelSpec,
    Enforcement,
    Geometry,
    Principal,
    SegmentCreator,
    Tag,
    Transport,
    Wire,
)

__all__ = ("Descriptor",)

SCHEMA = 2  # 2: tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One published channel."""

    spec: ChannelSpec
    epoch: int
    keys: Keys
    creator_uid: int
    ipc_namespace: int
    created: int  # seconds since 1970-01-01 UTC
    label: str | None = field(default=None, compare=False)  # SELinux context of the file it was read from

    def to_json(self) -> str:
        """The descriptor as it stands in the registry."""
        spec = self.spec
        principals = {
            role: {"uid": who.uid, "gid": who.gid, "type": who.type}
            for role, who in (("sender", spec.sender), ("receiver", spec.receiver))
        }
        geometry = spec.geometry
        document = {
            "schema": SCHEMA,
            "name": spec.name,
            "epoch": self.epoch,
            "wire": spec.wire,
            "transport": spec.transport,
            "backend": spec.backend,
            "keys": {"queue": self.keys.queue, "segment": self.keys.segment},
            "geometry": {"slots": geometry.slots, "depth": geometry.depth, "slot_size": geometry.slot_size},
            "segment_creator": spec.segment_creator,
            "enforcement": spec.enforcement,
            "checksum": spec.checksum,
            "tag": spec.tag,
            "max_message": spec.max_message,
            "key_path": spec.key_path,
            "channel_type": spec.channel_type,
            **principals,
            "creator_uid": self.creator_uid,
            "ipc_namespace": self.ipc_namespace,
            "created": self.created,
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Descriptor:
        """Read a descriptor strictly; raises `RegistryError` naming `source` and the field."""
        try:
            document = json.loads(text, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"{source}: not JSON ({error}); only the helper may write here") from error
        reader = _Reader(document, source)
        try:
            return cls._read(reader)
        except (SpecError, ValueError) as error:
            raise RegistryError(f"{source}: {error}") from error

    @classmethod
    def _read(cls, reader: _Reader) -> Descriptor:
        if reader.take("schema", int) != SCHEMA:
            raise SpecError(f"schema is not {SCHEMA}: it was written by another version; create the channel anew")
        keys, geometry = reader.table("keys"), reader.table("geometry")
        descriptor = cls(
            spec=ChannelSpec(
                name=reader.take("name", str),
                wire=Wire(reader.take("wire", str)),
                transport=Transport(reader.take("transport", str)),
                backend=Backend(reader.take("backend", str)),
                geometry=Geometry(**{key: geometry.take(key, int) for key in ("slots", "depth", "slot_size")}),
                segment_creator=SegmentCreator(reader.take("segment_creator", str)),
                enforcement=Enforcement(reader.take("enforcement", str)),
                checksum=reader.take("checksum", bool),
                tag=None if (tag := reader.take("tag", str, type(None))) is None else Tag(tag),
                max_message=reader.take("max_message", int),
                key_path=reader.take("key_path", str, type(None)),
                channel_type=reader.take("channel_type", str, type(None)),
                sender=_principal(reader.table("sender")),
                receiver=_principal(reader.table("receiver")),
            ),
            epoch=reader.take("epoch", int),
            keys=Keys(queue=keys.take("queue", str), segment=keys.take("segment", str, type(None))),
            creator_uid=reader.take("creator_uid", int),
            ipc_namespace=reader.take("ipc_namespace", int),
            created=reader.take("created", int),
        )
        for part in (reader, keys, geometry):
            part.finish()
        if not 0 < descriptor.epoch < 1 << 64:
            raise SpecError("epoch is not a 64-bit number above 0")
        if descriptor.spec.transport is Transport.SEGMENT and descriptor.keys.segment is None:
            raise SpecError("keys.segment is missing")
        return descriptor


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of two values for one key another reader might take the other."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _principal(reader: _Reader) -> Principal:
    principal = Principal(
        uid=reader.take("uid", int, type(None)),
        gid=reader.take("gid", int, type(None)),
        type=reader.take("type", str, type(None)),
    )
    reader.finish()
    return principal


class _Reader:
    """One JSON object, every key taken exactly once and of the right type."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise RegistryError(f"{where}: is not a JSON object")
        self._left: dict[str, Any] = dict(document)
        self._where = where

    def take(self, key: str, *types: type) -> Any:
        if key not in self._left:
            raise SpecError(f"{key} is missing")
        value = self._left.pop(key)
        if type(value) not in types:
            raise SpecError(f"{key} = {value!r} is of the wrong type")
        return value

    def table(self, key: str) -> _Reader:
        return _Reader(self._left.pop(key, None), f"{self._where}: {key}")

    def finish(self) -> None:
        if self._left:
            raise SpecError(f"unknown keys {sorted(self._left)}")
