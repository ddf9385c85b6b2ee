# SPDX-License-Identifier: Apache-2.0
"""Status files as stages write them, by hand, and as hostile ones might."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sipc.guard.reported import StageReport, parse

__all__ = ("channel", "publish", "report", "status", "written")


def channel(direction: str, **changes: Any) -> dict[str, Any]:
    """One end of a channel."""
    return {"direction": direction, "messages": 10, "bytes": 1000, "blocked_seconds": 0.5, "last_seq": 10,
            "epoch": 123} | changes  # fmt: skip


def status(**changes: Any) -> dict[str, Any]:
    """The status of stage scrub of guard json."""
    return {
        "version": 1, "guard": "json", "stage": "scrub", "kind": "filter", "pid": 12, "starts": 3,
        "since": 1_700_000_000.0, "updated": 1_700_000_001.0, "state": "running", "reason": "",
        "channels": {"raw": channel("in"), "clean": channel("out", messages=9)},
        "verdicts": {"pass": 9, "drop": 0, "quarantine": 1},
        "quarantine": {"messages": 1, "bytes": 4096, "limit": 67108864},
    } | changes  # fmt: skip


def written(**changes: Any) -> bytes:
    """The same as bytes."""
    return json.dumps(status(**changes)).encode()


def report(**changes: Any) -> StageReport:
    """The same, read."""
    text = status(**changes)
    return parse(json.dumps(text).encode(), guard=text["guard"], stage=text["stage"])


def publish(place: Path, guard: str, stage: str, data: bytes | None = None, *, foreground: bool = False) -> Path:
    """Make a stage's directory below a place, with a status file (or none); returns the file's path."""
    place.chmod(0o755)
    folder = place
    for part in (guard, stage, *(["run"] if foreground else [])):
        folder /= part
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    path = folder / "status.json"
    if data is not None:
        path.write_bytes(data)
    return path
