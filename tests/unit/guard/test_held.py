# SPDX-License-Identifier: Apache-2.0
"""Batches in hand: what was added is read back, whole blocks only, whatever a kill left; and who looks from outside."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.descriptors import descriptors

from sipc.errors import SpecError
from sipc.guard import held as module
from sipc.guard.held import Batch, Held, blocks_in_hand

BLOCKS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), min_size=1, max_size=6)


def test_a_batch_is_read_back_as_it_came(tmp_path: Path) -> None:
    """Small messages, none at all, large ones and very many; by name, epoch, block and record."""
    blocks = [[b""], [b"x" * 100_000, b"y"], [b"%d" % number for number in range(3000)], [b"z" * 40_000] * 3]
    held = Held(tmp_path)
    assert held.pending == []
    batch = held.begin("raw", 2**64 - 1)
    for seq, messages in enumerate(blocks, 5):
        held.add(batch, seq, seq - 5, messages)
    held.close()
    held = Held(tmp_path)
    assert held.pending == [batch]
    assert held.batch(batch.number) is held.pending[0]
    assert batch.messages == [message for messages in blocks for message in messages]
    assert batch.blocks == [(seq, seq - 5, len(messages)) for seq, messages in enumerate(blocks, 5)]
    assert (batch.channel, batch.epoch, batch.size) == ("raw", 2**64 - 1, sum(map(len, batch.messages)))
    assert (held.newest("raw", 2**64 - 1), held.newest("raw", 1), held.newest("other", 2**64 - 1)) == (8, 0, 0)
    held.close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_two_batches_wait_in_their_order_and_one_that_is_done_does_not(tmp_path: Path) -> None:
    """Over many turns, each looked at anew."""
    expected: list[int] = []
    for turn in range(1, 8):
        held = Held(tmp_path)
        assert [batch.number for batch in held.pending] == expected
        assert blocks_in_hand(tmp_path) == 2 * len(expected)
        while len(held.pending) > 1 or (held.pending and turn % 3):
            held.done(held.pending.pop(0))
        batch = held.begin("raw", 1)
        held.add(batch, 2 * turn, 0, [b"a"])
        held.add(batch, 2 * turn + 1, 0, [b"b"])
        expected = [one.number for one in held.pending] + [batch.number]
        assert held.newest("raw", 1) <= 2 * turn
        held.close()


@settings(max_examples=60, deadline=None)
@given(blocks=BLOCKS, older=BLOCKS, data=st.data())
def test_a_block_that_was_cut_is_not_there(
    blocks: list[list[bytes]], older: list[list[bytes]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any byte of the last frame not yet written, over what an older batch left: all blocks before it are whole."""
    folder = tmp_path_factory.mktemp("held")
    held = Held(folder)
    for number in range(2):  # the file of the batch to come, and the other
        batch = held.begin("old", 1)
        for seq, messages in enumerate(older, 1):
            held.add(batch, seq, 0, messages)
        held.done(batch)
        assert batch.number == number + 1
    batch = held.begin("raw", 1)
    for seq, messages in enumerate(blocks[:-1], 1):
        held.add(batch, seq, 0, messages)
    path = folder / f"held.{batch.number % 2}"
    before = path.read_bytes()
    held.add(batch, len(blocks), 0, blocks[-1])
    held.close()
    after = path.read_bytes()
    cut = data.draw(st.integers(module._PAGE, len(after)))
    path.write_bytes(before[: module._PAGE] + after[module._PAGE : cut] + before[cut:])
    held = Held(folder)
    whole = [message for messages in blocks[:-1] for message in messages]
    assert [one.messages for one in held.pending] == ([whole] if whole or len(blocks) > 1 else [])
    assert blocks_in_hand(folder) == len(blocks) - 1
    held.close()


@pytest.mark.parametrize("at", range(5))
def test_a_begin_that_was_cut_leaves_nothing_in_hand(at: int, tmp_path: Path) -> None:
    """Killed before any of its stores: the batch that was there is done, and the new one is empty."""
    held = Held(tmp_path)
    for _ in range(3):
        batch = held.begin("raw", 1)
        held.add(batch, batch.number, 0, [b"message"])
        held.done(batch)
    file = held._files[0]  # of batch 2, and next of batch 4
    for word, value in ((module._LENGTH, 0), (module._NUMBER, 4), (module._BLOCKS, 0))[:at]:
        file.words[word] = value
    held.close()
    held = Held(tmp_path)
    assert held.pending == []
    assert blocks_in_hand(tmp_path) == 0
    batch = held.begin("raw", 1)
    assert batch.number > 3
    held.close()


