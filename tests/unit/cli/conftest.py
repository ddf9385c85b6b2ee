# SPDX-License-Identifier: Apache-2.0
"""A real module store for commands that change one: Debian's small policy below a root of the test's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SEMODULE = shutil.which("semodule", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image's root whose policy has none of our modules; it is copied, never changed."""
    done = subprocess.run([ROOT / "scripts/base_policy.sh"], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    root = tmp_path_factory.mktemp("pristine")
    for folder in ("etc/selinux/default/policy", "etc/selinux/default/contexts/files",
                   "var/lib/selinux/default/active/modules"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "etc/selinux/config").write_text("# a comment\nSELINUX=enforcing\nSELINUXTYPE=default\n")
    (root / "etc/selinux/semanage.conf").write_text("module-store = direct\nexpand-check = 0\n")
    files = [part for path in sorted((Path(done.stdout.strip()) / "small").glob("*.cil")) for part in ("-i", str(path))]
    argv = [SEMODULE, "-p", str(root), "-s", "default", "-n", "-X", "100", *files]
    made = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(pristine, tmp_path / "image", symlinks=True))
