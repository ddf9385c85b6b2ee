# SPDX-License-Identifier: Apache-2.0
"""Endpoint policies: every rule is evaluated, has its bit and its line, and what can not be judged is a denial."""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any, Never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.descriptors import descriptors

from sipc.endpoint_policy import EndpointPolicy, Failed, Verdict
from sipc.errors import Denied, SipcError, SpecError
from sipc.last_sender import LastSender
from sipc.process import Process, planned, read

ROOT = pwd.getpwuid(0).pw_name
GROUP = grp.getgrgid(0).gr_name
SHA = "ab" * 32
GOOD = Process(
    pid=7,
    started=1.0,
    uids=(0, 0, 0, 0),
    gids=(0, 0, 0, 0),
    groups=frozenset({0, 4, 5}),
    program="/usr/bin/end",
    digest=SHA,
    context="system_u:system_r:end_t:s0:c1,c2",
)


def explode(subject: Process) -> Never:
    raise RuntimeError(f"no idea about {subject.pid}")


class Unspeakable(Exception):
    """An exception that can not even be shown."""

    def __str__(self) -> str:
        raise ValueError


def unspeakable(subject: Process) -> Never:
    raise Unspeakable


# rule -> (its bit, what GOOD passes, what it fails)
RULES: dict[str, tuple[Failed, Any, Any]] = {
    "uid": (Failed.UID, 0, 1),
    "gid": (Failed.GID, 0, 1),
    "user": (Failed.USER, ROOT, "sipc-nobody-has-this-name"),
    "group": (Failed.GROUP, GROUP, "sipc-nobody-has-this-name"),
    "in_groups": (Failed.IN_GROUPS, frozenset({4, GROUP}), frozenset({4, 6})),
    "only_groups": (Failed.ONLY_GROUPS, frozenset({4, 5, 6}), frozenset({4})),
    "program": (Failed.PROGRAM, "/usr/bin/end", "/usr/bin/other"),
    "digest": (Failed.DIGEST, SHA, "cd" * 32),
    "selinux_type": (Failed.SELINUX_TYPE, "end_t", "other_t"),
    "selinux_range": (Failed.SELINUX_RANGE, "s0:c1,c2", "s0"),
    "callback": (Failed.CALLBACK, lambda subject: subject.pid == 7, explode),
}


def test_every_rule_has_a_bit_of_its_own() -> None:
    """And so has what is the matter with the process itself; no bit is left over."""
    bits = [bit for bit, _, _ in RULES.values()] + [Failed.PROCESS]
    assert len({bit.value for bit in bits}) == len(bits)
    assert all(bit.value.bit_count() == 1 for bit in bits)
    assert reduce(or_, bits) == reduce(or_, Failed)
    assert set(RULES) == set(EndpointPolicy.__dataclass_fields__)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_alone_passes_and_fails(rule: str) -> None:
    """With its bit, its line, and what was found instead."""
    bit, good, bad = RULES[rule]
    passed = EndpointPolicy(**{rule: good}).judge(GOOD)
    assert (passed.failed, passed.allowed, passed.refusals) == (Failed.NONE, True, ())
    assert f"ok {rule}" in passed.report
    refused = EndpointPolicy(**{rule: bad}).judge(GOOD)
    assert (refused.failed, refused.allowed) == (bit, False)
    (line,) = refused.refusals
    assert line.startswith(f"FAILED {rule}: ")
    with pytest.raises(Denied, match=f"here: .*process 7: FAILED {rule}: "):
        refused.require("here")
    passed.require("here")


@given(st.fixed_dictionaries({}, optional={rule: st.booleans() for rule in RULES}).filter(bool))
def test_all_rules_are_evaluated_whatever_the_others_gave(choice: dict[str, bool]) -> None:
    """The result is the union of the failed rules, and the report has a line for each that was asked for."""
    rules: dict[str, Any] = {rule: RULES[rule][1 if good else 2] for rule, good in choice.items()}
    verdict = EndpointPolicy(**rules).judge(GOOD)
    wanted = reduce(or_, (RULES[rule][0] for rule, good in choice.items() if not good), Failed.NONE)
    assert verdict.failed == wanted
    assert len(verdict.report) == len(choice) + 1
    assert len(verdict.refusals) == sum(not good for good in choice.values())
    if wanted:
        with pytest.raises(Denied) as caught:
            verdict.require("x")
        assert all(f"FAILED {rule}:" in str(caught.value) for rule, good in choice.items() if not good)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "callback"])
