# SPDX-License-Identifier: Apache-2.0
"""The shared area: what is in use is not written again, and nobody but its maker can ever write it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.errors import KernelError
from sipc.guard.area import Area, attach, messages_in, notices

SIZE = 65536


@pytest.fixture
def area() -> Iterator[Area]:
    made = Area(SIZE)
    yield made
    made.close()


@pytest.mark.parametrize(
    "act",
    [
        lambda fd: os.write(fd, b"x"),
        lambda fd: os.ftruncate(fd, 0),
        lambda fd: os.ftruncate(fd, 2 * SIZE),
        lambda fd: mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda fd: os.posix_fallocate(fd, 0, 2 * SIZE),
    ],
)
def test_who_has_the_descriptor_can_neither_write_nor_resize_it(area: Area, act: Callable[[int], object]) -> None:
    """The worker gets it open for both; the seals refuse."""
    with pytest.raises(OSError, match=r".") as caught:
        act(area.fd)
    assert caught.value.errno in {errno.EPERM, errno.EACCES}


def test_what_is_put_in_is_read_at_the_other_side(area: Area) -> None:
    """Small ones and large ones; the descriptor is closed, and the view can not be written."""
    small, large = [b"", b"a", b"bc"], [os.urandom(20_000), b"", os.urandom(10_000)]
    view = attach(os.dup(area.fd), SIZE)
    for part in (small, large):
        offset = area.put(part)
        assert offset is not None
        assert list(messages_in(view, offset, len(part))) == part
    assert view.readonly
    assert notices(view)[0] == 0
    area.noticed()
    assert notices(view)[0] == 1


def test_what_can_not_be_mapped_is_an_error() -> None:
    """Not a null pointer."""
    read, write = os.pipe()
    try:
        with pytest.raises(KernelError):
            attach(read, SIZE)
    finally:
        os.close(read)
        os.close(write)


steps = st.lists(st.one_of(st.just(None), st.lists(st.integers(0, 30_000), min_size=1, max_size=4)), max_size=60)


@given(steps=steps)
def test_a_part_stays_as_it_was_until_it_is_let_go(steps: list[list[int] | None]) -> None:
    """Against a queue that remembers; and an empty area takes whatever fits."""
    area = Area(SIZE)
    view = attach(os.dup(area.fd), SIZE)
    kept: deque[tuple[int, list[bytes]]] = deque()
    try:
        for number, step in enumerate(steps):
            if step is None:
                if kept:
                    kept.popleft()
                    area.let_go()
            else:
                part = [bytes([number]) * length for length in step]
                offset = area.put(part)
                assert offset is not None or kept or sum(step) > SIZE - 64
                if offset is not None:
                    kept.append((offset, part))
            for offset, part in kept:
                assert list(messages_in(view, offset, len(part))) == part
    finally:
        area.close()
