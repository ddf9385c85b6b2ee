# SPDX-License-Identifier: Apache-2.0
"""Where a stage keeps what it knows: by systemd, or below one directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sipc.errors import SpecError
from sipc.guard.places import Places, default_state


def test_in_the_foreground_the_places_are_made(tmp_path: Path) -> None:
    """The state for its user alone, the status for all; twice is no mistake."""
    for _ in range(2):
        places = Places.below(tmp_path / "base", "g", "s")
    assert places == Places(state=tmp_path / "base/g/s/state", run=tmp_path / "base/g/s/run")
    assert places.state.stat().st_mode & 0o777 == 0o700
    assert places.run.stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="--state"):
        Places.below(tmp_path / "file", "g", "s")


def test_the_default_follows_the_xdg_specification() -> None:
    """A relative XDG_STATE_HOME is to be ignored."""
    assert default_state({"XDG_STATE_HOME": "/x"}) == Path("/x/sipc-guards")
    for variables in ({"HOME": "/h"}, {"HOME": "/h", "XDG_STATE_HOME": "relative"}):
        assert default_state(variables) == Path("/h/.local/state/sipc-guards")


def test_a_service_has_the_places_that_systemd_made() -> None:
    """Both, or none; and one directory each."""
    both = {"STATE_DIRECTORY": "/var/lib/x", "RUNTIME_DIRECTORY": "/run/x"}
    assert Places.of_service(both) == Places(state=Path("/var/lib/x"), run=Path("/run/x"))
    assert Places.of_service({}) is None
    for name in both:
        for wrong in ("", "relative", "/a:/b"):
            with pytest.raises(SpecError, match=name):
                Places.of_service({**both, name: wrong})
