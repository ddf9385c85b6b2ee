# SPDX-License-Identifier: Apache-2.0
"""The guard file: TOML in, a `Guard` out, or every problem with its line.

Owns the keys of the file.  `tables.py` reads their values and notes the problems, `definitions.py` says what a channel
is, `structure.py` what stages and channels must make together; so a `Guard` that exists is one whose file has no
problem in itself.  Whether it fits a host and a policy, `check.py` asks.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from sipc import definitions
from sipc.errors import SpecError
from sipc.guard.ends import check_keys, check_users, endpoint_rules, key_files
from sipc.guard.lines import DEEPEST, find_lines
from sipc.guard.model import (
    AuditPlace,
    CommandFilter,
    EndpointRules,
    Guard,
    GuardChannel,
    Kind,
    Medium,
    OnQuarantineFull,
    OnViolation,
    PythonFilter,
    Quarantine,
    Sink,
    Source,
    Stage,
)
from sipc.guard.requirements import WORDS, Edge, Requirement, parse_requirement
from sipc.guard.structure import check_structure
from sipc.guard.tables import File, Problem, Table, named, shown, title
from sipc.spec import MAX_DEPTH, MAX_SLOT_SIZE, MAX_SLOTS, Backend, ChannelSpec, Enforcement, Tag, Transport

__all__ = (
    "LONGEST_TEXT",
    "CommandFilter",
    "EndpointRules",
    "Guard",
    "GuardChannel",
    "Kind",
    "Medium",
    "OnQuarantineFull",
    "OnViolation",
    "PythonFilter",
    "Quarantine",
    "Requirement",
    "Sink",
    "Source",
    "Stage",
    "parse",
    "read",
)

# Names become parts of types, units and files.  A channel is registered as GUARD.CHANNEL, of at most 64 characters.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CHANNEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
LONGEST_TEXT = 1 << 20  # characters: far more than any guard needs, and read in no time
_SOCKET_PATH = 107  # sun_path of unix(7), less its NUL
_LARGEST_SIZE = (1 << 63) - 1  # as spec.py has it for max_message
_TOP = ("version", "guard", "stage", "channel")
_GUARD = ("name", "on_violation", "on_quarantine_full", "audit", "enforcement", "require")
_STAGE = ("user", "group", "type", "source", "filter", "sink", "quarantine", "endpoint")
_CHANNEL = ("from", "to", "slots", "depth", "slot_size", "max_message", "backend", "transport", "checksum",
            "enforcement", "type", "key_file")  # fmt: skip
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse(text: str, source: str) -> Guard:
    """Read a guard file's text; `source` names it.  Raises `SpecError` with every problem, one a line."""
    guard, problems = read(text, source)
    if guard is None:
        raise SpecError("\n".join(problem.text(source) for problem in problems))
    return guard


def read(text: str, source: str) -> tuple[Guard | None, list[Problem]]:
    """Read a guard file's text into a guard, or into all problems that can be found."""
    if len(text) > LONGEST_TEXT:
        reason, fix = f"has {len(text)} characters", f"give at most {LONGEST_TEXT}"
        return None, [Problem(line=1, table="", key="", reason=reason, fix=fix)]
    file = File(source=source, lines=find_lines(text))
    if file.lines.deep is not None:
        reason = f"tables or lists more than {DEEPEST} deep inside each other"
        return None, [Problem(line=file.lines.deep, table="", key="", reason=reason, fix="no guard needs as many")]
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        return None, _no_toml(file, text, error)
    guard = _Reader(file, document).guard()
    if file.problems:
        return None, sorted(file.problems, key=lambda problem: problem.line)
    return guard, []


def _no_toml(file: File, text: str, error: ValueError) -> list[Problem]:
    """What is given twice, with both lines; else what the parser says, with the one it came to."""
    found = []
    for twice in file.lines.twice:
        table, key = (twice.path, "") if twice.header else (twice.path[:-1], named(twice.path[-1]))
        found.append(Problem(
            line=twice.second, table=title(table) if table else "", key=key,
            reason=f"is given twice, first on line {twice.first}", fix="remove one, or give it another name",
        ))  # fmt: skip
    if found:
        return found
    words = str(error) if str(error).isprintable() else shown(str(error))
    at = _AT.search(words)
    line = int(at[1]) if at is not None and at[1] else text.count("\n") + 1 if at is not None else 1
    column = f" in column {at[2]}" if at is not None and at[2] else ""
    reason = f"not TOML{column}: {_AT.sub('', words)}"
    return [Problem(line=line, table="", key="", reason=reason, fix="write it as https://toml.io/en/v1.0.0 has it")]


