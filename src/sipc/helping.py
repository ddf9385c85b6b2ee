# SPDX-License-Identifier: Apache-2.0
"""Running the helper as a process of its own, for whoever needs channels made or destroyed.

Owns the call and what its end means; says nothing to anybody: the caller has the helper's words.  In a process of its
own the helper can have a domain of its own, and nothing of the caller's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sipc.errors import SipcError

__all__ = ("Helped", "run_helper")

_CODES = (0, 2, 3, 4)  # what the helper's program ends with, in docs/operations.md


@dataclass(frozen=True, slots=True, kw_only=True)
class Helped:
    """How a helper ended: its exit code, a document for each channel, and what it says of an error, if it does.

    `bug`: it ended in a way that it never should; `words` is then ours.
    """

    code: int
    lines: tuple[dict[str, Any], ...]
    words: str
    bug: bool = False


def run_helper(arguments: Sequence[str], *, apart: bool = False) -> Helped:
    """Run the helper to its end; `apart`: Ctrl-C at the terminal does not reach it.

    Raises `SipcError` when it was killed, and `KeyboardInterrupt` once it has undone what it made.
    """
    isolated = [] if os.environ.get("PYTHONPATH") else ["-I"]
    argv = [sys.executable, *isolated, "-m", "sipc.helper", *arguments]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL if apart else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        errors="backslashreplace", start_new_session=apart,  # its words may have bytes that this locale has not
    ) as process:  # fmt: skip
        try:
            out, words = process.communicate()
        except KeyboardInterrupt:
            process.communicate()  # a terminal interrupts both
            raise
    code = process.returncode
    if code < 0:
        raise SipcError(
            f"the helper was killed by {signal.Signals(-code).name}: 'sipc doctor' names what it left behind and how "
            "to remove it; then try again"
        )
    bug = code not in _CODES
    if bug and not os.environ.get("SIPC_DEBUG"):
        last = words.strip().rpartition("\n")[2]
        words = f"sipc: this is a bug in sipc's helper: {last} (SIPC_DEBUG=1 shows where)\n"
    return Helped(code=code, lines=tuple(map(json.loads, out.splitlines())), words=words, bug=bug)
