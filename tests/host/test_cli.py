# SPDX-License-Identifier: Apache-2.0
"""Every command: what it prints where, its exit code, and a clear word for whatever can be wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.support.channels import definition, make
from tests.support.cli import PROGRAM, sipc

from sipc.cli.commands import cli
from sipc.cli.exits import Exit
from sipc.registry import Registry

pytestmark = pytest.mark.host

COMMANDS = {name: command for name, command in cli.commands.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_is_enough(name: str) -> None:
    """Each command explains itself, with an example and the exit codes."""
    done = sipc(name, "--help")
    assert done.returncode == Exit.OK
    assert f"sipc {name}" in done.stdout
    assert "Example" in done.stdout
    words = " ".join(done.stdout.split())
    for code in Exit:
        assert re.search(rf"\b{code.value} ", words), code


def test_create_list_status_destroy(registry: Path, tmp_path: Path) -> None:
    """One channel's life, for people and for programs."""
    file = tmp_path / "feed.toml"
    file.write_text(definition("feed", slots=5, depth=2, slot_size=4096))
    done = sipc("create", file, registry=registry)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"created feed in .* \(helper pid \d+, exited\)", done.stdout)
    listed = sipc("list", registry=registry)
    assert "feed" in listed.stdout
    assert "5 slots of 4096" in listed.stdout
    rows = json.loads(sipc("list", "--json", registry=registry).stdout)
    assert rows["version"] == 1
    assert [row["name"] for row in rows["channels"]] == ["feed"]
    text = sipc("status", "feed", registry=registry).stdout
    with Registry(registry) as place:
        descriptor = place.read("feed")
    for word in (str(descriptor.epoch), "4096", "Nothing in the kernel enforces the direction", "What does not:"):
        assert word in text
    row = json.loads(sipc("status", "feed", "--json", registry=registry).stdout)
    assert row["epoch"] == descriptor.epoch
    assert row["open"]
    assert row["sender"] == {"uid": None, "gid": None, "type": None}
    again = sipc("create", file, registry=registry)
    assert again.returncode == Exit.BAD_INPUT
    assert "--replace" in again.stderr
    replaced = json.loads(sipc("create", file, "--replace", "--json", registry=registry).stdout)
    assert replaced["ok"] is True
    assert replaced["channels"][0]["epoch"] != descriptor.epoch
    gone = sipc("destroy", "feed", registry=registry)
    assert (gone.returncode, gone.stdout) == (0, "destroyed feed\n")
    assert sipc("list", registry=registry).stdout == ""
    assert sipc("destroy", "feed", registry=registry).returncode == Exit.BAD_INPUT


def test_a_second_sender_is_refused(registry: Path) -> None:
    """Busy, and the one that has the role is not disturbed."""
    make(registry, "c")
    import sipc as library

    with library.open_sender("c", registry=registry) as sender:
        done = sipc("send", "c", registry=registry, data=b"x")
        assert done.returncode == Exit.REFUSED
        assert "another process" in done.stderr
        sender.send(b"still here")
        sender.abort()


def bad_invocations(base: Path) -> dict[str, tuple[list[str], int, str]]:
    """Arguments, exit code, and a word that the message must have."""
    (base / "file").write_text("x")
    (base / "dir").mkdir()
    (base / "garbage.toml").write_text("[channel.x\n")
    (base / "unknown.toml").write_text('[channel.x]\nslotz = 4\nenforcement = "dac"\n')
    (base / "wrong.toml").write_text('[channel.x]\nslots = "four"\nenforcement = "dac"\n')
    (base / "huge.toml").write_text('[channel.x]\ntransport = "queue"\ndepth = 512\nenforcement = "dac"\n')
    (base / "name.toml").write_text('[channel."../x"]\nenforcement = "dac"\n')
    (base / "empty.toml").write_text("")
    (base / "selinux.toml").write_text('[channel.x]\nenforcement = "selinux"\n')
    (base / "binary.toml").write_bytes(b"\xff\xfe")
    (base / "good.toml").write_text('[channel.x]\nenforcement = "dac"\n')
    usage, bad, refused = int(Exit.USAGE), int(Exit.BAD_INPUT), int(Exit.REFUSED)
    place = str(base / "r")
    file = str(base / "file")
    cases: dict[str, tuple[list[str], int, str]] = {
        "no such command": (["sned"], usage, "sned"),
        "no such option": (["list", "--colour"], usage, "--colour"),
        "a missing argument": (["status"], usage, "NAME"),
        "one too many": (["status", "a", "b"], usage, "b"),
        "a number that is none": (["recv", "c", "--timeout", "soon"], usage, "soon"),
        "a size that is none": (["demo", "--size", "big"], usage, "big"),
        "no such channel": (["status", "nothing", "--registry", place], bad, "nothing"),
        "no such channel to destroy": (["destroy", "nothing", "--registry", place], bad, "nothing"),
        "no such channel to send to": (["send", "nothing", file, "--wait", "0", "--registry", place], bad, "nothing"),
        "no such channel to receive from": (["recv", "nothing", "--wait", "0", "--registry", place], bad, "nothing"),
        "a channel that does not come": (["recv", "n", "--wait", "0.05", "--registry", place], int(Exit.TIMEOUT), "n"),
        "a file as the registry": (["status", "c", "--registry", file], refused, "file"),
        "a registry that others may write": (["status", "c", "--registry", str(base / "dir")], refused, "chmod"),
        "a name that can be none": (["status", "../etc", "--registry", place], bad, "../etc"),
        "a name with a newline": (["status", "a\nb", "--registry", place], bad, "usable"),
        "an empty name": (["status", "", "--registry", place], bad, "usable"),
        "a file that is not there": (["send", "c", str(base / "none"), "--registry", place], bad, "none"),
        "a directory": (["send", "c", str(base / "dir"), "--registry", place], bad, "tar"),
        "a demo of nothing": (["demo", str(base / "none")], bad, "none"),
        "no definitions there": (["create", str(base / "none.toml"), "--registry", place], bad, "none.toml"),
        "no definitions in the folder": (["create", str(base / "r"), "--registry", place], bad, "r"),
        "a channel not in the file": (["create", str(base / "good.toml"), "--channel", "y", "--registry", place], bad,
                                      "'y'"),
        "a file as the place to create": (["create", str(base / "good.toml"), "--registry", file], refused, "file"),
    }  # fmt: skip
    for name, code, word in (
        ("garbage", bad, "line 1"), ("unknown", bad, "slotz"), ("wrong", bad, "four"), ("huge", bad, "msgmnb"),
        ("name", bad, "../x"), ("empty", bad, "no channel"), ("selinux", refused, "SELinux"), ("binary", bad, "UTF-8"),
    ):  # fmt: skip
        cases[f"the definition {name}.toml"] = (["create", str(base / f"{name}.toml"), "--registry", place], code, word)
    for number, content in enumerate(("", "{", "[]", '{"schema": 1}', '{"schema": 99}', "\0", '"x"', "[" * 5000)):
        cases[f"descriptor {number}"] = (["status", f"d{number}", "--registry", place], refused, f"d{number}")
        (base / "r").mkdir(mode=0o700, exist_ok=True)
        (base / "r" / f"d{number}.json").write_text(content)
        (base / "r" / f"d{number}.json").chmod(0o644)
    return cases


