# SPDX-License-Identifier: Apache-2.0
"""One run as a document: JSON, Markdown for the README, and the README's marked part.

Only formats; what a number means is decided in `stats.py` and `targets.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.contest import SIZES, size_label
from bench.stats import Results, Summary
from bench.targets import LARGE_FILE, SMALL_FILE, Target, judge

SCHEMA = 1
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def document(results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """The JSON of one run; `facts` holds machine, versions and settings."""
    targets = [target.as_json() for target in judge(results)]
    return {
        "schema": SCHEMA,
        **facts,
        "rounds": results.rounds,
        "results": results.as_json(),
        "targets": targets,
        "failures": results.failures,
    }


def load(path: Path) -> tuple[Results, dict[str, Any]]:
    """Results and facts of a document written here."""
    body = json.loads(path.read_text())
    if body.get("schema") != SCHEMA:
        raise ValueError(f"{path.name}: schema {body.get('schema')!r}, this program reads {SCHEMA}")
    facts = {key: body[key] for key in body if key not in ("schema", "rounds", "results", "targets", "failures")}
    return Results.from_json(body["rounds"], body["results"], body["failures"]), facts


def write(path: Path, text: str) -> None:
    """Replace a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def number(value: float) -> str:
    """About three significant digits, never in exponents."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    places = next((places for low, places in ((10, 1), (0.1, 2), (0.01, 3)) if size >= low), 4)
    return f"{value:.{places}f}"


def cell_of(summary: Summary | None, scale: float = 1.0) -> str:
    """Median (lowest-highest)."""
    if summary is None:
        return "-"
    low, high = summary.low * scale, summary.high * scale
    return f"{number(summary.median * scale)} ({number(low)}-{number(high)})"


def table(head: list[str], rows: list[list[str]], *, words: int = 1) -> list[str]:
    """The lines of a table; its first `words` columns are words, the others numbers."""
    rule = [*["---"] * words, *["---:"] * (len(head) - words)]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, rule, *rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def measured_on(machine: dict[str, Any]) -> str:
    """Processor, cores and kernel, as the first words of a table's heading."""
    kind = "virtual machine, " if machine["virtual"] == "yes" else ""
    return f"Measured on {machine['cpu']} ({kind}{machine['cores']} cores), Linux {machine['kernel']}"


def _machine(facts: dict[str, Any], rounds: int) -> str:
    versions = facts["versions"]
    return (
        f"{measured_on(facts['machine'])}, Python {facts['machine']['python']}, "
        f"pyzmq {versions['pyzmq']}, iceoryx2 {versions['iceoryx2']}: {rounds} rounds, all contestants interleaved. "
        "Cells are the median and (lowest-highest) over the rounds."
    )


def _throughput(results: Results) -> list[str]:
    rows = results.series.get("throughput", {})
    sizes = [size for size in SIZES if any(str(size) in columns for columns in rows.values())]
    if not sizes:
        return []
    body = []
    for name in rows:
        cells = [cell_of(results.summary("throughput", name, str(size))) for size in sizes]
        failed = {
            fail["column"] for fail in results.failures if (fail["section"], fail["name"]) == ("throughput", name)
        }
        cells = ["failed" if str(size) in failed else cell for size, cell in zip(sizes, cells, strict=True)]
        body.append([name, *cells])
    return [
        "Throughput, GB/s, sender and receiver on a core each, two copies:",
        "",
        *table(["", *map(size_label, sizes)], body),
        "",
    ]


def _others(results: Results) -> list[str]:
    lines: list[str] = []
    rows = [[name, cell_of(results.summary("records", name, "64"), 1e-6)] for name in results.series.get("records", {})]
    if rows:
        lines += [*table(["64-byte messages", "million/s"], rows), ""]
    rows = [
        [name, cell_of(results.summary("latency", name, "p50")), cell_of(results.summary("latency", name, "p99"))]
        for name in results.series.get("latency", {})
    ]
    if rows:
        lines += [*table(["one-way latency, a 64-byte message every ms", "p50, us", "p99, us"], rows), ""]
    columns = [str(size) for size in (SMALL_FILE, LARGE_FILE)]
    rows = []
    for name, cells in results.series.get("file", {}).items():
        rows += [
            [f"{name}, {size_label(int(column))}", cell_of(results.summary("file", name, column))] for column in cells
        ]
    if rows:
        lines += [*table(["file to /dev/null", "s"], rows), ""]
    rows = [
        [name, *(cell_of(results.summary("memory", name, column), 1 / 1024) for column in columns)]
        for name in results.series.get("memory", {})
    ]
    if rows:
        lines += [*table(["peak memory, MiB", *(size_label(int(column)) for column in columns)], rows), ""]
    rows = [[name, cell_of(results.summary("start", name, "s"), 1000)] for name in results.series.get("start", {})]
    if rows:
        lines += [*table(["start to end", "ms"], rows), ""]
    return lines


def _target_rows(targets: list[Target]) -> list[list[str]]:
    rows = []
    for target in targets:
        wanted = f"{target.sign} {target.bound:g} {target.unit}"
        worst = target.worst
        if worst is None:
            rows.append([target.title, wanted, "-", "not measured"])
            continue
        missed = [f"{part.label}: {number(part.value)}" for part in target.parts if not part.met]
        if missed:
            verdict = f"**missed** in {len(missed)} of {len(target.parts)}: {'; '.join(missed)}"
        else:
            verdict = "met" if target.met else "met where measured"
        if target.missing:
            verdict += f"; not measured: {', '.join(target.missing)}"
        low, high = number(worst.low), number(worst.high)
        spread = f" ({low}-{high})" if low != high else ""
        rows.append([target.title, wanted, f"{number(worst.value)}{spread}, {worst.label}", verdict])
    return rows


def markdown(results: Results, facts: dict[str, Any]) -> str:
    """The README's fragment: machine, tables, targets."""
    lines = [_machine(facts, results.rounds), "", *_throughput(results), *_others(results)]
    head = ["this library against", "wanted", "worst measured", "verdict"]
    lines += ["Targets, ratios taken within each round:", "", *table(head, _target_rows(judge(results)))]
    if results.failures:
        lines += ["", "Not measured:", ""]
        for fail in results.failures:
            column = size_label(int(fail["column"])) if fail["column"].isdigit() else fail["column"]
            last = (fail["reason"].strip() or "no reason given").splitlines()[-1]
            lines.append(f"- {fail['section']}, {fail['name']}, {column}: {last}")
    return "\n".join(lines) + "\n"


def into_page(page: Path, fragment: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put the fragment between the marks; raises `ValueError` unless each is there once, in order."""
    text = page.read_text()
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end or marks[0] in rest or marks[1] in after:
        raise ValueError(f"{page.name}: no single pair of {marks[0]} and {marks[1]}")
    write(page, f"{before}{begin}\n{fragment}{end}{after}")
