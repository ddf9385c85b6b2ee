# SPDX-License-Identifier: Apache-2.0
"""What the tests' own runner makes of tests that do not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("text", [
    "import pytest\ndef test(): pytest.skip('no')\n",
    "import pytest\n@pytest.mark.skip\ndef test(): ...\n",
    "import pytest\n@pytest.mark.xfail\ndef test(): assert False\n",
    "import pytest\npytest.skip('no', allow_module_level=True)\n",
    "import pytest\npytest.importorskip('there_is_no_such_module')\n",
], ids=["inside", "marked", "expected to fail", "a file", "an import"])  # fmt: skip
def test_a_skip_is_a_failure(text: str, tmp_path: Path) -> None:
    """Whatever the way; nobody looks at a line that says "1 skipped"."""
    (tmp_path / "test_it.py").write_text(text)
    argv = ["-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (1, 2)
    assert "skipped, which counts as failed" in done.stdout
