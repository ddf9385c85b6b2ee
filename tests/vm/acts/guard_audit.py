# SPDX-License-Identifier: Apache-2.0
"""An audit log in the journal: `python guard_audit.py FILE COUNT` adds entries, FILE keeps the last one's line."""

from __future__ import annotations

import sys

from sipc.guard.audit import Audit, JournalLog
from sipc.guard.verdicts import Code, MessageId


def main() -> None:
    """Add entries of every kind of verdict, and say the head."""
    verdicts = (Code.PASS, Code.DROP, Code.QUARANTINE)
    with Audit(JournalLog(sys.argv[1]), stage="scrub") as audit:
        before = audit.head
        for number in range(int(sys.argv[2])):
            data, verdict = f"secret {before} {number}".encode(), verdicts[number % 3]
            audit.record(data, MessageId(epoch=1, seq=number + 1), channel="g.raw", verdict=verdict,
                         reason="" if verdict is Code.PASS else "bad",
                         passed=data if verdict is Code.PASS else None)  # fmt: skip
        print(audit.head)


if __name__ == "__main__":
    main()
