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
from tests.vm.guest import Guest
from tests.vm.matrix import ALLOWED, DOMAINS, NOT_SELINUX, judge, page, tried
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
    for end in (sender, receiver):
        assert booted.line(end) == "held\n"
    yield {
        **known,
        "mqueue": posix["queue_name"].lstrip("/"),
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
    booted.run(["rm", "-rf", "/run/sipc/forged", "/run/sipc/forged.json"], domain=DOMAINS["helper"])
    for name in CHANNELS:
        gone = booted.call("acts.channel", "destroy", name, domain=f"sipc_{name}_t")
        assert gone.value == {}, gone


def test_every_act_by_every_role(target: dict[str, Any], guest: Guest) -> None:
    """At least 150 cells; allowed ones work, all others are refused by the kernel, with its AVC line."""
    names = attacks.names()
    said: dict[str, dict[str, str]] = {}
    logged: dict[str, set[str]] = {}
    wrong: list[str] = []
    explained: list[Denial] = []
    for role, domain in DOMAINS.items():
        before = len(guest.denials())
        done = guest.call("acts.attacks", "every", tried(role, names), target, domain=domain)
        assert done.value is not None, done
        said[role] = done.value
        numbers = {int(number) for line in guest.denials()[before:] for number in re.findall(r'comm="act(\d+)"', line)}
        logged[role] = {names[number] for number in numbers}
        if role in ("sender", "receiver"):
            explained += list(parse(guest.denials()[before:]))
        wrong += [
            problem
            for name, value in said[role].items()
            if (problem := judge(role, name, value, name in logged[role])) is not None
        ]
    text = page(names, said, logged)
    (ROOT / "build" / "vm").mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "vm" / PAGE.name).write_text(text)
    assert wrong == [], "\n".join(wrong)
    assert sum(map(len, said.values())) >= 150
    # What `sipc explain` says of the ends' own refusals on their channel: by design, each of them.
    on_objects = [denial for denial in explained if denial.cls in ("msgq", "msg", "shm", "sem", "process")]
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
