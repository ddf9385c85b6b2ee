# SPDX-License-Identifier: Apache-2.0
"""The filters of `test_guard_rules.py`: a Python function, and, as a program, a command that stays.

Both pass a message on in capitals, refuse what begins with `bad`, and do what a taken-over filter would
(`guard_stage.py`) when one begins with `attack-` and their own name.  /etc/sipc/attack/NAME has the orders.
"""

from __future__ import annotations

import runpy
import sys

from sipc.guard.framing import ANSWER, MESSAGE
from sipc.guard.verdicts import Code, Pass, Quarantine

ATTACK = "/opt/sipc/acts/guard_stage.py"


def attack(name: str) -> None:
    """Never returns, unless there is no end of memory."""
    sys.argv[1:] = [f"/etc/sipc/attack/{name}"]
    runpy.run_path(ATTACK, run_name="__main__")


def scrub(message: bytes) -> Pass | Quarantine:
    """In the worker of a stage."""
    if message.startswith(b"attack-scrub"):
        attack("scrub")
    return Quarantine("bad") if message.startswith(b"bad") else Pass(message.upper())


def main() -> None:
    """As a command, over frames (docs/stages.md)."""
    while head := sys.stdin.buffer.read(MESSAGE.size):
        data = sys.stdin.buffer.read(MESSAGE.unpack(head)[0])
        if data.startswith(b"ATTACK-EDIT"):
            attack("edit")
        sys.stdout.buffer.write(ANSWER.pack(Code.PASS, len(data)) + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
