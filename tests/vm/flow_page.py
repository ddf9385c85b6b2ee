# SPDX-License-Identifier: Apache-2.0
"""docs/ipc-and-information-flow.md, from what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.vm.flow import Refused, Row

__all__ = ("Happened", "page")


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One run: what came of each row, by step, and of what was open when the rules went, by row's number."""

    rows: Sequence[Row]
    said: Sequence[Mapping[str, str]]
    refused: Refused
    revoked: Mapping[int, Mapping[str, str]]
    refused_after: Refused


def page(happened: Happened) -> str:
    """The document."""
    return ""
