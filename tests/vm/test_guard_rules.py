# SPDX-License-Identifier: Apache-2.0
"""What systemd does by a guard file's rules under SELinux: violations, full quarantines, filters' children, removal.

A guest of its own, with a guard of two sources, a Python filter, a command filter and a sink.  What goes wrong is done
by processes of the guard in their own domains: a source that breaks the protocol, a filter's child that attacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vm.emulator import ROOT
from tests.vm.guest import Guest
from tests.vm.whole_system import LIMIT, shell, unexplained, until, whole_system

pytestmark = pytest.mark.vm

STAGES = ("one", "two", "scrub", "edit", "out")
FILE = """\
version = 1
[guard]
name = "pair"
on_violation = "stop-sender"
on_quarantine_full = "stop-stage"
enforcement = "selinux"
require = ["one -> out via scrub, edit", "two -> out via scrub, edit", "not out -> one", "not two -> one"]
[stage.one]
user = "g-one"
source = { directory = "/var/spool/g-one" }
[stage.two]
user = "g-two"
source = { directory = "/var/spool/g-two" }
[stage.scrub]
user = "g-scrub"
filter = { python = "guard_filters:scrub", timeout = 60.0 }
quarantine = { directory = "/var/lib/sipc/pair/scrub/quarantine", limit = "64 KiB" }
[stage.edit]
user = "g-edit"
filter = { command = ["/usr/bin/python3", "/opt/sipc/acts/guard_filters.py"], persistent = true, timeout = 60.0 }
quarantine = { directory = "/var/lib/sipc/pair/edit/quarantine" }
[stage.out]
user = "g-out"
sink = { directory = "/var/spool/g-out" }
[channel.raw]
from = "one"
to = "scrub"
[channel.more]
from = "two"
to = "scrub"
[channel.clean]
from = "scrub"
to = "edit"
[channel.done]
from = "edit"
to = "out"
"""
BROKEN = "stage scrub: its sender violated the protocol"
# What an installation could leave: names of files, and what is in the kernel.  Left out: what the registry of all
# channels has for itself, libsemanage's folder for all modules of a priority, systemd's slice above those of guards.
TRACES = """
    find /etc /usr/local /var/lib /var/spool /var/cache /run/sipc* /run/systemd/system /dev/shm /dev/mqueue \
        -mindepth 1 ! -path '/var/lib/systemd/*' ! -path /run/sipc/.private ! -path /run/sipc/.helper-lock \
        ! -path '/var/lib/selinux/*/modules/400' | sort
    semodule -lfull | grep sipc || true
    ipcs -q -m | grep 0x || true
    cat /etc/passwd /etc/group
    systemctl list-units --all --plain --no-legend 'sipc-guard-*'
"""


def unit(stage: str) -> str:
    """The unit of a stage."""
    return f"sipc-guard-pair-stage-{stage}.service"


def ended(guest: Guest, *stages: str) -> None:
    """Wait until these stages run no more."""
    for stage in stages:
        until(guest, f"systemctl show -P ActiveState {unit(stage)} | grep -qxE 'inactive|failed'")


def put(guest: Guest, source: str, name: str, text: str) -> None:
    """Give a source a file, whole."""
    folder = f"/var/spool/g-{source}"
    shell(guest, f"printf '%s\\n' '{text}' >{folder}/.{name}; mv {folder}/.{name} {folder}/{name}")


def crosses(guest: Guest, *sources: str, name: str) -> None:
    """A message of each source arrives, changed by the filter."""
    for source in sources:
        put(guest, source, name, f"msg-{source}-{name}")
    for source in sources:
        until(guest, f"cat /var/spool/g-out/* 2>/dev/null | grep -qx MSG-{source.upper()}-{name.upper()}")


def states(guest: Guest) -> dict[str, str]:
    """What systemd says of each stage."""
    said = shell(guest, f"systemctl show -P ActiveState {' '.join(map(unit, STAGES))}").stdout.split()
    return dict(zip(STAGES, said, strict=True))


def pid_of(guest: Guest, stage: str) -> int:
    """The main process of a stage."""
    return int(shell(guest, f"systemctl show -P MainPID {unit(stage)}").stdout)


def processes(guest: Guest, stage: str) -> list[int]:
    """All processes of a stage, the main one first."""
    found = shell(guest, f"cat /sys/fs/cgroup/$(systemctl show -P ControlGroup {unit(stage)})/cgroup.procs").stdout
    return [int(line) for line in found.split()]


def said(guest: Guest) -> list[str]:
    """What the guard's act units have said since boot, oldest first."""
    return shell(guest, "journalctl --no-pager -o cat -t sipc-guard-pair").stdout.splitlines()


