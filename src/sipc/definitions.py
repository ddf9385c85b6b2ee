# SPDX-License-Identifier: Apache-2.0
"""Channel definitions: TOML in, `ChannelSpec` out.

Owns the file format (`[channel.NAME]` tables) and its errors, which name file and key (or line), the value
and what would do.  Part of the trusted helper: no import beyond `spec` and the standard library.
"""

from __future__ import annotations

import grp
import pwd
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sipc.errors import SpecError
from sipc.spec import (
    NAME,
    Backend,
    ChannelSpec,
    Enforcement,
    Geometry,
    Principal,
    SegmentCreator,
    Tag,
    Transport,
    Wire,
    check_name,
)

__all__ = ("DEFINITIONS", "channel", "check_apart", "load", "parse")

DEFINITIONS = Path("/etc/sipc/channels.d")
# The queue transport's block goes inside a message: 8192 (msgmax, msgsize_max) less the 32 bytes of control.
_QUEUE_SLOT_SIZE = 8160

_E = TypeVar("_E", bound=StrEnum)
_ENUMS: dict[str, type[StrEnum]] = {
    "wire": Wire,
    "transport": Transport,
    "backend": Backend,
    "segment_creator": SegmentCreator,
    "tag": Tag,
    "enforcement": Enforcement,
}
_INTEGERS = ("slots", "depth", "slot_size", "max_message")
_STRINGS = ("key_path", "type")
_LONGEST_TEXT = 1 << 20  # characters: far more than any definition needs; a device has no end
_PRINCIPALS = ("sender", "receiver")
_PRINCIPAL = ("user", "group", "type", "program", "digest")
_KEYS = (*_ENUMS, *_INTEGERS, "checksum", *_STRINGS, *_PRINCIPALS)


def load(paths: list[Path], *, enforcement: Enforcement) -> dict[str, ChannelSpec]:
    """Read definition files, in order; a directory stands for its *.toml files.

    `enforcement` is the default for channels that name none.  Raises `SpecError`; nothing is half-read.
    """
    found: dict[str, ChannelSpec] = {}
    where: dict[str, Path] = {}
    for path in _files(paths):
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LONGEST_TEXT + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SpecError(f"{path}: cannot be read ({reason}): give an existing TOML file") from error
        if len(text) > _LONGEST_TEXT:
            raise SpecError(f"{path}: has more than {_LONGEST_TEXT} characters: give a file of definitions")
        for name, spec in parse(text, str(path), enforcement=enforcement).items():
            if name in found:
                raise SpecError(f"{path}: channel {name!r} is already defined in {where[name]}: rename one")
            found[name], where[name] = spec, path
    if not found:
        raise SpecError(f"{', '.join(map(str, paths))}: no channel is defined there: add a file NAME.toml")
    return found


