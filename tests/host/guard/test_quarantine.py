# SPDX-License-Identifier: Apache-2.0
"""Quarantine: kept whole or not at all, once, never beyond the limit, and never thrown away."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.channels import Child
from tests.support.faults import Faults, at_every_step, with_every_failure

from sipc.errors import Busy, Closed, QuarantineFull, SpecError
from sipc.guard.quarantine import QuarantineStore
from sipc.guard.verdicts import MessageId

pytestmark = pytest.mark.host

PAGE = 4096
MESSAGE = os.urandom(70_000)
MIB = 1 << 20


def identity(seq: int) -> MessageId:
    return MessageId(epoch=0xABCD, seq=seq)


def store(folder: Path, limit: int = MIB) -> QuarantineStore:
    return QuarantineStore(folder, stage="scrub", limit=limit)


def disk(folder: Path) -> int:
    """What is there, in pages, counted from outside."""
    entries = list(folder.rglob("*"))
    return sum(PAGE if path.is_dir() else -(-path.lstat().st_size // PAGE) * PAGE for path in entries)


def test_a_message_is_kept_whole_with_what_is_known_of_it(folder: Path) -> None:
    """Payload byte for byte; stage, channel, epoch, seq, reason, detail, digest; for this user alone."""
    with store(folder) as place:
        assert place.keep(MESSAGE, identity(7), channel="raw", reason="type", detail="why " * 2000)
        assert place.kept() == [identity(7)]
        assert place.used == disk(folder)
    where = folder / identity(7).name
    assert (where / "payload").read_bytes() == MESSAGE
    meta = json.loads((where / "meta.json").read_text())
    time = meta.pop("time")
    assert time.endswith("Z")
    assert meta == {
        "version": 1, "stage": "scrub", "channel": "raw", "epoch": "000000000000abcd", "seq": 7, "record": 0,
        "reason": "type", "detail": ("why " * 2000)[:4096], "size": len(MESSAGE),
        "digest": hashlib.sha256(MESSAGE).hexdigest(),
    }  # fmt: skip
    for path in (where, *where.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def test_the_same_message_twice_is_one(folder: Path) -> None:
    """In one process or the next; the first stays as it is."""
    with store(folder) as place:
        assert place.keep(b"first", identity(1), channel="raw", reason="type")
        used = place.used
        assert not place.keep(b"other", identity(1), channel="raw", reason="timeout")
        assert place.used == used
    with store(folder) as place:
        assert place.used == used
        assert not place.keep(b"other", identity(1), channel="raw", reason="timeout")
    assert (folder / identity(1).name / "payload").read_bytes() == b"first"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(sizes=st.lists(st.integers(0, 20_000), max_size=12), limit=st.integers(1, 100_000), reopen=st.booleans())
def test_the_limit_is_never_passed_and_nothing_makes_way(
    folder: Path, sizes: list[int], limit: int, reopen: bool
) -> None:
    """Whatever comes: what is on the disk stays within the limit, and whatever was kept stays whole."""
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    kept: dict[MessageId, bytes] = {}
    place = store(folder, limit)
    for seq, size in enumerate(sizes):
        data = os.urandom(size)
        before = disk(folder)
        try:
            place.keep(data, identity(seq), channel="raw", reason="type")
            kept[identity(seq)] = data
        except QuarantineFull:
            assert before + 2 * PAGE + -(-size // PAGE) * PAGE > limit
        assert place.used == disk(folder) <= limit
        assert place.kept() == sorted(kept)
        if reopen:
            place.close()
            place = store(folder, limit)
    place.close()
    assert all((folder / one.name / "payload").read_bytes() == data for one, data in kept.items())


def test_room_that_was_made_is_found_without_a_restart(folder: Path) -> None:
    """And what lies there besides counts, whoever put it there."""
    with store(folder, 5 * PAGE) as place:
        place.keep(b"", identity(1), channel="raw", reason="type")
        (folder / "note").write_bytes(bytes(PAGE + 1))
        place.keep(b"", identity(2), channel="raw", reason="type")
        with pytest.raises(QuarantineFull, match=str(folder)):
            place.keep(b"x", identity(3), channel="raw", reason="type")
        shutil.rmtree(folder / identity(1).name)
        with pytest.raises(QuarantineFull):
            place.keep(b"x", identity(3), channel="raw", reason="type")
        (folder / "note").unlink()
        assert place.keep(b"x", identity(3), channel="raw", reason="type")


def test_a_killed_stage_keeps_all_of_a_message_or_none(faults: Faults, folder: Path) -> None:
    """Killed at every step; the message comes again, is kept once, and nothing half written is left or counted."""

    def keep() -> int:
        with store(folder) as place:
            place.keep(MESSAGE, identity(2), channel="raw", reason="type")
        return 0

    def check(whole: bool) -> None:
        names = {name for name in os.listdir(folder) if not name.startswith(".")}
        assert names in ([{identity(1).name, identity(2).name}] if whole else
                         [{identity(1).name}, {identity(1).name, identity(2).name}])  # fmt: skip
        for name in names:
            assert sorted(os.listdir(folder / name)) == ["meta.json", "payload"]
            assert (folder / name / "payload").read_bytes() in (MESSAGE, b"first")
            json.loads((folder / name / "meta.json").read_text())
        with store(folder) as place:
            place.keep(MESSAGE, identity(2), channel="raw", reason="type")
            assert place.kept() == [identity(1), identity(2)]
            assert place.used == disk(folder)
        assert (folder / identity(2).name / "payload").read_bytes() == MESSAGE
        assert len(os.listdir(folder)) == 2
        shutil.rmtree(folder / identity(2).name)

    with store(folder) as place:
        place.keep(b"first", identity(1), channel="raw", reason="type")
    assert at_every_step(faults, keep, check) > 20


def test_what_was_there_already_is_on_disk_too(faults: Faults, folder: Path) -> None:
    """Killed after the rename and before the directory was synced: the next one, who finds it, syncs that."""

    def keep() -> int:
        with store(folder) as place:
            return int(place.keep(MESSAGE, identity(1), channel="raw", reason="type"))

    first, again = faults.act(keep), faults.act(keep)
    assert (first.code, again.code) == (1, 0)
    assert (first.calls.count("fsync"), again.calls.count("fsync")) == (4, 1)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failing_disk_is_an_error_before_the_message_is_done(code: int, faults: Faults, folder: Path) -> None:
    """Every call fails in turn: what was said to be kept is there, what was not is kept the next time."""

    def keep() -> int:
        with store(folder) as place:
            place.keep(MESSAGE, identity(1), channel="raw", reason="type")
        return 0

    def check(well: bool) -> None:
        if well:
            assert (folder / identity(1).name / "payload").read_bytes() == MESSAGE
        with store(folder) as place:
            place.keep(MESSAGE, identity(1), channel="raw", reason="type")
            assert place.used == disk(folder)
        assert os.listdir(folder) == [identity(1).name]
        assert (folder / identity(1).name / "payload").read_bytes() == MESSAGE
        shutil.rmtree(folder / identity(1).name)

    with_every_failure(faults, keep, check, code)


def test_one_process_at_a_time(folder: Path) -> None:
    """Two would count each without the other."""

    def second() -> None:
        with pytest.raises(Busy, match="another process"):
            store(folder)

    with store(folder) as place:
        Child(second).result()
    with pytest.raises(Closed):
        place.keep(b"", identity(1), channel="raw", reason="type")
    with pytest.raises(Closed):
        place.kept()


def test_a_directory_that_others_may_write_is_refused(folder: Path) -> None:
    """They could remove what is kept; nor a link, nor nothing, nor a limit that keeps nothing."""
    with pytest.raises(SpecError, match="limit"):
        store(folder, 0)
    (folder / "link").symlink_to(folder)
    for name in ("link", "absent"):
        with pytest.raises(SpecError, match=name):
            store(folder / name)
    folder.chmod(0o770)
    with pytest.raises(SpecError, match="can be changed by others"):
        store(folder)


def test_a_reason_that_is_no_word_is_refused(folder: Path) -> None:
    """Here as everywhere: it is the one that is logged."""
    with store(folder) as place, pytest.raises(SpecError, match="a reason must be"):
        place.keep(b"", identity(1), channel="raw", reason="two words")
