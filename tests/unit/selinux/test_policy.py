# SPDX-License-Identifier: Apache-2.0
"""A definition gives one policy, which compiles against Debian's, and refuses names that would not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.policies import GOLDEN, OPTIONS, golden_text, modules, specs_of

from sipc.errors import SpecError
from sipc.selinux.base import base_module
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose, find_modules
from sipc.selinux.constraints import GUARDED
from sipc.selinux.grants import expected, types_of
from sipc.selinux.options import Options, Profile
from sipc.selinux.policy import generate

ROOT = GOLDEN.parents[3]
CASES = sorted(path.stem for path in GOLDEN.glob("*.toml"))


@pytest.mark.parametrize("case", CASES)
def test_definition_gives_the_reviewed_policy(case: str) -> None:
    """Golden pairs: every line of a policy was read by somebody (python -m tests.support.policies writes anew)."""
    assert golden_text(case) == (GOLDEN / f"{case}.cil").read_text()


def test_the_base_module_is_the_one_in_the_policy_folder() -> None:
    """policy/sipc.cil, which people install by hand, is what the generator writes."""
    assert base_module().text() == (ROOT / "policy/sipc.cil").read_text()


def test_there_are_golden_pairs_for_every_form() -> None:
    """Both segment creators, both transports, both backends, new and existing ends, a chain."""
    assert {"segment", "sender_segment", "queue", "posix", "posix_queue", "posix_sender_segment", "existing",
            "chain", "libsipc", "launchers", "fedora"} <= set(CASES)  # fmt: skip


@pytest.mark.parametrize("checks", [False, True], ids=["expand-check=0", "expand-check=1"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "existing"])
def test_policy_compiles_against_debians(case: str, checks: bool, small: list[Path]) -> None:
    """With neverallow rules enforced and without, every form of channel is accepted."""
    texts = modules((GOLDEN / f"{case}.toml").read_text(), OPTIONS.get(case))
    policy = read_policy(compose(small, texts, checks=checks), case)
    for spec in specs_of((GOLDEN / f"{case}.toml").read_text()):
        types = types_of(spec)
        assert {types.channel, types.message, types.sender, types.receiver} <= policy.numbers.keys()


@pytest.mark.parametrize("checks", [False, True], ids=["expand-check=0", "expand-check=1"])
def test_existing_domains_compile_against_all_of_debians(checks: bool, full: list[Path]) -> None:
    """Ends that other modules own (a web server, a database) need no change there."""
    texts = modules((GOLDEN / "existing.toml").read_text())
    policy = read_policy(compose(full, texts, checks=checks), "existing")
    assert "httpd_t" in policy.numbers
    assert "feed_t" in policy.numbers


def test_neverallow_stops_the_reverse_where_checks_are_on(small: list[Path]) -> None:
    """With expand-check=1 a module that grants the reverse does not even compile; with 0 it does."""
    texts = modules("[channel.feed]\n")
    texts["evil"] = "(allow sipc_feed_receiver_t sipc_feed_t (msgq (write)))\n"
    compose(small, texts, checks=False)
    with pytest.raises(SpecError, match="neverallow"):
        compose(small, texts, checks=True)


def test_messages_get_their_type_by_transition(small: list[Path]) -> None:
    """A message's type is computed from sender and queue, and is none of theirs."""
    policy = read_policy(compose(small, modules("[channel.feed]\n")), "test")
    n = policy.numbers
    wanted = (n["sipc_feed_sender_t"], n["sipc_feed_t"], policy.classes["msg"].number, n["sipc_feed_msg_t"])
    assert wanted in policy.transitions


@pytest.mark.parametrize("case", CASES)
def test_no_constraint_names_an_attribute(case: str) -> None:
    """An attribute can be joined by any later module; only types of the channel and its launchers are named."""
    text = (GOLDEN / f"{case}.cil").read_text()
    attributes = {"domain", "file_type", "sipc_program", "sipc_client", "sipc_creator"}
    lines = [line for line in text.splitlines() if line.startswith("(constrain ")]
    assert len(lines) > 50
    for line in lines:
        assert not attributes & set(line.replace("(", " ").replace(")", " ").split())


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("posix")])
def test_no_end_may_look_at_objects_or_make_them(case: str) -> None:
    """IPC_STAT shows the other end; only a sender that makes its own segment creates anything."""
    for spec in specs_of((GOLDEN / f"{case}.toml").read_text()):
        types = types_of(spec)
        for grant in expected(spec, types):
            if grant.source in (types.sender, types.receiver):
                assert "getattr" not in grant.permissions
                assert "lock" not in grant.permissions
                if grant.target != types.sender:
                    assert not {"create", "destroy", "setattr"} & set(grant.permissions)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("[channel.feed]\nsender = { type = 'a) (allow b c (file (write)))' }\n", "sender.type"),
        ("[channel.feed]\ntype = 'x y'\n", "can not be used"),
        ("[channel.feed]\nreceiver = { type = 'self' }\n", "receiver.type"),
        ("[channel.feed]\nsender = { type = 'a_t' }\nreceiver = { type = 'a_t' }\n", "two things at once"),
        ("[channel.feed]\ntype = 'a_t'\nreceiver = { type = 'a_t' }\n", "two things at once"),
        ("[channel.registry]\n", "two things at once"),
        ("[channel.feed]\nbackend = 'memory'\n", "no kernel objects"),
        ("[channel.feed]\nsender = { type = 'init_t' }\n", "its own launcher"),
    ],
)
def test_names_that_would_break_the_policy_are_refused(definition: str, words: str) -> None:
    """Names come from files that people write; each is checked before it becomes policy."""
    with pytest.raises(SpecError, match=words):
        generate(specs_of(definition))


