# SPDX-License-Identifier: Apache-2.0
"""The guard file's mistakes: each is told with its line, its key, why it is one, and what would do."""

from __future__ import annotations

import re
import resource
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.guards import GOOD, SMALL, changed, problems

from sipc.errors import SpecError
from sipc.guard.config import parse

LONG = "x" * 200_000
MISTAKES = [
    # the file
    ("version = 1", "version = 2", "F:1: version: 2 is not known here: write version = 1"),
    ("version = 1", "version = true", "F:1: version: true is not known here: write version = 1"),
    ("version = 1\n", "", "F:1: version: is missing: write version = 1"),
    ("version = 1", "versoin = 1\nversion = 1", "F:1: versoin: is no key of this table: write version"),
    ("version = 1", "x = 1\nversion = 1", "F:1: x: is no key of this table: known are version, guard, stage, channel"),
    ("version = 1", "version = ", "F:1: not TOML in column 11: Invalid value: write it as"),
    ("version = 1", "version = 1 1", "F:1: not TOML in column 13: "),
    ("version = 1", 'version = 1\n"', "F:2: not TOML in column 2: "),
    ('slot_size = "64 KiB"', "[", "F:31: not TOML in column 2: "),
    ('slot_size = "64 KiB"\n', "[a", "F:31: not TOML: "),
    # the guard
    ('name = "json"', 'name = "Json"', "F:3: [guard] name: 'Json' can not be a name: start with a-z or 0-9"),
    ('name = "json"', f'name = "{"a" * 33}"', "at most 32 characters"),
    ('name = "json"', "name = 7", "F:3: [guard] name: 7 can not be a name: "),
    ('name = "json"', 'name = "a.b"', "F:3: [guard] name: 'a.b' can not be a name: "),
    ('name = "json"\n', "", 'F:2: [guard] name: is missing: write name = "NAME"'),
    (
        "stop-sender",
        "stop",
        "F:4: [guard] on_violation: 'stop' is not known: give one of 'stop-sender', 'stop-guard', 'log'",
    ),
    ('"stop-guard"', "1", "F:5: [guard] on_quarantine_full: 1 is not known: give one of 'stop-stage', 'stop-guard'"),
    ('"selinux"', '"none"', "F:6: [guard] enforcement: 'none' is not known: give one of 'selinux', 'dac'"),
    ('"selinux"', '["dac"]', "F:6: [guard] enforcement: ['dac'] is not known: "),
    (
        'stop-sender"',
        'stop-sender"\naudit = "syslog"',
        "F:5: [guard] audit: 'syslog' is not known: give one of 'file', 'journal'",
    ),
    (
        'stop-sender"',
        'stop-sender"\naudit = "journal"',
        "F:5: [guard] audit: 'journal' takes a socket, which the policy denies to the ends of channel raw: ",
    ),
    ("on_violation", "on_voilation", "F:4: [guard] on_voilation: is no key of this table: write on_violation"),
    # stages
    ("[stage.deliver]", "[stage.Deliver]", "F:21: [stage.Deliver]: 'Deliver' can not be a name: "),
    ("[stage.deliver]", '[stage.""]', "F:21: [stage.'']: '' can not be a name: "),
    ("[stage.deliver]", '[stage."../deliver"]', "F:21: [stage.'../deliver']: '../deliver' can not be a name: "),
    ("[stage.deliver]", "[stage.via]", "F:21: [stage.via]: is a word of requirements: give the stage another name"),
    ("[channel.raw]", "stage.x = 1\n[channel.raw]", "F:24: [stage.deliver] stage: is no key of this table: known are "),
    ('user = "deliver"', "user = 1.5", "F:22: [stage.deliver] user: 1.5 can not be a user: give a name"),
    ('user = "deliver"', "user = -1", "F:22: [stage.deliver] user: -1 can not be a user: "),
    ('user = "deliver"', "user = 4294967295", "F:22: [stage.deliver] user: 4294967295 can not be a user: "),
    ('user = "deliver"', "user = true", "F:22: [stage.deliver] user: true can not be a user: "),
    (
        'user = "deliver"',
        r'user = "a\nExecStart=/bin/sh"',
        "F:22: [stage.deliver] user: 'a\\nExecStart=/bin/sh' can not",
    ),
    ('user = "deliver"', 'user = "a:b"', "F:22: [stage.deliver] user: 'a:b' can not be a user: "),
    ('group = "ingest"', 'group = ""', "F:14: [stage.ingest] group: '' can not be a group: "),
    (
        'user = "deliver"',
        'name = "deliver"\nuser = "d"',
        "F:22: [stage.deliver] name: is no key of this table: the name stands in [stage.NAME]: remove it",
    ),
    (
        'user = "deliver"',
        'command = []\nuser = "d"',
        "F:22: [stage.deliver] command: is no key of this table: write filter = { command = ... }",
    ),
    ('user = "deliver"\n', "", "F:21: [stage.deliver] user: is missing, and a channel asks for SELinux: write user = "),
    (
        'sink = { directory = "/var/spool/deliver" }\n',
        "",
        "F:21: [stage.deliver]: has no role: give one of source, filter, sink",
    ),
    (
        'user = "deliver"',
        'user = "d"\nsource = { stdin = true }',
        "F:24: [stage.deliver] sink: a second role, after source: remove one of them",
    ),
    (
        'sink = { directory = "/var/spool/deliver" }',
        "sink = 5",
        "F:23: [stage.deliver] sink: is 5, not a table: write sink = ",
    ),
    (
        'sink = { directory = "/var/spool/deliver" }',
        "sink = {}",
        "F:23: [stage.deliver.sink]: has no place of the sink: give one of file, directory, stdout, socket",
    ),
    (
        "sink = { directory =",
        "sink = { stdin = true, directory =",
        "F:23: [stage.deliver.sink] stdin: is no key of this table: known are file, directory, stdout, socket",
    ),
    (
        'sink = { directory = "/var/spool/deliver" }',
        "sink = { stdout = false }",
        "F:23: [stage.deliver.sink] stdout: is false: write stdout = true, or another place",
    ),
    (
        'sink = { directory = "/var/spool/deliver" }',
        "sink = { stdout = 1 }",
        "F:23: [stage.deliver.sink] stdout: is 1: write true or false",
    ),
    (
        "sink = { directory =",
        'sink = { file = "/x", directory =',
        "F:23: [stage.deliver.sink] directory: a second place of the sink, after file: remove one of them",
    ),
    # paths
    (
        '"/var/spool/deliver"',
        '"spool"',
        ("F:23: [stage.deliver.sink] directory: 'spool' depends on where a stage is started: give an absolute path"),
    ),
    ('"/var/spool/deliver"', '""', "F:23: [stage.deliver.sink] directory: '' depends on where"),
    (
        '"/var/spool/deliver"',
        '"/"',
        "F:23: [stage.deliver.sink] directory: the root directory holds every other path: ",
    ),
    (
        '"/var/spool/deliver"',
        '"/var/../etc"',
        (
            "F:23: [stage.deliver.sink] directory: '/var/../etc' leads upwards: write where it ends, without "
            "'..': '/etc'"
        ),
    ),
    (
        '"/var/spool/deliver"',
        '"//var/./x"',
        "F:23: [stage.deliver.sink] directory: '//var/./x' has parts that say nothing: write '/var/x'",
    ),
    (
        '"/var/spool/deliver"',
        r'"/var/\u0000x"',
        "F:23: [stage.deliver.sink] directory: '/var/\\x00x' has a character that",
    ),
    ('"/var/spool/deliver"', r'"/var/\nx"', "F:23: [stage.deliver.sink] directory: '/var/\\nx' has a character that"),
    ('"/var/spool/deliver"', f'"/{"x" * 256}"', "F:23: [stage.deliver.sink] directory: '/xxx"),
    (
        '"/var/spool/deliver"',
        f'"{"/xxxxxxx" * 600}"',
        "(4800 characters) is longer than the kernel takes: give at most 4095 ",
    ),
    (
        'directory = "/var/spool/deliver"',
        f'socket = "/{"x" * 107}"',
        "is longer than the kernel takes: give at most 107 bytes",
    ),
    ('"/var/spool/deliver"', "7", "F:23: [stage.deliver.sink] directory: is 7, not a path: write directory = "),
    # filters
    ("python =", "pyhton =", "F:19: [stage.scrub.filter] pyhton: is no key of this table: write python"),
    ("python =", "pyhton =", "F:19: [stage.scrub.filter]: has no filter: give one of python, command"),
    (
        '"json_guard:scrub"',
        '"json_guard"',
        "F:19: [stage.scrub.filter] python: 'json_guard' names nothing in Python: write ",
    ),
    (
        '"json_guard:scrub"',
        '"os:system;x"',
        "F:19: [stage.scrub.filter] python: 'os:system;x' names nothing in Python: ",
    ),
    ('"json_guard:scrub"', '"../x:y"', "F:19: [stage.scrub.filter] python: '../x:y' names nothing in Python: "),
    ('"json_guard:scrub"', '"a:b:c"', "F:19: [stage.scrub.filter] python: 'a:b:c' names nothing in Python: "),
    ('"json_guard:scrub"', '"a:import"', "F:19: [stage.scrub.filter] python: 'a:import' names nothing in Python: "),
    ('"json_guard:scrub"', f'"a:{"b" * 255}"', "(257 characters) names nothing in Python: "),
    ('"json_guard:Order"', '"Order"', "F:19: [stage.scrub.filter] decode: 'Order' names nothing in Python: "),
    (
        "timeout = 2",
        "timeout = 0",
        ("F:19: [stage.scrub.filter] timeout: 0 is no number of seconds to wait: give more than 0 and at most 3600"),
    ),
    ("timeout = 2", "timeout = nan", "F:19: [stage.scrub.filter] timeout: nan is no number of seconds"),
    ("timeout = 2", "timeout = inf", "F:19: [stage.scrub.filter] timeout: inf is no number of seconds"),
    ("timeout = 2", "timeout = true", "F:19: [stage.scrub.filter] timeout: true is no number of seconds"),
    ("timeout = 2", f"timeout = {'9' * 400}", "F:19: [stage.scrub.filter] timeout: 9999"),
    (
        "timeout = 2",
        "persistent = true",
        "F:19: [stage.scrub.filter] persistent: says nothing about a filter in python: remove",
    ),
    (
        'python = "json_guard:scrub"',
        'command = ["/x"]',
        "F:19: [stage.scrub.filter] decode: says nothing about a filter in command: remove it",
    ),
    (
        'python = "json_guard:scrub"',
        'command = "jq ."',
        "F:19: [stage.scrub.filter] command: is 'jq .', not a list: write ",
    ),
    ('python = "json_guard:scrub"', "command = []", "F:19: [stage.scrub.filter] command: is [], not a list: write "),
    ('python = "json_guard:scrub"', 'command = ["jq"]', "F:19: [stage.scrub.filter] command: 'jq' depends on where"),
    (
        'python = "json_guard:scrub"',
        'command = ["/jq",\n\n7]',
        "F:21: [stage.scrub.filter] command: 7 is no string: put it in ",
    ),
    (
        'python = "json_guard:scrub"',
        'command = ["/jq",\n"a\\u0000"]',
        (
            "F:20: [stage.scrub.filter] command: 'a\\x00' can not be an argument of a program: use no NUL, and at "
            "most 131071 bytes"
        ),
    ),
    (
        'python = "json_guard:scrub"',
        f'command = ["/jq",\n"{LONG}"]',
        "(200000 characters) can not be an argument of a program",
    ),
    # quarantine
    (
        '"64 MiB"',
        '"64 MB"',
        "F:20: [stage.scrub.quarantine] limit: '64 MB' is no size: write bytes, or a string like \"64 MiB\"",
    ),
    ('"64 MiB"', "0", "F:20: [stage.scrub.quarantine] limit: 0 is out of range: give 1 to "),
    ('"64 MiB"', '"999999999 TiB"', "F:20: [stage.scrub.quarantine] limit: '999999999 TiB' is out of range: "),
    ('"64 MiB"', "1.5", "F:20: [stage.scrub.quarantine] limit: 1.5 is no size: "),
    (
        'directory = "/var/lib/sipc/json/scrub/quarantine", ',
        "",
        "F:20: [stage.scrub.quarantine] directory: is missing: ",
    ),
    ("limit =", "size =", "F:20: [stage.scrub.quarantine] size: is no key of this table: known are directory, limit"),
    (
        "sink =",
        "quarantine = { directory = '/q' }\nsink =",
        "F:23: [stage.deliver] quarantine: a sink refuses nothing: remove ",
    ),
    # channels
    ("[channel.raw]", "[channel.RAW]", "F:24: [channel.RAW]: 'RAW' can not be a name: "),
    ("[channel.raw]", f"[channel.{'r' * 32}]", "go on with a-z 0-9 _ -, at most 31 characters"),
    (
        'from = "ingest"',
        'from = "ingset"',
        "F:25: [channel.raw] from: there is no stage 'ingset': name a stage: from = ",
    ),
    ('from = "ingest"', "from = 3", "F:25: [channel.raw] from: there is no stage 3: "),
    (
        'from = "ingest"',
        'from = ["ingest", "scrub"]',
        "F:25: [channel.raw] from: a channel has one sender: make one channel for ",
    ),
    (
        'to = "deliver"',
        'to = ["deliver"]',
        "F:30: [channel.clean] to: a channel has one receiver: make one channel for each",
    ),
    ('to = "deliver"\n', "", 'F:28: [channel.clean] to: is missing: name a stage: to = "ingest"'),
    ("slots = 6", "slots = 0", "F:27: [channel.raw] slots: 0 is no whole number from 1 to 65535: write slots = 1"),
    ("slots = 6", "slots = true", "F:27: [channel.raw] slots: true is no whole number from 1 to 65535: "),
    ("slots = 6", "depth = 513", "F:27: [channel.raw] depth: 513 is no whole number from 1 to 512: "),
    (
        "slots = 6",
        'slot_size = "2 GiB"',
        "F:27: [channel.raw] slot_size: '2 GiB' is out of range: give 1 to 1073741824 bytes",
    ),
    ("slots = 6", "max_message = -1", "F:27: [channel.raw] max_message: -1 is out of range: "),
    (
        "slots = 6",
        f"slots = 0x{'f' * 9000}",
        "F:27: [channel.raw] slots: a value too large to show (int) is no whole number",
    ),
    ("slots = 6", f"slots = {'9' * 5000}", "F:1: not TOML: Exceeds the limit (4300 digits)"),
    (
        "slots = 6",
        'backend = "memory"',
        "F:27: [channel.raw] backend: 'memory' is not known: give one of 'sysv', 'posix'",
    ),
    (
        "slots = 6",
        'transport = "tcp"',
        "F:27: [channel.raw] transport: 'tcp' is not known: give one of 'segment', 'queue'",
    ),
    ("slots = 6", 'checksum = "yes"', "F:27: [channel.raw] checksum: is 'yes': write true or false"),
    (
        "slots = 6",
        'wire = "libsipc"',
        "F:27: [channel.raw] wire: is no key of this table: a guard's channels speak sipc2",
    ),
    (
        "slots = 6",
        'sender.user = "root"',
        "F:27: [channel.raw] sender: is no key of this table: the user, group and type of",
    ),
    ("slots = 6", "slots = [[[[1]]]]", "F:27: [channel.raw] slots: [[[[1]]]] is no whole number"),
    ("slots = 6", "slot = 6", "F:27: [channel.raw] slot: is no key of this table: write slots"),
    ("slots = 6", '"" = 6', "F:27: [channel.raw] '': is no key of this table: known are from, to, "),
    ("slots = 6", r'"a\n[b]" = 6', "F:27: [channel.raw] 'a\\n[b]': is no key of this table: known are from, to, "),
    # names that would be more than names in a policy
    (
        '"json_scrubber_t"',
        '"x_t)(allow a b (file (read)))"',
        ("F:18: [stage.scrub] type: 'x_t)(allow a b (file (read)))' can not be an SELinux type: start with a letter"),
    ),
    ('"json_scrubber_t"', '"self"', "F:18: [stage.scrub] type: 'self' can not be an SELinux type: "),
    ('"json_scrubber_t"', '"a.b"', "F:18: [stage.scrub] type: 'a.b' can not be an SELinux type: "),
    ('"json_scrubber_t"', f'"a{"b" * 128}"', "(129 characters) can not be an SELinux type: "),
    ('"json_scrubber_t"', "['x']", "F:18: [stage.scrub] type: ['x'] can not be an SELinux type: "),
    ("slots = 6", 'type = "a b"', "F:27: [channel.raw] type: 'a b' can not be an SELinux type: "),
    # requirements
    (
        '"not deliver -> ingest"',
        '"not deliver => ingest"',
        (
            "F:9: [guard] require: 'not deliver => ingest' is not understood: write 'a -> b via c', 'not b -> a' "
            "or 'only c -> b', with names of stages"
        ),
    ),
    ('"not deliver -> ingest"', "7", "F:9: [guard] require: 7 is no string: put it in quotes"),
    (
        '"not deliver -> ingest"',
        '"not deliver -> nobody"',
        (
            "F:9: [guard] require: 'not deliver -> nobody': there is no stage 'nobody': the stages are ingest, "
            "scrub, deliver"
        ),
    ),
]


