# SPDX-License-Identifier: Apache-2.0
"""`sipc guard`: what is written, what is said, and which verdict ends in which exit code."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest
from tests.support.guards import GOOD, SMALL

from sipc.cli import main
from sipc.guard import config
from sipc.guard.config import Medium, Source, parse
from sipc.selinux.compose import compose

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "guards.md").read_text()


@pytest.fixture(scope="module")
def base() -> Path:
    """Debian's modules of a minimal guest."""
    done = subprocess.run([ROOT / "scripts/base_policy.sh"], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()) / "small"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A guard file without a problem, whose users are numbers."""
    path = tmp_path / "guard.toml"
    path.write_text(
        GOOD.replace('user = "ingest"\ngroup = "ingest"', "user = 4241").replace('"deliver"\nsink', "4243\nsink")
    )
    return path


# -- init


def test_init_writes_a_guard_that_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, and the two directories it names, for this user alone; what is said leads on."""
    monkeypatch.chdir(tmp_path)
    assert main(["guard", "init", "a b/first"]) == 0
    folder = tmp_path / "a b/first"
    assert sorted(path.name for path in folder.iterdir()) == ["guard.toml", "in", "out"]
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o700 for name in ("in", "out"))
    captured = capsys.readouterr()
    assert captured.out == (
        "wrote a b/first/guard.toml: files from a b/first/in go to a b/first/out\n"
        "next: sipc guard check a b/first/guard.toml\n"
    )
    guard = parse((folder / "guard.toml").read_text(), "F")
    assert guard.stages["ingest"].work == Source(medium=Medium.DIRECTORY, path=str(folder / "in"))
    assert main(["guard", "check", "a b/first/guard.toml"]) == 0


