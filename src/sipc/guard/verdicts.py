# SPDX-License-Identifier: Apache-2.0
"""What a filter says of a message, and by which name the message goes.

Owns the three verdicts and their codes.  There is no fourth, and none of them is a default: whatever a filter does
other than return one of these is `Quarantine` (`filters.py`).

A reason is a word, not a text, because reasons are logged and a text could carry the message: an exception quotes what
it choked on.  Texts go into `detail`, which is kept beside the quarantined message and nowhere else.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from sipc.errors import SpecError

__all__ = ("Code", "Drop", "MessageId", "Pass", "Quarantine", "Reason", "Verdict", "check_reason")

# Forty characters are a word or three; more would be room for a message.
_REASON = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{20})-([0-9]{10})")
_U64 = 1 << 64
_MAX_RECORD = 10**10


class Code(enum.IntEnum):
    """A verdict in one byte: exit code of a command filter, first byte of an answer frame."""

    PASS = 0
    DROP = 10
    QUARANTINE = 20


class Reason(enum.StrEnum):
    """Reasons that are ours; a filter may name others."""

    FILTER = "filter"  # it said so and gave no reason
    EXCEPTION = "exception"
    TYPE = "type"  # the message is not of the declared type
    VERDICT = "verdict"  # what was returned is no verdict
    TIMEOUT = "timeout"
    DIED = "died"  # the process ended, or was killed, without an answer
    EXIT = "exit-code"  # not one of `Code`
    NO_OUTPUT = "no-output"  # a command said pass, and nothing to pass
    OUTPUT = "output-size"
    FRAMING = "framing"


def check_reason(reason: str) -> str:
    """Return `reason` if it is a word; raises `SpecError`."""
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        raise SpecError(
            "a reason must be 1 to 40 characters, a-z, 0-9 and '-', beginning with a letter, for example 'over-limit', "
            "because it is logged: put what says more into detail"
        )
    return reason


# Positional, against the custom of this package: a filter's author writes them all day, and each has one main field.
@dataclass(frozen=True, slots=True)
class Pass:
    """Hand on `payload`: the message as it came, or what the filter made of it."""

    payload: bytes

    def __post_init__(self) -> None:
        """Take any bytes-like object, and nothing that would only become bytes by accident (`bytes(7)`)."""
        if type(self.payload) is bytes:
            return
        if not isinstance(self.payload, bytes | bytearray | memoryview):
            raise SpecError(f"Pass takes bytes, not {type(self.payload).__name__}: encode the message first")
        object.__setattr__(self, "payload", bytes(self.payload))


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget the message; only its digest is logged."""

    reason: str = Reason.FILTER

    def __post_init__(self) -> None:
        """Refuse a reason that is no word."""
        check_reason(self.reason)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Keep the message whole, for a person to look at; `detail` is kept with it and not logged."""

    reason: str = Reason.FILTER
    detail: str = ""

    def __post_init__(self) -> None:
        """Refuse a reason that is no word."""
        check_reason(self.reason)
        if not isinstance(self.detail, str):
            raise SpecError(f"the detail of a Quarantine must be text, not {type(self.detail).__name__}")


Verdict = Pass | Drop | Quarantine


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MessageId:
    """Which message of a channel: its epoch, the block that it ends in, and, of several in a block, which.

    A message that comes again after a crash has the same one.  Compare within one epoch only.
    """

    epoch: int
    seq: int
    record: int = 0

    def __post_init__(self) -> None:
        """Refuse what would not fit the name."""
        for key, value, bound in (
            ("epoch", self.epoch, _U64), ("seq", self.seq, _U64), ("record", self.record, _MAX_RECORD),
        ):  # fmt: skip
            if type(value) is not int or not 0 <= value < bound:
                raise SpecError(f"{key} of a message must be from 0 to {bound - 1}, not {value!r}")

    @property
    def name(self) -> str:
        """A file name; within an epoch they sort as the messages came."""
        return f"{self.epoch:016x}-{self.seq:020d}-{self.record:010d}"

    @classmethod
    def from_name(cls, name: str) -> MessageId | None:
        """The message that `name` is of; None when it is no such name."""
        found = _NAME.fullmatch(name)
        if found is None or int(found[2]) >= _U64:
            return None
        return cls(epoch=int(found[1], 16), seq=int(found[2]), record=int(found[3]))
