# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code does: tables, numbers, links, commands, errors, and the tests they name.

Owns the pages a reader stakes something on: README, CHANGELOG, SECURITY and `docs/`.  Whatever can be read off the
code is compared with it, so that a change of either without the other is red.
"""

from __future__ import annotations

import ast
import errno
import importlib.util
import json
import re
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from bench import leftovers
from bench.leftover_ways import WAYS
from tests.host.test_crash import CASES, KILLS

import sipc
import sipc.aio
import sipc.libsipc
from sipc import cursor, errors, publisher, spec
from sipc.cli.commands import cli
from sipc.cli.exits import EPILOG, Exit
from sipc.definitions import _KEYS, _QUEUE_SLOT_SIZE
from sipc.descriptor import SCHEMA, Descriptor
from sipc.kernel import Keys, limits, posix
from sipc.proto.control import ALL_FLAGS, CONTROL_SIZE, LAYOUT, VERSION, Flag, Kind
from sipc.proto.segment import ENTRY_WORDS, HEADER_WORDS, MAGIC, PUBLISHED, SENT, header_size, segment_size
from sipc.spec import ChannelSpec, Geometry, modes

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "policy").glob("*.md")])
PROTOCOL, DESIGN, OPERATIONS, SECURITY = (
    (ROOT / name).read_text() for name in ("docs/protocol.md", "docs/design.md", "docs/operations.md", "SECURITY.md")
)
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_WORD = 8


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [body for _, language, body in _BLOCK.findall(page.read_text()) if language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a link can point to inside a page, as the usual renderers name it."""
    seen: dict[str, int] = {}
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        seen[name] = seen.get(name, 0) + 1
    return {name if turn == 0 else f"{name}-{turn}" for name, turns in seen.items() for turn in range(turns)}


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first header cell is `first`."""
    table = re.search(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, first
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def generator() -> ModuleType:
    """`scripts/state_diagrams.py`, which is no package."""
    path = ROOT / "scripts" / "state_diagrams.py"
    found = importlib.util.spec_from_file_location("state_diagrams", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_state_tables_in_the_protocol_page_are_the_codes() -> None:
    """`python scripts/state_diagrams.py` would change nothing."""
    assert PROTOCOL.count("stateDiagram-v2") == 2
    assert generator().page(PROTOCOL) == PROTOCOL


def test_the_generator_repairs_a_page_and_refuses_one_without_its_marks() -> None:
    """A wrong line is put right; a page that has lost its place for a table is an error, not a page without one."""
    make = generator().page
    wrong = PROTOCOL.replace("READY --> FILLING : BEGIN", "READY --> CLOSED : BEGIN")
    assert wrong != PROTOCOL
    assert make(wrong) == PROTOCOL
    with pytest.raises(SystemExit, match="SENDER_TABLE"):
        make(PROTOCOL.replace("<!-- SENDER_TABLE -->", ""))


def test_the_control_message_in_the_protocol_page_is_the_codes() -> None:
    """Offsets, types and order of the fields; version, kinds and flags."""
    assert f"{CONTROL_SIZE} bytes; on System V" in PROTOCOL
    fields = rows(PROTOCOL[PROTOCOL.index("## Control message") :], "offset")
    sizes = [int(kind.removeprefix("u")) // 8 for _, _, kind, _ in fields]
    assert [name for _, name, _, _ in fields] == ["version", "kind", "slot", "flags", "epoch", "seq", "length"]
    assert [int(offset) for offset, *_ in fields] == [sum(sizes[:at]) for at in range(len(sizes))]
    assert LAYOUT.format == "<" + "".join({1: "B", 2: "H", 4: "I", 8: "Q"}[size] for size in sizes)
    assert fields[0][3] == str(VERSION)
    assert fields[1][3] == ", ".join(f"{kind.value} {kind.name}" for kind in Kind)
    flags = {int(value): name for value, name, _ in rows(PROTOCOL, "bit")}
    assert flags == {flag.value: flag.name for flag in Flag}
    assert sum(flags) == ALL_FLAGS


def test_the_segment_in_the_protocol_page_is_the_codes() -> None:
    """Offsets of header and entries, sizes, magic, and what marks a removed one."""
    fields = {name: offset for offset, name, _ in rows(PROTOCOL[PROTOCOL.index("## Segment") :], "offset")}
    head, entry = HEADER_WORDS * _WORD, ENTRY_WORDS * _WORD
    assert fields == {
        "magic": "0", "header_size": "8", "slots": "12", "slot_size": "16", "epoch": "24",
        "sent": str(SENT * _WORD), "published": str(PUBLISHED * _WORD), "seq": f"{head} + {entry} * slot",
        "length": f"{head + 8} + {entry} * slot", "crc32": f"{head + 16} + {entry} * slot",
        "flags": f"{head + 20} + {entry} * slot", "reserved": f"{head + 24} + {entry} * slot",
    }  # fmt: skip
    assert header_size(7) == head + entry * 7
    assert f"u32: {head} + {entry} * slots" in PROTOCOL
    assert f"`{MAGIC.decode()}`" in PROTOCOL
    assert f"`{posix._DEAD.decode()}`" in PROTOCOL
    assert f"next multiple of {spec.PAGE} " in PROTOCOL
    default = Geometry()
    assert f"{default.slots} slots of {default.slot_size} bytes) a" in PROTOCOL
    assert f"segment has {segment_size(default)} bytes" in PROTOCOL


def test_the_files_of_the_ends_in_the_protocol_page_are_the_codes() -> None:
    """Sizes, words and magic of state and cursor; the frame of a kept block."""
    assert f"the registry: {publisher.STATE_SIZE} bytes, native 64-bit words" in PROTOCOL
    assert f"caller names, {cursor._SIZE} bytes" in PROTOCOL
    words = rows(PROTOCOL, "word")
    assert [word for word, _ in words] == ["0", "1", "2", "3", "4"]
    words = rows(PROTOCOL[PROTOCOL.index("The **cursor**") :], "word")
    assert words[cursor._MAGIC_WORD][1] == f"magic, `{cursor._MAGIC.to_bytes(8, 'little').decode()}`"
    assert words[cursor._EPOCH][1] == "epoch"
    assert words[cursor._SEQ][1] == "last finished block"
    assert "records" in words[cursor._RECORDS][1]
    assert cursor._FRAME.format == struct.Struct("<QQ").format
    assert "each as u64 seq, u64 length (little-endian)" in PROTOCOL


def test_the_descriptor_in_the_protocol_page_is_the_codes() -> None:
    """Every key of the schema, and no other."""
    descriptor = Descriptor(
        spec=ChannelSpec(name="c"),
        epoch=1,
        keys=Keys(queue="1", segment="2"),
        creator_uid=0,
        ipc_namespace=0,
        created=0,
    )
    document = json.loads(descriptor.to_json())
    named = [key for cell, _ in rows(PROTOCOL, "key") for key in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(document)
    assert f"| `schema` | {SCHEMA} |" in PROTOCOL
    for key in ("keys", "geometry", "sender"):
        row = next(meaning for cell, meaning in rows(PROTOCOL, "key") if f"`{key}`" in cell)
        assert all(f"`{part}`" in row for part in document[key]), key


def test_numbers_that_operators_go_by_are_the_codes() -> None:
    """Defaults of a definition, bounds, modes, limits of the kernel, how often the crash test kills."""
    cells = {key: (default, meaning) for key, default, meaning in rows(OPERATIONS, "key")}
    default = ChannelSpec(name="c")
    assert cells["`slots`, `depth`"][0] == f"{default.geometry.slots}, {default.geometry.depth}"
    assert cells["`slot_size`"][0] == str(default.geometry.slot_size)
    assert f"({_QUEUE_SLOT_SIZE} in the queue transport)" in cells["`slot_size`"][1]
    assert cells["`max_message`"][0] == str(default.max_message)
    for key in ("backend", "transport", "segment_creator", "wire"):
        assert cells[f"`{key}`"][0] == f'`"{getattr(default, key)}"`'
    assert cells["`checksum`"][0] == f"`{str(default.checksum).lower()}`"
    assert f"slots {spec.MAX_SLOTS}, depth\n{spec.MAX_DEPTH}, slot_size {spec.MAX_SLOT_SIZE >> 30} GiB" in OPERATIONS
    assert [name for name, _, _ in rows(OPERATIONS, "limit")] == [f"`{name}`" for name in limits.LIMITS]
    two = ChannelSpec(name="c", sender=spec.Principal(uid=1, gid=1), receiver=spec.Principal(uid=2, gid=2))
    _, _, queue, segment = modes(two)
    for page in (OPERATIONS, DESIGN):
        assert f"{queue:04o}" in page
        assert f"{segment:04o}" in page
    assert f"{len(CASES) * (KILLS + 2)} times in each run" in PROTOCOL


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link has its file, and its heading."""
    for target in _LINK.findall(prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name} links to {target}"
        assert place.is_relative_to(ROOT), f"{page.name} links out of the project: {target}"
        if anchor:
            assert anchor in anchors(place), f"{page.name} links to {target}"