def _files(paths: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        try:
            # Not glob(), to which a directory that can not be read is an empty one.
            files += sorted(entry for entry in path.iterdir() if entry.match("*.toml")) if path.is_dir() else [path]
        except OSError as error:
            raise SpecError(f"{path}: cannot be read ({error.strerror}): give an existing TOML file") from error
    return files


def parse(text: str, source: str, *, enforcement: Enforcement) -> dict[str, ChannelSpec]:
    """Read one definition file's text; `source` names it in errors."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise SpecError(f"{source}: not TOML: {error}: write it as https://toml.io/en/v1.0.0 has it") from error
    for key in document:
        if key != "channel":
            raise SpecError(f"{source}: unknown key {key!r}: channels are tables named [channel.NAME]")
    channels = document.get("channel", {})
    if not isinstance(channels, dict) or not channels:
        raise SpecError(f"{source}: defines no channel: add a table [channel.NAME]")
    return {name: channel(source, name, table, enforcement) for name, table in channels.items()}


def channel(source: str, name: str, table: Any, enforcement: Enforcement) -> ChannelSpec:
    """One channel of the table that `source` has under its name; `enforcement` unless it names its own."""
    where = f"{source}: [channel.{name if NAME.fullmatch(name) else repr(name)}]"
    if not isinstance(table, dict):
        raise SpecError(f"{where}: is {table!r}, which must be a table")
    for key in table:
        if key not in _KEYS:
            raise SpecError(f"{where}: unknown key {key!r}: known are {', '.join(_KEYS)}")
    try:
        check_name(name)
        return _build(where, name, table, enforcement)
    except SpecError as error:
        if str(error).startswith(source):
            raise
        raise SpecError(f"{where}: {error}") from error
    except ValueError as error:  # of more digits than Python prints
        raise SpecError(f"{where}: holds a number that is too large ({error}): give one of a few digits") from error


def _build(where: str, name: str, table: Mapping[str, Any], enforcement: Enforcement) -> ChannelSpec:
    values: dict[str, Any] = {}
    for key, enum in _ENUMS.items():
        if key in table:
            values[key] = _choice(where, key, table[key], enum)
    for key in _INTEGERS:
        if key in table and type(table[key]) is not int:
            raise SpecError(f"{where}: {key} = {table[key]!r} must be a whole number")
    if "checksum" in table and type(table["checksum"]) is not bool:
        raise SpecError(f"{where}: checksum = {table['checksum']!r} must be true or false")
    for key in _STRINGS:
        if key in table and not (isinstance(table[key], str) and table[key]):
            raise SpecError(f"{where}: {key} = {table[key]!r} must be a non-empty string")
    geometry = {key: table[key] for key in ("slots", "depth", "slot_size") if key in table}
    if values.get("wire") is Wire.LIBSIPC:
        geometry = {"slots": 1, "depth": 1, **geometry}
    if values.get("transport") is Transport.QUEUE:
        geometry.setdefault("slot_size", _QUEUE_SLOT_SIZE)
    optional = {key: table[key] for key in ("checksum", "max_message", "key_path") if key in table}
    spec = ChannelSpec(
        name=name,
        source=where,
        geometry=Geometry(**geometry),
        channel_type=table.get("type"),
        sender=_principal(where, "sender", table.get("sender", {})),
        receiver=_principal(where, "receiver", table.get("receiver", {})),
        **{"enforcement": enforcement, **values},
        **optional,
    )
    check_apart(where, spec)
    return spec


def check_apart(where: str, spec: ChannelSpec) -> None:
    """Refuse two users in one group, the one thing about both ends that neither shows."""
    sender, receiver = spec.sender, spec.receiver
    if sender.uid != receiver.uid and None not in (sender.uid, receiver.uid) and sender.gid == receiver.gid:
        raise SpecError(
            f"{where}: sender and receiver are two users in one group ({sender.gid}): give them different groups, "
            "or each could look at the other's lock file, which is a way back"
        )


def _choice(where: str, key: str, value: Any, enum: type[_E]) -> _E:
    try:
        return enum(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in enum if member.value != "memory")
        raise SpecError(f"{where}: {key} = {value!r} is not known: give one of {known}") from None


def _principal(where: str, role: str, table: Any) -> Principal:
    if not isinstance(table, dict):
        raise SpecError(f"{where}: {role} = {table!r} must be a table like {{ user = 'alice' }}")
    for key in table:
        if key not in _PRINCIPAL:
            raise SpecError(f"{where}: {role} has unknown key {key!r}: known are {', '.join(_PRINCIPAL)}")
    uid = gid = None
    if "user" in table:
        uid, gid = _user(where, role, table["user"])
    if "group" in table:
        gid = _group(where, role, table["group"])
    if gid is not None and uid is None:
        raise SpecError(f"{where}: {role} has a group but no user: give both, or neither")
    kind = table.get("type")
    if kind is not None and not (isinstance(kind, str) and kind):
        raise SpecError(f"{where}: {role}.type = {kind!r} must be the name of an SELinux type")
    try:
        return Principal(uid=uid, gid=gid, type=kind, program=table.get("program"), digest=table.get("digest"))
    except SpecError as error:
        raise SpecError(f"{where}: {role}: {error}") from error


def _user(where: str, role: str, value: Any) -> tuple[int, int | None]:
    try:
        if type(value) is int:
            try:
                return value, pwd.getpwuid(value).pw_gid
            except KeyError:
                return value, value
        entry = pwd.getpwnam(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise SpecError(f"{where}: {role}.user = {value!r} is no user here: create it, or give a number") from None
    return entry.pw_uid, entry.pw_gid


def _group(where: str, role: str, value: Any) -> int:
    if type(value) is int:
        return value
    try:
        return grp.getgrnam(value).gr_gid
    except (KeyError, TypeError, ValueError):
        raise SpecError(f"{where}: {role}.group = {value!r} is no group here: create it, or give a number") from None
