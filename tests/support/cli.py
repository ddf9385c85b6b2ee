# SPDX-License-Identifier: Apache-2.0
"""The command line as its users run it: a process of its own, its output and exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

PROGRAM = (sys.executable, "-m", "sipc.cli")
LONGEST = 60.0


class Done(subprocess.CompletedProcess[str]):
    """Output and exit code."""


def sipc(
    *arguments: str | Path, registry: Path | None = None, data: bytes | None = None, env: dict[str, str] | None = None
) -> Done:
    """Run one command to its end; no traceback may ever come out."""
    place = ["--registry", str(registry)] if registry is not None else []
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments), *place], input=data, capture_output=True, timeout=LONGEST, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert "Traceback" not in err, err
    return Done(done.args, done.returncode, out, err)


def started(
    *arguments: str | Path, registry: Path, stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start one command; use it in a `with`."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments), "--registry", str(registry)], stdin=stdin, stdout=stdout,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Exit code, stdout, stderr of what was started."""
    out, err = process.communicate(timeout=LONGEST)
    text = err.decode(errors="replace")
    assert "Traceback" not in text, text
    return process.returncode, out, text
