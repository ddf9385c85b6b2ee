# SPDX-License-Identifier: Apache-2.0
"""The errno in a `KernelError` is the kernel's: operations.md tells by it what to do."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable

import pytest
from tests.support.channels import Child

from sipc.errors import KernelError
from sipc.kernel import Keys, backend
from sipc.spec import Backend, Role

pytestmark = pytest.mark.host

SIZE = 4096


def queue_beyond_the_limit_of_its_user() -> None:
    """In a child: the limit stays lowered."""
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (10, 10))
    posix = backend(Backend.POSIX)
    posix.create_queue(posix.new_keys(segment=False).queue, messages=1, message_size=32)


def queue_of_too_many_messages() -> None:
    """More than any privilege allows."""
    posix = backend(Backend.POSIX)
    posix.create_queue(posix.new_keys(segment=False).queue, messages=1 << 20, message_size=32)


def segment_above_shmmax() -> None:
    """More than kernel.shmmax can be."""
    sysv = backend(Backend.SYSV)
    sysv.create_segment(sysv.new_keys(segment=False).queue, (1 << 64) - 1)


def segment_smaller_than_the_descriptor_says() -> None:
    """The kernel compares, before anything is attached."""
    sysv = backend(Backend.SYSV)
    keys = sysv.new_keys(segment=True)
    assert keys.segment is not None
    sysv.create_queue(keys.queue, messages=1, message_size=32)
    try:
        sysv.create_segment(keys.segment, SIZE).close()
        sysv.open_segment(keys.segment, Role.RECEIVER, 2 * SIZE)
    finally:
        sysv.remove(keys)


@pytest.mark.parametrize(
    ("act", "number"),
    [
        (queue_beyond_the_limit_of_its_user, errno.ENOSPC),
        (queue_of_too_many_messages, errno.EINVAL),
        (segment_above_shmmax, errno.EINVAL),
        (segment_smaller_than_the_descriptor_says, errno.EINVAL),
    ],
    ids=lambda value: getattr(value, "__name__", None) or errno.errorcode[value],
)
def test_a_refusal_by_a_limit_has_the_errno_of_that_limit(act: Callable[[], None], number: int) -> None:
    """Full is not wrong: what a limit of the host refuses reads otherwise than an argument that can not be."""
    with pytest.raises(KernelError) as caught:
        Child(act).result()
    assert caught.value.errno == number
    assert "sipc doctor" in str(caught.value)


def test_what_is_full_leaves_nothing() -> None:
    """There is no queue under a name that a limit refused."""
    posix = backend(Backend.POSIX)
    keys = posix.new_keys(segment=False)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (10, 10))
        posix.create_queue(keys.queue, messages=1, message_size=32)

    with pytest.raises(KernelError):
        Child(full).result()
    assert not posix.remove(Keys(queue=keys.queue, segment=None))
