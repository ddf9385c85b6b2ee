# SPDX-License-Identifier: Apache-2.0
"""The guard file to begin with: what `sipc guard init` writes.

Owns its text.  It is complete and right as it is; what it leaves out stands in it as a comment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from sipc.errors import SpecError

__all__ = ("example", "write_example")

_TEXT = """\
# A guard: stages joined by one-way channels.  Check it after each change: sipc guard check {name}
version = 1

[guard]
name = "first"
on_violation = "stop-guard"        # a stage breaks the protocol: or "stop-sender", "log"
on_quarantine_full = "stop-stage"  # no room for what a filter refuses: or "stop-guard"
# What keeps the channels one-way.  "dac": users and file modes; here all stages run as one user, so nothing in the
# kernel does.  "selinux": a policy made from this file; then each stage needs a user.
enforcement = "dac"
require = [
    "ingest -> deliver",           # data must come through; "... via NAME": and through that stage
    "not deliver -> ingest",       # and never back
    "only ingest -> deliver",      # and from nowhere else
]

# Where data comes in: {{ directory = PATH }}, {{ file = PATH }}, {{ socket = PATH }} or {{ stdin = true }}.
[stage.ingest]
source = {{ directory = {source} }}

# A filter goes between, with a channel on each side:
# [stage.scrub]
# filter = {{ python = "module:function", timeout = 5.0 }}
# filter = {{ command = ["/usr/bin/jq", "."], timeout = 5.0 }}
# quarantine = {{ directory = {quarantine}, limit = "64 MiB" }}

# Where data goes out: the same, with {{ stdout = true }}.
[stage.deliver]
sink = {{ directory = {sink} }}

# One sender, one receiver.
[channel.raw]
from = "ingest"
to = "deliver"
# slots = 4                        # the rest is as in a channel's definition
# depth = 2
# slot_size = "256 KiB"
"""


def example(folder: Path) -> str:
    """The guard file for a folder, which must be absolute.  Raises `SpecError` when the file could not name it."""
    if not str(folder).isprintable():
        raise SpecError(f"{str(folder)!r}: a guard file can not name it: choose a folder whose path can be printed")
    places = {key: json.dumps(str(folder / place), ensure_ascii=False) for key, place in (
        ("source", "in"), ("sink", "out"), ("quarantine", "quarantine"),
    )}  # fmt: skip
    return _TEXT.format(name="guard.toml", **places)


def write_example(folder: Path) -> Path:
    """Write guard.toml into a folder, and make the directories it names.  Raises `SpecError`; overwrites nothing."""
    text = example(folder.resolve())
    path = folder / "guard.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            _fill(path, file, text)
    except FileExistsError as error:
        raise SpecError(f"{error.filename}: exists already, and stays as it is: name another folder") from error
    except OSError as error:
        raise SpecError(
            f"{error.filename or path}: {error.strerror}: make room, or name a folder that this user may write in"
        ) from error
    return path


def _fill(path: Path, file: TextIO, text: str) -> None:
    """Write the file that was just made, and make the directories it names; what fails takes it away again."""
    try:
        file.write(text)
        file.flush()
        for name in ("in", "out"):
            (path.parent / name).mkdir(mode=0o700, exist_ok=True)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