@pytest.mark.parametrize("in_hand", [1, 2, 3])
def test_a_batch_in_hand_is_not_written_over_after_a_begin_that_was_cut(in_hand: int, tmp_path: Path) -> None:
    """Killed before the first message of a batch was in its file, and again later: the one before it is still there."""
    for number in range(1, in_hand + 1):
        held = Held(tmp_path)
        for done in held.pending:
            held.done(done)
        batch = held.begin("raw", 1)
        held.add(batch, number, 0, [b"%d" % number])
        held.close()
    for _ in range(3):
        held = Held(tmp_path)
        held.begin("raw", 1)
        held.close()
    held = Held(tmp_path)
    held.add(held.begin("raw", 1), in_hand + 1, 0, [b"next"])
    held.close()
    held = Held(tmp_path)
    assert [batch.messages for batch in held.pending] == [[b"%d" % in_hand], [b"next"]]
    held.close()


def test_what_makes_no_sense_is_refused_and_says_nothing_outside(tmp_path: Path) -> None:
    """A length beyond the file, a count beyond the length: an error, not an endless read or a message of garbage."""
    before = descriptors()
    held = Held(tmp_path)
    batch = held.begin("raw", 1)
    held.add(batch, 1, 0, [b"message"])
    held.close()
    path = tmp_path / f"held.{batch.number % 2}"
    whole = path.read_bytes()
    frame = module._PAGE
    for at, value in ((16, 1 << 40), (frame + 24, 1 << 40), (frame + 24, 2), (frame + 24 + 8 + 4 + 3, 1 << 63)):
        path.write_bytes(whole[:at] + struct.pack("<Q", value) + whole[at + 8 :])
        held = Held(tmp_path)
        assert held.pending == []
        with pytest.raises(SpecError, match="makes no sense"):
            held.check({1})
        held.close()
    path.write_bytes(b"garbage" * 10)
    assert blocks_in_hand(tmp_path) == 0
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        blocks_in_hand(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert blocks_in_hand(tmp_path) == 0
    assert descriptors() == before


def test_a_file_that_a_power_failure_tore_is_given_up_with_its_channel(tmp_path: Path) -> None:
    """The words were on the disk and the frames were not: nothing of it, and the next batches are as ever."""
    held = Held(tmp_path)
    held.add(held.begin("raw", 1), 1, 0, [b"message"] * 3)
    held.close()
    path = tmp_path / "held.1"
    whole = path.read_bytes()
    for torn in (whole[: module._PAGE], whole[: module._PAGE].ljust(len(whole), b"\0"), whole[:-1]):
        path.write_bytes(torn)
        held = Held(tmp_path)
        assert (held.pending, held.check({2}), held.newest("raw", 1)) == ([], False, 0)
        assert blocks_in_hand(tmp_path) == 0
        held.add(held.begin("raw", 2), 1, 0, [b"next"])
        held.close()
        held = Held(tmp_path)
        assert [batch.messages for batch in held.pending] == [[b"next"]]
        assert held.check({2})
        held.close()


def test_a_file_that_a_large_batch_made_is_made_small_again(tmp_path: Path) -> None:
    """The state directory does not stay as large as the largest message ever was."""
    held = Held(tmp_path)
    for number in range(3):
        batch = held.begin("raw", 1)
        held.add(batch, number + 1, 0, [bytes(module._KEEP + 1) if number == 0 else b"small"])
        held.done(batch)
    held.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4 * module._PAGE


@given(blocks=st.lists(st.integers(1, 6), min_size=1, max_size=6), data=st.data())
def test_places_and_blocks_agree(blocks: list[int], data: st.DataObject) -> None:
    """Messages by their place, and by block and record."""
    batch = Batch(number=1, channel="raw", epoch=1)
    named: list[tuple[int, int]] = []
    for seq, count in enumerate(blocks, 10):
        first = data.draw(st.integers(0, 3))
        batch.take(seq, first, [b""] * count)
        named += [(seq, first + number) for number in range(count)]
    low = data.draw(st.integers(0, len(named)))
    high = data.draw(st.integers(low, len(named)))
    found = [(seq, first + number) for seq, first, count in batch.blocks_of(low, high) for number in range(count)]
    assert found == named[low:high]
    for place, (seq, record) in enumerate(named):
        assert batch.place_of(seq, record) == place
        assert batch.place_of(seq, record + 1) == place + 1
    assert batch.place_of(9, 100) == 0
    assert batch.place_of(1000, 0) == len(named)
