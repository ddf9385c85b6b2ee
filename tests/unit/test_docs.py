# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code does: tables, constants, links, commands, errors."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from sipc import errors
from sipc.cli.commands import cli
from sipc.cli.exits import Exit
from sipc.definitions import _KEYS
from sipc.proto.control import CONTROL_SIZE, VERSION, Flag, Kind
from sipc.proto.segment import MAGIC, header_size

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [body for language, body in _BLOCK.findall(page.read_text()) if language in languages]


def anchors(page: Path) -> set[str]:
    """What a link can point to inside a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_state_tables_in_the_protocol_page_are_the_codes() -> None:
    """`python scripts/state_diagrams.py` would change nothing."""
    path = ROOT / "scripts" / "state_diagrams.py"
    spec = importlib.util.spec_from_file_location("state_diagrams", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "protocol.md").read_text()
    assert "stateDiagram-v2" in text
    assert module.page(text) == text


def test_the_numbers_in_the_protocol_page_are_the_codes() -> None:
    """Sizes, kinds, flags and offsets."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    assert f"{CONTROL_SIZE} bytes; on System V" in text
    assert f"| 0 | version | u8 | {VERSION} |" in text
    kinds = ", ".join(f"{kind.value} {kind.name}" for kind in Kind)
    assert f"| 1 | kind | u8 | {kinds} |" in text
    for flag in Flag:
        assert re.search(rf"^\| {flag.value} \| {flag.name} \|", text, re.MULTILINE), flag
    assert f"`{MAGIC.decode()}`" in text
    per_slot = header_size(2) - header_size(1)
    assert f"{header_size(1) - per_slot} + {per_slot} * slots" in text
    for offset, field in enumerate(("seq", "length")):
        assert f"| {header_size(1) - per_slot + 8 * offset} + {per_slot} * slot | {field} |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link has its file, and its heading."""
    for target in _LINK.findall(page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documents_compiles(page: Path) -> None:
    """Snippets are Python."""
    for body in blocks(page, "python"):
        ast.parse(body)


def test_commands_in_the_documents_exist() -> None:
    """Each `sipc ...` line names a command, options and a number of arguments that it takes."""
    seen = 0
    for page in PAGES:
        text = "\n".join(blocks(page, "sh")) + "\n" + "\n".join(re.findall(r"`(sipc [a-z][^`]*)`", page.read_text()))
        for line in text.splitlines():
            for part in re.split(r"[|;&]+|(?<!\S)#", line):
                words = shlex.split(part.strip())
                if not words or Path(words[0]).name != "sipc" or len(words) < 2:
                    continue
                words = [word for word in words[1:] if word not in ("<", ">")]
                command: click.Command = cli
                while words and isinstance(command, click.Group):
                    assert words[0] in command.commands, f"{page.name}: {line}"
                    command = command.commands[words.pop(0)]
                options = {name for parameter in command.params for name in parameter.opts}
                for word in words:
                    if word.startswith("-"):
                        assert word.split("=")[0] in options, f"{page.name}: {line}"
                seen += 1
    assert seen > 10


def test_every_error_and_exit_code_is_explained() -> None:
    """The operations page has them all."""
    text = (ROOT / "docs" / "operations.md").read_text()
    for name in errors.__all__:
        assert f"`{name}`" in text, name
    for code in Exit:
        assert f"| {code.value} |" in text, code


def test_every_key_of_a_definition_is_explained() -> None:
    """The operations page has them all."""
    text = (ROOT / "docs" / "operations.md").read_text()
    for key in _KEYS:
        assert re.search(rf"`{key}[`.]", text), key


def test_tests_that_the_security_page_names_exist() -> None:
    """A claim names what shows it."""
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists(), name
