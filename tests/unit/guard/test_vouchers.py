# SPDX-License-Identifier: Apache-2.0
"""What the supervisor vouches for: a process's number, while it had it, and nothing that another could have put."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.support.descriptors import descriptors
from tests.support.guards import SMALL

from sipc.guard.config import parse
from sipc.guard.places import Places
from sipc.guard.vouchers import Voucher, Vouchers, vouching

GUARD = parse(SMALL.replace("[stage.a]", "[stage.a]\nuser = 0").replace("[stage.b]", "[stage.b]\nuser = 0"), "F")
PID = 4711


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Places]:
    """Of both stages."""
    return {name: Places.below(tmp_path, "g", name) for name in "ab"}


def made(places: dict[str, Places]) -> Vouchers:
    """A supervisor's."""
    return Vouchers.of(GUARD, places, dict.fromkeys("ab", os.getegid()))


def test_a_number_is_vouched_for_while_the_process_had_it(places: dict[str, Places]) -> None:
    """From its start until it was reaped; another number, another stage, and another time are not."""
    vouchers, ask = made(places), vouching(places["b"], "a")
    now = int(time.time())
    assert not ask(PID, now)
    vouchers.began("a", PID, now - 100)
    assert [ask(PID, second) for second in (now - 101, now - 100, now + 50)] == [False, True, True]
    assert not ask(PID + 1, now)
    assert not vouching(places["b"], "b")(PID, now)
    vouchers.ended("a", PID)
    assert ask(PID, now)
    assert not ask(PID, int(time.time()) + 1)


def test_only_who_judges_is_told(places: dict[str, Places]) -> None:
    """A source has nobody to judge, and nothing is written beside it; the file is the supervisor's."""
    vouchers = made(places)
    vouchers.began("a", PID, 1)
    vouchers.began("b", PID, 1)
    assert not (places["a"].state.parent / "senders").exists()
    path = places["b"].state.parent / "senders"
    assert path.read_text() == f"a {PID} 1 -\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert made_of(SMALL, places).senders == {}


def made_of(text: str, places: dict[str, Places]) -> Vouchers:
    """Of another guard."""
    return Vouchers.of(parse(text, "F"), places, dict.fromkeys("ab", os.getegid()))


def test_a_later_run_knows_what_an_earlier_one_started(places: dict[str, Places]) -> None:
    """What was left open ended with its supervisor."""
    made(places).began("a", PID, int(time.time()))
    made(places)
    assert vouching(places["b"], "a")(PID, int(time.time()))
    assert not vouching(places["b"], "a")(PID, int(time.time()) + 1)


def test_old_starts_are_forgotten(places: dict[str, Places]) -> None:
    """The file does not grow for ever."""
    vouchers = made(places)
    for number in range(1, 300):
        vouchers.known["b"].append(Voucher(stage="a", pid=number, began=1, ended=2))
    vouchers.began("a", PID, 1)
    assert len((places["b"].state.parent / "senders").read_text().splitlines()) == 256
    assert vouching(places["b"], "a")(PID, 5)


@pytest.mark.parametrize(
    "text",
    ["", "a 4711 1", "a 4711 1 - -\n", "a 4711 -1 -\n", "a 04711 1 -\n", "a 4711 1 -\nx\n", "a 4711 1 -\n" * 9000],
    ids=lambda text: repr(text[:20]),
)
def test_what_no_supervisor_writes_vouches_for_nobody(text: str, places: dict[str, Places]) -> None:
    """One line that is none, and none counts."""
    (places["b"].state.parent / "senders").write_text(text)
    assert not vouching(places["b"], "a")(PID, 5)


def test_a_file_that_another_could_have_made_vouches_for_nobody(places: dict[str, Places]) -> None:
    """A link, a pipe, a directory, one that others may write, one of another user; and none of them stays open."""
    before = descriptors()
    path = places["b"].state.parent / "senders"
    good = f"a {PID} 1 -\n"
    path.write_text(good)
    assert vouching(places["b"], "a")(PID, 5)
    path.chmod(0o660)
    assert not vouching(places["b"], "a")(PID, 5)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 4201, 4201)
        assert not vouching(places["b"], "a")(PID, 5)
        os.chown(path, 0, 0)
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    assert not vouching(places["b"], "a")(PID, 5)
    path.unlink()
    os.mkfifo(path)
    assert not vouching(places["b"], "a")(PID, 5)
    path.unlink()
    path.mkdir()
    assert not vouching(places["b"], "a")(PID, 5)
    assert descriptors() == before
