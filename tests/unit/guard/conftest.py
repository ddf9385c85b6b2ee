# SPDX-License-Identifier: Apache-2.0
"""Debian's policy to compile against, made once per machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def small() -> Path:
    """Debian's base module and the few that a minimal guest runs; that it can not be made is a failure."""
    done = subprocess.run([ROOT / "scripts/base_policy.sh"], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()) / "small"
