# SPDX-License-Identifier: Apache-2.0
"""A registry for each test; whatever a test leaves in the kernel fails it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipc import helper
from sipc.registry import Registry


def kernel_objects() -> set[str]:
    """Every System V object of this user, and every segment of ours in /dev/shm."""
    found = set()
    for kind in ("msg", "shm"):
        lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
        for line in lines[1:]:
            fields = line.split()
            found.add(f"{kind} {fields[0]} {fields[1]}")
    return found | {entry for entry in os.listdir("/dev/shm") if entry.startswith("sipc-")}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Path]:
    """A directory for descriptors; its channels are destroyed afterwards, and nothing may be left."""
    before = kernel_objects()
    path = tmp_path / "registry"
    path.mkdir(mode=0o700)
    yield path
    with Registry(path) as opened:
        names = [*opened.names(), *opened.journals()]
    for name in dict.fromkeys(names):
        helper.destroy(name, path)
    assert kernel_objects() - before == set()
