# SPDX-License-Identifier: Apache-2.0
"""SIGTERM ends what may be ended, once; what follows is not interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from sipc.guard.stopping import Stopped, Stopping


@pytest.fixture
def stop() -> Iterator[Stopping]:
    """One that listens."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = Stopping()
    made.listen()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("inside", [False, True])
def test_a_second_signal_does_not_interrupt_the_closing_up(inside: bool, stop: Stopping) -> None:
    """Whether the first one came where it may end the stage, or before that."""
    if not inside:
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped), stop:
        signal.raise_signal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    with pytest.raises(Stopped):
        stop.check()
