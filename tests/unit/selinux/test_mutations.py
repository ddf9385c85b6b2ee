# SPDX-License-Identifier: Apache-2.0
"""The verifier, tested by mutation: each weakening of a proven policy is caught, and what weakens nothing is not.

Each mutant is one more module (or one line less), compiled with Debian's policy as a whole; the constraints are
also taken out one by one from the policy that was read.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tests.support.policies import modules, prove_mutant, specs_of

from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import Constraint, Policy
from sipc.selinux.options import Options, Profile
from sipc.selinux.report import Report
from sipc.selinux.verify import verify

# Compiling all mutants takes a while on few cores, and counts as the first test's time.
pytestmark = pytest.mark.timeout(900)

DEFINITION = """
[channel.feed]
[channel.seg]
segment_creator = "sender"
[channel.keys]
transport = "queue"
[channel.fast]
backend = "posix"
"""
S, R, C, M = "sipc_feed_sender_t", "sipc_feed_receiver_t", "sipc_feed_t", "sipc_feed_msg_t"
SS, SR, SC = "sipc_seg_sender_t", "sipc_seg_receiver_t", "sipc_seg_t"
FS, FR, FO = "sipc_fast_sender_t", "sipc_fast_receiver_t", "sipc_fast_posix_t"
THIRD = """(type third_t)
(roletype system_r third_t)
(typeattributeset domain (third_t))
(allow third_t self (process (fork)))
"""
DROP = "(type drop_t)\n(roletype object_r drop_t)\n"


def allow(source: str, target: str, cls: str, permission: str) -> str:
    """One rule."""
    return f"(allow {source} {target} ({cls} ({permission})))\n"


def forbidden() -> Iterator[tuple[str, str]]:
    """Each permission that a role must not have, on each object of its channel."""
    for role, target, table in (
        (R, C, {"msgq": "write unix_write create destroy getattr setattr enqueue",
                "shm": "write unix_write create destroy getattr setattr lock",
                "sem": "create destroy getattr setattr read write unix_read unix_write associate"}),
        (S, C, {"msgq": "read unix_read create destroy getattr setattr enqueue",
                "shm": "create destroy getattr setattr lock", "sem": "create read write"}),
        (C, C, {"msgq": "read write unix_write enqueue", "shm": "lock", "sem": "create read write"}),
        (R, M, {"msg": "send"}), (S, M, {"msg": "receive"}), (C, M, {"msg": "send receive"}),
        (SR, SS, {"shm": "write unix_write create destroy getattr setattr lock"}),
        (SS, SS, {"shm": "getattr lock"}), (SC, SS, {"shm": "read write getattr unix_read unix_write setattr lock"}),
        (SR, SC, {"shm": "read write create"}), (SS, SC, {"shm": "read write create"}),
        ("sipc_keys_receiver_t", "sipc_keys_t", {"msgq": "write unix_write getattr", "shm": "read write"}),
        ("sipc_keys_sender_t", "sipc_keys_t", {"msgq": "read unix_read getattr", "shm": "read write"}),
        (FR, FO, {"file": "write append setattr lock create unlink"}),
        (FS, FO, {"file": "setattr lock create unlink append"}),
    ):  # fmt: skip
        for cls, names in table.items():
            for name in names.split():
                yield f"{role} {cls} {name} {target}", allow(role, target, cls, name)


EXTRA = {
    # Through an attribute that a later module makes and fills.
    "attribute: receiver writes the queue": "(typeattribute evil)\n" + f"(typeattributeset evil ({R}))\n"
    + allow("evil", C, "msgq", "write"),
    "attribute: target too": "(typeattribute evil)\n(typeattribute objects)\n" + f"(typeattributeset evil ({R}))\n"
    + f"(typeattributeset objects ({C}))\n" + allow("evil", "objects", "shm", "write"),
    "attribute: receiver joins the unconfined": f"(typeattributeset unconfined_domain_type ({R}))\n",
    "attribute: sender joins the unconfined": f"(typeattributeset unconfined_domain_type ({S}))\n",
    # Under a boolean, in either branch, whatever its value.
    "boolean: off": f"(boolean evil_b false)\n(booleanif evil_b (true {allow(R, C, 'shm', 'write')}))\n",
    "boolean: the false branch": f"(boolean evil_b true)\n(booleanif evil_b (false {allow(R, C, 'msgq', 'write')}))\n",
    "boolean: a flow": DROP + "(boolean evil_b false)\n(booleanif evil_b (true " + allow(R, "drop_t", "file", "write")
    + "))\n" + allow(S, "drop_t", "file", "read"),
    # Permissive domains.
    "permissive sender": f"(typepermissive {S})\n",
    "permissive receiver": f"(typepermissive {R})\n",
    "permissive helper": f"(typepermissive {C})\n",
    "permissive stranger": "(typepermissive sysadm_t)\n",
    # Straight from receiver to sender.
    "direct: signal": allow(R, S, "process", "signal"),
    "direct: its files in /proc": allow(S, R, "file", "read"),
    "direct: its limits": allow(S, R, "process", "getrlimit"),
    "direct: a pipe": allow(R, S, "fifo_file", "write"),
    "direct: a socket": allow(R, S, "unix_stream_socket", "connectto"),
    "direct: a key": allow(R, S, "key", "write"),
    "direct: a class nobody knows": "(class evil_class (poke))\n(classorder (unordered evil_class))\n"
    + allow(R, S, "evil_class", "poke"),
    # Two hops through an object.
    "two hops: a file": DROP + allow(R, "drop_t", "file", "append") + allow(S, "drop_t", "file", "read"),
    "two hops: a directory's times": DROP + allow(R, "drop_t", "dir", "rmdir") + allow(S, "drop_t", "dir", "getattr"),
    "two hops: memory mapped": DROP + allow(R, "drop_t", "file", "write") + allow(S, "drop_t", "file", "map"),
    "two hops: a device": DROP + allow(R, "drop_t", "chr_file", "ioctl") + allow(S, "drop_t", "chr_file", "ioctl"),
    "two hops: a class nobody knows": DROP + "(class evil_class (poke))\n(classorder (unordered evil_class))\n"
    + allow(R, "drop_t", "evil_class", "poke") + allow(S, "drop_t", "evil_class", "poke"),
    "two hops: a permission nobody knows": DROP + "(class evil_class (read write poke))\n"
    "(classorder (unordered evil_class))\n" + allow(R, "drop_t", "evil_class", "poke")
    + allow(S, "drop_t", "evil_class", "read"),
    "two hops: what the sender reads": allow(R, "sipc_feed_in_t", "file", "write"),
    "two hops: what the receiver writes": allow(S, "sipc_feed_out_t", "file", "read"),
    "two hops: the receiver's directory": allow(S, "sipc_feed_out_t", "dir", "getattr"),
    "two hops: the registry": allow(R, "sipc_registry_t", "dir", "write"),
    "two hops: settings": allow(R, "etc_t", "file", "write"),
    "two hops: libraries": allow(R, "lib_t", "file", "setattr"),
    "two hops: the kernel's settings": allow(R, "sysctl_kernel_t", "file", "write"),
    # Two hops through a domain.
    "third domain: shm": THIRD + allow(R, "third_t", "shm", "write") + allow(S, "third_t", "shm", "read"),
    "third domain: msgq": THIRD + allow(R, "third_t", "msgq", "write") + allow(S, "third_t", "msgq", "read"),
    "third domain: sem": THIRD + allow(R, "third_t", "sem", "write") + allow(S, "third_t", "sem", "read"),
    "third domain: pipe": THIRD + allow(R, "third_t", "fifo_file", "write") + allow(S, "third_t", "fifo_file", "read"),
    "third domain: signal": THIRD + allow(R, "third_t", "process", "signal") + allow(S, "third_t", "file", "read"),
    "third domain: reads the receiver": THIRD + allow("third_t", R, "file", "read")
    + allow(S, "third_t", "process", "getsched"),
    "third domain: shm by a class the launcher is not trusted with": allow(R, "init_t", "shm", "write")
    + allow(S, "init_t", "shm", "read"),
    # Objects and powers of their own.
    **{f"{end} makes {cls}": allow(end, end, cls, "create")
       for end in (S, R) for cls in ("msgq", "sem", "shm")},
    "sender-made segments: receiver makes one": allow(SR, SR, "shm", "create"),
    "receiver traces": allow(R, R, "capability", "sys_ptrace"),
    "receiver restores checkpoints": allow(R, R, "capability2", "checkpoint_restore"),
    "sender loads bpf": allow(S, S, "capability2", "bpf"),
    # The network.
    "network: both may use it": "".join(allow(end, end, "udp_socket", "create") + allow(end, "lo_netif_t", "netif",
                                        "egress ingress") for end in (S, R)),
}  # fmt: skip
DECOYS = {
    "nothing": "",
    "an outsider is granted what the constraints refuse": allow("sysadm_t", C, "msgq", "read")
    + allow("sysadm_t", C, "shm", "write"),
    "outsiders may not start what the constraints guard": allow("sysadm_t", S, "process", "transition"),
    "a new unconfined domain": THIRD + "(typeattributeset unconfined_domain_type (third_t))\n",
    "forward by another way": DROP + allow(S, "drop_t", "file", "write") + allow(R, "drop_t", "file", "read"),
    "both read one thing": DROP + allow(S, "drop_t", "file", "read") + allow(R, "drop_t", "file", "read"),
    "the queue of another channel, whose constraints hold": allow(R, "sipc_keys_t", "shm", "write")
    + allow(S, "sipc_keys_t", "shm", "read"),
    "both write one log": DROP + allow(S, "drop_t", "file", "append") + allow(R, "drop_t", "file", "append"),
    "locks on one file, which the constraints refuse": allow(S, "etc_t", "file", "lock")
    + allow(R, "etc_t", "file", "lock"),
    "a third domain among others": THIRD + DROP + allow("third_t", "drop_t", "file", "write")
    + allow(S, "drop_t", "file", "read"),
    "an unused boolean": "(boolean calm_b false)\n(booleanif calm_b (true (allow sysadm_t etc_t (file (read)))))\n",
    "a denial that is not logged": f"(dontaudit {R} {C} (msgq (write)))\n",
    "its own pipes": allow(R, R, "fifo_file", "write"),
    "an attribute with other members": "(typeattribute evil)\n(typeattributeset evil (sysadm_t))\n"
    + allow("evil", "etc_t", "file", "write"),
    "a socket that neither end could connect": THIRD + allow(R, "third_t", "unix_stream_socket", "connectto")
    + allow(S, "third_t", "unix_stream_socket", "connectto"),
    "the launcher kills": allow("init_t", R, "process", "sigkill"),
}  # fmt: skip
MUTANTS = dict(forbidden()) | EXTRA
REMOVED = (
    f"(typetransition {S} {C} msg {M})",
    f"(constrain (msgq (unix_write write)) (or (neq t2 {C}) (eq t1 {S})))",
    f"(constrain (sem (all)) (neq t2 {C}))",
    f"(constrain (process (ptrace share)) (or (neq t2 {S}) (eq t1 {S})))",
    f"(allow {S} {C} (msgq (associate unix_write write)))",
    f"(allow {M} {C} (msgq (enqueue)))",
)


def proof(base: list[Path], extra: str = "", *, without: str = "", options: Options | None = None) -> Report:
    """Compile the channels with one more module, or one line less, and verify them."""
    return prove_mutant(DEFINITION, base, extra, without, options)


@pytest.fixture(scope="module")
def verdicts(small: list[Path]) -> dict[str, Report]:
    """Every mutant and decoy, verified; some at a time, the compiler being a process of its own."""
    cases = {name: (text, "") for name, text in {**MUTANTS, **DECOYS}.items()}
    cases |= {line: ("", line) for line in REMOVED}
    workers = min(8, os.cpu_count() or 2)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {name: pool.submit(prove_mutant, DEFINITION, small, *case) for name, case in cases.items()}
        return {name: future.result() for name, future in waiting.items()}


def test_there_are_enough_mutants() -> None:
    """At least forty; each forbidden permission for each role and class is one."""
    assert len(MUTANTS) >= 120
    assert len(DECOYS) >= 10


@pytest.mark.parametrize("name", [*MUTANTS, *REMOVED])
def test_a_weakening_is_caught(name: str, verdicts: dict[str, Report]) -> None:
    """Not proven, and what is found comes with a witness."""
    report = verdicts[name]
    assert not report.ok
    assert any(finding.witness for finding in report.findings) or name.startswith("(allow")


@pytest.mark.parametrize("name", DECOYS)
def test_what_weakens_nothing_is_not_reported(name: str, verdicts: dict[str, Report]) -> None:
    """A verifier that cries wolf is switched off."""
    assert [finding.text for finding in verdicts[name].findings] == []
    assert verdicts[name].ok


def test_the_witness_is_the_rule_or_the_path(verdicts: dict[str, Report]) -> None:
    """A finding names the rule as it stands, and for flows both hops, and whether a boolean gates them."""
    by_attribute = verdicts["attribute: receiver writes the queue"].findings
    assert any("allow evil sipc_feed_t:msgq { write }" in step for finding in by_attribute for step in finding.witness)
    (flow,) = (f for f in verdicts["boolean: a flow"].findings if f.check == "flows back")
    assert flow.witness == (
        f"{R} -> drop_t: allow {R} drop_t:file {{ write }} (under a boolean)",
        f"drop_t -> {S}: allow {S} drop_t:file {{ read }}",
    )


def test_a_gap_in_one_channel_is_not_blamed_on_another(verdicts: dict[str, Report]) -> None:
    """Findings name the channel they are about."""
    report = verdicts[f"{SR} shm write {SS}"]
    assert {finding.subject for finding in report.findings} == {"channel seg"}


@pytest.mark.parametrize("definition", ["[channel.feed]\n", "[channel.feed]\nsegment_creator = 'sender'\n"])
def test_each_constraint_is_missed_when_it_is_gone(definition: str, small: list[Path]) -> None:
    """Taken out one by one of the policy as read: each is noticed, so none is there for show."""
    policy, base = (read_policy(compose(small, texts), "test") for texts in (modules(definition), {}))
    specs = specs_of(definition)
    assert verify(policy, specs).ok
    taken_out, unnoticed = 0, []
    for cls in policy.classes.values():
        for constraint in list(cls.constraints):
            if constraint_types(policy, constraint) & channel_types(policy):
                cls.constraints.remove(constraint)
                policy.forget()
                if verify(policy, specs).ok:
                    unnoticed.append(f"{cls.name} {cls.names(constraint.permissions)}")
                cls.constraints.append(constraint)
                taken_out += 1
        assert len(cls.constraints) >= len(base.classes[cls.name].constraints)
    assert unnoticed == []
    assert taken_out > 90


def channel_types(policy: Policy) -> int:
    """The types of a channel as a set."""
    return sum(1 << number for name, number in policy.numbers.items() if name.startswith("sipc_feed_"))


def constraint_types(policy: Policy, constraint: Constraint) -> int:
    """Types that a constraint names one by one (a base policy's names attributes, of thousands)."""
    named = 0
    for step in constraint.steps:
        if step.types and not step.types & (step.types - 1):
            named |= step.types
    return named & policy.all_types


def test_nothing_is_proven_of_a_policy_without_the_channels(small: list[Path]) -> None:
    """On Debian's policy alone nothing is proven, and it says what is missing."""
    report = verify(read_policy(compose(small), "base"), specs_of(DEFINITION))
    assert not report.ok
    assert all(finding.check == "types are there" for finding in report.findings)
    assert "is the channel's module installed?" in report.findings[0].text


FEDORA = "".join(
    f"(allow domain self ({cls} (create destroy getattr setattr read write associate unix_read unix_write{extra})))\n"
    for cls, extra in (("shm", " lock"), ("sem", ""), ("msgq", " enqueue"))
)


def test_profile_fedora_expects_what_the_base_grants_and_the_constraints_stop(small: list[Path]) -> None:
    """Every domain may make its own objects there: proven with the profile, not without, nor without constraints."""
    options = Options(profile=Profile.FEDORA)
    assert proof(small, FEDORA, options=options).ok
    assert not proof(small, FEDORA).ok
    line = f"(constrain (shm (create destroy)) (neq t1 {R}))"
    assert not proof(small, FEDORA, options=options, without=line).ok
    # The profile is about a domain's own objects, and about nothing else.
    reverse = allow(R, C, "msgq", "write")
    assert not proof(small, FEDORA + reverse, options=options).ok


@pytest.mark.parametrize("checks", [False, True], ids=["expand-check=0", "expand-check=1"])
def test_all_of_debians_policy_is_proven_with_the_channels(checks: bool, full: list[Path]) -> None:
    """331 modules: whatever else is installed takes nothing away from the channels."""
    policy = read_policy(compose(full, modules(DEFINITION), checks=checks), "full")
    report = verify(policy, specs_of(DEFINITION))
    assert report.findings == []
    assert report.types > 4000
    through = {entry.through for entry in report.accepted}
    assert through <= {"devtty_t", "init_t", "null_device_t", "security_t", "setrans_runtime_t", "urandom_device_t",
                       "zero_device_t"}  # fmt: skip
    assert all(entry.reason for entry in report.accepted)


def test_every_pair_of_channels_is_named_apart() -> None:
    """The definitions of this file use no name twice: a mutant of one channel is no mutant of another."""
    texts = modules(DEFINITION)
    for first, second in itertools.combinations([name for name in texts if name != "sipc"], 2):
        assert first not in second