class _Reader:
    """One document on its way to a guard.  What is wrong is noted and left out; what depends on it goes on."""

    def __init__(self, file: File, document: dict[str, Any]) -> None:
        self.file = file
        self.top = Table(file, (), document)
        self.name: str | None = None
        self.enforcement = Enforcement.SELINUX  # what is not said must not mean less
        self.kinds: dict[str, Kind | None] = {}
        self.given: dict[str, Table] = {}  # the tables of stages
        self.channel_tables: list[tuple[str, Table]] = []
        self.stages: dict[str, Stage] = {}
        self.edges: list[Edge] = []
        self.channels: dict[str, GuardChannel] = {}
        self.require: list[tuple[int, Requirement]] = []
        self.complete = True  # every channel has both its ends

    def guard(self) -> Guard | None:
        self.top.only(_TOP)
        version = self.top.values.get("version")
        if version != 1 or type(version) is not int:
            reason = "is missing" if version is None else f"{shown(version)} is not known here"
            self.top.problem("version", reason, "write version = 1")
        if version not in (1, None):
            return None  # other keys may be right in another version
        table = self.top.table("guard", '{ name = "NAME" }')
        if "guard" not in self.top.values:
            self.top.problem("guard", "is missing", 'add a table [guard] with name = "NAME"')
        head = self.head(table) if table is not None else (None, None, None)
        self.given = dict(self.named("stage"))
        for name, stage in self.given.items():
            self.stage(name, stage)
        self.channel_tables = self.named("channel")
        for name, channel in self.channel_tables:
            self.channel(name, channel)
        check_users(self.name, self.channels, self.stages, self.given)
        check_keys(self.channels, dict(self.channel_tables), self.places())
        if table is not None:
            self.requirements(table)
            sealed = [name for name, one in self.channels.items() if one.spec.enforcement is Enforcement.SELINUX]
            if head[-1] is AuditPlace.JOURNAL and sealed:
                table.problem(
                    "audit", f"'journal' takes a socket, which the policy denies to the ends of channel {sealed[0]}",
                    'write audit = "file"',
                )  # fmt: skip
        check_structure(self.file, self.kinds, self.edges, self.require, self.places(), complete=self.complete)
        if self.file.problems or self.name is None:
            return None
        on_violation, on_quarantine_full, audit = head
        return Guard(
            source=self.file.source,
            name=self.name,
            on_violation=on_violation or OnViolation.STOP_GUARD,
            on_quarantine_full=on_quarantine_full or OnQuarantineFull.STOP_STAGE,
            audit=audit or AuditPlace.FILE,
            enforcement=self.enforcement,
            require=tuple(requirement for _, requirement in self.require),
            stages=self.stages,
            channels=self.channels,
            lines=self.file.lines,
        )

    def head(self, table: Table) -> tuple[OnViolation | None, OnQuarantineFull | None, AuditPlace | None]:
        """The table [guard], but for the requirements, which need the stages."""
        table.only(_GUARD)
        self.enforcement = table.choice("enforcement", Enforcement) or self.enforcement
        name = table.values.get("name")
        if name is None:
            table.problem("name", "is missing", 'write name = "NAME"')
        elif not isinstance(name, str) or not _NAME.fullmatch(name):
            table.problem("name", *_wrong_name(name, 32))
        else:
            self.name = name
        return (
            table.choice("on_violation", OnViolation), table.choice("on_quarantine_full", OnQuarantineFull),
            table.choice("audit", AuditPlace),
        )  # fmt: skip

    def named(self, key: str) -> list[tuple[str, Table]]:
        """The tables [key.NAME]."""
        whole = self.top.table(key, "{ NAME = { ... } }")
        if whole is None:
            self.complete = False
            if key not in self.top.values:
                self.top.problem(key, "is missing", f"add a table [{key}.NAME]")
            return []
        if not whole.values:
            whole.problem(None, f"has no {key}", f"add a table [{key}.NAME]")
        found = []
        for name in whole.values:
            pattern, longest = (_CHANNEL_NAME, 31) if key == "channel" else (_NAME, 32)
            if not pattern.fullmatch(name):
                self.file.problem((key, name), None, *_wrong_name(name, longest))
            elif name in WORDS and key == "stage":
                self.file.problem((key, name), None, "is a word of requirements", "give the stage another name")
            table = whole.table(name, "{ ... }")
            if table is not None:
                found.append((name, table))
            elif key == "stage":
                self.kinds[name] = None
            else:
                self.complete = False
        return found

    def stage(self, name: str, table: Table) -> None:
        elsewhere = {key: f"write filter = {{ {key} = ... }}" for key in ("command", "python", "timeout")}
        table.only(_STAGE, elsewhere | {"name": "the name stands in [stage.NAME]: remove it"})
        role = table.one_of([kind.value for kind in Kind], "role")
        kind = self.kinds[name] = Kind(role) if role is not None else None
        user, group = table.account("user"), table.account("group")
        if "group" in table.values and "user" not in table.values:
            table.problem("group", "a group without a user", "give both, or neither")
        work = self.work(table, kind) if kind is not None else None
        quarantine = self.quarantine(table, kind)
        if work is not None:
            self.stages[name] = Stage(
                name=name, work=work, user=user, group=group, type=self.type(name, table), quarantine=quarantine,
                endpoint=endpoint_rules(table),
            )  # fmt: skip

    def type(self, name: str, table: Table) -> str | None:
        """The type that the table names, or `<guard>_<stage>_t`, unless that is none."""
        given = table.identifier("type")
        if "type" in table.values or self.name is None:
            return given
        default = f"{self.name}_{name}_t".replace("-", "_")
        return default if default[0].isalpha() and default.isidentifier() else None

    def work(self, table: Table, kind: Kind) -> Source | Sink | PythonFilter | CommandFilter | None:
        """What the stage does."""
        if kind is Kind.FILTER:
            inside = table.table("filter", '{ python = "module:function" }')
            return self.filter(inside) if inside is not None else None
        inside = table.table(kind.value, '{ directory = "/a/directory" }')
        if inside is None:
            return None
        keys = ("file", "directory", stream := "stdin" if kind is Kind.SOURCE else "stdout", "socket")
        inside.only(keys)
        key = inside.one_of(keys, f"place of the {kind.value}")
        make = Source if kind is Kind.SOURCE else Sink
        if key is None:
            return None
        if key == stream:
            if inside.boolean(key) is False:
                inside.problem(key, "is false", f"write {key} = true, or another place")
            return make(medium=Medium.STREAM)
        path = inside.file_path(key, _SOCKET_PATH) if key == "socket" else inside.file_path(key)
        return make(medium=Medium(key), path=path) if path is not None else None

    def filter(self, table: Table) -> PythonFilter | CommandFilter | None:
        table.only(("python", "decode", "command", "persistent", "timeout"))
        which = table.one_of(("python", "command"), "filter")
        timeout = {} if (seconds := table.seconds("timeout")) is None else {"timeout": seconds}
        for key, other in (("decode", "command"), ("persistent", "python")):
            if which == other and key in table.values:
                table.problem(key, f"says nothing about a filter in {other}", "remove it")
        if which == "python":
            function, decode = table.reference("python"), table.reference("decode")
            return PythonFilter(function=function, decode=decode, **timeout) if function is not None else None
        if which == "command":
            command, persistent = table.arguments("command"), table.boolean("persistent")
            if command is not None:
                return CommandFilter(command=command, persistent=bool(persistent), **timeout)
        return None

    def quarantine(self, table: Table, kind: Kind | None) -> Quarantine | None:
        inside = table.table("quarantine", '{ directory = "/a/directory", limit = "64 MiB" }')
        if inside is None:
            return None
        if kind is not None and kind is not Kind.FILTER:
            table.problem("quarantine", f"a {kind.value} refuses nothing", "remove it, or give it to a filter")
        inside.only(("directory", "limit"))
        directory, limit = inside.file_path("directory"), inside.size("limit", 1, _LARGEST_SIZE)
        if "directory" not in inside.values:
            inside.problem("directory", "is missing", 'write directory = "/a/directory"')
        if directory is None:
            return None
        return Quarantine(directory=directory, **({} if limit is None else {"limit": limit}))

    def channel(self, name: str, table: Table) -> None:
        theirs = "the user, group and type of a stage stand in its own table: remove it"
        keys = {"wire": "a guard's channels speak sipc2: remove it", "sender": theirs, "receiver": theirs,
                "tag": 'write key_file = "/path/of/the/key": a channel that has one has tags'}  # fmt: skip
        table.only(_CHANNEL, keys)
        ends = [self.end(table, key) for key in ("from", "to")]
        start, end = ends
        if start is not None and end is not None:
            self.edges.append((start, end, name))
        else:
            self.complete = False
        values: dict[str, Any] = {
            "slots": table.integer("slots", 1, MAX_SLOTS),
            "depth": table.integer("depth", 1, MAX_DEPTH),
            "slot_size": table.size("slot_size", 1, MAX_SLOT_SIZE),
            "max_message": table.size("max_message", 1, _LARGEST_SIZE),
            "backend": table.choice("backend", Backend, without=(Backend.MEMORY,)),
            "transport": table.choice("transport", Transport),
            "checksum": table.boolean("checksum"),
            "enforcement": table.choice("enforcement", Enforcement),
            "type": table.identifier("type"),
            "tag": Tag.BLAKE2B if "key_file" in table.values else None,
        }
        files = key_files(table)
        spec = self.spec(name, table, {key: value for key, value in values.items() if value is not None})
        if spec is not None and start is not None and end is not None:
            self.channels[name] = GuardChannel(name=name, sender=start, receiver=end, spec=spec, keys={
                stage: files[key] for stage, key in ((start, "from"), (end, "to")) if key in files
            })  # fmt: skip

    def spec(self, name: str, table: Table, values: dict[str, Any]) -> ChannelSpec | None:
        """The channel as `definitions` reads it, under the name it is registered by."""
        if self.name is None or not _CHANNEL_NAME.fullmatch(name):
            return None
        try:
            spec = definitions.channel(self.file.source, f"{self.name}.{name}", values, self.enforcement)
        except SpecError as error:
            table.problem(None, f"is no channel ({error})", "see docs/operations.md for what a channel can be")
            return None
        return replace(spec, source=f"{self.file.source}:{self.file.lines.of(table.path)}: {title(table.path)}")

    def end(self, table: Table, key: str) -> str | None:
        """A stage by name."""
        value = table.values.get(key)
        if value is None:
            table.problem(key, "is missing", f"name a stage: {key} = {_example(self.kinds)}")
        elif isinstance(value, list):
            role = "sender" if key == "from" else "receiver"
            table.problem(key, f"a channel has one {role}", "make one channel for each")
        elif not isinstance(value, str) or value not in self.kinds:
            example = _example(self.kinds, value if isinstance(value, str) else "")
            table.problem(key, f"there is no stage {shown(value)}", f"name a stage: {key} = {example}")
        else:
            return value
        return None

    def requirements(self, table: Table) -> None:
        value = table.values.get("require", [])
        if not isinstance(value, list):
            table.problem("require", f"is {shown(value)}, not a list", 'write require = ["a -> b via c"]')
            return
        for number, text in enumerate(value):
            found = parse_requirement(text, self.kinds) if isinstance(text, str) else (
                f"{shown(text)} is no string", "put it in quotes"
            )  # fmt: skip
            if isinstance(found, Requirement):
                self.require.append((number, found))
            else:
                table.problem("require", *found, within=(number,))

    def places(self) -> list[tuple[str, tuple[str, str], str]]:
        """Every path that a stage reads or writes: stage, the keys it stands under, path."""
        found: list[tuple[str, tuple[str, str], str]] = []
        for name, stage in self.stages.items():
            if isinstance(stage.work, (Source, Sink)):
                key = stage.work.medium.value
                if stage.work.medium is Medium.STREAM:
                    key = "stdin" if stage.kind is Kind.SOURCE else "stdout"
                found.append((name, (stage.kind.value, key), stage.work.path or key))
            if stage.quarantine is not None:
                found.append((name, ("quarantine", "directory"), stage.quarantine.directory))
        return found


def _wrong_name(name: object, longest: int) -> tuple[str, str]:
    rule = f"start with a-z or 0-9, go on with a-z 0-9 _ -, at most {longest} characters"
    return f"{shown(name)} can not be a name", rule


def _example(stages: dict[str, Kind | None], meant: str = "") -> str:
    """A stage's name, quoted: the one that was meant, if it can be told, or any."""
    usable = [name for name in stages if _NAME.fullmatch(name)] or ["NAME"]
    return f'"{(get_close_matches(meant[:64], usable, n=1) or usable)[0]}"'