def test_every_page_can_be_found_from_the_readme() -> None:
    """No page of `docs/` stands alone."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (target.partition("#")[0] for target in _LINK.findall(prose(page)) if "://" not in target)
        todo += [(page.parent / target).resolve() for target in targets if target]
    assert set(PAGES) - seen == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documents_compiles_and_uses_what_there_is(page: Path) -> None:
    """Snippets are Python, and what they take from the package exists."""
    modules = {"sipc": sipc, "libsipc": sipc.libsipc}
    for body in blocks(page, "python"):
        for node in ast.walk(compile(body, page.name, "exec", flags=ast.PyCF_ONLY_AST)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{page.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_calls_named_in_the_text_exist(page: Path) -> None:
    """`Sender.x`, `Receiver.x`, `sipc.x` between backquotes."""
    owners = {"Sender": sipc.Sender, "Receiver": sipc.Receiver, "Handle": sipc.libsipc.Handle, "sipc": sipc}
    for owner, name in re.findall(r"`(Sender|Receiver|Handle|sipc)\.([a-z_]\w*)[`(]", prose(page)):
        if (ROOT / "policy" / f"{owner}.{name}").exists():
            continue  # the name of a file
        assert hasattr(owners[owner], name), f"{page.name}: {owner}.{name}"


def command_lines(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The words behind `sipc` of each command line, and whether it stands in a block (else it may be cut short)."""
    lines = [(line, True) for body in blocks(page, "sh") for line in body.splitlines()]
    lines += [(line, False) for line in re.findall(r"`(sipc [a-z][^`]*)`", prose(page))]
    for line, whole in lines:
        for part in re.split(r"[|;&]+|(?<!\S)#", line):
            words = re.sub(r"(?<!\S)[<>]+ *\S+", "", part).strip()
            split = shlex.split(words)
            at = next((at for at, word in enumerate(split) if word == "sipc" or word.endswith("bin/sipc")), None)
            if at is not None:
                yield split[at + 1 :], whole