def told(guest: Guest, before: list[str], *lines: str) -> None:
    """Wait until they have said these lines and no others."""
    until(guest, f"[ $(journalctl --no-pager -o cat -t sipc-guard-pair | wc -l) -ge {len(before) + len(lines)} ]")
    until(guest, "! systemctl list-units --no-legend --state=activating 'sipc-guard-pair-act-*' | grep -q .")
    assert said(guest)[len(before) :] == list(lines)


def ruled(guest: Guest, violation: str = "stop-sender", full: str = "stop-stage") -> None:
    """Install the guard with these rules, and start it with fresh channels; or leave it, if it runs with them."""
    text = FILE.replace('"stop-sender"', f'"{violation}"').replace('"stop-stage"', f'"{full}"')
    there = shell(guest, "cat /etc/sipc/guards/pair.toml").stdout
    if there == text and set(states(guest).values()) == {"active"}:
        return
    shell(guest, f"""
        sipc guard down pair
        cat >/opt/sipc/guard/guard.toml <<'END'
{text}END
        sipc guard install /opt/sipc/guard/guard.toml
        sipc guard up pair --renew
    """)


def hostile(guest: Guest, stage: str, channel: str, *words: str) -> None:
    """Put a program that breaks the protocol in the place of a source, with its unit as it is, and start it."""
    folder = f"/run/systemd/system/{unit(stage)}.d"
    shell(guest, f"""
        mkdir -p {folder}
        printf '[Service]\\nTimeoutStopSec=2\\nExecStart=\\nExecStart=/usr/bin/python3 %s\\n' \\
            '/opt/sipc/acts/guard_sender.py pair.{channel} {" ".join(words)}' >{folder}/hostile.conf
        systemctl daemon-reload
        systemctl restart {unit(stage)}
        rm -r {folder}
        systemctl daemon-reload
    """)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest with this checkout, five users, their directories, and a guard file with its filters."""
    folder = tmp_path_factory.mktemp("put") / "guard"
    folder.mkdir()
    (folder / "guard.toml").write_text(FILE)
    (folder / "guard_filters.py").write_text((ROOT / "tests/vm/acts/guard_filters.py").read_text())
    script = """
        for name in one two scrub edit out; do useradd --system --shell /usr/sbin/nologin g-$name; done
        for name in one two out; do install -d -o g-$name -m 0750 /var/spool/g-$name; done
    """
    with whole_system(folder, script) as guest:
        yield guest


@pytest.fixture(scope="module")
def before(system: Guest) -> list[str]:
    """What there is before anything of the guard is."""
    return shell(system, TRACES).stdout.splitlines()


@pytest.fixture(scope="module")
def guard(system: Guest, before: list[str]) -> Guest:
    """The guard installed, its policy proven and loaded, and running."""
    assert before
    shell(system, "sipc guard install --policy /opt/sipc/guard/guard.toml; sipc guard up pair")
    return system


@pytest.mark.timeout(3 * LIMIT)
def test_an_installation_that_can_not_be_written_changes_nothing(system: Guest, before: list[str]) -> None:
    """A directory stands where a unit would go: the policy was proven, and is not there, nor is any other file."""
    shell(system, "mkdir -p /etc/systemd/system/sipc-guard-pair-stage-out.service/full")
    done = system.run(["sipc", "guard", "install", "--policy", "/opt/sipc/guard/guard.toml"], seconds=LIMIT)
    assert done.code == 4, done.output
    assert "sipc-guard-pair-stage-out.service" in done.stderr
    shell(system, "rm -r /etc/systemd/system/sipc-guard-pair-stage-out.service")
    assert shell(system, TRACES).stdout.splitlines() == before


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize(
    ("stage", "channel", "words"), [("two", "more", ()), ("one", "raw", ("deaf",))], ids=["two", "one, deaf to SIGTERM"]
)
def test_of_two_senders_only_the_violator_is_stopped(
    guard: Guest, stage: str, channel: str, words: tuple[str, ...]
) -> None:
    """A source breaks the protocol on its channel: the other source runs on, and so do filters and sink."""
    ruled(guard)
    crosses(guard, "one", "two", name=f"sound-{stage}")
    others = {other: pid_of(guard, other) for other in STAGES if other not in (stage, "scrub")}
    before = said(guard)
    hostile(guard, stage, channel, *words)
    lines = [f"{BROKEN}: stop-sender", f"stage {stage} is stopped: it broke the protocol on {channel}"]
    # Killed because it did not heed, it has failed too.
    failed = f"stage {stage} has failed and is not started again: sipc guard status pair"
    told(guard, before, *lines, *[failed] * len(words))
    ended(guard, stage)
    found = states(guard)
    expected = {**dict.fromkeys(STAGES, "active"), "scrub": "failed", stage: "failed" if words else "inactive"}
    assert found == expected
    assert {other: pid_of(guard, other) for other in others} == others
    assert guard.run(["sipc", "guard", "status"], seconds=LIMIT).code == 1
    until(guard, "cat /var/spool/g-out/* | grep -qx MSG-BEFORE-THE-BAD-ONE")
    shell(guard, "sipc guard up pair --renew; rm /var/spool/g-out/*")
    crosses(guard, "one", "two", name=f"renewed-{stage}")
    assert unexplained(guard.denials()) == []


@pytest.mark.timeout(3 * LIMIT)
def test_a_violation_stops_the_guard_where_the_file_says_so(guard: Guest) -> None:
    """All stages end, sources and sink too; the channels stay, and `up --renew` makes them anew."""
    ruled(guard, violation="stop-guard")
    before = said(guard)
    hostile(guard, "two", "more")
    told(guard, before, f"{BROKEN}: stop-guard")
    ended(guard, *STAGES)
    assert states(guard) == {**dict.fromkeys(STAGES, "inactive"), "scrub": "failed"}
    assert "inactive" in shell(guard, "systemctl show -P ActiveState sipc-guard-pair.target").stdout
    old = shell(guard, "grep -ho '\"epoch\": *[^,]*' /run/sipc/pair.*.json").stdout.splitlines()
    shell(guard, "sipc guard up pair --renew")
    new = shell(guard, "grep -ho '\"epoch\": *[^,]*' /run/sipc/pair.*.json").stdout.splitlines()
    assert len(old) == len(new) == 4
    assert not set(old) & set(new)
    crosses(guard, "one", "two", name="again")
    assert unexplained(guard.denials()) == []


@pytest.mark.timeout(3 * LIMIT)
def test_a_violation_is_only_told_where_the_file_says_so(guard: Guest) -> None:
    """The filter has ended, and is not started again; the hostile source itself is left alone."""
    ruled(guard, violation="log")
    before = said(guard)
    hostile(guard, "two", "more")
    told(guard, before, f"{BROKEN}: log")
    assert states(guard) == {**dict.fromkeys(STAGES, "active"), "scrub": "failed"}
    assert shell(guard, f"systemctl show -P NRestarts {unit('scrub')}").stdout.strip() == "0"
    assert unexplained(guard.denials()) == []


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("rule", ["stop-stage", "stop-guard"])
def test_a_full_quarantine_stops_what_the_file_says(guard: Guest, rule: str) -> None:
    """The message that found no room is not lost: it is kept once there is room."""
    shell(guard, "rm -rf /var/lib/sipc/pair/scrub/quarantine/* /var/spool/g-out/*")
    ruled(guard, full=rule)
    before = said(guard)
    size = 40 << 10
    for number in range(2):
        shell(guard, f"""
            {{ printf 'bad-{number}-'; head -c {size} /dev/zero | tr '\\0' x; }} >/var/spool/g-one/.bad
            mv /var/spool/g-one/.bad /var/spool/g-one/bad-{number}
        """)
    told(guard, before, f"stage scrub: its quarantine is full: {rule}")
    assert shell(guard, f"systemctl show -P ExecMainStatus {unit('scrub')}").stdout.strip() == "77"
    if rule == "stop-guard":
        ended(guard, *STAGES)
        assert states(guard) == {**dict.fromkeys(STAGES, "inactive"), "scrub": "failed"}
    else:
        assert states(guard) == {**dict.fromkeys(STAGES, "active"), "scrub": "failed"}
    assert shell(guard, "grep -lr bad-0- /var/lib/sipc/pair/scrub/quarantine").stdout
    assert guard.run(["grep", "-lr", "bad-1-", "/var/lib/sipc/pair/scrub/quarantine"]).code == 1
    shell(guard, "rm -rf /var/lib/sipc/pair/scrub/quarantine/*; sipc guard up pair")
    until(guard, "grep -lrq bad-1- /var/lib/sipc/pair/scrub/quarantine")
    crosses(guard, "one", name=f"room-{rule}")
    assert shell(guard, "cat /var/spool/g-out/* | grep -ci bad- || true").stdout.strip() == "0"
    assert unexplained(guard.denials()) == []


def attacked(guest: Guest, name: str, victims: list[str]) -> tuple[dict[str, Any], dict[int, str]]:
    """Have a filter's child attack every process of other stages; what it was answered, and whose each process is."""
    pids = {pid: stage for stage in victims for pid in processes(guest, stage)}
    out = f"/var/lib/sipc-guards/pair/{name}/answers.json"
    paths = [f"/var/lib/sipc-guards/pair/{stage}" for stage in victims]
    paths += [f"/run/sipc-guards/pair/{stage}/status.json" for stage in victims]
    orders = {"pids": list(map(str, pids)), "out": out, "paths": paths}
    shell(guest, f"""
        mkdir -p /etc/sipc/attack
        printf '%s' '{json.dumps(orders)}' >/etc/sipc/attack/{name}
        restorecon -RF /etc/sipc/attack
    """)
    put(guest, "one", f"attack-{name}", f"attack-{name}")
    until(guest, f"[ -s {out} ]")
    until(guest, f'[ -n "$(ls /var/lib/sipc/pair/{name}/quarantine)" ]')
    return json.loads(shell(guest, f"cat {out}; rm {out}").stdout), pids


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("name", ["scrub", "edit"], ids=["worker", "command"])
def test_a_filters_child_can_reach_nobody_and_nobody_its_fellows(guard: Guest, name: str) -> None:
    """The worker of a Python filter, and a command filter's process, attack all other stages with all their children.

    Processes and memory are asked for without end: the kernel ends the child, its message is refused, and everything
    else, the very stage that it belongs to too, runs on.
    """
    shell(guard, "rm -rf /var/lib/sipc/pair/*/quarantine/*")
    ruled(guard)
    crosses(guard, "one", name=f"warm-{name}")  # so that both filters have their children
    mains = {stage: pid_of(guard, stage) for stage in STAGES}
    found, pids = attacked(guard, name, [stage for stage in STAGES if stage != name])
    children = set(pids) - set(mains.values())
    assert {pids[pid] for pid in children} == {"scrub", "edit"} - {name}
    assert [(pids[int(pid)], act) for pid, acts in found["pids"].items()
            for act, came in acts.items() if came == "done"] == []  # fmt: skip
    assert set(found["pids"]) == set(map(str, pids))
    assert [(path, act) for path, acts in found["paths"].items() for act, came in acts.items() if came == "done"] == []
    assert "done" not in found["supervisor"].values(), found["supervisor"]
    assert found["exhaust"]["fork"] == "EAGAIN"
    assert int(found["exhaust"]["forks"]) < 64
    assert {stage: pid_of(guard, stage) for stage in STAGES} == mains
    for pid in children:
        assert pid in processes(guard, pids[pid])
    crosses(guard, "one", "two", name=f"after-{name}")
    assert set(processes(guard, name)) >= {mains[name]}


