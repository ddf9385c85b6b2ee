# SPDX-License-Identifier: Apache-2.0
"""The exceptions: one root, who is to blame, what a caller can catch, and what each carries."""

from __future__ import annotations

import copy
import errno
import inspect
import os
import pickle

import pytest

import sipc
from sipc import errors
from sipc.errors import (
    AuditError,
    Broken,
    Busy,
    ChannelExists,
    ChannelNotFound,
    Closed,
    Denied,
    EndOfStream,
    KernelError,
    LocalProtocolError,
    PolicyUnavailable,
    QuarantineFull,
    RegistryError,
    RemoteProtocolError,
    SipcError,
    SpecError,
    Timeout,
)

# What each is besides a SipcError, so that code that knows nothing of sipc catches it where it should.
ALSO: dict[type[SipcError], tuple[type[Exception], ...]] = {
    SpecError: (ValueError,),
    LocalProtocolError: (),
    RemoteProtocolError: (),
    Closed: (),
    Broken: (),
    Busy: (),
    Timeout: (TimeoutError, OSError),
    EndOfStream: (),
    Denied: (PermissionError, OSError),
    PolicyUnavailable: (Denied, PermissionError, OSError),
    ChannelNotFound: (LookupError,),
    ChannelExists: (),
    RegistryError: (),
    QuarantineFull: (),
    AuditError: (),
    KernelError: (OSError,),
}


def test_there_are_no_others() -> None:
    """Every exception of the module is in the table, in `__all__`, and offered by the package."""
    found = {value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)}
    assert found == {SipcError, *ALSO}
    assert {kind.__name__ for kind in found} == set(errors.__all__)
    assert all(getattr(sipc, kind.__name__) is kind for kind in found)


@pytest.mark.parametrize("kind", ALSO, ids=lambda kind: kind.__name__)
def test_each_has_the_one_root_and_only_the_bases_it_should(kind: type[SipcError]) -> None:
    """No kind is caught by a handler that is meant for another one."""
    bases = {base for base in kind.__mro__[1:] if base not in (object, Exception, BaseException)}
    assert bases == {SipcError, *ALSO[kind]}
    assert kind.__doc__


def test_handling_a_denial_handles_a_policy_that_can_not_be_asked() -> None:
    """So it fails closed: nobody continues because the question could not be put."""
    with pytest.raises(Denied):
        raise PolicyUnavailable("no policy")
    assert not issubclass(Denied, PolicyUnavailable)


def test_neither_end_of_a_stream_is_an_error_of_the_system() -> None:
    """`except OSError` around file work must not swallow the end of the stream, nor a broken or closed channel."""
    for kind in (EndOfStream, Broken, Closed, Busy, RemoteProtocolError, LocalProtocolError, RegistryError):
        assert not issubclass(kind, OSError)
    assert not issubclass(EndOfStream, Broken)


def test_a_violation_names_field_value_and_bound_and_what_to_do() -> None:
    """All three in the message and as attributes; the value as it came."""
    error = RemoteProtocolError("length", 1 << 40, "at most 4096, the size of a slot")
    assert (error.field, error.value, error.bound) == ("length", 1 << 40, "at most 4096, the size of a slot")
    for part in ("the sender broke the protocol", "length is 1099511627776", "must be at most 4096", "sipc create"):
        assert part in str(error)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOSPC, errno.EINTR, errno.ETIMEDOUT])
def test_a_kernel_error_is_an_oserror_with_errno_syscall_and_object(number: int) -> None:
    """Also for the numbers that plain OSError turns into a subclass of its own."""
    error = KernelError(number, "why; what to do", syscall="msgget", obj="queue 7")
    assert type(error) is KernelError
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.syscall, error.object, error.expected_label) == (
        number, "why; what to do", "msgget", "queue 7", None,
    )  # fmt: skip
    assert str(error) == f"msgget on queue 7: why; what to do [errno {number}]"


def test_a_kernel_error_shows_the_label_that_was_expected() -> None:
    """Where a policy is in force, the wrong label is the likely cause."""
    error = KernelError(13, os.strerror(13), syscall="shmget", obj="segment 9", expected_label="feed_t")
    assert error.expected_label == "feed_t"
    assert str(error) == "shmget on segment 9 (expected label feed_t): Permission denied [errno 13]"


def test_a_timeout_counts_what_was_accepted() -> None:
    """0 unless told otherwise."""
    assert Timeout("x").sent == 0
    assert Timeout("x", sent=7).sent == 7


@pytest.mark.parametrize(
    "error",
    [
        *(kind("what; why; what next") for kind in ALSO if kind not in (RemoteProtocolError, KernelError)),
        RemoteProtocolError("seq", 3, "2"),
        Timeout("late", sent=4),
        KernelError(28, "full", syscall="shmget", obj="segment 9", expected_label="feed_t"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_a_copy_and_a_pickle(error: SipcError) -> None:
    """They cross process pools and the forked children of tests whole."""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
