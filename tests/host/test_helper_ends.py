# SPDX-License-Identifier: Apache-2.0
"""What the helper asks of a channel's ends before it makes the channel, each rule attacked by itself and together."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.channels import definition
from tests.support.objects import assert_empty, assert_whole, snapshot
from tests.support.program import RECEIVER, SENDER, USERS, program, refusal, write

from sipc.admission import refusals
from sipc.definitions import parse
from sipc.errors import Denied, SpecError
from sipc.helper import create
from sipc.registry import Registry
from sipc.spec import Enforcement

pytestmark = pytest.mark.host

CONTENT = b"what an end runs"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The file that the sender of the tests runs: root's, nobody else may write it."""
    path = tmp_path / "end"
    path.write_bytes(CONTENT)
    path.chmod(0o755)
    return path


def ends(runs: Path, *, sender: str = "", user: int | None = SENDER.uid, digest: str | None = SHA) -> str:
    """A definition whose sender runs the file, with its digest."""
    more = "" if digest is None else f', digest = "{digest}"'
    return (
        f'{definition("c")}sender = {{ user = {user}, program = "{runs}"{more}{sender} }}\n'
        f"receiver = {{ user = {RECEIVER.uid} }}\n"
    )


def test_a_channel_whose_ends_are_as_they_should_be_is_made(runs: Path, registry: Path, tmp_path: Path) -> None:
    """And the rules stand in no descriptor: they are no part of the channel."""
    done = program(registry, "create", write(tmp_path, ends(runs)))
    assert (done.returncode, done.stderr) == (0, "")
    text = assert_whole(registry, "c").to_json()
    assert SHA not in text
    assert str(runs) not in text
    assert set(json.loads(text)["sender"]) == {"uid", "gid", "type"}


def no_file(runs: Path) -> None:
    runs.unlink()


def a_directory(runs: Path) -> None:
    runs.unlink()
    runs.mkdir()


def a_pipe(runs: Path) -> None:
    runs.unlink()
    os.mkfifo(runs, 0o644)


def a_link(runs: Path) -> None:
    runs.rename(runs.with_name("real"))
    runs.symlink_to("real")


def behind_a_link(runs: Path) -> None:
    (runs.parent / "real").mkdir()
    (runs.parent / "real" / "end").write_bytes(CONTENT)
    runs.unlink()


def of_the_other_end(runs: Path) -> None:
    assert os.geteuid() == 0, "this test gives files away: run it as root"
    os.chown(runs, RECEIVER.uid or 0, 0)


def below_the_other_end(runs: Path) -> None:
    assert os.geteuid() == 0, "this test gives files away: run it as root"
    os.chown(runs.parent, RECEIVER.uid or 0, 0)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (no_file, "sender program: {path} is not there: install it"),
    "a directory": (a_directory, "sender program: {path} is no regular file"),
    "a pipe": (a_pipe, "sender digest: {path} is no regular file"),
    "a link": (a_link, "sender program: {path} is a link, or lies behind one: name {folder}/real"),
    "writable by its group": (lambda runs: runs.chmod(0o775), "sender mode: {path} has mode 0775"),
    "writable by all": (lambda runs: runs.chmod(0o757), "run 'chmod go-w {path}'"),
    "in a folder that all may write": (lambda runs: runs.parent.chmod(0o777), "sender mode: {folder} has mode 0777"),
    "the other end's": (of_the_other_end, "sender owner: {path} belongs to uid 2, the user of the other end"),
    "in a folder of the other end's": (below_the_other_end, "sender owner: {folder} belongs to uid 2"),
    "replaced": (lambda runs: runs.write_bytes(b"another"), "sender digest: {path} has "),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_rule_refuses_with_the_end_the_rule_and_what_to_do(
    attack: str, runs: Path, registry: Path, tmp_path: Path
) -> None:
    """Exit code 4; nothing is made."""
    act, words = ATTACKS[attack]
    file = write(tmp_path, ends(runs))
    act(runs)
    said = refusal(program(registry, "create", file), 4)
    assert "[channel.c]: sender" in said
    assert words.format(path=runs, folder=runs.parent) in said
    assert_empty(registry)


def test_a_folder_behind_a_link_is_told_by_its_own_name(runs: Path, registry: Path, tmp_path: Path) -> None:
    """Whoever may change a link on the way could lead elsewhere."""
    behind_a_link(runs)
    (tmp_path / "way").symlink_to("real")
    file = write(tmp_path, ends(tmp_path / "way" / "end"))
    said = refusal(program(registry, "create", file), 4)
    assert f"is a link, or lies behind one: name {tmp_path}/real/end" in said


