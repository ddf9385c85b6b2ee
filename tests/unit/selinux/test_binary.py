# SPDX-License-Identifier: Apache-2.0
"""The reader of binary policies sees what the distribution's own libraries see, and refuses what it does not know."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import modules

from sipc.errors import SpecError
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import Policy

DEFINITION = "[channel.feed]\n[channel.seg]\nsegment_creator = 'sender'\n"
# The distribution's Python, for which its libraries are built; the project's may be another.
PYTHON = "/usr/bin/python3"

SETOOLS = """
import json, setools, sys
policy = setools.SELinuxPolicy(sys.argv[1])
rules = {}
for rule in policy.terules():
    if rule.ruletype == setools.TERuletype.allow:
        key = f"{rule.source} {rule.target} {rule.tclass}"
        rules[key] = sorted(set(rules.get(key, [])) | set(map(str, rule.perms)))
constraints = {}
for constraint in policy.constraints():
    if "trans" not in str(constraint.ruletype):
        for perm in constraint.perms:
            key = f"{constraint.tclass} {perm}"
            constraints[key] = constraints.get(key, 0) + 1
print(json.dumps({
    "rules": rules,
    "attributes": {str(a): sorted(map(str, a.expand())) for a in policy.typeattributes()},
    "types": sorted(map(str, policy.types())),
    "constraints": constraints,
    "permissive": sorted(str(t) for t in policy.types() if t.ispermissive),
}))
"""

AUDIT2WHY = """
import json, sys
import selinux.audit2why as why
why.init(sys.argv[1])
words = {why.ALLOW: "allow", why.CONSTRAINT: "constraint", why.TERULE: "rule", why.DONTAUDIT: "rule",
         why.BOOLEAN: "boolean", why.RBAC: "rbac", why.BOUNDS: "bounds"}
context = "system_u:{}:{}:s0".format
for line in sys.stdin:
    source, target, cls, perm = line.split()
    code = why.analyze(context("system_r", source), context("system_r", target), cls, [perm])[0]
    print(words.get(code, f"code {code}"))
"""


@pytest.fixture(scope="module")
def binary(small: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels, a boolean, an attribute and a permissive domain, on Debian's base."""
    texts = modules(DEFINITION)
    texts["extra"] = (
        "(type extra_t)\n(roletype system_r extra_t)\n(typeattributeset domain (extra_t))\n(typepermissive extra_t)\n"
        "(typealias extra_alias_t)\n(typealiasactual extra_alias_t extra_t)\n"
        "(boolean extra_bool false)\n(booleanif extra_bool (true (allow extra_t self (msgq (create)))))\n"
        "(allowx extra_t extra_t (ioctl chr_file (0x1234)))\n"
    )
    path = tmp_path_factory.mktemp("policy") / "policy.33"
    path.write_bytes(compose(small, texts))
    return path


@pytest.fixture(scope="module")
def policy(binary: Path) -> Policy:
    """The same, read."""
    return read_policy(binary.read_bytes(), str(binary))


