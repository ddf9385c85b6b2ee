# SPDX-License-Identifier: Apache-2.0
"""Definitions that are wrong, or too much for this kernel: refused by file, line or key, and limit; nothing is made."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.channels import definition, make
from tests.support.objects import assert_empty, assert_whole, snapshot
from tests.support.program import limit, program, refusal, too_much, write

import sipc
from sipc.definitions import load, parse
from sipc.spec import ChannelSpec, Enforcement

pytestmark = pytest.mark.host

CHANNEL = "[channel.c]\n"
_WRONG_TYPES = {
    "slots": '"4"', "depth": "2.0", "slot_size": "true", "max_message": "[1]", "checksum": '"yes"', "wire": "2",
    "transport": "1", "backend": "[]", "segment_creator": "{}", "enforcement": "false", "key_path": "7", "type": "1",
    "sender": '"alice"', "receiver": "[1]",
}  # fmt: skip
# text -> what the error must name, besides the file
WRONG: dict[str, list[str]] = {
    "": ["defines no channel"],
    "channel = 3": ["defines no channel"],
    "[chanel.c]": ["unknown key 'chanel'"],
    "[channel.c]\nslots = 4\nslots = 5\nx = 1": ["line 3"],
    "[channel.c\n": ["line 1"],
    "\n\nx = \n": ["line 3"],
    "x = " + "[" * 20_000: ["not TOML"],
    "channel.c = 1": ["[channel.c]", "must be a table"],
    f"{CHANNEL}slot = 4": ["[channel.c]", "unknown key 'slot'", "slots"],
    f"{CHANNEL}sender = {{ name = 'x' }}": ["[channel.c]", "sender", "unknown key 'name'"],
    **{f"{CHANNEL}{key} = {value}": ["[channel.c]", key] for key, value in _WRONG_TYPES.items()},
    f"{CHANNEL}slots = 0": ["slots = 0", "from 1 to 65535"],
    f"{CHANNEL}depth = 513": ["depth = 513", "from 1 to 512"],
    f"{CHANNEL}slot_size = {1 << 40}": ["slot_size", f"from 1 to {1 << 30}"],
    f"{CHANNEL}max_message = -1": ["max_message = -1", "from 1"],
    f"{CHANNEL}backend = 'kdbus'": ["backend = 'kdbus'", "'sysv', 'posix'"],
    f"{CHANNEL}key_path = '/etc'": ["key_path", "libsipc"],
    f"{CHANNEL}wire = 'libsipc'": ["key_path"],
    f"{CHANNEL}wire = 'libsipc'\nkey_path = '/nowhere/at/all'": ["key_path = '/nowhere/at/all'", "No such file"],
    f'{CHANNEL}wire = "libsipc"\nkey_path = "a\\u0000b"': ["key_path"],
    f"{CHANNEL}wire = 'libsipc'\nkey_path = '/etc'\nslots = 2": ["slots = 1"],
    f"{CHANNEL}wire = 'libsipc'\nkey_path = '/etc'\nbackend = 'posix'": ["System V only", "'posix'"],
    f"{CHANNEL}transport = 'queue'\nsegment_creator = 'sender'": ["no segment"],
    f"{CHANNEL}sender = {{ user = 'nobody-of-that-name' }}": ["sender.user = 'nobody-of-that-name'"],
    f'{CHANNEL}sender = {{ user = "a\\u0000b" }}': ["sender.user"],
    f"{CHANNEL}sender = {{ user = {1 << 80} }}": ["sender: uid = "],
    f"{CHANNEL}sender = {{ user = -1 }}": ["sender: uid = -1"],
    f"{CHANNEL}receiver = {{ user = 0, group = 'no-such-group' }}": ["receiver.group = 'no-such-group'"],
    f'{CHANNEL}receiver = {{ user = 0, group = "a\\u0000b" }}': ["receiver.group"],
    f"{CHANNEL}receiver = {{ group = 0 }}": ["receiver has a group but no user"],
    f"{CHANNEL}sender = {{ user = 1, group = 5 }}\nreceiver = {{ user = 2, group = 5 }}": ["one group (5)"],
    **{
        f'[channel."{name}"]': [f"channel name {name!r}"]
        for name in ("", "A", ".c", "-c", "_c", "a/b", "..", "a b", "ä", "a" * 65, "c\n")
    },
}
# Only the helper knows what this kernel holds, so `parse` takes these.
_KERNEL_TOO = ("/nowhere/at/all", "a\\u0000b")


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text[:60]))
def test_a_wrong_definition_is_refused_by_name_and_nothing_is_made(text: str, tmp_path: Path) -> None:
    """File, line or key, and what would do, on stderr; exit code 3; not even a registry comes to be."""
    file = write(tmp_path, text.replace('"c\n"', '"c\\n"'))
    before = snapshot()
    error = refusal(program(tmp_path / "registry", "create", file), 3)
    for part in (str(file), *WRONG[text]):
        assert part in error
    assert snapshot() == before
    assert_empty(tmp_path / "registry")
    if "key_path" not in text or not any(part in text for part in _KERNEL_TOO):
        with pytest.raises(sipc.SpecError) as caught:
            parse(file.read_text(), "SOURCE", enforcement=Enforcement.DAC)
        assert str(caught.value).startswith("SOURCE: ")


@given(st.one_of(st.text(), st.text(alphabet='[]{}channel.c="\n 01slotdep#_')))
def test_no_text_makes_parse_raise_anything_else(text: str) -> None:
    """Arbitrary text is channels or a `SpecError`."""
    with contextlib.suppress(sipc.SpecError):
        assert all(isinstance(spec, ChannelSpec) for spec in parse(text, "x", enforcement=Enforcement.DAC).values())


@pytest.mark.parametrize("case", ["queue", "message", "posix-queue", "posix-message"])
def test_what_the_kernel_can_not_hold_is_refused_with_file_key_and_limit(case: str, tmp_path: Path) -> None:
    """One more than the limit: named, with the command that would lift it; nothing is made."""
    text, key, name = too_much()[case]
    file = write(tmp_path, text)
    before = snapshot()
    error = refusal(program(tmp_path / "registry", "create", file), 3)
    for part in (f"{file}: [channel.c]: {key} needs {name} = ", f"limit is {limit(name)}", f"sysctl -w {name}="):
        assert part in error
    assert snapshot() == before
    assert_empty(tmp_path / "registry")


def test_what_the_kernel_just_holds_is_made(registry: Path) -> None:
    """The limits themselves are allowed."""
    msgmax, msgmnb = limit("kernel.msgmax"), limit("kernel.msgmnb")
    make(registry, "c", transport="queue", slot_size=msgmax - 32, depth=msgmnb // msgmax)
    assert_whole(registry, "c")
    make(registry, "c", replacing=True, backend="posix", depth=limit("fs.mqueue.msg_max"))
    assert_whole(registry, "c")


def test_files_that_are_not_there_or_no_text_are_refused_by_name(tmp_path: Path) -> None:
    """A missing file, a binary one, an empty directory, a directory that may not be entered."""
    empty = tmp_path / "empty"
    empty.mkdir()
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    for path, reason in (
        (tmp_path / "missing.toml", "No such file"),
        (binary, "not UTF-8"),
        (empty, "no channel is defined there"),
        (loop, "symbolic links"),
        (binary / "below", "Not a directory"),
        (Path("/dev/zero"), "has more than 1048576 characters"),
    ):
        error = refusal(program(tmp_path / "registry", "create", path), 3)
        assert str(path) in error
        assert reason in error
        with pytest.raises(sipc.SpecError, match=reason):
            load([path], enforcement=Enforcement.DAC)


def test_a_channel_defined_twice_is_refused_with_both_files(tmp_path: Path) -> None:
    """Which of two definitions counts is never a matter of order."""
    folder = tmp_path / "channels.d"
    folder.mkdir()
    first, second = (write(folder, definition("c"), name) for name in ("a.toml", "b.toml"))
    write(folder, "not TOML, and not read", "c.toml.bak")
    error = refusal(program(tmp_path / "registry", "create", folder), 3)
    assert str(first) in error
    assert str(second) in error
    assert "'c'" in error