def test_what_could_not_be_read_is_a_denial(rule: str) -> None:
    """With the reason that the kernel gave."""
    reasons = dict.fromkeys(("uids", "gids", "groups", "program", "digest", "context"), "kept from us")
    verdict = EndpointPolicy(**{rule: RULES[rule][1]}).judge(Process(pid=7, started=1.0, unread=reasons))
    assert verdict.failed == RULES[rule][0]
    assert "kept from us" in verdict.refusals[0]


def test_a_process_that_is_not_the_one_meant_fails_everything() -> None:
    """Its bit, and every rule that was asked for, as nothing is known."""
    rules: dict[str, Any] = {rule: good for rule, (_, good, _) in RULES.items() if rule != "callback"}
    verdict = EndpointPolicy(**rules).judge(Process(pid=7, stale="it has ended"))
    assert verdict.failed == reduce(or_, Failed) & ~Failed.CALLBACK
    assert len(verdict.refusals) == len(rules) + 1


async def later(subject: Process) -> bool:
    return True


@pytest.mark.parametrize(
    "callback",
    [explode, unspeakable, lambda: True, lambda _: None, lambda _: 1, lambda _: "yes", lambda _: False,
     lambda _: [True]],
)  # fmt: skip
def test_an_error_in_a_callback_or_an_answer_that_is_not_true_is_a_denial(callback: Callable[..., Any]) -> None:
    """Also what only counts as true."""
    assert EndpointPolicy(callback=callback).judge(GOOD).failed == Failed.CALLBACK


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_callback_that_nobody_awaits_is_a_denial() -> None:
    """A coroutine is true, as any object is."""
    unawaited: Any = later
    assert EndpointPolicy(callback=unawaited).judge(GOOD).failed == Failed.CALLBACK


@pytest.mark.parametrize("name", ["uids", "gids"])
@pytest.mark.parametrize("at", range(4))
def test_one_other_user_among_the_four_is_enough(name: str, at: int) -> None:
    """A saved uid of another is a way back to it."""
    four = [0, 0, 0, 0]
    four[at] = 1
    changed = tuple(four)
    subject = replace(GOOD, uids=changed) if name == "uids" else replace(GOOD, gids=changed)
    rules: dict[str, Any] = {"uids": {"uid": 0, "user": ROOT}, "gids": {"gid": 0, "group": GROUP}}[name]
    assert EndpointPolicy(**rules).judge(subject).failed == reduce(or_, (RULES[rule][0] for rule in rules))


def test_ones_own_group_is_no_surplus_group() -> None:
    """Some programs list it among the supplementary ones."""
    subject = replace(GOOD, gids=(9, 9, 9, 9), groups=frozenset({9}))
    assert EndpointPolicy(only_groups=frozenset()).judge(subject).allowed
    assert not EndpointPolicy(only_groups=frozenset()).judge(replace(subject, groups=frozenset({9, 1}))).allowed


def test_a_program_that_was_removed_is_refused_at_its_old_path() -> None:
    """Whatever lies there now is not what runs."""
    assert EndpointPolicy(program="/usr/bin/end").judge(replace(GOOD, deleted=True)).failed == Failed.PROGRAM


@pytest.mark.parametrize("context", ["", "unconfined", "a:b:end_t", "end_t (enforce)", ":::"])
def test_what_is_no_context_is_refused(context: str) -> None:
    """Words of another security module."""
    policy = EndpointPolicy(selinux_type="end_t", selinux_range="s0")
    assert policy.judge(replace(GOOD, context=context)).failed == Failed.SELINUX_TYPE | Failed.SELINUX_RANGE