def test_every_rule_attribute_and_constraint_is_what_setools_reads(binary: Path, policy: Policy) -> None:
    """The oracle is the library that the distribution maintains for this."""
    done = subprocess.run([PYTHON, "-c", SETOOLS, binary], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    names = policy.type_names
    rules: dict[str, set[str]] = {}
    for rule in policy.rules:
        cls = policy.class_by_number[rule.cls]
        key = f"{names[rule.source]} {names[rule.target]} {cls.name}"
        rules.setdefault(key, set()).update(cls.names(rule.permissions))
    assert len(rules) > 10_000
    assert {key: sorted(found) for key, found in rules.items()} == theirs["rules"]
    attributes = {
        names[number]: sorted(names[member] for member in range(len(names)) if members >> member & 1)
        for number, members in policy.members.items()
    }
    assert attributes == theirs["attributes"]
    assert sorted(names[n] for n in range(len(names)) if policy.all_types >> n & 1) == theirs["types"]
    constraints: dict[str, int] = {}
    for cls in policy.classes.values():
        for constraint in cls.constraints:
            for name in cls.names(constraint.permissions):
                constraints[f"{cls.name} {name}"] = constraints.get(f"{cls.name} {name}", 0) + 1
    assert constraints == theirs["constraints"]
    assert [names[n] for n in range(len(names)) if policy.permissive >> n & 1] == theirs["permissive"] == ["extra_t"]
    assert policy.numbers["extra_alias_t"] == policy.numbers["extra_t"]


def test_verdicts_on_single_acts_are_audit2whys(binary: Path, policy: Policy) -> None:
    """Rules and constraints together decide as libsepol's evaluator says, over roles, outsiders and classes."""
    sources = ["sipc_feed_sender_t", "sipc_feed_receiver_t", "sipc_feed_t", "sipc_seg_sender_t", "unconfined_t",
               "init_t", "sysadm_t", "kernel_t", "initrc_t", "syslogd_t"]  # fmt: skip
    targets = ["sipc_feed_sender_t", "sipc_feed_receiver_t", "sipc_feed_t", "sipc_seg_sender_t", "unconfined_t"]
    acts = [
        (source, target, cls, name)
        for source in sources
        for target in targets
        for cls in ("msgq", "shm", "sem", "process", "fifo_file", "unix_stream_socket", "file")
        for name in policy.classes[cls].permissions
        # These also hang on users, roles and levels, which our verdict leaves open on purpose.
        if name not in ("transition", "dyntransition", "relabelfrom", "relabelto", "create", "entrypoint")
    ]
    acts = random.Random(1).sample(acts, 1500)
    text = "".join(" ".join(act) + "\n" for act in acts)
    done = subprocess.run(
        [PYTHON, "-c", AUDIT2WHY, binary], input=text, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    verdicts = dict(zip(acts, done.stdout.split("\n"), strict=False))
    seen = set()
    for (source, target, cls_name, name), verdict in verdicts.items():
        cls = policy.classes[cls_name]
        numbers = policy.numbers[source], policy.numbers[target]
        granted = bool(policy.granted(*numbers, cls) & cls.permissions[name])
        usable = bool(policy.effective(*numbers, cls) & cls.permissions[name])
        seen.add(verdict)
        expected = {"allow": (True, True), "constraint": (True, False), "rule": (False, False), "boolean": (True, True)}
        assert verdict in expected, (verdict, source, target, cls_name, name)
        if verdict == "constraint":
            assert not usable, (source, target, cls_name, name)
        else:
            assert (granted, usable) == expected[verdict], (verdict, source, target, cls_name, name)
    assert seen >= {"allow", "constraint", "rule"}


@pytest.mark.parametrize("version", [29, 30, 31, 32, 33])
def test_older_versions_read_the_same(version: int, small: list[Path], policy: Policy) -> None:
    """The format changed over the years; the rules did not."""
    texts = modules(DEFINITION)
    found = read_policy(compose(small, texts, version=version), "old")
    assert found.version == version
    assert found.allow_unknown
    cls = found.classes["msgq"]
    pair = found.numbers["sipc_feed_sender_t"], found.numbers["sipc_feed_t"]
    assert cls.names(found.effective(*pair, cls)) == ("associate", "unix_write", "write")
    theirs = policy.classes["msgq"]
    assert len(cls.constraints) == len(theirs.constraints)


def test_what_is_no_policy_is_refused(binary: Path) -> None:
    """Text, nothing, a cut file, a file with something after it, an unknown version: bad input, never a guess."""
    data = binary.read_bytes()
    newer = data[:16] + (99).to_bytes(4, "little") + data[20:]
    for bad in (b"", b"(allow a b (file (read)))", data[:-1], data[:5000], data + b"\0", newer):
        with pytest.raises(SpecError):
            read_policy(bad, "bad")


@given(st.binary(max_size=200), st.integers(min_value=0))
@settings(max_examples=200, deadline=None)
def test_damaged_headers_never_end_in_another_error(noise: bytes, where: int) -> None:
    """Whatever the bytes are, the answer is a policy or `SpecError`."""
    head = (0xF97CFF8C).to_bytes(4, "little") + (8).to_bytes(4, "little") + b"SE Linux" + (33).to_bytes(4, "little")
    cut = where % (len(head) + 1)
    with pytest.raises(SpecError):
        read_policy(head[:cut] + noise, "noise")
