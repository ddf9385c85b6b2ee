# SPDX-License-Identifier: Apache-2.0
"""Every exception sipc raises, and nothing else.

One root, `SipcError`.  A subclass exists only where a caller would act differently.  Protocol errors say
whose fault it was, after h11's `_util.py`; resource errors say who went away, after trio's
`_core/_exceptions.py`.  A message says what failed, on what, why it is probably so, and what to do next.
"""

from __future__ import annotations

from functools import partial

__all__ = (
    "AuditError",
    "Broken",
    "Busy",
    "ChannelExists",
    "ChannelNotFound",
    "Closed",
    "Denied",
    "EndOfStream",
    "KernelError",
    "LocalProtocolError",
    "PolicyUnavailable",
    "QuarantineFull",
    "RegistryError",
    "RemoteProtocolError",
    "SipcError",
    "SpecError",
    "Timeout",
)


class SipcError(Exception):
    """Root of everything this package raises on purpose."""


class SpecError(SipcError, ValueError):
    """A definition, an option or an argument is wrong; nothing was done.

    The message names the file and key (or the argument), the value, the limit, and a value that would do.
    """


class LocalProtocolError(SipcError):
    """This side called things in an order the protocol does not allow; the endpoint is unusable now."""


class RemoteProtocolError(SipcError):
    """The peer broke the protocol.  Terminal: nothing of the offending block is handed on.

    Attributes: `field` (wire name), `value` (what came), `bound` (what would have been accepted).
    """

    def __init__(self, field: str, value: object, bound: str) -> None:
        super().__init__(
            f"the sender broke the protocol: {field} is {value!r}, which must be {bound}; "
            "nothing of this block was handed on, and this receiver is finished: "
            "stop the sender and create the channel anew (sipc create --replace)"
        )
        self.field = field
        self.value = value
        self.bound = bound

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle by its parts: the message is made from them."""
        return type(self), (self.field, self.value, self.bound)


class Closed(SipcError):
    """You closed this endpoint (or forked away from it); open it again."""


class Broken(SipcError):
    """The channel was destroyed or replaced, or its stream was cut by the other side; open it again."""


class Busy(SipcError):
    """Somebody else holds this: another process this role, or another thread this endpoint."""


class Timeout(SipcError, TimeoutError):
    """The time given was not enough.  Nothing of the message was, or will be, delivered: try again.

    `sent` counts the records that were accepted before the time ran out (only `send_many` sets it above 0).
    """

    def __init__(self, message: str, *, sent: int = 0) -> None:
        super().__init__(message)
        self.sent = sent


class EndOfStream(SipcError):
    """The sender closed its stream in order; everything before it was delivered."""


class Denied(SipcError, PermissionError):
    """The kernel or a check of ours refused; the message names the check and how to pass it."""


class PolicyUnavailable(Denied):
    """The policy that should enforce the direction cannot be asked; treated as a denial."""


class ChannelNotFound(SipcError, LookupError):
    """No descriptor of that name in the registry: the helper has not run, or the name is misspelt."""


class ChannelExists(SipcError):
    """A channel of that name exists already; replace it by name or choose another."""


class RegistryError(SipcError):
    """A descriptor or its directory is not to be trusted or not to be read; it was not used."""


class QuarantineFull(SipcError):
    """A quarantine has no room for a message that must be kept: stop the stage, the message is not finished."""


class AuditError(SipcError):
    """A log's chain is broken, or its file is not one: nothing was appended, and what is there was not touched."""


class KernelError(SipcError, OSError):
    """A system call failed.  Carries `errno`, `syscall`, `object` and, when known, `expected_label`."""

    def __init__(
        self, errno: int, reason: str, *, syscall: str, obj: str, expected_label: str | None = None
    ) -> None:
        # OSError.__new__ is bypassed on purpose: it would turn EACCES into PermissionError and lose us.
        super().__init__(errno, reason)
        self.syscall = syscall
        self.object = obj
        self.expected_label = expected_label

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle with the parts that OSError does not know."""
        make = partial(type(self), syscall=self.syscall, obj=self.object, expected_label=self.expected_label)
        return make, (self.errno, self.strerror)

    def __str__(self) -> str:
        label = f" (expected label {self.expected_label})" if self.expected_label else ""
        return f"{self.syscall} on {self.object}{label}: {self.strerror} [errno {self.errno}]"