@contextmanager
def address_space(more: int) -> Iterator[None]:
    """So many bytes beyond what this process has; who wants more gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES, ids=lambda value: value[:40])
def test_a_mistake_is_told_with_its_line_its_key_and_what_would_do(old: str, new: str, expected: str) -> None:
    """`FILE:LINE: [table] key: reason: fix`, each on one line of bounded length."""
    found = problems(changed((old, new)))
    assert any(expected in line for line in found), found
    for line in found:
        assert re.match(r"F:\d+: ", line)
        assert line.isprintable()
        assert len(line) < 600


def test_a_group_needs_a_user() -> None:
    """Its number alone is nobody."""
    found = problems(SMALL.replace("source =", "group = 5\nsource ="))
    assert found == ["F:6: [stage.a] group: a group without a user: give both, or neither"]


def test_without_selinux_a_channel_is_one_users_or_two() -> None:
    """One end with a user and one without says nothing about the other."""
    found = problems(SMALL.replace("source =", "user = 5\nsource ="))
    assert found == [
        "F:8: [stage.b] user: is missing, and a, at the other end of channel c, has one: give both, or neither"
    ]


def test_a_file_larger_than_any_guard_is_not_read() -> None:
    """1 MiB."""
    (line,) = problems("#" * ((1 << 20) + 1))
    assert line == "F:1: has 1048577 characters: give at most 1048576"


@pytest.mark.parametrize("deep", [
    "a." * 60_000 + "b = 1", f"[{'a.' * 60_000}b]", "x = " + "[" * 100_000, "x = " + "[" * 17 + "1, " * 200_000,
    "x = " + "{ a = " * 50_000, "x = " + "{ a.b.c.d = [" * 4,
])  # fmt: skip
def test_a_file_deeper_than_any_guard_is_not_read(deep: str) -> None:
    """A path is kept for each key, and tomllib walks all of it: 120 KB of dots took all of a machine's memory."""
    with address_space(1 << 30):
        (line,) = problems(f"version = 1\n{deep}\n")
    assert line == "F:2: tables or lists more than 16 deep inside each other: no guard needs as many"


