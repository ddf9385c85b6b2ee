# SPDX-License-Identifier: Apache-2.0
"""The real journald in an enforcing guest: as the source of the log diode, and as the place of an audit log.

A guest of its own.  The diode is examples/log_diode as it is, with the journal's filter; its feeder runs in a sealed
domain (`sealed.cil`) that reads the journal, and from which nothing but the spool leads out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.vm.emulator import ROOT
from tests.vm.guest import Guest, context
from tests.vm.whole_system import LIMIT, shell, unexplained, until, whole_system

pytestmark = pytest.mark.vm

FEEDER = """\
[Service]
User=log-feed
Group=log-collect
SupplementaryGroups=systemd-journal
SELinuxContext=system_u:system_r:sealed_log_t:s0
UMask=0027
ExecStart=/bin/sh -c "journalctl -f --all -o json --lines=all | /usr/bin/python3 /opt/sipc/log_diode/feeder.py - %s"
"""
JOURNALED = """\
version = 1
[guard]
name = "journaled"
enforcement = "dac"
audit = "journal"
[stage.a]
user = "log-collect"
source = { directory = "/var/spool/journaled/in" }
[stage.f]
user = "log-scrub"
filter = { command = ["/usr/bin/cat"] }
[stage.b]
user = "log-store"
sink = { directory = "/var/spool/journaled/out" }
[channel.raw]
from = "a"
to = "f"
[channel.clean]
from = "f"
to = "b"
"""
SPOOL = "/var/spool/log-diode/in"
OUT = "/var/spool/log-diode/out"
TRIES = """
import os, socket
for act in (
    lambda: open("/var/spool/log-diode/out/x", "w"), lambda: os.listdir("/var/spool/log-diode/out"),
    lambda: open("/var/tmp/x", "w"), lambda: socket.socket(socket.AF_INET),
    lambda: socket.socket(socket.AF_UNIX).connect("/run/systemd/journal/stdout"),
    lambda: os.kill(PID, 0),
):
    try:
        act()
        print("done")
    except PermissionError:
        print("refused")
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest with this checkout, the example, and its users."""
    folder = tmp_path_factory.mktemp("put") / "log_diode"
    folder.mkdir()
    example = ROOT / "examples/log_diode"
    for path in example.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "guard.toml").write_text((example / "guard.toml").read_text().replace(":lines", ":journal"))
    (folder / "sealed.cil").write_bytes((ROOT / "tests/vm/sealed.cil").read_bytes())
    (folder / "feeder.service").write_text(FEEDER % SPOOL)
    script = """
        for name in collect scrub store feed; do useradd --system --shell /usr/sbin/nologin log-$name; done
    """
    with whole_system(folder, script, extras="cli,guard") as guest:
        yield guest


@pytest.fixture(scope="module")
def diode(system: Guest) -> Guest:
    """The diode installed, and proven together with the sealed domain; its feeder runs."""
    shell(system, f"""
        semodule -i /opt/sipc/log_diode/sealed.cil
        install -d -m 0755 /var/spool/log-diode
        install -d -o log-collect -g log-collect -m 2770 {SPOOL}
        install -d -o log-store -m 0750 {OUT}
        sipc guard install --policy /opt/sipc/log_diode/guard.toml
        sipc guard up
        cp /opt/sipc/log_diode/feeder.service /etc/systemd/system/log-feeder.service
        systemctl daemon-reload
        systemctl start log-feeder
    """)
    return system


def came(guest: Guest) -> list[str]:
    """The lines that came out, whole, in order."""
    return shell(guest, f"cat $(ls {OUT}/* | sort)").stdout.splitlines()


@pytest.mark.timeout(3 * LIMIT)
def test_the_journal_comes_out_of_a_sealed_domain(diode: Guest) -> None:
    """All since boot, and what programs log now: each entry one harmless line, once, in order; nothing is kept back."""
    shell(diode, r"""
        for number in 1 2 3 4 5; do printf 'turn %s \033[2J\377\n' $number | systemd-cat -t app; done
        printf '<34>1 2024-05-17T09:30:00Z host su 77 - - forged\n' | systemd-cat -t 'a b' -p err
        journalctl --sync
    """)
    until(diode, f"grep -qs 'forged' {OUT}/*")
    lines = came(diode)
    texts = [line.split(" ", 7) for line in lines]
    assert all(line.isprintable() and len(line.encode()) <= 2048 for line in lines)
    assert [parts[7] for parts in texts if parts[3] == "app"] == [rf"turn {n} \x1b[2J\xff" for n in range(1, 6)]
    (forged,) = (parts for parts in texts if "forged" in parts[7])
    assert forged[0] == "<11>1"
    assert forged[3] == "a_b"
    assert forged[7] == "<34>1 2024-05-17T09:30:00Z host su 77 - - forged"
    assert any(parts[3] == "kernel" for parts in texts)  # since boot
    assert any(parts[3] == "systemd" for parts in texts)
    assert shell(diode, "ls /var/spool/log-diode/quarantine").stdout == ""
    assert context("sealed_log_t") in shell(diode, "ps -eo label=,args= | grep feede[r]").stdout
    assert unexplained(diode.denials()) == []


@pytest.mark.timeout(2 * LIMIT)
def test_killed_the_diode_goes_on(diode: Guest) -> None:
    """SIGKILL of the filter while the journal flows: no line is missing, none comes twice."""
    for number in range(12):
        shell(diode, f"echo kill {number} | systemd-cat -t killed")
        if number % 4 == 2:
            shell(diode, "systemctl kill -s KILL 'sipc-guard-log\\x2ddiode-stage-scrub.service'")
    until(diode, f"grep -qs 'kill 11$' {OUT}/*")
    texts = [line.split(" ", 7) for line in came(diode)]
    assert [parts[7] for parts in texts if parts[3] == "killed"] == [f"kill {number}" for number in range(12)]
    assert unexplained(diode.denials()) == []


@pytest.mark.timeout(2 * LIMIT)
def test_nothing_else_leads_out_of_the_sealed_domain(diode: Guest) -> None:
    """As the very user of the sink, so that SELinux alone refuses: its directory, files, sockets, and its process."""
    pid = shell(diode, "systemctl show -P MainPID 'sipc-guard-log\\x2ddiode-stage-store.service'").stdout.strip()
    shell(diode, f"cat >/opt/sipc/log_diode/tries.py <<'END'\nPID = {pid}{TRIES}END\n")
    done = shell(diode, f"""
        systemd-run --quiet --wait -p SyslogIdentifier=tries -p User=log-store \\
            -p SELinuxContext={context("sealed_log_t")} /usr/bin/python3 /opt/sipc/log_diode/tries.py
        journalctl --sync
        journalctl -o cat -t tries
    """)
    assert done.stdout.split() == ["refused"] * 6


@pytest.mark.timeout(2 * LIMIT)
def test_an_audit_log_in_the_journal_is_verified_from_an_export(system: Guest, tmp_path: Path) -> None:
    """Entries arrive; killed or not, the log goes on; an edited, missing, reordered or cut-off one is found."""
    heads = [shell(system, f"""
        systemd-run --quiet --pipe --wait -p User=log-feed -p StateDirectory=audited -p StateDirectoryMode=0700 \\
            /usr/bin/python3 /opt/sipc/acts/guard_audit.py /var/lib/audited/last {count}
    """).stdout.strip() for count in (60, 3)]  # fmt: skip
    shell(system, "journalctl --sync; journalctl --no-pager --all -o cat SIPC_AUDIT=scrub >/var/tmp/export")
    verify = "sipc guard audit verify --journal"
    said = shell(system, f"{verify} --head {heads[0]} /var/tmp/export").stdout
    assert re.match(rf"1456 messages in 63 entries, each bound to the one before; head {heads[1]}\n", said)
    assert "the noted head is entry 60 of 63" in said
    lines = shell(system, "cat /var/tmp/export").stdout.splitlines(keepends=True)
    assert len(lines) == 64  # the last one of the first run was sent again by the second
    assert lines[59] == lines[60]
    assert "secret" not in "".join(lines)
    swapped = [*lines[:20], lines[21], lines[20], *lines[22:]]
    broken = {
        "entry 31 is missing": [*lines[:30], *lines[31:]],
        "its hash is of another content": [line.replace('"drop"', '"pass"') if at == 1 else line
                                           for at, line in enumerate(lines)],
        "not in its place": swapped,
        "cut off, or rewritten": lines[:-1],
    }  # fmt: skip
    for problem, export in broken.items():
        (tmp_path / "exports").mkdir(exist_ok=True)
        (tmp_path / "exports" / "export").write_text("".join(export))
        system.put([tmp_path / "exports"])
        done = system.run(["sh", "-c", f"{verify} --head {heads[1]} /opt/sipc/exports/export"], seconds=LIMIT)
        assert done.code == 1, done.output
        assert problem in done.stdout
    # What the journal itself says of the sender is journald's word, and no program can give it another.
    fields = shell(system, "journalctl --no-pager -o verbose SIPC_AUDIT=scrub -n 1").stdout
    assert re.search(r"^ +_UID=\d+$", fields, re.MULTILINE)
    assert "SYSLOG_IDENTIFIER=sipc-guard" in fields


@pytest.mark.timeout(2 * LIMIT)
def test_stages_log_to_the_journal_where_the_file_says_so(system: Guest, tmp_path: Path) -> None:
    """A guard of systemd's whose audit is the journal: each message has its entry, and they verify."""
    refused = len(system.denials())  # of the sealed domain's tries
    folder = tmp_path / "journaled"
    folder.mkdir()
    (folder / "guard.toml").write_text(JOURNALED)
    system.put([folder])
    shell(system, """
        install -d -m 0755 /var/spool/journaled
        install -d -o log-collect -g log-collect -m 2770 /var/spool/journaled/in
        install -d -o log-store -m 0750 /var/spool/journaled/out
        sipc guard install /opt/sipc/journaled/guard.toml
        sipc guard up journaled
        for number in 1 2 3; do
            echo "order $number" >/var/spool/journaled/.new
            chown log-collect /var/spool/journaled/.new
            mv /var/spool/journaled/.new /var/spool/journaled/in/$number
        done
    """)
    until(system, "test $(ls /var/spool/journaled/out | wc -l) = 3")
    said = shell(system, """
        sipc guard down journaled
        journalctl --sync
        journalctl --no-pager --all -o cat SIPC_GUARD=journaled SIPC_AUDIT=f | sipc guard audit verify --journal -
        test ! -e /var/lib/sipc-guards/journaled/f/audit.jsonl
        sipc guard uninstall journaled --purge
    """).stdout
    assert re.search(r"^3 messages in [123] entries, each bound to the one before", said, re.MULTILINE), said
    assert unexplained(system.denials()[refused:]) == []
