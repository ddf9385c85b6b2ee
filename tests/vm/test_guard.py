# SPDX-License-Identifier: Apache-2.0
"""A guard of three stages as systemd runs it under SELinux, from `sipc guard install --policy` to its removal.

A guest of its own, with Debian's policy as its packages install it: what crosses, what is lost when stages are killed,
what a stage that was taken over can do to the others, and what the kernel refused meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vm.guest import Guest, context
from tests.vm.whole_system import LIMIT, shell, unexplained, until, whole_system

pytestmark = pytest.mark.vm

STAGES = ("ingest", "scrub", "deliver")
FILE = """\
version = 1
[guard]
name = "json"
on_violation = "stop-sender"
enforcement = "selinux"
require = ["ingest -> deliver via scrub", "not deliver -> ingest", "only scrub -> deliver"]
[stage.ingest]
user = "ingest"
source = { directory = "/var/spool/ingest" }
[stage.scrub]
user = "scrub"
filter = { python = "json_guard:scrub", timeout = 20.0 }
quarantine = { directory = "/var/lib/sipc/json/scrub/quarantine", limit = "16 MiB" }
[stage.deliver]
user = "deliver"
sink = { directory = "/var/spool/deliver" }
[channel.raw]
from = "ingest"
to = "scrub"
[channel.clean]
from = "scrub"
to = "deliver"
"""
FILTER = """\
from sipc.guard.verdicts import Pass, Quarantine
def scrub(message):
    return Quarantine("bad") if message.startswith(b"bad") else Pass(message.upper())
"""
OTHERS = {
    "ingest": ("/var/spool/ingest", "/var/lib/sipc-guards/json/ingest", "/run/sipc-guards/json/ingest",
               "/run/sipc-guards/json/ingest/status.json", "/run/sipc/.private/json.raw/sender"),
    "scrub": ("/var/lib/sipc/json/scrub/quarantine", "/var/lib/sipc-guards/json/scrub", "/run/sipc-guards/json/scrub",
              "/run/sipc-guards/json/scrub/status.json", "/var/lib/sipc-guards/json/scrub/audit.jsonl"),
    "deliver": ("/var/spool/deliver", "/var/lib/sipc-guards/json/deliver", "/run/sipc-guards/json/deliver",
                "/run/sipc-guards/json/deliver/status.json", "/run/sipc/.private/json.clean/receiver"),
}  # fmt: skip


def unit(stage: str) -> str:
    """The unit of a stage."""
    return f"sipc-guard-json-stage-{stage}.service"


def crossing(guest: Guest, names: list[str], text: str = "msg") -> None:
    """Put files into the source, whole."""
    shell(guest, "".join(f"echo {text}-{name} >/var/spool/ingest/.{name}; "
                         f"mv /var/spool/ingest/.{name} /var/spool/ingest/{name}\n" for name in names))  # fmt: skip


def arrived(guest: Guest, word: str) -> list[str]:
    """The lines that came out and begin with a word."""
    lines = shell(guest, "cat /var/spool/deliver/[0-9a-f]*").stdout.splitlines()
    return sorted(line for line in lines if line.startswith(word))


def states(guest: Guest) -> dict[str, Any]:
    """What `sipc guard status --json` says of the stages."""
    done = guest.run(["sipc", "guard", "status", "--json"], seconds=LIMIT)
    found: dict[str, Any] = json.loads(done.stdout)["stages"]
    return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest with this checkout, three users, their directories, and a guard file with its filter."""
    folder = tmp_path_factory.mktemp("put") / "guard"
    folder.mkdir()
    (folder / "guard.toml").write_text(FILE)
    (folder / "json_guard.py").write_text(FILTER)
    script = """
        for user in ingest scrub deliver; do useradd --system --shell /usr/sbin/nologin $user; done
        install -d -o ingest -m 0750 /var/spool/ingest
        install -d -o deliver -m 0750 /var/spool/deliver
    """
    with whole_system(folder, script) as guest:
        yield guest


