# SPDX-License-Identifier: Apache-2.0
"""Faults for the guard's tests, and a directory that the whole system would trust."""

from __future__ import annotations

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