@pytest.mark.parametrize(
    "rules",
    [
        {}, {"uid": -1}, {"uid": True}, {"uid": "0"}, {"gid": 1 << 32}, {"user": ""}, {"user": 0}, {"group": b"x"},
        {"in_groups": {1}}, {"only_groups": frozenset({1.5})}, {"program": "end"}, {"program": "/usr/../bin/end"},
        {"program": "/usr/bin/end (deleted)"}, {"program": ""}, {"digest": "AB" * 32}, {"digest": "ab"},
        {"selinux_type": ""}, {"callback": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_policy_that_means_nothing_is_refused(rules: dict[str, Any]) -> None:
    """One without a rule too: it would allow everybody."""
    with pytest.raises(SpecError):
        EndpointPolicy(**rules)


def test_a_planned_process_is_judged_before_it_is_started() -> None:
    """By the file that it would run; what nobody planned is unknown."""
    subject = planned(uid=0, gid=0, groups=frozenset({4}), program="/proc/self/exe", context=GOOD.context)
    mine = read(os.getpid(), digest=True)
    policy = EndpointPolicy(
        uid=0, gid=0, only_groups=frozenset({4}), program=mine.program, digest=mine.digest, selinux_type="end_t"
    )
    assert policy.judge(subject).allowed
    assert policy.judge(replace(subject, uids=(1,) * 4)).failed == Failed.UID
    gone = planned(uid=0, gid=0, program="/nowhere/end")
    assert policy.judge(gone).failed == Failed.PROGRAM | Failed.DIGEST | Failed.SELINUX_TYPE


# -- who sent last


class Queue:
    """A queue's note of who sent last: one entry for each look, the last one for ever."""

    def __init__(self, *looks: tuple[int, int] | None) -> None:
        self.looks = list(looks)

    def last_sender(self) -> tuple[int, int] | None:
        """The next look."""
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


ME = EndpointPolicy(uid=os.geteuid())
NOW = int(time.time())


def judged(*looks: tuple[int, int] | None, policy: EndpointPolicy = ME) -> Verdict:
    """One judgement; no descriptor is left open."""
    before = descriptors()
    sender = LastSender(policy, Queue(*looks))
    try:
        return sender.verdict()
    finally:
        sender.close()
        assert descriptors() == before


def test_who_sent_last_is_judged() -> None:
    """This process, right now."""
    assert judged((os.getpid(), NOW)).allowed
    assert judged((os.getpid(), NOW), policy=EndpointPolicy(uid=54321)).failed == Failed.UID


def test_a_process_that_began_after_the_message_does_not_pass_for_its_sender() -> None:
    """It has the pid now; when the message was put another process had it."""
    began = read(os.getpid()).started_at
    assert began is not None
    verdict = judged((os.getpid(), int(began) - 2))
    assert verdict.failed & Failed.PROCESS
    assert "began after" in verdict.refusals[0]


@pytest.mark.parametrize("looks", [(None,), ((0, NOW),), ((-1, NOW),), ((1 << 40, NOW),)], ids=range(4))
def test_nobody_is_a_denial(looks: tuple[Any, ...]) -> None:
    """No message yet, a sender of another pid namespace, a number that is no pid."""
    assert judged(*looks).failed & Failed.PROCESS


def test_a_sender_that_is_replaced_while_it_is_looked_at_is_judged_anew() -> None:
    """What passed is what the kernel names before and after; when that never comes to rest it is a denial."""
    me, parent = (os.getpid(), NOW), (os.getppid(), NOW)
    only_me = EndpointPolicy(callback=lambda subject: subject.pid == os.getpid())
    assert judged(me, parent, policy=only_me).failed == Failed.CALLBACK
    assert judged(parent, me, policy=only_me).allowed
    assert judged(*[me, parent] * 5, policy=only_me).failed & Failed.PROCESS


def test_who_passed_is_not_asked_again_while_it_lives() -> None:
    """The rules are evaluated once for each process."""
    asked: list[int] = []

    def ask(subject: Process) -> bool:
        asked.append(subject.pid)
        return True

    policy = EndpointPolicy(callback=ask)
    sender = LastSender(policy, Queue((os.getpid(), NOW)))
    try:
        assert sender.verdict().allowed
        assert sender.verdict().allowed
        assert asked == [os.getpid()]
    finally:
        sender.close()


def test_an_error_while_looking_is_raised_and_nobody_passes() -> None:
    """The kernel refused the look."""

    class Closed(Queue):
        def last_sender(self) -> tuple[int, int] | None:
            raise Denied("no")

    with pytest.raises(SipcError):
        LastSender(ME, Closed(None)).verdict()