@pytest.mark.timeout(2 * LIMIT)
def test_the_kernel_has_the_bounds_of_every_stage(guard: Guest) -> None:
    """Processor, disk, memory, swap and tasks as the kernel's control groups have them, not as a file says."""
    ruled(guard)
    total = int(shell(guard, "awk '/MemTotal/ { print $2 * 1024 }' /proc/meminfo").stdout)
    for stage in STAGES:
        group = f"/sys/fs/cgroup/$(systemctl show -P ControlGroup {unit(stage)})"
        names = ("cpu.weight", "memory.max", "memory.swap.max", "pids.max", "memory.oom.group")
        values = shell(guard, f"cd {group}; cat {' '.join(names)}").stdout.split()
        bound = dict(zip(names, map(int, values), strict=True))
        assert 0 < bound["memory.max"] <= total * 0.8 / len(STAGES) + 4096
        assert bound["cpu.weight"] == 100
        assert bound["memory.swap.max"] == 0
        assert bound["pids.max"] == (64 if stage in ("scrub", "edit") else 16)
        assert bound["memory.oom.group"] == 0


@pytest.mark.timeout(2 * LIMIT)
def test_a_stage_that_takes_all_the_processor_leaves_the_others_theirs(guard: Guest) -> None:
    """Source two becomes as many endless loops as it may have tasks; a message of source one arrives all the same."""
    ruled(guard)
    folder = f"/run/systemd/system/{unit('two')}.d"
    spin = "import os\\nfor _ in range(15):\\n    if os.fork() == 0:\\n        break\\nwhile True:\\n    pass\\n"
    shell(guard, f"""
        mkdir -p {folder}
        printf '{spin}' >/opt/sipc/acts/spin.py
        printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/python3 /opt/sipc/acts/spin.py\\n' >{folder}/spin.conf
        systemctl daemon-reload
        systemctl restart {unit("two")}
        rm -r {folder}
        systemctl daemon-reload
    """)
    until(guard, f"[ $(systemctl show -P TasksCurrent {unit('two')}) -eq 16 ]")
    crosses(guard, "one", name="beside")
    assert len(processes(guard, "two")) == 16
    shell(guard, "sipc guard down pair")


@pytest.mark.timeout(3 * LIMIT)
def test_purged_nothing_is_left(guard: Guest, before: list[str]) -> None:
    """No unit, module, IPC object, directory or user more than before it was installed."""
    refused = len(guard.denials())
    shell(guard, "sipc guard up pair")
    put(guard, "two", "last", "bad-last")
    until(guard, '[ -n "$(ls /var/lib/sipc/pair/scrub/quarantine)" ]')
    shell(guard, "sipc guard uninstall pair --purge --policy")
    shell(guard, "rm -rf /etc/sipc/attack; find /var/spool/g-* -mindepth 1 -delete")
    assert shell(guard, TRACES).stdout.splitlines() == before
    again = guard.run(["sipc", "guard", "uninstall", "pair", "--purge"], seconds=LIMIT)
    assert again.code == 3, again.output
    assert unexplained(guard.denials()[refused:]) == []


def test_the_guard_of_this_test_is_one_that_can_be_checked(tmp_path: Path) -> None:
    """Its file has no problem, so that what fails above is not the file."""
    from sipc.guard.config import parse

    assert parse(FILE, "guard.toml").name == "pair"
