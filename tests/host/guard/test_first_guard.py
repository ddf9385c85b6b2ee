# SPDX-License-Identifier: Apache-2.0
"""A new user follows the page about guards in an empty directory, and a file arrives: every command, every line."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.running_guards import LONGEST, await_change
from tests.unit.test_docs import ROOT, blocks

pytestmark = pytest.mark.host

PAGE = ROOT / "docs" / "guards.md"
HOME = "/home/you"


class Shell:
    """One bash for all commands, as a person has one."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SIPC", "XDG"))}
        self.folder = folder
        self.process = subprocess.Popen(
            ["bash"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**environment, "HOME": str(folder), "PATH": path},
        )  # fmt: skip

    def say(self, command: str) -> str:
        """What a command prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho =END=\n".encode())
        self.process.stdin.flush()
        text = b""
        while not text.endswith(b"=END=\n"):
            assert select.select([self.process.stdout], [], [], LONGEST)[0], (command, text)
            piece = os.read(self.process.stdout.fileno(), 65536)
            assert piece, (command, text)
            text += piece
        return text.decode().removesuffix("=END=\n")

    def close(self) -> None:
        """Stop what it runs, and end."""
        self.say("kill $(jobs -p) 2> /dev/null; wait")
        self.process.communicate(b"exit\n", timeout=LONGEST)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    one = Shell(tmp_path)
    yield one
    one.close()


def told(text: str, folder: Path) -> str:
    """Without what differs from run to run: folder, numbers of processes and users, hashes."""
    text = text.replace(str(folder), HOME)
    text = re.sub(r"\b(uid|pid) \d+", r"\1 N", text)
    return re.sub(r"[0-9a-f]{64}", "HASH", text)


def followed(shell: Shell, session: str) -> str:
    """The session as it is here: each command of it, and what it says now."""
    shown = ""
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        if "cat first/out" in command:
            out = shell.folder / "first" / "out"

            def arrived(out: Path = out) -> bool:
                return any(not name.startswith(".") for name in os.listdir(out))

            await_change([out], arrived, shell.process)  # a person looks again
        shown += f"$ {command}\n{shell.say(command)}"
    return shown


def test_a_new_user_comes_from_nothing_to_a_filter_by_following_the_page(shell: Shell, tmp_path: Path) -> None:
    """`sipc guard init`, check, run, a file arrives; edit, the check objects, edit again, run: it arrives changed."""
    text = PAGE.read_text()
    end = text.index("## A guard under SELinux")
    sessions = [body for body in blocks(PAGE, "console") if text.index(body) < end]
    assert len(sessions) == 4
    guard = tmp_path / "first" / "guard.toml"
    for number, session in enumerate(sessions):
        if number == 2:
            (stages,) = (body for body in blocks(PAGE, "toml") if body.startswith("[stage.scrub]"))
            head, found, _ = guard.read_text().partition("# A filter goes between")
            assert found
            guard.write_text(head + stages.replace(HOME, str(tmp_path)))
        if number == 3:
            changes = {
                '"only ingest -> deliver"': '"only scrub -> deliver"',
                '"ingest -> deliver",': '"ingest -> deliver via scrub",',
            }
            for old, new in changes.items():
                assert new.rstrip(",") in text
                assert guard.read_text().count(old) == 1
                guard.write_text(guard.read_text().replace(old, new))
        assert told(followed(shell, session), tmp_path) == told(session, tmp_path)
    assert os.listdir(tmp_path / "first" / "in") == []
