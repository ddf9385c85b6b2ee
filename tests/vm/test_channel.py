# SPDX-License-Identifier: Apache-2.0
"""A channel under its own policy in an enforcing guest: data goes forward, and without the policy nothing opens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.vm.emulator import ROOT, Emulator, built
from tests.vm.guest import LAB, Guest

from sipc.definitions import parse
from sipc.selinux.grants import types_of
from sipc.selinux.options import Options
from sipc.selinux.policy import generate
from sipc.spec import Enforcement

pytestmark = pytest.mark.vm

OPTIONS = Options(launchers=("init_t",), switchers=(LAB,))
KINDS = {
    "segment": "",
    "queue": 'transport = "queue"\n',
    "sender makes the segment": 'segment_creator = "sender"\n',
    "posix": 'backend = "posix"\n',
    "posix queue": 'backend = "posix"\ntransport = "queue"\n',
}
SIZES = [0, 1, 4096, 300_000, 3 << 20]


def definition(extra: str = "") -> str:
    """A channel called feed."""
    return f'[channel.feed]\nenforcement = "selinux"\n{extra}'


def modules(text: str) -> dict[str, str]:
    """Its policy."""
    specs = parse(text, "test", enforcement=Enforcement.SELINUX).values()
    return {name: module.text() for name, module in generate(specs, OPTIONS).items()}


SPEC = parse(definition(), "test", enforcement=Enforcement.SELINUX)["feed"]
TYPES = types_of(SPEC)


@pytest.fixture
def channel(guest: Guest) -> Iterator[Guest]:
    """The guest with the channel `feed`, made by its helper in its domain."""
    guest.load(modules(definition()))
    made = guest.call("acts.channel", "create", definition(), domain=TYPES.channel)
    assert made.value is not None, made.output
    assert "epoch" in made.value, made.value
    yield guest
    guest.load(modules(definition()))
    gone = guest.call("acts.channel", "destroy", "feed", domain=TYPES.channel)
    assert gone.value == {}, (gone, guest.denials()[-5:])


@pytest.mark.parametrize("kind", KINDS)
def test_data_goes_forward_and_nothing_is_denied(kind: str, guest: Guest) -> None:
    """Helper, sender and receiver in their domains do their work with exactly what the policy grants."""
    text = definition(KINDS[kind])
    guest.load(modules(text))
    before = len(guest.denials())
    made = guest.call("acts.channel", "create", text, domain=TYPES.channel)
    assert made.value is not None, (made.output, guest.denials()[before:])
    assert "epoch" in made.value, (made.value, guest.denials()[before:])
    sender = guest.start("acts.channel", "send", "feed", SIZES, domain=TYPES.sender)
    received = guest.call("acts.channel", "receive", "feed", SIZES, domain=TYPES.receiver)
    sent = guest.wait(sender)
    denials = guest.denials()[before:]
    gone = guest.call("acts.channel", "destroy", "feed", domain=TYPES.channel)
    assert received.value == {"good": len(SIZES) + 2}, (received, sent, denials)
    assert sent.value == {"sent": len(SIZES)}, (sent, denials)
    assert gone.value == {}, (gone, guest.denials()[before:])
    assert guest.denials()[before:] == []


def refused(guest: Guest, check: str, *, role: str = "receiver", domain: str | None = None) -> str:
    """Open one end, which must be refused by the named check; returns the message."""
    own = domain or (TYPES.receiver if role == "receiver" else TYPES.sender)
    tried = guest.call("acts.channel", "open_end", "feed", role, domain=own)
    assert tried.value is not None, tried.output
    assert tried.value.get("error") in ("Denied", "PolicyUnavailable"), tried.value
    assert f"check '{check}' failed" in tried.value["text"]
    return str(tried.value["text"])


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_each_end_opens_under_its_policy(role: str, channel: Guest) -> None:
    """The control: nothing below is refused for another reason."""
    own = TYPES.receiver if role == "receiver" else TYPES.sender
    assert channel.call("acts.channel", "open_end", "feed", role, domain=own).value == {"opened": role}


def test_a_wrong_domain_is_refused(channel: Guest) -> None:
    """Each end in the other's place, and an unconfined one; the message has both contexts."""
    for role, domain in (("receiver", TYPES.sender), ("sender", TYPES.receiver), ("receiver", LAB)):
        text = refused(channel, "own domain", role=role, domain=domain)
        assert domain in text
        assert (TYPES.receiver if role == "receiver" else TYPES.sender) in text


