# SPDX-License-Identifier: Apache-2.0
"""Every act by every role on a live channel: allowed acts work, and SELinux refuses the rest, on record.

The table goes into docs/attack-matrix.md; a run whose table differs from it fails, and leaves its own in build/vm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.vm.acts import attacks
from tests.vm.emulator import ROOT
from tests.vm.guest import LAB, Guest
from tests.vm.matrix import (
    ALLOWED,
    DOMAINS,
    LEFT_OUT,
    NOT_SELINUX,
    POSIX_ALLOWED,
    POSIX_DOMAINS,
    POSIX_LEFT_OUT,
    judge,
    page,
    tried,
)
from tests.vm.test_channel import definition, modules

from sipc.definitions import parse as define
from sipc.selinux.denials import Denial, Kind, parse
from sipc.selinux.denials import judge as judge_denial
from sipc.spec import Enforcement

pytestmark = pytest.mark.vm

CHANNELS = {
    "feed": definition(),
    "other": definition().replace("feed", "other"),
    "pfeed": definition('backend = "posix"\n').replace("feed", "pfeed"),
}
SPECS = list(define("\n".join(CHANNELS.values()), "test", enforcement=Enforcement.SELINUX).values())
Attempts = tuple[dict[str, str], set[str], list[Denial]]
PAGE = ROOT / "docs" / "attack-matrix.md"


@pytest.fixture(scope="module")
def target(booted: Guest) -> Iterator[dict[str, Any]]:
    """A live channel: both ends open, one message across; and what an attacker knows of it."""
    booted.load(modules("\n".join(CHANNELS.values())), dontaudit=False)
    for name, text in CHANNELS.items():
        made = booted.call("acts.channel", "create", text, domain=f"sipc_{name}_t")
        assert "epoch" in (made.value or {}), made
    sender = booted.start("acts.channel", "hold", "feed", "sender", domain=DOMAINS["sender"])
    receiver = booted.start("acts.channel", "hold", "feed", "receiver", domain=DOMAINS["receiver"])
    known = booted.call("acts.channel", "objects", "feed", domain=DOMAINS["helper"]).value
    posix = booted.call("acts.channel", "objects", "pfeed", domain="sipc_pfeed_t").value
    semaphores = booted.call("acts.other_objects", "make_semaphores").value
    for end in (sender, receiver):
        assert booted.line(end) == "held\n"
    yield {
        **known,
        "mqueue": posix["queue_name"].lstrip("/"),
        "semaphores": semaphores,
        "sender": sender,
        "receiver": receiver,
        "registry": "/run/sipc",
        "descriptor": "/run/sipc/feed.json",
        "private": "/run/sipc/.private/feed",
        "domains": DOMAINS,
    }
    for end in (sender, receiver):
        booted.kill(end)
        booted.wait(end)
    assert booted.call("acts.other_objects", "drop_semaphores", semaphores).code == 0
    booted.run(["rm", "-rf", "/run/sipc/forged", "/run/sipc/forged.json"], domain=DOMAINS["helper"])
    for name in CHANNELS:
        gone = booted.call("acts.channel", "destroy", name, domain=f"sipc_{name}_t")
        assert gone.value == {}, gone


def attempt(guest: Guest, domain: str, names: list[str], target: dict[str, Any]) -> Attempts:
    """All these acts in a domain: what each said, which of them the kernel's log names, and the refusals there."""
    every = attacks.names()
    before = len(guest.denials())
    done = guest.call("acts.attacks", "every", names, target, domain=domain)
    assert done.value is not None, done
    lines = guest.denials()[before:]
    numbers = {int(number) for line in lines for number in re.findall(r'comm="act(\d+)"', line)}
    return done.value, {every[number] for number in numbers}, list(parse(lines))


def test_every_act_by_every_role(target: dict[str, Any], guest: Guest) -> None:
    """At least 150 cells; allowed ones work, all others are refused by the kernel, with its AVC line."""
    wrong: list[str] = []
    explained: list[Denial] = []
    tables: list[tuple[dict[str, dict[str, str]], dict[str, set[str]]]] = []
    for names, domains, allowed, left_out in (
        (attacks.names(), DOMAINS, ALLOWED, LEFT_OUT),
        (list(attacks.MQUEUE), POSIX_DOMAINS, POSIX_ALLOWED, POSIX_LEFT_OUT),
    ):
        said: dict[str, dict[str, str]] = {}
        logged: dict[str, set[str]] = {}
        for role, domain in domains.items():
            said[role], logged[role], denials = attempt(guest, domain, tried(role, names, left_out), target)
            if role in ("sender", "receiver"):
                explained += denials
            wrong += [
                f"{domain}: {problem}"
                for name, value in said[role].items()
                if (problem := judge(role, name, value, name in logged[role], allowed)) is not None
            ]
        tables.append((said, logged))
    text = page(attacks.names(), tables[0], attacks.MQUEUE, tables[1])
    (ROOT / "build" / "vm").mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "vm" / PAGE.name).write_text(text)
    assert wrong == [], "\n".join(wrong)
    # What `sipc explain` says of the ends' own refusals on their channel: by design, each of them.
    ipc = ("msgq", "msg", "shm", "sem", "process")
    on_objects = [denial for denial in explained if denial.cls in ipc and denial.target != LAB]
    assert len(on_objects) > 50
    kinds = {judge_denial(denial, SPECS).kind for denial in on_objects}
    assert kinds == {Kind.DIRECTION}
    for end in ("sender", "receiver"):
        assert guest.run(["test", "-d", f"/proc/{target[end]}/fd"]).code == 0, f"the {end} did not survive"
    assert PAGE.read_text() == text, "the table changed: compare build/vm/attack-matrix.md with docs/, and copy it"


def test_the_expectations_name_acts_that_exist() -> None:
    """A misspelt name would allow or excuse nothing, silently."""
    names = set(attacks.names())
    for allowed in ALLOWED.values():
        assert allowed <= names
    assert set(NOT_SELINUX) <= names