def test_commands_in_the_documents_exist() -> None:
    """Each `sipc ...` line names a command, and options and arguments that it takes."""
    seen: set[str] = set()
    for page in PAGES:
        for given, whole in command_lines(page):
            words, command, where = list(given), cli, f"{page.name}: sipc {' '.join(given)}"
            found: click.Command = command
            while words and isinstance(found, click.Group):
                assert words[0] in found.commands, where
                found = found.commands[words.pop(0)]
            context = click.Context(found)
            try:
                values, rest, _ = found.make_parser(context).parse_args(words)
            except click.UsageError as error:
                pytest.fail(f"{where}: {error.message}")
            assert not rest, where
            arguments = [one for one in found.params if isinstance(one, click.Argument) and one.required]
            assert not whole or all(values.get(one.name or "") for one in arguments), where
            seen.add(found.name or "")
    assert seen >= {"create", "destroy", "list", "status", "send", "recv", "doctor", "generate", "verify"}


def test_every_error_is_explained() -> None:
    """The operations page has them all, and no other; the errno table names real errnos and real errors."""
    assert sorted(name.strip("`") for name, *_ in rows(OPERATIONS, "error")) == sorted(errors.__all__)
    for numbers, _, raised, cause, fix in rows(OPERATIONS, "errno"):
        assert all(hasattr(errno, name) for name in numbers.split(", ")), numbers
        assert raised.startswith("none") or re.findall(r"`(\w+)`", raised), raised
        assert set(re.findall(r"`(\w+)`", raised)) <= set(errors.__all__), raised
        assert cause, numbers
        assert fix, numbers