@pytest.fixture(scope="module")
def guard(system: Guest) -> Guest:
    """The guard installed, its policy proven and loaded, and running."""
    early = system.run(["sipc", "guard", "install", "/opt/sipc/guard/guard.toml"], seconds=LIMIT)
    assert early.code == 3, early.output
    assert "--policy" in early.stderr
    shell(system, "test ! -e /etc/sipc/guards; sipc guard install --policy /opt/sipc/guard/guard.toml")
    shell(system, "sipc guard up")
    return system


@pytest.mark.timeout(3 * LIMIT)
def test_files_cross_three_domains_and_nothing_is_refused(guard: Guest) -> None:
    """Three users in three domains; what the filter refuses is in quarantine; no AVC denial since boot is ours."""
    crossing(guard, [f"{number:02}" for number in range(20)])
    crossing(guard, ["refused"], "bad")
    until(guard, "[ $(cat /var/spool/deliver/[0-9a-f]* 2>/dev/null | grep -c MSG) -ge 20 ]")
    until(guard, '[ -n "$(ls /var/lib/sipc/json/scrub/quarantine)" ]')
    assert arrived(guard, "MSG") == [f"MSG-{number:02}" for number in range(20)]
    assert arrived(guard, "BAD") == []
    lines = shell(guard, "ps -eo user=,label=,args= | grep 'guard stag[e]'").stdout.splitlines()
    assert sorted(tuple(line.split()[:2]) for line in lines) == sorted(
        (stage, context(f"json_{stage}_t")) for stage in STAGES
    )
    found = states(guard)
    assert {stage: found[stage]["active"] for stage in STAGES} == dict.fromkeys(STAGES, "active")
    assert all(found[stage]["status"]["stage"] == stage for stage in STAGES)
    assert "not confined" not in shell(guard, "journalctl --no-pager -t sipc-guard-json-ingest").stdout
    assert unexplained(guard.denials()) == []


@pytest.mark.timeout(2 * LIMIT)
def test_a_killed_stage_is_started_again_and_nothing_is_lost_or_twice(guard: Guest) -> None:
    """SIGKILL of each stage while messages flow."""
    names = [f"k{number:02}" for number in range(30)]
    before = states(guard)
    for part, stage in enumerate((*STAGES, "scrub")):
        crossing(guard, names[part * 7 : part * 7 + 7])
        shell(guard, f"systemctl kill -s KILL {unit(stage)}")
        until(guard, f"systemctl is-active -q {unit(stage)}")
    crossing(guard, names[28:])
    until(guard, "[ $(cat /var/spool/deliver/[0-9a-f]* | grep -c MSG-K) -ge 30 ]")
    shell(guard, "sipc guard down; sipc guard up")
    assert arrived(guard, "MSG-K") == sorted(f"MSG-{name.upper()}" for name in names)
    assert before.keys() == set(STAGES)
    restarts = shell(guard, f"systemctl show -P ActiveState {' '.join(map(unit, STAGES))}").stdout.split()
    assert restarts == ["active"] * 3
    assert unexplained(guard.denials()) == []


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("attacker", ["ingest", "scrub"])
@pytest.mark.parametrize("bare", [False, True], ids=["sandboxed", "SELinux alone"])
def test_a_stage_that_was_taken_over_can_not_reach_the_others(guard: Guest, attacker: str, *, bare: bool) -> None:
    """Signals 0 to 64, tracing, limits, scheduling, files, the supervisor, processes and memory: nothing of it works.

    Once in the sandbox that the unit has; once without it, as the very user of another stage, in the stage's domain.
    """
    victims = [stage for stage in STAGES if stage != attacker]
    pids = {stage: int(shell(guard, f"systemctl show -P MainPID {unit(stage)}").stdout) for stage in victims}
    out = f"/var/lib/sipc-guards/json/{attacker}/answers.json"
    orders = {"pids": list(map(str, pids.values())), "out": out,
              "paths": [path for stage in victims for path in OTHERS[stage]]}  # fmt: skip
    loose = f"User={victims[0]}\nGroup={victims[0]}\nCapabilityBoundingSet=~\nSystemCallFilter=\nNoNewPrivileges=no\n"
    loose += "ProtectProc=default\nProtectSystem=no\n"
    folder = f"/run/systemd/system/{unit(attacker)}.d"
    shell(guard, f"""
        systemctl stop {unit(attacker)}
        rm -f {out}
        mkdir -p {folder} /etc/sipc/attack
        printf '%s' '{json.dumps(orders)}' >/etc/sipc/attack/orders
        printf '%s' '[Service]
Restart=no
{loose if bare else ""}ExecStart=
ExecStart=/usr/bin/python3 /opt/sipc/acts/guard_stage.py /etc/sipc/attack/orders
' >{folder}/attack.conf
        restorecon -RF /etc/sipc/attack
        systemctl daemon-reload
        systemctl start {unit(attacker)}
    """)
    until(guard, f"! systemctl is-active -q {unit(attacker)}")
    result = shell(guard, f"systemctl show -P Result {unit(attacker)}").stdout.strip()
    said = json.loads(shell(guard, f"cat {out}").stdout)
    shell(guard, f"rm -r {folder}; systemctl daemon-reload; systemctl reset-failed {unit(attacker)}; rm -f {out}")
    shell(guard, f"restorecon -RF /var/lib/sipc-guards; systemctl start {unit(attacker)}")
    assert [(pid, act) for pid, acts in said["pids"].items() for act, came in acts.items() if came == "done"] == []
    assert [(path, act) for path, acts in said["paths"].items() for act, came in acts.items() if came == "done"] == []
    assert "done" not in said["supervisor"].values(), said["supervisor"]
    assert said["exhaust"]["fork"] == "EAGAIN"
    assert int(said["exhaust"]["forks"]) < 64
    assert result in ("oom-kill", "signal"), result
    for stage, pid in pids.items():
        assert int(shell(guard, f"systemctl show -P MainPID {unit(stage)}").stdout) == pid, stage
    if bare:
        # The users are the same, so it is SELinux that refuses.
        reached = said["pids"][str(pids[victims[0]])]
        assert {came for act, came in reached.items() if act.startswith("kill ")} == {"EACCES"}, reached
        assert {said["paths"][path]["write"] for path in OTHERS[victims[0]]} == {"EACCES"}
    crossing(guard, [f"after-{attacker}-{int(bare)}"])
    until(guard, f"grep -qs AFTER-{attacker.upper()}-{int(bare)} /var/spool/deliver/[0-9a-f]*")


