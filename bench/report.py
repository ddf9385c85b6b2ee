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


def _number(value: float) -> str:
    """About three significant digits, never in exponents."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    places = next((places for low, places in ((10, 1), (0.1, 2), (0.01, 3)) if size >= low), 4)
    return f"{value:.{places}f}"


def _cell(summary: Summary | None, scale: float = 1.0) -> str:
    if summary is None:
        return "-"
    low, high = summary.low * scale, summary.high * scale
    return f"{_number(summary.median * scale)} ({_number(low)}-{_number(high)})"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, rule, *rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _machine(facts: dict[str, Any], rounds: int) -> str:
    machine, versions = facts["machine"], facts["versions"]
    kind = "virtual machine, " if machine["virtual"] == "yes" else ""
    return (
        f"Measured on {machine['cpu']} ({kind}{machine['cores']} cores), Linux {machine['kernel']}, "
        f"Python {machine['python']}, pyzmq {versions['pyzmq']}, iceoryx2 {versions['iceoryx2']}: "
        f"{rounds} rounds, all contestants interleaved. "
        "Cells are the median and (lowest-highest) over the rounds."
    )


def _throughput(results: Results) -> list[str]:
    rows = results.series.get("throughput", {})
    sizes = [size for size in SIZES if any(str(size) in columns for columns in rows.values())]
    if not sizes:
        return []
    body = []
    for name in rows:
        cells = [_cell(results.summary("throughput", name, str(size))) for size in sizes]
        failed = {
            fail["column"] for fail in results.failures if (fail["section"], fail["name"]) == ("throughput", name)
        }
        cells = ["failed" if str(size) in failed else cell for size, cell in zip(sizes, cells, strict=True)]
        body.append([name, *cells])
    return [
        "Throughput, GB/s, sender and receiver on a core each, two copies:",
        "",
        *_table(["", *map(size_label, sizes)], body),
        "",
    ]


def _others(results: Results) -> list[str]:
    lines: list[str] = []
    rows = [[name, _cell(results.summary("records", name, "64"), 1e-6)] for name in results.series.get("records", {})]
    if rows:
        lines += [*_table(["64-byte messages", "million/s"], rows), ""]
    rows = [
        [name, _cell(results.summary("latency", name, "p50")), _cell(results.summary("latency", name, "p99"))]
        for name in results.series.get("latency", {})
    ]
    if rows:
        lines += [*_table(["one-way latency, a 64-byte message every ms", "p50, us", "p99, us"], rows), ""]
    columns = [str(size) for size in (SMALL_FILE, LARGE_FILE)]
    rows = []
    for name, cells in results.series.get("file", {}).items():
        rows += [
            [f"{name}, {size_label(int(column))}", _cell(results.summary("file", name, column))] for column in cells
        ]
    if rows:
        lines += [*_table(["file to /dev/null", "s"], rows), ""]
    rows = [
        [name, *(_cell(results.summary("memory", name, column), 1 / 1024) for column in columns)]
        for name in results.series.get("memory", {})
    ]
    if rows:
        lines += [*_table(["peak memory, MiB", *(size_label(int(column)) for column in columns)], rows), ""]
    rows = [[name, _cell(results.summary("start", name, "s"), 1000)] for name in results.series.get("start", {})]
    if rows:
        lines += [*_table(["start to end", "ms"], rows), ""]
    return lines


def _target_rows(targets: list[Target]) -> list[list[str]]:
    rows = []
    for target in targets:
        wanted = f"{target.sign} {target.bound:g} {target.unit}"
        worst = target.worst
        if worst is None:
            rows.append([target.title, wanted, "-", "not measured"])
            continue
        missed = [f"{part.label}: {_number(part.value)}" for part in target.parts if not part.met]
        if missed:
            verdict = f"**missed** in {len(missed)} of {len(target.parts)}: {'; '.join(missed)}"
        else:
            verdict = "met" if target.met else "met where measured"
        if target.missing:
            verdict += f"; not measured: {', '.join(target.missing)}"
        low, high = _number(worst.low), _number(worst.high)
        spread = f" ({low}-{high})" if low != high else ""
        rows.append([target.title, wanted, f"{_number(worst.value)}{spread}, {worst.label}", verdict])
    return rows


def markdown(results: Results, facts: dict[str, Any]) -> str:
    """The README's fragment: machine, tables, targets."""
    lines = [_machine(facts, results.rounds), "", *_throughput(results), *_others(results)]
    head = ["this library against", "wanted", "worst measured", "verdict"]
    lines += ["Targets, ratios taken within each round:", "", *_table(head, _target_rows(judge(results)))]
    if results.failures:
        lines += ["", "Not measured:", ""]
        for fail in results.failures:
            column = size_label(int(fail["column"])) if fail["column"].isdigit() else fail["column"]
            last = (fail["reason"].strip() or "no reason given").splitlines()[-1]
            lines.append(f"- {fail['section']}, {fail['name']}, {column}: {last}")
    return "\n".join(lines) + "\n"


def into_readme(readme: Path, fragment: str) -> None:
    """Put the fragment between the markers; raises `ValueError` unless each is there once, in order."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{readme.name}: no single pair of {BEGIN} and {END}")
    write(readme, f"{before}{BEGIN}\n{fragment}{END}{after}")
