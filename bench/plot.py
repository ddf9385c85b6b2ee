# SPDX-License-Identifier: Apache-2.0
"""The throughput plot, as SVG: message size against GB/s, both logarithmic, bars over all rounds."""

from __future__ import annotations

from pathlib import Path

from bench.contest import SIZES, size_label
from bench.stats import Results

# name, colour, line style, marker; what is not here (other pipes, POSIX bare loops) stays in the table.
_LINES = (
    ("C ring, spinning", "#999999", ":", "s"),
    ("iceoryx2, polling", "#8c564b", "-", "D"),
    ("bare sysv 4/2", "#7fb3d5", "--", None),
    ("sipc sysv 4/2", "#1f5fa8", "-", "o"),
    ("sipc posix 4/2", "#17a2a2", "-", "o"),
    ("sipc sysv 3/1", "#6a51a3", "-", "^"),
    ("sipc sysv 1/1", "#9e9ac8", "-", "v"),
    ("unix stream", "#2ca02c", "-", None),
    ("unix seqpacket", "#98df8a", "-", None),
    ("os.pipe", "#d62728", "-", "x"),
    ("multiprocessing.Pipe", "#ff9896", "-", None),
    ("ZeroMQ ipc", "#e6a700", "-", "+"),
)


def draw(results: Results, path: Path) -> None:
    """Write the SVG; the same results give the same bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "sipc"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5))
    for name, colour, style, marker in _LINES:
        found = [(size, results.summary("throughput", name, str(size))) for size in SIZES]
        points = [(size, summary) for size, summary in found if summary is not None]
        if not points:
            continue
        middle = [summary.median for _, summary in points]
        below = [summary.median - summary.low for _, summary in points]
        above = [summary.high - summary.median for _, summary in points]
        axes.errorbar(
            [size for size, _ in points],
            middle,
            yerr=[below, above],
            label=name,
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=5,
            linewidth=2.2 if name.startswith("sipc sysv 4") else 1.3,
            capsize=2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(SIZES, [size_label(size) for size in SIZES])
    axes.set_xlabel("message size")
    axes.set_ylabel("GB/s")
    axes.set_title("One-way throughput, two processes, two copies: median, lowest to highest round")
    axes.grid(visible=True, which="major", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    temporary.replace(path)
