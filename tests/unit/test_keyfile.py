# SPDX-License-Identifier: Apache-2.0
"""Key files: taken when nobody else could read or write them, refused otherwise, on what is open and not on a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.keys import RIGHT, key_file

from sipc import keyfile
from sipc.errors import Denied, SpecError


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700, 0o500])
def test_a_file_of_ones_own_that_others_can_not_touch_is_read_as_it_is(mode: int, tmp_path: Path) -> None:
    """Every byte, a newline at the end too."""
    content = RIGHT + b"\n"
    assert keyfile.load(key_file(tmp_path, content, mode=mode)) == content


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_any_right_of_others_is_refused(bits: int, tmp_path: Path) -> None:
    """Read, write or execute; of the group or of all."""
    with pytest.raises(Denied, match="others may get at the key"):
        keyfile.load(key_file(tmp_path, mode=0o400 | bits))


@pytest.mark.parametrize("size", [0, 1, 31, 4097, 100_000])
def test_too_few_or_too_many_bytes_are_refused(size: int, tmp_path: Path) -> None:
    """A key that can be guessed, and a file that is no key."""
    with pytest.raises(SpecError, match="not 32 to 4096"):
        keyfile.load(key_file(tmp_path, bytes(size)))


@pytest.mark.parametrize("size", [32, 33, 64, 4096])
def test_every_size_between_is_a_key(size: int, tmp_path: Path) -> None:
    """Longer than what BLAKE2b takes as a key as well."""
    assert len(keyfile.load(key_file(tmp_path, os.urandom(size)))) == size


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner can read it, whatever its mode."""
    path = key_file(tmp_path)
    os.chown(path, 54321, -1)
    with pytest.raises(Denied, match="belongs to uid 54321"):
        keyfile.load(path)


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A link to a good key, a pipe that nobody writes to, a directory, a device."""
    link, pipe, folder = tmp_path / "link", tmp_path / "pipe", tmp_path / "folder"
    link.symlink_to(key_file(tmp_path))
    os.mkfifo(pipe, 0o600)
    folder.mkdir(mode=0o700)
    for path in (link, pipe, folder, Path("/dev/zero")):
        with pytest.raises(Denied):
            keyfile.load(path)


def test_a_file_that_is_not_there_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    """And the message holds no key."""
    with pytest.raises(SpecError, match="head -c 32 /dev/urandom"):
        keyfile.load(tmp_path / "none")
