# SPDX-License-Identifier: Apache-2.0
"""The JSON guard of the examples, as it is, in an enforcing guest: from `sipc guard install` to `sipc guard status`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.support.orders import BAD, CANONICAL, changed
from tests.vm.emulator import ROOT
from tests.vm.guest import context
from tests.vm.whole_system import LIMIT, shell, unexplained, until, whole_system

pytestmark = pytest.mark.vm

PLACE = "/var/spool/json-guard"
STAGES = ("ingest", "scrub", "deliver")
HOSTILE = {"a million arrays": (b"[" * 1_000_000 + b"]" * 1_000_000, "size")}


@pytest.mark.timeout(4 * LIMIT)
def test_the_example_runs_from_install_to_status_and_nothing_is_refused(tmp_path: Path) -> None:
    """Good, bad and hostile orders in turn: each comes out canonical or is kept with its reason; no denial is ours."""
    folder = tmp_path / "json_guard"
    (folder / "orders").mkdir(parents=True)
    for name in ("guard.toml", "json_guard.py"):
        (folder / name).write_bytes((ROOT / "examples/json_guard" / name).read_bytes())
    bad = [*BAD.values(), *HOSTILE.values()]
    for number, (data, _) in enumerate(bad):
        (folder / "orders" / f"{number:03}-bad").write_bytes(data)
        (folder / "orders" / f"{number:03}-good").write_bytes(changed(order=f"A-{number}"))
    # Users and directories as docs/example-json-guard.md makes them.
    script = f"""
        for user in json-ingest json-scrub json-deliver; do
            useradd --system --user-group --no-create-home "$user"
        done
        install -d -m 755 {PLACE}
        install -d -o json-ingest -g json-ingest -m 2770 {PLACE}/in
        install -d -o json-scrub -g json-scrub -m 700 {PLACE}/quarantine
        install -d -o json-deliver -g json-deliver -m 700 {PLACE}/out
    """
    with whole_system(folder, script, extras="cli,guard") as guest:
        shell(guest, f"""
            sipc guard check /opt/sipc/json_guard/guard.toml
            sipc guard install --policy /opt/sipc/json_guard/guard.toml
            sipc guard up json
            for path in /opt/sipc/json_guard/orders/*; do
                install -o json-ingest -m 640 "$path" "{PLACE}/in/.$(basename "$path")"
                mv "{PLACE}/in/.$(basename "$path")" "{PLACE}/in/$(basename "$path")"
            done
        """)
        until(guest, f"[ $(ls {PLACE}/out | wc -l) -ge {len(bad)} ]")
        until(guest, f"[ $(ls {PLACE}/quarantine | wc -l) -ge {len(bad)} ]")
        out = shell(guest, f"for path in {PLACE}/out/*; do cat $path; echo; done").stdout.splitlines()
        assert out == [CANONICAL.decode().replace("A-1001", f"A-{number}") for number in range(len(bad))]
        found = shell(guest, f"for path in {PLACE}/quarantine/*/meta.json; do tr -d '\\n' <$path; echo; done").stdout
        kept = [json.loads(line) for line in found.splitlines()]
        assert [(one["digest"], one["reason"]) for one in kept] == [
            (hashlib.sha256(data).hexdigest(), reason) for data, reason in bad
        ]
        lines = shell(guest, "ps -eo user=,label=,args= | grep 'guard stag[e]'").stdout.splitlines()
        assert {line.split()[1] for line in lines} == {context(f"json_{stage}_t") for stage in STAGES}
        states = json.loads(shell(guest, "sipc guard status json --json").stdout)["stages"]
        assert {stage: states[stage]["active"] for stage in STAGES} == dict.fromkeys(STAGES, "active")
        assert states["scrub"]["status"]["verdicts"] == {"pass": len(bad), "drop": 0, "quarantine": len(bad)}
        said = shell(guest, "sipc guard audit verify /var/lib/sipc-guards/json/scrub/audit.jsonl").stdout
        assert said.startswith(f"{2 * len(bad)} messages in ")
        assert unexplained(guest.denials()) == []
