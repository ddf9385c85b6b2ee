# SPDX-License-Identifier: Apache-2.0
"""A guard file against a host and a policy: names, users, and the policy that is made from it."""

from __future__ import annotations

import dataclasses
import pwd
from pathlib import Path

import pytest
from tests.support.guards import GOOD, SMALL, changed

from sipc.errors import SpecError
from sipc.guard.check import Examined, examine, load
from sipc.guard.config import Guard, parse
from sipc.guard.policy import account, channel_specs, options, policy_requirements
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import Policy
from sipc.selinux.policy import generate
from sipc.selinux.requirements import parse_requirement
from sipc.selinux.verify import verify
from sipc.spec import Principal

BYPASS = '[channel.around]\nfrom = "ingest"\nto = "deliver"\n'


def modules(guard: Guard) -> dict[str, str]:
    """The CIL made from a guard."""
    made = generate(channel_specs(guard, users=False).values(), options(guard))
    return {name: module.text() for name, module in made.items()}


@pytest.fixture(scope="module")
def plain(small: Path) -> Policy:
    """Debian's policy, without any guard's."""
    return read_policy(compose([small]), "plain")


def lines(text: str, policy: Policy | None = None) -> list[str]:
    """The problems of a file that is right in itself."""
    parse(text, "F")
    return examine(text, "F", policy).lines


# -- the policy that is made


def test_a_guards_policy_is_made_and_proven(small: Path) -> None:
    """From the file alone: channels, domains, requirements; `only` as the same said of each other domain."""
    guard = parse(GOOD, "F")
    specs = channel_specs(guard, users=False)
    assert specs["raw"].sender == Principal(type="json_ingest_t")
    assert specs["raw"].receiver == specs["clean"].sender == Principal(type="json_scrubber_t")
    required = [str(requirement) for requirement in policy_requirements(guard)]
    assert required == [
        "json_ingest_t -> json_deliver_t via json_scrubber_t",
        "not json_deliver_t -> json_ingest_t",
        "json_scrubber_t -> json_deliver_t",
        "json_ingest_t -> json_deliver_t via json_scrubber_t",
    ]
    policy = read_policy(compose([small], modules(guard)), "composed")
    report = verify(policy, specs.values(), options(guard), policy_requirements(guard))
    assert report.findings == []
    assert report.ok


def test_a_rule_around_the_filter_is_found_by_the_files_requirements(small: Path) -> None:
    """A file that one domain writes and another reads is no channel, and is found all the same."""
    guard = parse(GOOD.replace('  "ingest -> deliver via scrub",\n  "not deliver -> ingest",\n', ""), "F")
    extra = "(type drop_t)\n(roletype object_r drop_t)\n(allow json_ingest_t drop_t (file (write)))\n"
    extra += "(allow json_deliver_t drop_t (file (read)))\n"
    policy = read_policy(compose([small], {**modules(guard), "extra": extra}), "composed")
    report = verify(policy, channel_specs(guard, users=False).values(), options(guard), policy_requirements(guard))
    assert not report.ok
    assert any("drop_t" in finding.text for finding in report.findings)


def test_only_says_of_a_stage_that_does_not_lead_there_that_it_never_does() -> None:
    """And of one that does, that it goes through the one named."""
    text = changed(('"not deliver -> ingest"', '"only ingest -> scrub"'))
    required = [str(requirement) for requirement in policy_requirements(parse(text, "F"))]
    assert required[1:3] == ["json_ingest_t -> json_scrubber_t", "not json_deliver_t -> json_scrubber_t"]
    for requirement in required:
        parse_requirement(requirement)


def test_a_guard_without_types_has_no_requirements_of_a_policy() -> None:
    """Nothing is proven of nothing."""
    with pytest.raises(SpecError, match=r"F: \[stage.a\] type: is missing: write type"):
        policy_requirements(parse(SMALL.replace('"g"', '"9"'), "F"))


# -- names


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("user = 4242\n", "user = 4242\n"), ("json_scrubber_t", "init_t")],
         "F:18: [stage.scrub] type: init_t is the domain that starts the stages: write type"),
        ([("json_scrubber_t", "json_ingest_t")],
         "F:18: [stage.scrub] type: json_ingest_t is the type of [stage.ingest] too: nothing would keep the two apart"),
        ([("json_scrubber_t", "json_ingest")], "F:18: [stage.scrub] type: sipc_end_json_ingest would be made"),
        ([("json_scrubber_t", "json_ingest_exec_t")],
         "F:18: [stage.scrub] type: json_ingest_exec_t would be made in the policy for this and for [stage.ingest]: "),
        ([("json_scrubber_t", "sipc_registry_t")], "F:18: [stage.scrub] type: sipc_registry_t is a type of sipc"),
        ([("json_scrubber_t", "sipc_json_raw_t")], "[channel.raw] type: channel 'json.raw': sipc_json_raw_t would be"),
        ([("json_scrubber_t", "sipc_json_clean_msg_t")], "F:28: [channel.clean] type: channel 'json.clean': "),
        ([("slots = 6", 'type = "init_t"')], "[channel.raw] type: channel 'json.raw': init_t can not be its own"),
        ([("slots = 6", 'type = "sipc_json_clean_t"')],
         "F:28: [channel.clean] type: sipc_json_clean would be made in the policy for this and for [channel.raw]: "),
        ([("json_scrubber_t", "a" + "b" * 126 + "c")], "F:18: [stage.scrub] type: "),
    ],
)  # fmt: skip
def test_a_name_that_would_be_two_things_is_told_before_a_policy_is_made(
    changes: list[tuple[str, str]], expected: str
) -> None:
    """Of stages, of channels, of sipc; given, or made from what is given."""
    found = lines(changed(*changes))
    assert any(expected in line for line in found), found
    assert all(line.isprintable() for line in found)


