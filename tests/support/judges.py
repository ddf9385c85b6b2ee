# SPDX-License-Identifier: Apache-2.0
"""Python filters for the tests of running stages."""

from __future__ import annotations

import os
import random

from sipc.guard.verdicts import Drop, Pass, Quarantine, Verdict


def judge(message: bytes) -> Verdict:
    """Pass a message with a mark, but for what begins with `drop` or `keep`."""
    if message.startswith(b"drop"):
        return Drop("asked-to")
    if message.startswith(b"keep"):
        return Quarantine("asked-to", "it said so")
    return Pass(b"judged " + message)


def moody(message: bytes) -> Verdict:
    """The same, but what is passed has another end each time, of another length."""
    verdict = judge(message)
    if isinstance(verdict, Pass):
        return Pass(verdict.payload + b"|" + os.urandom(random.choice((0, 10, 5000, 9000))))
    return verdict