def test_every_exit_code_is_explained() -> None:
    """In the words of `sipc --help`."""
    table = {int(code): meaning for code, meaning in rows(OPERATIONS, "code")}
    assert sorted(table) == sorted(Exit)
    for code, meaning in table.items():
        assert re.search(rf" {code} {re.escape(meaning)}[;.]", EPILOG), code


def test_every_key_of_a_definition_is_explained() -> None:
    """The operations page has them all."""
    for key in _KEYS:
        assert re.search(rf"`{key}[`.]", OPERATIONS), key


def test_the_architecture_names_every_module() -> None:
    """And none that is gone."""
    block = next(body for body in blocks(ROOT / "docs" / "design.md", "") if "errors.py" in body)
    named = set(re.findall(r"\b([a-z]\w*)(?:\.py|/)", block))
    source = Path(sipc.__file__).parent
    there = {path.stem for path in source.glob("*.py")} | {path.parent.name for path in source.glob("*/__init__.py")}
    assert named == there - {"__init__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """A claim names what shows it: a file, a function in a file, or a function anywhere."""
    everywhere = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`((?:tests/[\w/.]+(?:::)?)?(?:test_\w+)?)`", prose(page)):
        file, _, function = name.rpartition("::") if "::" in name or name.startswith("test_") else (name, "", "")
        assert not file or (ROOT / file).exists(), f"{page.name}: {name}"
        text = (ROOT / file).read_text() if file and function else everywhere
        assert not function or f"def {function}(" in text, f"{page.name}: {name}"


def test_every_security_claim_names_a_test() -> None:
    """No row of the table is only said."""
    claims = rows(SECURITY, "claim")
    assert len(claims) > 10
    for claim, shown in claims:
        assert re.search(r"`tests/[\w/.]+", shown), claim


def test_what_remains_open_is_the_designs_list_and_its_rates_are_measured_ones() -> None:
    """Every way back that the design admits; no figure but those of `make leftovers`, which has every way's."""
    table = SECURITY[SECURITY.index("## What remains open") :]
    assert len(rows(table, "way back")) >= 8
    assert not re.search(r"[kM]bit/s", SECURITY)
    assert "(docs/threat-model.md#measured)" in table
    page = (ROOT / "docs" / "threat-model.md").read_text()
    measured = page.partition(leftovers.MARKS[0])[2].partition(leftovers.MARKS[1])[0]
    assert measured.count("\n| ") == len(WAYS) + 2
    for way in WAYS:
        row = next(line for line in measured.splitlines() if line.startswith(f"| {way.name} | {way.code}"))
        assert f"| {way.closed_by} |" in row
        assert "not measured" not in row
    assert re.search(r"^Measured on .+, Linux .+, \d{4}-\d\d-\d\d: \d+ rounds", measured, re.MULTILINE)
    for word in ("IPC_STAT", "/proc/sysvipc", "futex", "mincore", "map_files", "locks", "pid numbers"):
        assert word in table


def test_security_comes_first_in_every_release() -> None:
    """CHANGELOG: the first heading below a version."""
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[.+\n+(### .+)$", text, re.MULTILINE)
    assert releases
    assert set(releases) == {"### Security"}


def test_no_unfinished_marks_are_left() -> None:
    """Neither in the source nor beside it; `test_layers.py` looks for more in the source."""
    marks = re.compile("TO" + "DO|FIX" + "ME")
    files = [*PAGES, *(path for folder in ("src", "helper", "scripts") for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in files if path.is_file() and path.suffix not in (".pyc", ".so")]
    assert len(texts) > 60
    assert [str(path) for path in texts if marks.search(path.read_text())] == []