def test_names_that_differ_in_a_hyphen_are_one_in_a_policy() -> None:
    """The policy language has no hyphen."""
    text = GOOD + BYPASS.replace("around", "ra-w") + BYPASS.replace("around", "ra_w")
    text = text.replace('  "ingest -> deliver via scrub",\n', "").replace('  "only scrub -> deliver",\n', "")
    (line,) = lines(text)
    assert line.startswith("F:33: [channel.ra_w] type: sipc_json_ra_w would be made in the policy for this and for ")
    text = SMALL + '[stage.b-1]\nsink = { file = "/x" }\n[stage.b_1]\nsink = { file = "/y" }\n'
    text += '[channel.d]\nfrom = "a"\nto = "b-1"\n[channel.e]\nfrom = "a"\nto = "b_1"\n'
    (line,) = lines(text)
    assert line.startswith("F:14: [stage.b_1] type: g_b_1_t is the type of [stage.b-1] too")


def test_whatever_is_accepted_can_be_made() -> None:
    """The check refuses all that the generator refuses."""
    for text in (GOOD, SMALL, SMALL.replace('"g"', '"9"'), GOOD.replace('"json"', '"sipc"')):
        assert lines(text) == []
        assert modules(parse(text, "F"))


def test_a_name_that_a_policy_has_already_is_told(plain: Policy) -> None:
    """Types, attributes and aliases; the guard's own, and those made from its names."""
    assert examine(GOOD, "F", plain).lines == []
    for kind in ("sshd_t", "domain"):
        (line,) = lines(changed(("json_scrubber_t", kind)), plain)
        assert line.startswith(f"F:18: [stage.scrub] type: plain has {kind}")
    alias = next(iter(plain.aliases))
    (line,) = lines(changed(("json_scrubber_t", alias)), plain)
    assert line.startswith(f"F:18: [stage.scrub] type: plain has {alias} already")
    (line,) = lines(changed(("json_scrubber_t", "sshd")), plain)
    assert "sshd_exec_t" in line
    (line,) = lines(changed(("slots = 6", 'type = "sshd_t"')), plain)
    assert line.startswith("F:27: [channel.raw] type: plain has sshd_t already: write type = ")


def test_a_guard_whose_policy_is_loaded_already_is_told_so(small: Path) -> None:
    """All its names are taken; sipc's own base module is shared and no collision."""
    guard = parse(GOOD, "F")
    found = examine(GOOD, "F", read_policy(compose([small], modules(guard)), "loaded")).lines
    assert [line.split(" type: ")[0] for line in found] == [
        "F:12: [stage.ingest]", "F:18: [stage.scrub]", "F:21: [stage.deliver]", "F:24: [channel.raw]",
        "F:28: [channel.clean]",
    ]  # fmt: skip
    assert all("unless that is this guard's own policy" in line for line in found)
    other = parse(GOOD.replace('"json"', '"other"').replace("json_scrubber_t", "other_scrub_t"), "F")
    policy = read_policy(compose([small], modules(other)), "another guard's")
    assert examine(GOOD, "F", policy).lines == []


# -- users


def test_users_are_found_by_name_or_number() -> None:
    """A user brings its own group, a number that nobody has is taken as it is."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    free = next(uid for uid in range(60_000, 70_000) if uid not in taken)
    text = changed(('user = "ingest"\ngroup = "ingest"', 'user = "root"\ngroup = 77'), ("4242", str(free)))
    guard = parse(text.replace('user = "deliver"', "user = 0"), "F")
    assert [account(stage) for stage in guard.stages.values()] == [(0, 77), (free, free), (0, 0)]
    specs = channel_specs(guard)
    assert specs["raw"].sender == Principal(uid=0, gid=77, type="json_ingest_t")
    assert specs["clean"].receiver == Principal(uid=0, gid=0, type="json_deliver_t")


def test_a_user_that_there_is_not_is_a_note_until_it_is_needed() -> None:
    """The check of a file is for any host; channels are made on one."""
    text = GOOD.replace('user = "ingest"', 'user = "nobody-of-that-name"')
    found = examine(text, "F")
    assert found.guard is not None
    assert any("there is no user 'nobody-of-that-name' on this host" in note for note in found.notes)
    with pytest.raises(SpecError, match=r"F:13: \[stage.ingest\] user: there is no user 'nobody-of-that-name' here: "):
        channel_specs(found.guard)
    text = GOOD.replace('user = "ingest"\ngroup = "ingest"', 'user = 0\ngroup = "nobody-of-that-name"')
    with pytest.raises(
        SpecError, match=r"F:14: \[stage.ingest\] group: there is no group 'nobody-of-that-name' here: "
    ):
        channel_specs(parse(text, "F"))


def test_two_users_in_one_group_are_refused() -> None:
    """Each could look at the other's files, as with any channel."""
    text = changed(
        ('user = "ingest"\ngroup = "ingest"', "user = 4243\ngroup = 9"), ("user = 4242", "user = 4242\ngroup = 9")
    )
    (line,) = examine(text, "F").lines
    assert line.startswith(
        "F:25: [channel.raw]: sender and receiver are two users in one group (9): give them different"
    )
    with pytest.raises(SpecError, match=r"^F:25: \[channel.raw\]: sender and receiver are two users"):
        channel_specs(parse(text.replace('user = "deliver"', "user = 4244"), "F"))