def test_an_account_that_this_host_has_not_is_refused(runs: Path, registry: Path, tmp_path: Path) -> None:
    """By number too, once the definition says what the end runs; a name is refused by every definition."""
    file = write(tmp_path, ends(runs, user=54321, sender=", group = 54322"))
    said = refusal(program(registry, "create", file), 4)
    assert "sender user: this host has no account with uid 54321: create it" in said
    assert "sender group: this host has no group with gid 54322: create it" in said
    named = write(tmp_path, ends(runs).replace(f"user = {SENDER.uid}", 'user = "sipc-nobody"'))
    assert "is no user here: create it" in refusal(program(registry, "create", named), 3)
    assert_empty(registry)


def test_all_rules_are_evaluated_and_all_refusals_told(runs: Path, registry: Path, tmp_path: Path) -> None:
    """Of both ends, and of every channel that was asked for, before the first one is made."""
    other = tmp_path / "other"
    other.write_bytes(CONTENT)
    other.chmod(0o666)
    runs.chmod(0o777)
    text = ends(runs, user=54321, digest="0" * 64) + ends(other).replace("[channel.c]", "[channel.d]")
    plain = f"user = {RECEIVER.uid} }}"
    text = text.replace(plain, f'user = {RECEIVER.uid}, program = "{tmp_path}" }}', 1)
    said = refusal(program(registry, "create", write(tmp_path, text)), 4)
    for words in (
        "[channel.c]: sender user: ", "[channel.c]: sender mode: ", "[channel.c]: sender digest: ",
        "[channel.c]: receiver program: ", "[channel.d]: sender mode: ",
    ):  # fmt: skip
        assert words in said
    assert_empty(registry)


def test_a_refused_replacement_leaves_the_channel(runs: Path, registry: Path, tmp_path: Path) -> None:
    """Judged before anything is destroyed."""
    assert program(registry, "create", write(tmp_path, definition("c") + USERS)).returncode == 0
    with Registry(registry) as opened:
        before = snapshot(), opened.read("c")
    runs.write_bytes(b"another")
    refusal(program(registry, "create", "--replace", write(tmp_path, ends(runs))), 4)
    with Registry(registry) as opened:
        assert (snapshot(), opened.read("c")) == before


def test_what_can_not_be_looked_at_is_refused(runs: Path, registry: Path) -> None:
    """A name that the kernel refuses: each rule says so, none raises."""
    path = f"/{'x' * 300}"
    spec = parse(ends(runs).replace(str(runs), path), "F", enforcement=Enforcement.DAC)["c"]
    found = refusals(spec)
    assert [line.partition(":")[0] for line in found] == [
        "sender program", "sender mode", "sender owner", "sender digest"
    ]  # fmt: skip
    assert all("can not be judged: File name too long" in line for line in found)
    with pytest.raises(Denied):
        create(spec, registry)
    with Registry(registry) as opened:
        assert opened.names() == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ('program = "end"', "must be an absolute path"),
        ('program = "/usr//bin/end"', "in its shortest form"),
        ('program = "/usr/bin/end (deleted)"', "not ending in"),
        ("program = 7", "must be an absolute path"),
        ('program = "/end", digest = "0"', "must be 64 hex digits"),
        (f'digest = "{SHA}"', "a digest without a program"),
        ('programme = "/end"', "unknown key 'programme': known are user, group, type, program, digest"),
    ],
)
def test_what_is_no_rule_is_refused_by_the_definition(keys: str, words: str) -> None:
    """With file, table and end."""
    with pytest.raises(SpecError, match=r"F: \[channel.c\]: sender") as caught:
        parse(f"{definition('c')}sender = {{ {keys} }}", "F", enforcement=Enforcement.DAC)
    assert words in str(caught.value)


def test_an_end_without_a_program_is_not_asked_about(registry: Path, tmp_path: Path) -> None:
    """Users by number that no account names are as good as before."""
    if os.geteuid() != 0:
        pytest.fail("this test makes channels for others: run it as root")
    text = f"{definition('c')}sender = {{ user = 54321 }}\nreceiver = {{ user = 54322 }}\n"
    assert program(registry, "create", write(tmp_path, text)).returncode == 0
