# SPDX-License-Identifier: Apache-2.0
"""`sipc policy`: what is written where, and which verdict ends in which exit code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.support.policies import GOLDEN, modules

from sipc.cli import main
from sipc.selinux.compose import compose

ROOT = GOLDEN.parents[3]
DEFINITION = """
[channel.feed]
[channel.low]
receiver = { type = "filter_t" }
[channel.high]
sender = { type = "filter_t" }
"""


@pytest.fixture(scope="module")
def base() -> Path:
    """Debian's modules of a minimal guest."""
    done = subprocess.run([ROOT / "scripts/base_policy.sh"], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()) / "small"


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """One channel's definition."""
    path = tmp_path / "feed.toml"
    path.write_text("[channel.feed]\n")
    return path


def test_generate_writes_all_modules_to_stdout(feed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a folder the modules come one after the other, each under its name."""
    assert main(["policy", "generate", str(feed)]) == 0
    text = capsys.readouterr().out
    made = modules("[channel.feed]\n")
    assert text == "\n".join(f"; module {name}\n{module}" for name, module in made.items())


def test_generate_writes_one_file_per_module(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a folder, each module is a file that semodule takes, and stdout names them."""
    out = tmp_path / "made/here"
    assert main(["policy", "generate", str(feed), "--out", str(out)]) == 0
    written = {path.stem: path.read_text() for path in out.glob("*.cil")}
    assert written == modules("[channel.feed]\n")
    assert capsys.readouterr().out.split() == [str(out / f"{name}.cil") for name in written if name == "sipc"] + [
        str(out / "sipc_feed.cil")
    ]
    assert sorted(path.name for path in out.iterdir()) == ["sipc.cil", "sipc_feed.cil"]


def test_generate_as_json(feed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One versioned object."""
    assert main(["policy", "generate", str(feed), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"version": 1, "modules": modules("[channel.feed]\n"), "written": None}


def test_generated_policy_is_proven_and_says_what_was_checked(
    feed: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Composed offline with the modules to be installed: exit code 0."""
    assert main(["policy", "verify", str(feed), "--base", str(base)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("PROVEN: channel feed (sipc_feed_sender_t -> sipc_feed_receiver_t)\n")
    for words in ("Checked:", "constraints: ", "Who may act on each domain:", "trace: nobody", "Accepted ways back",
                  "What no policy closes:", "whether the queue is full"):  # fmt: skip
        assert words in text


def test_a_weakened_policy_ends_in_exit_code_1_with_the_witness(
    feed: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict no comes with the rule, for people and for programs."""
    evil = tmp_path / "evil.cil"
    evil.write_text("(allow sipc_feed_receiver_t sipc_feed_in_t (file (write)))\n")
    argv = ["policy", "verify", str(feed), "--base", str(base), "--base", str(evil)]
    assert main(argv) == 1
    text = capsys.readouterr().out
    assert text.startswith("NOT PROVEN")
    assert "allow sipc_feed_receiver_t sipc_feed_in_t:file { write }" in text
    assert main([*argv, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    assert document["ok"] is False
    assert document["findings"][0]["check"] == "flows back"
    assert len(document["findings"][0]["witness"]) == 2


def test_a_binary_policy_file_is_verified(feed: Path, base: Path, tmp_path: Path) -> None:
    """With the channel's module in it proven, without it not."""
    ours, plain = tmp_path / "ours.33", tmp_path / "plain.33"
    ours.write_bytes(compose([base], modules("[channel.feed]\n")))
    plain.write_bytes(compose([base]))
    assert main(["policy", "verify", str(feed), "--policy", str(ours)]) == 0
    assert main(["policy", "verify", str(feed), "--policy", str(plain)]) == 1
    assert main(["policy", "verify", str(feed), "--base", str(base), "--as-given"]) == 1


def test_requirements_decide_too(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Chains of channels are checked as a whole, forward and not back."""
    path = tmp_path / "chain.toml"
    path.write_text(DEFINITION)
    argv = ["policy", "verify", str(path), "--base", str(base), "--new", "filter_t"]
    forward = ["--require", "sipc_low_sender_t -> sipc_high_receiver_t via filter_t"]
    back = ["--require", "not sipc_high_receiver_t -> sipc_low_sender_t"]
    assert main([*argv, *forward, *back]) == 0
    assert "sipc_low_sender_t -> sipc_high_receiver_t via filter_t" in capsys.readouterr().out
    assert main([*argv, "--require", "not sipc_low_sender_t -> sipc_high_receiver_t"]) == 1
    assert "filter_t -> sipc_high_receiver_t: channel high" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["verify", "{feed}", "--policy", "{feed}"], 3, "not a binary policy"),
        (["verify", "{feed}", "--policy", "/nowhere"], 3, "/nowhere"),
        (["verify", "{empty}", "--policy", "/nowhere"], 3, "defines no channel"),
        (["verify", "{feed}", "--base", "{base}", "--policy", "/x"], 3, "give one"),
        (["verify", "{feed}", "--as-given"], 3, "--as-given"),
        (["verify", "{feed}", "--base", "{base}", "--require", "what?"], 3, "not understood"),
        (["verify", "{feed}", "--base", "{base}", "--require", "not nobody_t -> init_t"], 3, "no type nobody_t"),
        (["verify", "{feed}", "--base", "{base}", "--channel", "other"], 3, "no definition of channel"),
        (["verify", "{feed}", "--lockable", "x"], 3, "END=TYPE"),
        (["verify", "{feed}", "--profile", "other"], 2, "other"),
        (["generate", "/nowhere.toml"], 3, "/nowhere.toml"),
        (["generate", "{feed}", "--launcher", "a b"], 3, "a b"),
        (["generate", "{feed}", "--new", "stranger_t"], 3, "stranger_t"),
    ],
)
def test_bad_input_has_its_exit_code_and_says_what_is_wrong(
    arguments: list[str], code: int, words: str, feed: Path, base: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Nothing is verified by accident: what can not be read, or names nothing, is no verdict."""
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    filled = [part.format(feed=feed, base=base, empty=empty) for part in arguments]
    assert main(["policy", *filled]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_without_selinux_the_loaded_policy_is_refused_not_guessed(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No policy, no verdict: the environment refuses (4), and the message says how to verify offline."""
    monkeypatch.setattr("sipc.cli.policy.LOADED", tmp_path / "policy")
    assert main(["policy", "verify", str(feed)]) == 4
    assert "--base" in capsys.readouterr().err


def test_the_loaded_policy_is_the_default(
    feed: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel shows is what is verified when nothing else is named."""
    loaded = tmp_path / "policy"
    loaded.write_bytes(compose([base], modules("[channel.feed]\n")))
    monkeypatch.setattr("sipc.cli.policy.LOADED", loaded)
    assert main(["policy", "verify", str(feed)]) == 0
