# SPDX-License-Identifier: Apache-2.0
"""Descriptors and registries that the helper can not have written, and the word each refusal must have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ("FORGED", "edited", "forge", "mend")


def edited(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    path.write_text(json.dumps(document))


def forge(case: str, path: Path) -> None:
    """Spoil the descriptor at `path`, or its directory."""
    registry = path.parent
    aside = registry / "aside"
    if case in ("symlink", "hard link", "fifo", "directory"):
        path.rename(aside)
        act: dict[str, Callable[[], object]] = {
            "symlink": lambda: path.symlink_to(aside),
            "hard link": lambda: path.hardlink_to(aside),
            "fifo": lambda: os.mkfifo(path),
            "directory": path.mkdir,
        }
        act[case]()
    elif case.startswith("mode "):
        path.chmod(int(case.split()[1], 8))
    elif case.startswith("registry mode "):
        registry.chmod(int(case.split()[2], 8))
    elif case == "owner":
        os.chown(path, 65534, 65534)
    elif case == "registry owner":
        os.chown(registry, 65534, 65534)
    else:
        edits: dict[str, Callable[[], object]] = {
            "schema": lambda: edited(path, schema=99),
            "no schema": lambda: edited(path, schema=None),
            "another's name": lambda: edited(path, name="d"),
            "unknown key": lambda: edited(path, surprise=1),
            "missing key": lambda: edited(path, keys=None),
            "wrong type": lambda: edited(path, checksum="no"),
            "bad geometry": lambda: edited(path, geometry={"slots": 0, "depth": 1, "slot_size": 1}),
            "bad wire": lambda: edited(path, wire="sipc3"),
            "epoch": lambda: edited(path, epoch=0),
            "a key twice": lambda: path.write_text(path.read_text().replace("{", '{"epoch": 1,', 1)),
            "no JSON": lambda: path.write_text("{"),
            "nothing": lambda: path.write_text(""),
            "deep": lambda: path.write_text("[" * 50_000),
            "a list": lambda: path.write_text("[]"),
            "long number": lambda: path.write_text('{"schema": ' + "9" * 10_000 + "}"),
            "no text": lambda: path.write_bytes(b"\xff{}"),
            "too large": lambda: path.write_text(path.read_text() + " " * 65536),
        }
        edits[case]()


FORGED = {
    "symlink": "plain file",
    "hard link": "2 links",
    "fifo": "not a plain file",
    "directory": "not a plain file",
    "mode 0664": "writable by others",
    "mode 0646": "writable by others",
    "registry mode 0770": "writable by others",
    "registry mode 0707": "writable by others",
    "schema": "schema is not 2",
    "no schema": "schema is missing",
    "another's name": "describes 'd', not 'c'",
    "unknown key": "surprise",
    "missing key": "keys",
    "wrong type": "checksum = 'no' is of the wrong type",
    "bad geometry": "slots = 0",
    "bad wire": "sipc3",
    "epoch": "epoch",
    "a key twice": "a key stands twice",
    "no JSON": "not JSON",
    "nothing": "not JSON",
    "deep": "not JSON",
    "a list": "not a JSON object",
    "long number": "not JSON",
    "no text": "not UTF-8",
    "too large": "larger than 65536 bytes",
    # Only root can give files away.
    **({"owner": "belongs to uid 65534", "registry owner": "belongs to uid 65534"} if os.geteuid() == 0 else {}),
}


def mend(path: Path, text: bytes) -> None:
    """Undo what `forge` did: the descriptor and its directory are the helper's again."""
    registry = path.parent
    os.chown(registry, os.geteuid(), os.getegid())
    registry.chmod(0o700)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    (registry / "aside").unlink(missing_ok=True)
    path.write_bytes(text)
    path.chmod(0o644)