def test_of_many_keys_given_twice_the_first_are_told() -> None:
    """Each is compared with those before, so a file of nothing else would take for ever."""
    found = problems("version = 1\n" + "".join(f"k{i} = 1\nk{i} = 1\n" for i in range(40_000)))
    assert len(found) == 100
    assert found[0].startswith("F:3: k0: is given twice, first on line 2: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["F:1: version", "F:1: guard", "F:1: stage", "F:1: channel"]),
        ("version = 1\nguard = 1\nstage = 2\n\nchannel = 3", ["F:2: guard", "F:3: stage", "F:5: channel"]),
        ("version = 1\n[guard]\nname = 'g'\n[stage]\n[channel]", ["F:4: [stage]", "F:5: [channel]"]),
        ("version = 1\n[guard]\nname = 'g'\n[stage]\na = 1\n[channel]\nb = 2", ["F:5: [stage] a", "F:7: [channel] b"]),
        ("version = 1\n[guard]\nname = 'g'\nrequire = 'x'\n[[stage]]\n[channel.c]", [
            "F:4: [guard] require", "F:5: stage", "F:6: [channel.c] from", "F:6: [channel.c] to",
        ]),
        ("version = 3\nfrobnicate = 1\n[guard]", ["F:1: version", "F:2: frobnicate"]),
    ],
)  # fmt: skip
def test_what_is_missing_or_no_table_is_told(text: str, expected: list[str]) -> None:
    """And nothing that only follows from it; of another version nothing but that."""
    found = problems(text)
    assert [": ".join(line.split(": ")[:2]) for line in found] == expected


