# SPDX-License-Identifier: Apache-2.0
"""Faults for the guard's tests, and a directory that the whole system would trust."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.faults import Faults, build


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    """The compiled library: see tests/support/faults.c."""
    return Faults(build(tmp_path_factory.mktemp("faults")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of this user's own."""
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user can reach: pytest's are root's alone."""
    assert os.geteuid() == 0, "these tests start processes as other users: run them as root"
    place = Path(tempfile.mkdtemp(prefix="sipc-run-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)
