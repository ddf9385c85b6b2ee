# SPDX-License-Identifier: Apache-2.0
"""`sipc guard graph`: which policy is asked, what is written where, and which verdict ends in which exit code."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.support.guards import SMALL

from sipc.cli import guard_graph, main
from sipc.cli.policy import texts_of
from sipc.guard.config import parse
from sipc.guard.policy import channel_specs, options
from sipc.selinux.compose import compose

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/guards.md").read_text()
PICTURE = ROOT / "docs/guards-json.svg"


@pytest.fixture(scope="module")
def base() -> Path:
    """Debian's modules of a minimal guest."""
    done = subprocess.run([ROOT / "scripts/base_policy.sh"], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()) / "small"


@pytest.fixture
def here(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's guard as guard.toml and a policy as base, in the current directory; no policy is loaded."""
    found = re.search(r"```toml\n(version = 1\n.*?)```", PAGE, re.DOTALL)
    assert found is not None
    (tmp_path / "guard.toml").write_text(found[1])
    (tmp_path / "base").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard_graph, "LOADED", tmp_path / "no/policy")
    return tmp_path


def verdicts(text: str) -> list[str]:
    """Of channels and requirements, out of the object."""
    document = json.loads(text)
    return [one["one_way"]["verdict"] for one in document["channels"]] + [
        one["verdict"] for one in document["requirements"]
    ]


def test_the_picture_in_the_page_is_what_the_command_draws(here: Path) -> None:
    """Of the page's own guard; after a change: run the command that stands above it in a folder with both files."""
    assert "sipc guard graph guard.toml --base base -o guards-json.svg" in PAGE
    assert main(["guard", "graph", "guard.toml", "--base", "base", "-o", "guards-json.svg"]) == 0
    assert (here / "guards-json.svg").read_text() == PICTURE.read_text()
    assert PICTURE.read_text().count("one-way: proven</text>") == 2


def test_without_a_policy_nothing_is_proven_and_it_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture is one all the same."""
    assert main(["guard", "graph", "guard.toml"]) == 0
    text = capsys.readouterr().out
    assert ET.fromstring(text).tag.endswith("svg")
    assert "Proof: none: no policy given." in text
    assert main(["guard", "graph", "guard.toml", "--json"]) == 0
    assert verdicts(capsys.readouterr().out) == ["not proven"] * 5


def test_a_binary_policy_is_asked_as_it_is(here: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the guard's modules in it, it proves; without, it does not, and that ends in 1."""
    guard = parse((here / "guard.toml").read_text(), "F")
    modules = texts_of(channel_specs(guard, users=False).values(), options(guard))
    (here / "with").write_bytes(compose([base], modules))
    (here / "without").write_bytes(compose([base]))
    assert main(["guard", "graph", "guard.toml", "--policy", "with", "--json"]) == 0
    assert verdicts(capsys.readouterr().out) == ["holds"] * 5
    assert main(["guard", "graph", "guard.toml", "--policy", "without", "--json"]) == 1
    assert verdicts(capsys.readouterr().out) == ["not proven"] * 5


def test_the_loaded_policy_is_asked_where_there_is_one(
    here: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that can not be read is told, and proves nothing."""
    loaded = here / "loaded"
    loaded.write_bytes(compose([base]))
    monkeypatch.setattr(guard_graph, "LOADED", loaded)
    assert main(["guard", "graph", "guard.toml", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["proof"]["about"] == str(loaded)
    monkeypatch.setattr(guard_graph, "LOADED", here)  # a directory: there, and not to be read, even by root
    assert main(["guard", "graph", "guard.toml", "--json"]) == 0
    text = capsys.readouterr().out
    assert verdicts(text) == ["not proven"] * 5
    assert "the loaded policy can not be read" in json.loads(text)["proof"]["about"]


def test_a_way_back_is_drawn_and_ends_in_1(here: Path) -> None:
    """In words and with the rules that make it."""
    (here / "more.cil").write_text(
        "(type drop_t)\n(roletype object_r drop_t)\n"
        "(allow json_deliver_t drop_t (file (write)))\n(allow json_ingest_t drop_t (file (read)))\n"
    )
    arguments = ["guard", "graph", "guard.toml", "--base", "base", "--base", "more.cil", "-o", "out.svg"]
    assert main(arguments) == 1
    text = (here / "out.svg").read_text()
    assert "broken: not deliver -&gt; ingest" in text
    assert "allow json_ingest_t drop_t:file" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["guard.toml", "--policy", "a", "--base", "b"], 3, "give one"),
        (["guard.toml", "--policy", "/nowhere"], 3, "/nowhere: No such file"),
        (["guard.toml", "--policy", "guard.toml"], 3, "not a binary policy"),
        (["guard.toml", "--base", "/nowhere"], 3, "/nowhere"),
        (["/nowhere.toml"], 3, "/nowhere.toml: cannot be read"),
        (["bad.toml"], 3, "bad.toml:1: "),
        (["guard.toml", "-o", "/nowhere/x.svg"], 3, "/nowhere"),
        (["guard.toml", "-o", "base"], 2, "is a directory"),
        ([], 2, "FILE"),
    ],
)
def test_what_can_not_be_drawn_is_not(
    here: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal on stderr, nothing on stdout, no file."""
    (here / "bad.toml").write_text("version = 2\n")
    before = sorted(os.listdir(here))
    assert main(["guard", "graph", *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert sorted(os.listdir(here)) == before


def test_the_file_is_replaced_whole_and_may_be_read(here: Path) -> None:
    """A link there is neither replaced nor followed (/dev/stdout is one); nothing is left beside it."""
    (here / "kept").write_text("kept")
    (here / "out.svg").symlink_to("kept")
    before = set(os.listdir(here))
    assert main(["guard", "graph", "guard.toml", "-o", "out.svg"]) == 3
    assert (here / "kept").read_text() == "kept"
    assert (here / "out.svg").is_symlink()
    (here / "out.svg").unlink()
    (here / "out.svg").write_text("old")
    assert main(["guard", "graph", "guard.toml", "-o", "out.svg"]) == 0
    status = (here / "out.svg").lstat()
    assert (stat.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o644)
    assert set(os.listdir(here)) == before


def test_a_guard_under_dac_has_a_picture_that_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever policy is given: it holds none of that."""
    (here / "small.toml").write_text(SMALL)
    assert main(["guard", "graph", "small.toml", "--base", "base", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["channels"][0]["one_way"]["reason"].startswith("enforcement is dac")