def test_all_mistakes_of_a_file_are_told_at_once_in_order() -> None:
    """Each is of its own line; a mistake in a channel's end does not make its stages look lost."""
    found = problems(changed(
        ('name = "json"', 'name = "J"'), ('"selinux"', '"x"'), ('user = "ingest"', "user = 0.5"),
        ("timeout = 2", "timeout = 0"), ('to = "scrub"', 'to = "scrubb"'), ("slots = 6", "slots = 0"),
    ))  # fmt: skip
    assert [line.split(": ")[0] for line in found] == ["F:3", "F:6", "F:13", "F:19", "F:26", "F:27"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            GOOD + '[channel.raw]\nfrom = "deliver"\nto = "scrub"\n',
            "F:32: [channel.raw]: is given twice, first on line 24: ",
        ),
        (GOOD + "slot_size = 1\n", "F:32: [channel.clean] slot_size: is given twice, first on line 31: "),
        (
            GOOD.replace("timeout = 2", "timeout = 2, timeout = 3"),
            "F:19: [stage.scrub.filter] timeout: is given twice, ",
        ),
        (GOOD + "[guard]\nname = 'x'\n", "F:32: [guard]: is given twice, first on line 2: "),
        (
            "version = 1\nversion = 1\n",
            "F:2: version: is given twice, first on line 1: remove one, or give it another name",
        ),
    ],
)
def test_what_is_given_twice_is_told_with_both_lines(text: str, expected: str) -> None:
    """A stage, a channel (which would have had two senders), a key; tomllib refuses it with less."""
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    (line,) = problems(text)
    assert line.startswith(expected)


def test_parse_raises_all_of_it_at_once() -> None:
    """One error, one problem a line."""
    with pytest.raises(SpecError) as caught:
        parse(changed(("slots = 6", "slots = 0"), ("timeout = 2", "timeout = 0")), "F")
    assert [line.split(": ")[0] for line in str(caught.value).split("\n")] == ["F:19", "F:27"]
