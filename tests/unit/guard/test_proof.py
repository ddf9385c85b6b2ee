# SPDX-License-Identifier: Apache-2.0
"""What a policy proves of a guard, said of the file's names; nothing is said to hold that was not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.guards import GOOD, SMALL, changed

from sipc.guard.config import parse
from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs, options
from sipc.guard.proof import Proof, Verdict, judged, prove, unproven
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import Policy
from sipc.selinux.policy import generate
from sipc.selinux.report import Report

GUARD = parse(GOOD, "F")
WAY_BACK = """\
(type drop_t)
(roletype object_r drop_t)
(allow json_deliver_t drop_t (file (write)))
(allow json_ingest_t drop_t (file (read)))
"""


def composed(small: Path, guard: Guard, extra: str = "") -> Policy:
    """A policy with the guard's modules, and one more."""
    made = generate(channel_specs(guard, users=False).values(), options(guard))
    texts = {name: module.text() for name, module in made.items()}
    return read_policy(compose([small], {**texts, "extra": extra}), "composed")


def verdicts(proof: Proof) -> list[str]:
    """Of the channels, then of the requirements."""
    return [said.verdict for said in (*proof.channels.values(), *proof.requirements)]


def test_what_is_proven_holds(small: Path) -> None:
    """Each channel, each requirement; a verdict that holds needs no reason."""
    proof = prove(GUARD, composed(small, GUARD))
    assert verdicts(proof) == ["holds"] * 5
    assert {said.reason for said in (*proof.channels.values(), *proof.requirements)} == {""}
    assert proof.about == "composed"
    assert not proof.refuted


def test_a_way_back_breaks_the_requirement_and_shows_the_way(small: Path) -> None:
    """And not what it does not touch."""
    proof = prove(GUARD, composed(small, GUARD, WAY_BACK))
    assert verdicts(proof) == ["holds", "holds", "holds", "broken", "holds"]
    assert "drop_t" in proof.requirements[1].reason
    assert any("json_ingest_t drop_t" in step for step in proof.requirements[1].witness)
    assert proof.refuted


def test_a_way_back_between_the_ends_breaks_the_channel(small: Path) -> None:
    """Of the two channels only the one."""
    proof = prove(GUARD, composed(small, GUARD, WAY_BACK.replace("json_ingest_t", "json_scrubber_t")))
    assert proof.channels["raw"].verdict is Verdict.HOLDS
    assert proof.channels["clean"].verdict is Verdict.BROKEN


def test_a_permissive_domain_leaves_nothing_proven(small: Path) -> None:
    """Whichever it is: the kernel refuses it nothing.  What its rules let through is broken besides."""
    lone = "(type lone_t)\n(roletype object_r lone_t)\n(typepermissive lone_t)\n"
    proof = prove(GUARD, composed(small, GUARD, lone))
    assert verdicts(proof) == ["not proven"] * 5
    assert "lone_t is permissive" in proof.channels["raw"].reason
    assert proof.refuted
    proof = prove(GUARD, composed(small, GUARD, "(typepermissive sshd_t)"))
    assert verdicts(proof) == ["broken"] * 5
    assert "through sshd_t" in proof.channels["raw"].reason


def test_a_policy_without_the_guards_modules_proves_nothing(small: Path) -> None:
    """And breaks nothing; it is no error, since a picture can say so."""
    proof = prove(GUARD, read_policy(compose([small]), "plain"))
    assert verdicts(proof) == ["not proven"] * 5
    assert proof.channels["raw"].reason.startswith("type json_ingest_t is not in this policy")
    assert proof.requirements[0].reason == "not looked at: plain has not all of its types"
    assert proof.refuted


def test_no_policy_holds_a_channel_that_asks_for_none(small: Path) -> None:
    """Its domains may be in a policy, but nobody makes the stages run in them."""
    mixed = parse(changed(('slot_size = "64 KiB"', 'enforcement = "dac"'), ('user = "deliver"', "user = 4243")), "F")
    proof = prove(mixed, composed(small, mixed))
    assert verdicts(proof) == ["holds", "not proven", "not proven", "not proven", "not proven"]
    assert proof.channels["clean"].reason.startswith("enforcement is dac")
    assert proof.requirements[0].reason == "no policy holds channel clean: its enforcement is dac"
    alone = parse(SMALL, "F")
    assert verdicts(prove(alone, composed(small, GUARD))) == ["not proven"]


def test_without_a_policy_nothing_is_proven() -> None:
    """And it is said why."""
    proof = unproven(GUARD)
    assert verdicts(proof) == ["not proven"] * 5
    assert proof.about == proof.channels["raw"].reason == "no policy given"
    assert not proof.refuted


@pytest.mark.parametrize("subjects", [[], ["channel json.raw"]])
def test_what_a_report_does_not_mention_is_not_proven(subjects: list[str]) -> None:
    """A report about less is no proof of more."""
    proof = judged(GUARD, Report("some", subjects=subjects))
    assert verdicts(proof) == ["not proven"] * 5