@pytest.mark.timeout(2 * LIMIT)
def test_a_violation_is_answered_by_the_supervisor(guard: Guest) -> None:
    """The filter ends as one whose sender broke the protocol: its sender is stopped, and the sink goes on."""
    folder = f"/run/systemd/system/{unit('scrub')}.d"
    shell(guard, f"""
        mkdir -p {folder}
        printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/python3 -c "raise SystemExit(76)"\\n' >{folder}/end.conf
        systemctl daemon-reload
        systemctl restart {unit("scrub")} || true
    """)
    until(guard, f"! systemctl is-active -q {unit('ingest')}")
    shell(guard, f"rm -r {folder}; systemctl daemon-reload")
    log = shell(guard, "journalctl --no-pager -t sipc-guard-json").stdout
    assert "stage scrub: its sender violated the protocol: stop-sender" in log
    assert states(guard)["deliver"]["active"] == "active"
    assert guard.run(["sipc", "guard", "status"], seconds=LIMIT).code == 1
    shell(guard, "sipc guard up")


@pytest.mark.timeout(3 * LIMIT)
def test_uninstalling_leaves_what_was_kept_and_nothing_else(guard: Guest) -> None:
    """Units, channels and policy go; audit and quarantine stay unless --purge says otherwise."""
    shell(guard, "sipc guard uninstall json --policy")
    shell(guard, "test -s /var/lib/sipc-guards/json/scrub/audit.jsonl; test -d /var/lib/sipc/json/scrub/quarantine")
    assert shell(guard, "ls /etc/systemd/system | grep sipc-guard || true").stdout == ""
    assert shell(guard, "ls /etc/sipc/guards; sipc policy list; ipcs -q | grep 0x || true").stdout == ""
    gone = guard.run(["sipc", "guard", "up", "json"], seconds=LIMIT)
    assert gone.code == 3, gone.output


def test_the_guard_of_this_test_is_one_that_can_be_checked(tmp_path: Path) -> None:
    """Its file has no problem, so that what fails above is not the file."""
    from sipc.guard.config import parse

    assert parse(FILE, "guard.toml").name == "json"
