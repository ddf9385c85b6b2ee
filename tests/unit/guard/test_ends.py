# SPDX-License-Identifier: Apache-2.0
"""Rules about stages' processes and key files in the guard file: what they become, and every mistake with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.guards import GOOD, SMALL, changed, problems

from sipc.definitions import parse as parse_definitions
from sipc.endpoint_policy import EndpointPolicy
from sipc.errors import Denied, SpecError
from sipc.guard import channels, units
from sipc.guard.check import examine
from sipc.guard.config import EndpointRules, parse
from sipc.guard.endpoints import is_judged, own_policy, peer_policy, started_policy
from sipc.guard.policy import channel_specs
from sipc.spec import Enforcement, Tag

SHA = "ab" * 32
ALL = (
    f'endpoint = {{ in_groups = ["daemon", 7], only_groups = [7, "daemon"], program = "/usr/bin/p\\"y", '
    f'digest = "{SHA}", selinux_type = "a_t", selinux_range = "s0-s0:c0.c1023" }}'
)
RULES = EndpointRules(
    in_groups=("daemon", 7), only_groups=(7, "daemon"), program='/usr/bin/p"y', digest=SHA, selinux_type="a_t",
    selinux_range="s0-s0:c0.c1023",
)  # fmt: skip
SOURCE = "source = { stdin = true }"


def small(stage: str = "", channel: str = "") -> str:
    """The small guard with more of its source a, and of its channel."""
    return SMALL.replace(SOURCE, "\n".join(filter(None, (SOURCE, stage)))) + channel


# -- what it becomes


def test_rules_read_as_they_are_written() -> None:
    """Every key; a stage without the table has none."""
    guard = parse(small(ALL), "F")
    assert guard.stages["a"].endpoint == RULES
    assert guard.stages["b"].endpoint is None
    assert parse(small("endpoint = { only_groups = [] }"), "F").stages["a"].endpoint == EndpointRules(only_groups=())


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ('key_file = "/k"', {"a": "/k", "b": "/k"}),
        ('key_file = { from = "/a/k", to = "/b/k" }', {"a": "/a/k", "b": "/b/k"}),
        ("", {}),
    ],
)
def test_a_channel_with_a_key_has_tags(line: str, keys: dict[str, str]) -> None:
    """One file for both stages, or one for each; the helper is told of the tags, and of no key."""
    guard = parse(small(channel=line), "F")
    assert guard.channels["c"].keys == keys
    tag = Tag.BLAKE2B if keys else None
    assert guard.channels["c"].spec.tag == tag
    for text in (channels.definitions(channel_specs(guard).values()), units.definitions(guard)):
        assert "/k" not in text
        assert parse_definitions(text, "D", enforcement=Enforcement.DAC)["g.c"].tag == tag


def test_the_helper_is_told_what_the_ends_run() -> None:
    """In both files of definitions that there are, whatever is in the path; of the other end nothing."""
    guard = parse(small(ALL), "F")
    for text in (channels.definitions(channel_specs(guard).values()), units.definitions(guard)):
        spec = parse_definitions(text, "D", enforcement=Enforcement.DAC)["g.c"]
        assert (spec.sender.program, spec.sender.digest) == ('/usr/bin/p"y', SHA)
        assert (spec.receiver.program, spec.receiver.digest) == (None, None)
    assert channel_specs(guard, users=False)["c"].sender.program is None  # a policy is of domains


# -- mistakes


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("endpoint = 1", "F:7: [stage.a] endpoint: is 1, not a table"),
        ("endpoint = {}", "F:7: [stage.a.endpoint]: has no rule: give one of in_groups, only_groups, program, "),
        ('endpoint = { groups = ["x"] }', "[stage.a.endpoint] groups: is no key of this table: write in_groups, or "),
        ('endpoint = { user = "x" }', "[stage.a.endpoint] user: is no key of this table: it stands in the stage's own"),
        ('endpoint = { type = "x_t" }', "[stage.a.endpoint] type: is no key of this table: write selinux_type"),
        ('endpoint = { callback = "m:f" }', "[stage.a.endpoint] callback: is no key of this table: a guard has none"),
        ('endpoint = { in_groups = "x" }', "[stage.a.endpoint] in_groups: is 'x', not a list: write in_groups = "),
        ('endpoint = { only_groups = ["a:b"] }', "[stage.a.endpoint] only_groups: 'a:b' can not be a group: give"),
        ("endpoint = { only_groups = [-1] }", "only_groups: -1 can not be a group: "),
        ("endpoint = { only_groups = [true] }", "only_groups: true can not be a group: "),
        ("endpoint = { in_groups = [1], only_groups = [2] }", "in_groups: names a group that only_groups does not: "),
        ('endpoint = { program = "python3" }', "[stage.a.endpoint] program: 'python3' depends on where"),
        ('endpoint = { program = "/bin/../x" }', "[stage.a.endpoint] program: '/bin/../x' leads upwards"),
        ('endpoint = { program = "/x (deleted)" }', "program: '/x (deleted)' can not be what runs: "),
        ('endpoint = { digest = "AB" }', "[stage.a.endpoint] digest: 'AB' is no SHA-256: write 64 hex digits"),
        ("endpoint = { digest = 1 }", "[stage.a.endpoint] digest: 1 is no SHA-256: "),
        ('endpoint = { selinux_type = "a-t" }', "[stage.a.endpoint] selinux_type: 'a-t' can not be an SELinux type"),
        ('endpoint = { selinux_range = "s0 x" }', "selinux_range: 's0 x' is no range of a context: write what follows"),
    ],
)
def test_each_mistake_in_a_rule_is_told(stage: str, expected: str) -> None:
    """With file, line, key and what would do."""
    (found,) = problems(small(stage))
    assert found.startswith("F:7: ")
    assert expected in found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('tag = "blake2b"', "F:12: [channel.c] tag: is no key of this table: write key_file = "),
        ("key_file = 1", "F:12: [channel.c] key_file: is 1, not a path"),
        ('key_file = "k"', "F:12: [channel.c] key_file: 'k' depends on where a stage is started"),
        ('key_file = { from = "/k" }', "F:12: [channel.c.key_file] to: is missing: give the path of each stage's own"),
        ('key_file = { from = "/k", to = "/k", x = 1 }', "F:12: [channel.c.key_file] x: is no key of this table"),
        ('key_file = "/k"\nchecksum = true', "[channel.c]: is no channel (F: [channel.g.c]: a tag covers what a "),
    ],
)
def test_each_mistake_of_a_key_file_is_told(line: str, expected: str) -> None:
    """The same for keys."""
    (found,) = problems(small(channel=line))
    assert expected in found


@pytest.mark.parametrize(
    "path", ["/var/spool/ingest/key", "/var/spool/deliver", "/var/lib/sipc/json/scrub/quarantine/x"]
)
def test_a_key_where_messages_come_and_go_is_refused(path: str) -> None:
    """It would be sent as one, or written over."""
    (found,) = problems(changed(("slots = 6", f'slots = 6\nkey_file = "{path}"')))
    assert f"F:28: [channel.raw] key_file: '{path}' is or lies in the " in found


def test_two_domains_for_one_stage_are_a_contradiction() -> None:
    """Where a channel asks for SELinux, the stage's own type is the rule."""
    (found,) = problems(changed(('user = "ingest"', 'user = "ingest"\nendpoint = { selinux_type = "other_t" }')))
    assert "[stage.ingest] endpoint: its domain is json_ingest_t, and endpoint.selinux_type is other_t" in found
    assert not problems(changed(('user = "ingest"', 'user = "ingest"\nendpoint = { selinux_type = "json_ingest_t" }')))