def notes(text: str) -> list[str]:
    """What is said besides."""
    found: Examined = examine(text, "F")
    assert found.guard is not None, found.lines
    return list(found.notes)


def test_a_program_that_there_is_not_is_noted(tmp_path: Path) -> None:
    """As a user is: the file may be written on another host; and a directory is none, nor what may not be looked at."""
    python = 'python = "json_guard:scrub", timeout = 2, decode = "json_guard:Order"'
    for place in ("/nowhere/jq", str(tmp_path), "/proc/self/mem/x"):
        found = notes(changed((python, f'command = ["{place}"]')))
        assert f"stage scrub: there is no program '{place}' on this host: install it before the guard runs" in found
    assert not any("program" in note for note in notes(changed((python, 'command = ["/bin/sh"]'))))


def test_what_holds_less_than_one_might_think_is_said() -> None:
    """Under dac, as root, over POSIX queues; of SELinux with users of their own nothing needs to be said."""
    (note,) = notes(SMALL)
    assert (
        note == "channel c: enforcement is dac and both ends run as one user, so nothing in the kernel keeps it one-way"
    )
    two = SMALL.replace("source =", "user = 60001\nsource =").replace("sink =", "user = 60002\nsink =")
    (note,) = notes(two)
    assert "users and file modes alone keep it one-way, and root is not bound" in note
    assert any("stage a runs as root" in note for note in notes(two.replace("60001", "0")))
    (note,) = notes(two.replace('"dac"', '"selinux"') + 'backend = "posix"\n')
    assert "POSIX queues have ways back" in note
    assert notes(two.replace('"dac"', '"selinux"')) == []


# -- files


def test_a_file_is_loaded_checked_as_a_whole(tmp_path: Path) -> None:
    """And with what only a policy would refuse."""
    path = tmp_path / "guard.toml"
    path.write_text(SMALL)
    assert load(path) == dataclasses.replace(parse(SMALL, str(path)), source=str(path))
    path.write_text(SMALL + 'type = "init_t"\nslots = 0\n')
    with pytest.raises(SpecError, match=f"^{path}:13: .channel.c. slots: 0 is no"):
        load(path)
    path.write_text(SMALL + 'type = "init_t"\n')
    with pytest.raises(SpecError, match=f"^{path}:12: .channel.c. type: channel 'g.c': init_t can not be"):
        load(path)


def test_what_to_do_about_a_type_is_said_in_keys_of_a_guard_file() -> None:
    """`sender.type` is a key of a channel's definition; a guard file has the stages' own."""
    found = examine(changed(("slots = 6", 'type = "json_ingest_t"')), "F")
    (line,) = found.lines
    assert line.startswith("F:27: [channel.raw] type: channel 'json.raw': json_ingest_t would be two things at once: ")
    assert line.endswith(': give its stages and itself a type of its own each: write type = "ANOTHER_t"')


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    """Not there, a folder, no text; line ends are left as they are."""
    with pytest.raises(SpecError, match=r"nothing: cannot be read \(No such file or directory\): give an existing"):
        load(tmp_path / "nothing")
    with pytest.raises(SpecError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path)
    path = tmp_path / "guard.toml"
    path.write_bytes(b"version = 1\n\n# \xff\n")
    with pytest.raises(SpecError, match=r"guard.toml:3: not UTF-8: save the file as UTF-8"):
        load(path)
    path.write_bytes(SMALL.encode("utf-8-sig"))
    with pytest.raises(SpecError, match=r"guard.toml:1: begins with a byte order mark, which TOML has not: save"):
        load(path)
    path.write_bytes(SMALL.replace("\n", "\r\n").encode())
    assert load(path).name == "g"
    with pytest.raises(SpecError, match=r"^/dev/zero:1: has more than 4194304 bytes: give at most 1048576 characters$"):
        load(Path("/dev/zero"))
    path.write_bytes(SMALL.replace("\n", "\r").encode())
    with pytest.raises(SpecError, match=r"guard.toml:1: not TOML"):
        load(path)
