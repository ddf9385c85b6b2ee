# SPDX-License-Identifier: Apache-2.0
"""`sipc recv --cursor`: what goes on after a kill must not look like a whole file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.channels import make

import sipc
from sipc.cli import main
from sipc.cli.exits import Exit

pytestmark = pytest.mark.host


@pytest.mark.parametrize("exists", [False, True])
def test_a_cursor_and_a_file_are_refused_together(
    exists: bool, registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run again after a kill, FILE would hold only the rest of its stream, with exit code 0."""
    make(registry, "c")
    file, cursor = tmp_path / "file", tmp_path / "cursor"
    if exists:
        file.write_bytes(b"before")
    code = main(["recv", "c", str(file), "--cursor", str(cursor), "--registry", str(registry)])
    assert code == Exit.BAD_INPUT
    assert "append" in capsys.readouterr().err
    assert not cursor.exists()
    assert not file.exists() or file.read_bytes() == b"before"


def test_with_a_cursor_standard_output_goes_on_where_it_was(registry: Path, tmp_path: Path) -> None:
    """Two runs of which the first is killed before its end append up to the whole stream."""
    make(registry, "c", slot_size=16)
    cursor = tmp_path / "cursor"
    argv = [sys.executable, "-m", "sipc.cli", "recv", "c", "--cursor", str(cursor), "--registry", str(registry)]
    with sipc.open_sender("c", registry=registry, timeout=0) as sender:
        sender.send(b"first half, ")
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            got = first.stdout.read(len(b"first half, "))
            sender.flush(30)  # the block is finished, not only written
            first.kill()
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as second:
            sender.send(b"second half", 30)
            sender.close(timeout=30)
            rest, _ = second.communicate(timeout=30)
    assert second.returncode == 0
    assert got + rest == b"first half, second half"
