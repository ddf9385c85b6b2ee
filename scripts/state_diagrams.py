# SPDX-License-Identifier: Apache-2.0
"""Put the protocol's state tables into docs/protocol.md, as diagrams and tables: run it after changing one.

`python scripts/state_diagrams.py` rewrites the parts between `<!-- NAME -->` and `<!-- end -->`; a test compares.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from sipc.proto.receiver import RECEIVER_TABLE
from sipc.proto.sender import SENDER_TABLE

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"
_S = TypeVar("_S", bound=enum.IntEnum)
_E = TypeVar("_E", bound=enum.IntEnum)


def rendered(table: Mapping[tuple[_S, _E], tuple[str, _S]]) -> str:
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
    tables = {"SENDER_TABLE": rendered(SENDER_TABLE), "RECEIVER_TABLE": rendered(RECEIVER_TABLE)}
    for name, body in tables.items():
        parts = re.split(rf"(?<=<!-- {name} -->\n)(?:.*?\n)??(?=<!-- end -->)", text, flags=re.DOTALL)
        if len(parts) != 2:
            raise SystemExit(f"{PAGE.name}: {len(parts) - 1} places for {name}, not one")
        text = f"{parts[0]}{body}\n{parts[1]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