def test_what_this_host_has_not_is_a_note() -> None:
    """A group to be created; a queue that tells nobody who sends."""
    found = examine(small('endpoint = { in_groups = ["no-such-group"] }', 'backend = "posix"'), "F")
    assert any("there is no group 'no-such-group' on this host" in note for note in found.notes)
    unseen = "channel c: POSIX queues do not tell who sent last, so b can not judge it"
    assert any(unseen in note for note in found.notes)
    for quiet in (small(channel='backend = "posix"'), small(ALL, 'backend = "posix"\nkey_file = "/k"')):
        assert not any("who sent last" in note for note in examine(quiet, "F").notes)


# -- what is made of them


def test_a_stage_asks_of_itself_all_that_the_file_says() -> None:
    """Names are numbers by then; nothing where nothing is said."""
    guard = parse(small(ALL.replace("endpoint", "user = 1\nendpoint"), "").replace(
        "[stage.b]", "[stage.b]\nuser = 1"), "F")  # fmt: skip
    assert own_policy(guard, guard.stages["a"]) == EndpointPolicy(
        uid=1, gid=1, in_groups=frozenset({1, 7}), only_groups=frozenset({1, 7}), program='/usr/bin/p"y', digest=SHA,
        selinux_type="a_t", selinux_range="s0-s0:c0.c1023",
    )  # fmt: skip
    assert own_policy(parse(SMALL, "F"), parse(SMALL, "F").stages["a"]) is None