def test_two_channels_whose_names_become_one_identifier_are_refused() -> None:
    """`a-b` and `a.b` are different channels with the same types: one must name its own."""
    with pytest.raises(SpecError, match="another_t"):
        generate(specs_of("[channel.a-b]\n[channel.'a.b']\n"))


def test_one_end_makes_the_segment_of_one_channel_only() -> None:
    """A segment that a sender makes has the sender's type: two such channels could not be told apart."""
    text = """
[channel.a]
segment_creator = "sender"
sender = { type = "shared_t" }
[channel.b]
segment_creator = "sender"
sender = { type = "shared_t" }
"""
    with pytest.raises(SpecError, match="another channel's segment"):
        generate(specs_of(text))


def test_a_filter_may_lock_its_state_in_every_channel(small: list[Path]) -> None:
    """One end of two channels: no constraint of one takes away what the other spares."""
    texts = modules((GOLDEN / "chain.toml").read_text(), OPTIONS["chain"])
    policy = read_policy(compose(small, texts), "chain")
    cls = policy.classes["file"]
    for state in ("sipc_low_receiver_state_t", "sipc_high_sender_state_t"):
        usable = policy.effective(policy.numbers["filter_t"], policy.numbers[state], cls)
        assert "lock" in cls.names(usable)


def test_options_are_checked() -> None:
    """Launchers are named, new types are used, nothing is generated from nothing."""
    with pytest.raises(SpecError, match="launcher"):
        Options(launchers=())
    with pytest.raises(SpecError):
        Options(launchers=("a b",))
    with pytest.raises(SpecError, match="no channel has an end"):
        generate(specs_of("[channel.feed]\n"), Options(new=frozenset({"stranger_t"})))
    with pytest.raises(SpecError, match="no channel"):
        generate([])


def test_file_contexts_escape_the_dots_of_a_name() -> None:
    """The patterns of labels are regular expressions; a channel's name is not."""
    text = modules("[channel.'a.b']\n")["sipc_a_b"]
    assert '(filecon "/run/sipc/a\\.b\\.json" file' in text
    assert '(typetransition sipc_a_b_t sipc_registry_t dir "a.b" sipc_a_b_private_t)' in text


def test_profile_fedora_differs_in_neverallows_only() -> None:
    """Where every domain may make objects of its own, the constraints say no and no neverallow fails the build."""
    plain = modules("[channel.feed]\n")["sipc_feed"].splitlines()
    fedora = modules("[channel.feed]\n", Options(profile=Profile.FEDORA))["sipc_feed"].splitlines()
    assert set(fedora) < set(plain)
    assert all(line.startswith("(neverallow ") for line in set(plain) - set(fedora))


def test_guarded_acts_are_process_permissions(small: list[Path]) -> None:
    """The list of acts that reach into a process holds no misspelt name."""
    policy = read_policy(compose(small), "base")
    assert set(GUARDED) <= policy.classes["process"].permissions.keys()


def test_modules_are_found_in_files_folders_and_stores(tmp_path: Path) -> None:
    """A folder of *.cil, a module store of files called `cil`, single files; nothing is an error."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.cil").write_text("")
    (tmp_path / "store/100/base").mkdir(parents=True)
    (tmp_path / "store/100/base/cil").write_text("")
    (tmp_path / "empty").mkdir()
    found = find_modules([tmp_path / "folder", tmp_path / "store", tmp_path / "folder/a.cil"])
    assert [path.name for path in found] == ["a.cil", "cil", "a.cil"]
    for bad in ("empty", "nowhere"):
        with pytest.raises(SpecError):
            find_modules([tmp_path / bad])


def test_what_the_compiler_says_is_passed_on(small: list[Path]) -> None:
    """A module that does not compile is bad input, with the compiler's words."""
    with pytest.raises(SpecError, match=r"bad\.cil:1"):
        compose(small, {"bad": "(allow nobody_t nobody_t (file (read)))\n"})
