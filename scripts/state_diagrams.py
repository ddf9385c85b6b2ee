# SPDX-License-Identifier: Apache-2.0
"""Put the protocol's state tables into docs/protocol.md, as diagrams and tables: run it after changing one.

`python scripts/state_diagrams.py` rewrites the parts between `<!-- NAME -->` and `<!-- end -->`; a test compares.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path

from sipc.proto.receiver import RECEIVER_TABLE
from sipc.proto.sender import SENDER_TABLE

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"
_Table = Mapping[tuple[enum.IntEnum, enum.IntEnum], tuple[str, enum.IntEnum]]


def rendered(table: _Table) -> str:
    """One table as a Mermaid diagram and as rows."""
    arrows = [
        f"    {state.name} --> {following.name} : {event.name}" for (state, event), (_, following) in table.items()
    ]
    first = next(iter(table))[0].name
    rows = [
        f"| {state.name} | {event.name} | {action} | {following.name} |"
        for (state, event), (action, following) in table.items()
    ]
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            f"    [*] --> {first}",
            *arrows,
            "```",
            "",
            "| state | event | action | next |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def page(text: str) -> str:
    """`text` with its tables made anew."""
    tables: dict[str, _Table] = {"SENDER_TABLE": dict(SENDER_TABLE), "RECEIVER_TABLE": dict(RECEIVER_TABLE)}
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = rendered(table)
        text, count = pattern.subn(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"{PAGE.name}: {count} places for {name}, not one")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
