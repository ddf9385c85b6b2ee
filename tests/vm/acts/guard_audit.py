# SPDX-License-Identifier: Apache-2.0
"""An audit log in the journal: `python guard_audit.py FILE COUNT` adds entries, FILE keeps the last one's line."""

from __future__ import annotations

import sys

from sipc.guard.audit import Audit, JournalLog
from sipc.guard.verdicts import Code


def main() -> None:
    """Add entries of every kind of verdict, and say the head."""
    verdicts = (Code.PASS, Code.DROP, Code.QUARANTINE)
    with Audit(JournalLog(sys.argv[1]), stage="scrub") as audit:
        before = audit.head
        for number in range(int(sys.argv[2])):
            verdict = verdicts[number % 3]
            # Some are longer than what journalctl shows of a field without --all.
            many = [f"secret {before} {number} {which}".encode() for which in range(200 if number % 10 == 0 else 1)]
            audit.record(many, [(number + 1, 0, len(many))], channel="g.raw", epoch=1, verdict=verdict,
                         reason="" if verdict is Code.PASS else "bad")  # fmt: skip
        print(audit.head)


if __name__ == "__main__":
    main()