def test_whatever_is_wrong_is_said_in_words(tmp_path: Path) -> None:
    """The message names the thing; the exit code says which kind; nothing is made and nothing on stdout."""
    cases = bad_invocations(tmp_path)
    (tmp_path / "dir").chmod(0o777)
    assert len(cases) >= 35
    for what, (arguments, code, word) in cases.items():
        done = sipc(*arguments)
        assert done.returncode == code, (what, done)
        assert word in done.stderr, (what, done)
        assert done.stdout == "", (what, done)
    with Registry(tmp_path / "r") as registry:
        assert registry.names() == [f"d{number}" for number in range(8)]


def test_without_click_it_says_what_to_install() -> None:
    """The library needs no extra; the command line names its own."""
    code = "import sys; sys.modules['click'] = None; from sipc.cli import main; sys.exit(main(['list']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == Exit.USAGE
    assert "pip install 'sipc[cli]'" in done.stderr


def test_a_bug_is_said_to_be_one() -> None:
    """No traceback but when it is asked for."""
    code = (
        "import sys; from sipc.cli import main, commands\n"
        "commands.find = lambda *a: 1 / 0\n"
        "sys.exit(main(['status', 'x']))"
    )
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("main, commands", "main; from sipc.cli import commands")],
            capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "SIPC_DEBUG": debug},
        )  # fmt: skip
        assert done.returncode == Exit.BUG
        assert "a bug in sipc: ZeroDivisionError" in done.stderr
        assert ("Traceback" in done.stderr) == bool(debug)


def test_the_demo_shows_three_processes_and_one_file(tmp_path: Path) -> None:
    """Helper, sender and receiver with pids of their own, the queue's messages, equal sums, what enforces it."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(700_001))
    before = Path("/proc/sysvipc/msg").read_text(), Path("/proc/sysvipc/shm").read_text()
    text = sipc("demo", file)
    assert text.returncode == 0
    pids = [int(pid) for pid in re.findall(r"^(?:helper|sender|receiver) +pid (\d+)", text.stdout, re.MULTILINE)]
    assert len(set(pids)) == 3
    assert "exited (0) before data moved" in text.stdout
    assert "DATA_READY" in text.stdout
    assert "CLOSE" in text.stdout
    sums = re.findall(r"^sha256 \w+ +([0-9a-f]{64})", text.stdout, re.MULTILINE)
    assert len(sums) == 2
    assert len(set(sums)) == 1
    assert "Nothing in the kernel enforces the direction here" in text.stdout
    result = json.loads(sipc("demo", "--size", "100000", "--json").stdout)
    assert (result["version"], result["equal"], result["file_bytes"]) == (1, True, 100_000)
    assert (Path("/proc/sysvipc/msg").read_text(), Path("/proc/sysvipc/shm").read_text()) == before


def _in_terminal(arguments: list[str]) -> tuple[int, str]:
    """Run a command whose stderr is a terminal; its exit code and what the terminal showed."""
    leader, follower = pty.openpty()
    done = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=follower, timeout=30, check=False)
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:  # the terminal's other side is closed: this is its end
        pass
    os.close(leader)
    return done.returncode, shown.decode()


def test_progress_is_shown_on_a_terminal_only(registry: Path, tmp_path: Path) -> None:
    """And on stderr, so that it never gets into the data."""
    make(registry, "c")
    file = tmp_path / "file"
    file.write_bytes(bytes(100_000))
    argv = [*PROGRAM, "send", "c", str(file), "--registry", str(registry)]
    code, shown = _in_terminal(argv)
    assert code == 0
    assert f"send c [{'#' * 24}] 100 % 0.1 MB" in shown
    assert sipc("recv", "c", tmp_path / "out", registry=registry).stderr == ""
    code, shown = _in_terminal([*argv, "--no-progress"])
    assert (code, shown) == (0, "")