def test_what_init_leaves_out_is_right_too(tmp_path: Path) -> None:
    """The keys that stand in it as comments are keys."""
    assert main(["guard", "init", str(tmp_path)]) == 0
    text = (tmp_path / "guard.toml").read_text()
    text = re.sub(r"^# (slots|depth|slot_size|filter|quarantine|\[stage)", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^filter = \{ command.*\n", "", text, flags=re.MULTILINE)
    text = text.replace('to = "deliver"', 'to = "scrub"').replace(
        '    "only ingest -> deliver",      # and from nowhere else\n', ""
    )
    guard = parse(text + '[channel.clean]\nfrom = "scrub"\nto = "deliver"\n', "F")
    assert (
        guard.channels["raw"].spec
        == parse(text + '[channel.clean]\nfrom = "scrub"\nto = "deliver"\n', "F").channels["raw"].spec
    )
    assert list(guard.stages) == ["ingest", "scrub", "deliver"]


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a file, nor what a link points to, nor what is in the directories."""
    path = tmp_path / "guard.toml"
    path.write_text("mine")
    assert main(["guard", "init", str(tmp_path)]) == 3
    assert (path.read_text(), [entry.name for entry in tmp_path.iterdir()]) == ("mine", ["guard.toml"])
    assert f"{path}: exists already, and stays as it is" in capsys.readouterr().err
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert main(["guard", "init", str(tmp_path)]) == 3
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    (tmp_path / "in").mkdir(mode=0o755)
    (tmp_path / "in/kept").write_text("kept")
    assert main(["guard", "init", str(tmp_path)]) == 0
    assert (tmp_path / "in/kept").read_text() == "kept"


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "ünï", "a'b", "#", "{x}", "'''"])
def test_init_names_any_folder_that_a_guard_can(tmp_path: Path, name: str) -> None:
    """Quotes, backslashes, braces: it is TOML all the same, and says the same."""
    assert main(["guard", "init", str(tmp_path / name)]) == 0
    guard = parse((tmp_path / name / "guard.toml").read_text(), "F")
    assert guard.stages["ingest"].work == Source(medium=Medium.DIRECTORY, path=str(tmp_path / name / "in"))


def test_init_refuses_a_folder_that_no_guard_can_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line end in a path would end a line; a file is no folder; nothing is left behind."""
    assert main(["guard", "init", str(tmp_path / "a\nb")]) == 3
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert main(["guard", "init", str(tmp_path / "file" / "below")]) == 3
    assert main(["guard", "init", str(tmp_path / "file")]) == 2
    assert "Traceback" not in capsys.readouterr().err


# -- check


def test_check_says_what_it_is(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stages, channels, requirements."""
    assert main(["guard", "check", str(good)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{good}: guard json: 3 stages, 2 channels, 3 requirements: no problem found",
        "  raw: ingest (source /var/spool/ingest) -> scrub (filter json_guard:scrub), selinux",
        "  clean: scrub (filter json_guard:scrub) -> deliver (sink /var/spool/deliver), selinux",
        "  holds: ingest -> deliver via scrub",
        "  holds: not deliver -> ingest",
        "  holds: only scrub -> deliver",
    ]


def test_check_shows_programs_and_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a stage does; and what holds it less than one might think."""
    path = tmp_path / "g.toml"
    more = '[channel.d]\nfrom = "f"\nto = "b"\n[stage.f]\nfilter = { command = ["/bin/cat"] }\n'
    path.write_text(SMALL.replace('to = "b"', 'to = "f"') + more)
    assert main(["guard", "check", str(path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1:3] == [
        "  c: a (source stdin) -> f (filter /bin/cat), dac",
        "  d: f (filter /bin/cat) -> b (sink stdout), dac",
    ]
    assert out[3].startswith("note: channel c: enforcement is dac")


def test_check_tells_all_problems_in_order_and_ends_in_1(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict is no; it is a result, so it stands on stdout."""
    good.write_text(good.read_text().replace("slots = 6", "slots = 0").replace("timeout = 2", "timeout = -1"))
    assert main(["guard", "check", str(good)]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    timeout, slots = captured.out.splitlines()
    assert timeout.startswith(f"{good}:18: [stage.scrub.filter] timeout: -1 is no number of seconds to wait: give ")
    assert slots.startswith(f"{good}:26: [channel.raw] slots: 0 is no whole number")


def test_check_as_json(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One versioned object, with the verdict and all of its parts."""
    assert main(["guard", "check", str(good), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["file"], document["ok"], document["problems"]) == (1, str(good), True, [])
    assert document["guard"]["channels"]["raw"] == {
        "from": "ingest", "to": "scrub", "registered": "json.raw", "enforcement": "selinux",
    }  # fmt: skip
    assert document["guard"]["stages"]["scrub"] == {
        "kind": "filter", "user": 4242, "group": None, "type": "json_scrubber_t",
    }  # fmt: skip
    assert document["guard"]["require"][2] == "only scrub -> deliver"
    good.write_text(good.read_text().replace("slots = 6", "slots = 0"))
    assert main(["guard", "check", str(good), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["guard"]) == (False, None)
    (problem,) = document["problems"]
    assert {key: problem[key] for key in ("line", "table", "key")} == {
        "line": 26,
        "table": "[channel.raw]",
        "key": "slots",
    }
    assert problem["text"] == f"{good}:26: [channel.raw] slots: {problem['reason']}: {problem['fix']}"


def test_check_compares_names_with_a_policy(
    good: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A binary one, or one composed of CIL, and more CIL."""
    binary = tmp_path / "policy.33"
    binary.write_bytes(compose([base]))
    assert main(["guard", "check", str(good), "--policy", str(binary)]) == 0
    assert re.search(r"  free: \d\d types that its policy makes\n", capsys.readouterr().out)
    assert main(["guard", "check", str(good), "--base", str(base)]) == 0
    capsys.readouterr()
    more = tmp_path / "more.cil"
    more.write_text("(type json_scrubber_t)\n(roletype object_r json_scrubber_t)\n")
    assert main(["guard", "check", str(good), "--base", str(base), "--base", str(more)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"{good}:17: [stage.scrub] type: the policy composed of {base}, {more} has json_scrubber_t already: "
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{good}", "--policy", "/nowhere"], 3, "/nowhere: No such file"),
        (["{good}", "--policy", "{good}"], 3, "not a binary policy"),
        (["{good}", "--base", "/nowhere"], 3, "/nowhere"),
        (["{good}", "--base", "{good}", "--policy", "/x"], 3, "give one"),
        (
            ["/nowhere.toml"],
            3,
            "/nowhere.toml: cannot be read (No such file or directory): give an existing guard file",
        ),
        ([], 2, "FILE"),
    ],
)
def test_what_can_not_be_checked_is_no_verdict(
    arguments: list[str], code: int, words: str, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 or 2, and nothing on stdout."""
    assert main(["guard", "check", *(part.format(good=good) for part in arguments)]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_check_touches_nothing(good: Path, tmp_path: Path) -> None:
    """No file is made, changed or removed beside it."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    assert main(["guard", "check", str(good)]) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


# -- the page


def test_the_page_begins_with_what_init_and_check_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word, but for the folder; and the file that init writes."""
    monkeypatch.chdir(tmp_path)
    session = re.search(r"```console\n(.*?)```", PAGE, re.DOTALL)
    assert session is not None
    shown = ""
    for command in re.findall(r"^\$ sipc (.*)$", session[1], re.MULTILINE):
        assert main(command.split()) == 0
        shown += f"$ sipc {command}\n{capsys.readouterr().out}"
    assert session[1] == shown.replace(str(tmp_path), "/home/you")
    text = (tmp_path / "first/guard.toml").read_text()
    assert f"```toml\n{text.replace(str(tmp_path), '/home/you')}```" in PAGE
    (tmp_path / "guard.toml").write_text(text.replace('to = "deliver"', 'to = "delivery"'))
    assert main(["guard", "check", "guard.toml"]) == 1
    assert f"```text\n{capsys.readouterr().out}```" in PAGE


def test_every_key_is_explained() -> None:
    """The page has them all."""
    inner = ("python", "decode", "command", "persistent", "timeout", "directory", "file", "socket", "limit")
    for key in (*config._GUARD, *config._STAGE, *config._CHANNEL, *inner):
        assert f"`{key}`" in PAGE, key
    assert "`stdin = true`" in PAGE
    assert "`stdout = true`" in PAGE


def test_the_guard_file_of_the_page_checks() -> None:
    """Its second one, with a filter, under SELinux."""
    files = re.findall(r"```toml\n(version = 1\n.*?)```", PAGE, re.DOTALL)
    assert len(files) == 1
    guard = parse(files[0], "F")
    assert (guard.name, list(guard.stages), len(guard.require)) == ("json", ["ingest", "scrub", "deliver"], 3)
