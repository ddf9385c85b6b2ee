# SPDX-License-Identifier: Apache-2.0
"""Where a stage keeps what outlives it, and where it says how it is.

Owns the two directories of a stage: `state`, for itself alone (cursors, intents, audit log), and `run`, for whoever
may look (`status.json`).  systemd makes and names them (StateDirectory=, RuntimeDirectory=, systemd.exec(5)); in the
foreground they are below one directory, made when they are not there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sipc.errors import SpecError

__all__ = ("Places", "default_state")


def default_state(environ: Mapping[str, str]) -> Path:
    """Where the stages of guards in the foreground live: the XDG base directory specification's place for state.

    Raises `SpecError` for a user without a home directory, as in containers.
    """
    home = environ.get("XDG_STATE_HOME", "")
    try:
        place = Path(home) if home.startswith("/") else Path(environ.get("HOME") or "~").expanduser() / ".local/state"
    except RuntimeError as error:
        raise SpecError(
            f"uid {os.geteuid()} has no home directory, which would have the state of its guards: give --state DIR, or "
            "set XDG_STATE_HOME or HOME"
        ) from error
    return place / "sipc-guards"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The directories of one stage, and of the channels' descriptors (None: where they usually are)."""

    state: Path
    run: Path
    registry: Path | None = None

    @classmethod
    def below(cls, base: Path, guard: str, stage: str, *, registry: Path | None = None) -> Self:
        """BASE/GUARD/STAGE/state and .../run, made if they are not there.  Raises `SpecError`."""
        place = base / guard / stage
        try:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            (place / "state").mkdir(mode=0o700, exist_ok=True)
            (place / "run").mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise SpecError(
                f"{error.filename}: {error.strerror}: name a directory that this user may write in (--state)"
            ) from error
        return cls(state=place / "state", run=place / "run", registry=registry)

    @classmethod
    def of_service(cls, environ: Mapping[str, str], *, registry: Path | None = None) -> Self | None:
        """What systemd made for this service; None when it did not.  Raises `SpecError` for half of it."""
        state, run = environ.get("STATE_DIRECTORY", ""), environ.get("RUNTIME_DIRECTORY", "")
        if not state and not run:
            return None
        for name, value in (("STATE_DIRECTORY", state), ("RUNTIME_DIRECTORY", run)):
            if not Path(value).is_absolute() or ":" in value:
                raise SpecError(f"{name} is {value!r}: give one absolute path, or neither of the two and --state")
        return cls(state=Path(state), run=Path(run), registry=registry)