def test_under_selinux_a_stage_asks_for_its_domain() -> None:
    """Its own type, or the default one; under dac a type is a name and no more."""
    text = GOOD.replace('"ingest"\n', '"daemon"\n').replace('from = "daemon"', 'from = "ingest"')
    for enforcement, wanted in (("selinux", "json_ingest_t"), ("dac", None)):
        guard = parse(text.replace('enforcement = "selinux"', f'enforcement = "{enforcement}"'), "F")
        policy = own_policy(guard, guard.stages["ingest"])
        assert policy is not None
        assert policy.selinux_type == wanted


def test_an_account_that_is_not_there_is_a_denial() -> None:
    """Of users, and of groups in rules."""
    guard = parse(GOOD, "F")
    with pytest.raises(Denied, match="there is no user 'ingest' on this host: create it"):
        own_policy(guard, guard.stages["ingest"])
    guard = parse(small('endpoint = { only_groups = ["no-such-group"] }'), "F")
    with pytest.raises(SpecError, match="there is no group 'no-such-group' on this host"):
        own_policy(guard, guard.stages["a"])


def test_who_starts_a_stage_asks_for_what_it_gave_as_well() -> None:
    """No group besides those it gave, and of these none that the file does not allow; the program that it runs."""
    stage = parse(small("endpoint = { only_groups = [7, 8] }"), "F").stages["a"]
    policy = started_policy(stage, uid=3, gid=4, groups=frozenset({8, 9}), program="/p")
    assert policy == EndpointPolicy(uid=3, gid=4, only_groups=frozenset({8}), program="/p")
    stage = parse(small('endpoint = { program = "/q" }'), "F").stages["a"]
    policy = started_policy(stage, uid=3, gid=4, groups=frozenset(), program="/p")
    assert (policy.program, policy.only_groups) == ("/q", frozenset())


def test_who_receives_asks_only_what_can_be_seen_and_where_it_may_ask() -> None:
    """Under dac, of a System V queue, of a sender that the file tells something of."""
    told = "user = 1\n" + ALL
    both = small(told).replace("[stage.b]", "[stage.b]\nuser = 2")
    guard = parse(both, "F")
    policy = peer_policy(guard, guard.channels["c"])
    assert policy is not None
    assert (policy.uid, policy.gid, policy.in_groups) == (1, 1, frozenset({1, 7}))
    seen = os.geteuid() == 0  # of another user's process only root sees what it runs
    assert (policy.program is not None, policy.digest is not None) == (seen, seen)
    for text in (SMALL, both + 'backend = "posix"'):
        guard = parse(text, "F")
        assert not is_judged(guard, guard.channels["c"])
        assert peer_policy(guard, guard.channels["c"]) is None
    guard = parse(changed(), "F")
    assert not any(is_judged(guard, channel) for channel in guard.channels.values())


def test_units_give_groups_and_let_a_judge_see_processes() -> None:
    """And only a stage that judges; the file's directory is not opened for that."""
    text = small('user = "daemon"\nendpoint = { in_groups = ["adm", 7] }').replace("stdin = true", 'file = "/x/a"')
    text = text.replace("[stage.b]", '[stage.b]\nuser = "bin"').replace("stdout = true", 'file = "/y/b"')
    made = units.render(parse(text, "F"))
    a, b = (made[units.stage_name("g", name)] for name in "ab")
    assert "\nSupplementaryGroups=adm 7\n" in a
    assert "SupplementaryGroups" not in b
    assert "\nProtectProc=invisible\n" in a
    assert "\nProtectProc=default\n" in b


def test_the_page_names_every_rule() -> None:
    """As the reader of files knows them."""
    page = (Path(__file__).parents[3] / "docs" / "guards.md").read_text()
    for key in ("in_groups", "only_groups", "program", "digest", "selinux_type", "selinux_range", "key_file"):
        assert f"`{key}`" in page