def test_a_permissive_guest_is_refused(channel: Guest) -> None:
    """Ends and helper."""
    channel.call("acts.channel", "setenforce", 0)
    try:
        refused(channel, "SELinux is enforcing")
        refused(channel, "SELinux is enforcing", role="sender")
        made = channel.call("acts.channel", "create", definition(), True, domain=TYPES.channel)
        assert "'SELinux is enforcing'" in made.value["text"]
    finally:
        channel.call("acts.channel", "setenforce", 1)


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_permissive_domain_is_refused(role: str, channel: Guest) -> None:
    """A domain that is refused nothing is not confined."""
    own = TYPES.receiver if role == "receiver" else TYPES.sender
    channel.load({**modules(definition()), "soft": f"(typepermissive {own})"})
    try:
        refused(channel, "own domain is not permissive", role=role)
    finally:
        channel.load(modules(definition()))


def test_a_missing_module_is_refused(channel: Guest) -> None:
    """The types are unknown to the kernel: what the helper made is unlabelled then, and no end opens."""
    channel.load({})
    tried = channel.call("acts.channel", "open_end", "feed", "receiver")
    assert tried.value is not None, (tried.output, channel.denials()[-3:])
    assert tried.value["error"] in ("Denied", "PolicyUnavailable")
    made = channel.call("acts.channel", "create", definition().replace("feed", "other"))
    assert made.value["error"] in ("Denied", "PolicyUnavailable")


WEAKER = {
    "a receiver may enqueue": ("receiver", f"(allow {TYPES.receiver} {TYPES.channel} (msgq (getattr)))"),
    "a sender may read the segment's owner": ("sender", f"(allow {TYPES.sender} {TYPES.channel} (shm (getattr)))"),
    "a receiver may make queues": ("receiver", f"(allow {TYPES.receiver} self (msgq (create)))"),
    "a sender may lock": ("sender", f"(allow {TYPES.sender} {TYPES.channel} (shm (lock)))"),
}


@pytest.mark.parametrize("what", WEAKER)
def test_a_rule_of_another_module_alone_weakens_nothing(what: str, channel: Guest) -> None:
    """The constraints hold: the kernel's answer stays no, and the end opens."""
    role, rule = WEAKER[what]
    own = TYPES.receiver if role == "receiver" else TYPES.sender
    channel.load({**modules(definition()), "weaker": rule})
    assert channel.call("acts.channel", "open_end", "feed", role, domain=own).value == {"opened": role}


@pytest.mark.parametrize("what", WEAKER)
def test_a_weakened_module_is_refused(what: str, channel: Guest) -> None:
    """The same rule with the constraints taken out of the channel's module: no end opens."""
    role, rule = WEAKER[what]
    weak = {
        name: "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("(constrain"))
        for name, text in modules(definition()).items()
    }
    channel.load({**weak, "weaker": rule})
    text = refused(channel, "reverse calls are denied", role=role)
    assert "grants" in text


def test_status_says_what_holds(channel: Guest) -> None:
    """By the loaded policy, and not any more when it is gone."""
    account = channel.call("acts.channel", "status", "feed").value
    assert "SELinux enforces the direction" in account["summary"]
    channel.call("acts.channel", "setenforce", 0)
    try:
        assert "permissive" in channel.call("acts.channel", "status", "feed").value["summary"]
    finally:
        channel.call("acts.channel", "setenforce", 1)


def test_a_helper_in_the_wrong_domain_makes_nothing(guest: Guest) -> None:
    """Its objects would have the wrong type."""
    guest.load(modules(definition()))
    for domain in (LAB, TYPES.sender):
        made = guest.call("acts.channel", "create", definition(), domain=domain)
        assert "'own domain'" in made.value["text"], made
    assert guest.run(["ls", "/proc/sysvipc"]).code == 0
    queues = guest.run(["cat", "/proc/sysvipc/msg"]).output.strip().splitlines()
    assert len(queues) == 1, queues


def test_without_selinux_everything_is_refused() -> None:
    """A kernel booted without SELinux among its modules: no helper makes such a channel, no end opens one."""
    text = definition().replace("selinux", "dac")
    machine = Emulator(built("vagrant/build-image.sh"), warm=False, options="lsm=lockdown")
    with Guest(machine, built("scripts/base_policy.sh")) as guest:
        guest.put([ROOT / "src" / "sipc", ROOT / "tests" / "vm" / "acts"])
        assert guest.run(["test", "-e", "/sys/fs/selinux/enforce"]).code == 1
        refusals = [guest.call("acts.channel", "create", definition()).value]
        assert "epoch" in guest.call("acts.channel", "create", text).value
        for role in ("sender", "receiver"):
            assert guest.call("acts.channel", "open_end", "feed", role).value == {"opened": role}
        assert guest.call("acts.channel", "claim_selinux", "feed").value == {"claims": True}
        refusals += [guest.call("acts.channel", "open_end", "feed", role).value for role in ("sender", "receiver")]
        for refusal in refusals:
            assert refusal["error"] == "PolicyUnavailable", refusal
            assert "SELinux is enabled" in refusal["text"], refusal
