# SPDX-License-Identifier: Apache-2.0
"""The benchmark program: `python -m bench` from the repository's top (`make bench`).

Writes latest.json, table.md and throughput.svg.  Exit codes: 0 all measured (missed targets are in the
table), 1 something could not be measured, 2 usage, or a contestant that is not installed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bench import machine, plot, report, small
from bench.contest import KIB, MIB, SIZES, Contestant
from bench.programs import cat, sipc_file
from bench.rounds import Plan, Run
from bench.stats import Results
from bench.targets import LARGE_FILE, SMALL_FILE

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "bench" / "results"
SECTIONS = ("throughput", "records", "latency", "file", "start")
_SEED = 20250101


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare sipc with its peers in one run.")
    parser.add_argument("--rounds", type=int, help="rounds (default: 9, with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="under a minute: see that everything works")
    parser.add_argument("--only", action="append", metavar="NAME", help="contestants whose name contains NAME")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this part; may be repeated")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the order within the rounds")
    parser.add_argument("--cores", metavar="A,B", help="sender's and receiver's core (default: two that share nothing)")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds one measurement may take")
    parser.add_argument("--without-sipc", action="store_true", help="peers and bare loops only")
    parser.add_argument("--out", type=Path, help="directory to write to (default: bench/results, or its partial/)")
    parser.add_argument("--write-readme", action="store_true", help="put the table between the README's markers")
    parser.add_argument("--render", action="store_true", help="measure nothing: judge and draw latest.json again")
    return parser


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)  # so that every `finally` runs


def _plan(arguments: argparse.Namespace) -> Plan:
    """The contestants; raises ImportError when one is not installed."""
    quick = arguments.quick
    plan = Plan(
        rounds=arguments.rounds or (2 if quick else 9),
        seconds=0.03 if quick else 0.2,
        sizes=(64, 64 * KIB, MIB) if quick else SIZES,
        latencies=50 if quick else 300,
        gap=0.001,
        file_size=64 * MIB if quick else LARGE_FILE,
        memory_sizes=(SMALL_FILE,) if quick else (SMALL_FILE, LARGE_FILE),
        seed=arguments.seed,
    )
    from bench import bare, iox2, peers

    pipe = peers.OsPipe()
    plan.throughput = [*bare.contestants(), *peers.contestants(), *iox2.contestants()]
    plan.records = small.contestants()
    plan.latency = [bare.BareSysv(4, 2), bare.BarePosix(4, 2), pipe]
    plan.pipelines = {"cat FILE | cat": cat}
    plan.starts = {"bare Python": "pass"}
    if not arguments.without_sipc:
        from bench import adapters_sipc

        plan.throughput = [*adapters_sipc.throughput_contestants(), *plan.throughput]
        plan.records = [*adapters_sipc.record_contestants(), *plan.records]
        plan.latency = [*adapters_sipc.latency_contestants(), *plan.latency]
        plan.pipelines["sipc send, sipc recv"] = sipc_file
        plan.starts["import sipc"] = "import sipc"
        plan.memory = True
    _narrow(plan, arguments.only, arguments.section)
    return plan


def _narrow(plan: Plan, only: list[str] | None, sections: list[str] | None) -> None:
    def wanted(section: str, name: str) -> bool:
        return (not sections or section in sections) and (not only or any(part in name for part in only))

    def chosen(section: str, contestants: list[Contestant]) -> list[Contestant]:
        return [contestant for contestant in contestants if wanted(section, contestant.name)]

    plan.throughput = chosen("throughput", plan.throughput)
    plan.records = chosen("records", plan.records)
    plan.latency = chosen("latency", plan.latency)
    plan.pipelines = {name: run for name, run in plan.pipelines.items() if wanted("file", name)}
    plan.starts = {name: code for name, code in plan.starts.items() if wanted("start", name)}
    plan.memory = plan.memory and wanted("file", "sipc send, sipc recv")


def _facts(plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": {
            "quick": arguments.quick,
            "seed": plan.seed,
            "seconds_per_measurement": plan.seconds,
            "latency_messages_per_round": plan.latencies,
            "latency_gap_seconds": plan.gap,
            "file_bytes": plan.file_size,
        },
    }


def _publish(results: Results, facts: dict[str, Any], out: Path, arguments: argparse.Namespace) -> None:
    import json

    fragment = report.markdown(results, facts)
    report.write(out / "latest.json", json.dumps(report.document(results, facts), indent=1) + "\n")
    report.write(out / "table.md", fragment)
    if results.series.get("throughput"):
        plot.draw(results, out / "throughput.svg")
    if arguments.write_readme:
        report.into_page(TOP / "README.md", fragment)
    print(fragment, end="")


def main(argv: list[str] | None = None) -> int:
    """Run; see the module's text for the exit codes."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    whole = not (arguments.quick or arguments.only or arguments.section or arguments.without_sipc)
    out = arguments.out or (RESULTS if whole else RESULTS / "partial")
    if arguments.render:
        results, facts = report.load(out / "latest.json")
        _publish(results, facts, out, arguments)
        return 0
    try:
        plan = _plan(arguments)
    except ImportError as error:
        print(
            f"bench: {error}: install the project with its 'bench' extra, "
            "or leave this library out with --without-sipc",
            file=sys.stderr,
        )
        return 2
    if plan.rounds < 1 or not any((plan.throughput, plan.records, plan.latency, plan.pipelines, plan.starts)):
        parser.error("nothing to measure: no contestant has such a name, or no rounds")
    signal.signal(signal.SIGTERM, _terminate)
    run = Run(plan, machine.place(arguments.cores, arguments.deadline))
    try:
        results = run.all_rounds()
    except KeyboardInterrupt:
        print("bench: interrupted; nothing was written", file=sys.stderr)
        return 130
    _publish(results, _facts(plan, arguments), out, arguments)
    for fail in results.failures:
        print(f"bench: not measured: {fail['section']}, {fail['name']}, {fail['column']}", file=sys.stderr)
    return 1 if results.failures else 0
