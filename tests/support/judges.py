# SPDX-License-Identifier: Apache-2.0
"""Python filters for the tests of running stages."""

from __future__ import annotations

from sipc.guard.verdicts import Drop, Pass, Quarantine, Verdict


def judge(message: bytes) -> Verdict:
    """Pass a message with a mark, but for what begins with `drop` or `keep`."""
    if message.startswith(b"drop"):
        return Drop("asked-to")
    if message.startswith(b"keep"):
        return Quarantine("asked-to", "it said so")
    return Pass(b"judged " + message)
