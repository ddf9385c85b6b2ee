# SPDX-License-Identifier: Apache-2.0
"""A guard as a picture (SVG) and as an object (for JSON): stages, channels, direction, and what a policy proves.

Owns what is drawn; `layout.py` owns where, `proof.py` the verdicts.  A verdict is told by words and by the shape of a
mark, not by colour alone.  Widths are those of a monospaced font, which is what makes the picture fit without asking
any font.  Whatever a file or a policy says is escaped, and cut to the room there is; the whole text of what was cut is
in a tooltip.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sipc.guard.layout import Box, Layout, lay_out
from sipc.guard.model import CommandFilter, Guard, GuardChannel, PythonFilter, Stage
from sipc.guard.proof import Proof, Said, Verdict
from sipc.guard.text import cells, clean, elided, wrapped
from sipc.spec import Enforcement, Transport

__all__ = ("as_dict", "as_svg")

SCHEMA = 1

# An em is at most 0.62 wide in the monospaced fonts there are (SF Mono; DejaVu, Menlo and Courier have 0.60).
_SIZE, _NAME_SIZE = 12.0, 15.0
_CELL, _NAME_CELL = 0.62 * _SIZE, 0.62 * _NAME_SIZE
_STEP = 17.0  # from line to line
_PAD, _MARGIN = 12.0, 24.0
_WIDEST = 38  # cells in a box: a path longer than that is cut in its middle
_NARROWEST = 84  # cells below the picture, however small that is
_REASON_LINES, _WITNESS_LINES = 3, 4
_MARK = 13.0
_PORT = 14.0  # between lines that meet one side of a box

_MARKS = {
    Verdict.HOLDS: ("good", "M3 7 L6 10 L11 4"),
    Verdict.BROKEN: ("bad", "M4 4 L10 10 M10 4 L4 10"),
    Verdict.NOT_PROVEN: ("open", "M4.6 5 C4.6 2 9.4 2 9.4 5 C9.4 7 7 6.6 7 8.6 M7 10.7 L7 11"),
}
_OF_CHANNEL = {
    Verdict.HOLDS: "one-way: proven",
    Verdict.BROKEN: "one-way: broken",
    Verdict.NOT_PROVEN: "one-way: not proven",
}
_STYLE = """\
text{font-family:ui-monospace,"SF Mono","DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:12px;fill:#1f2328}
.name{font-size:15px;font-weight:bold}.dim{fill:#57606a}.paper{fill:#ffffff}
.stage rect{fill:#f6f8fa;stroke:#57606a;stroke-width:1.5}.source rect,.sink rect{fill:#eef4fb}
.line{fill:none;stroke:#1f2328;stroke-width:1.6}.head{fill:#1f2328}
.channel rect{fill:#ffffff;stroke:#8c959f}
.mark{fill:none;stroke-width:2;stroke-linecap:round}.mark rect,.mark circle{stroke-width:1.2}
.good{stroke:#116329}.bad{stroke:#b3121d}.open{stroke:#7a5200}
text.good{stroke:none;fill:#116329}text.bad{stroke:none;fill:#b3121d}text.open{stroke:none;fill:#7a5200}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9da7b1}.paper{fill:#0d1117}
.stage rect{fill:#161b22;stroke:#9da7b1}.source rect,.sink rect{fill:#13233a}
.line{stroke:#e6edf3}.head{fill:#e6edf3}.channel rect{fill:#0d1117;stroke:#6e7681}
.good{stroke:#56d364}.bad{stroke:#ff7b72}.open{stroke:#e3b341}
text.good{fill:#56d364}text.bad{fill:#ff7b72}text.open{fill:#e3b341}}"""


def as_dict(guard: Guard, proof: Proof) -> dict[str, Any]:
    """For JSON."""
    report = None if proof.report is None else proof.report.as_dict()
    return {
        "version": SCHEMA,
        "guard": guard.name,
        "file": guard.source,
        "enforcement": guard.enforcement,
        "stages": [
            {"name": name, "kind": stage.kind, "user": stage.user, "group": stage.group, "type": stage.type,
             stage.kind.value: _work(stage),
             "quarantine": None if stage.quarantine is None else asdict(stage.quarantine)}
            for name, stage in guard.stages.items()
        ],
        "channels": [
            {"name": name, "registered": channel.spec.name, "from": channel.sender, "to": channel.receiver,
             "backend": channel.spec.backend, "transport": channel.spec.transport,
             "slots": channel.spec.geometry.slots, "depth": channel.spec.geometry.depth,
             "slot_size": channel.spec.geometry.slot_size, "max_message": channel.spec.max_message,
             "checksum": channel.spec.checksum, "enforcement": channel.spec.enforcement,
             "one_way": _told(proof.channels[name])}
            for name, channel in guard.channels.items()
        ],
        "requirements": [
            {"requirement": str(requirement), **_told(said)}
            for requirement, said in zip(guard.require, proof.requirements, strict=True)
        ],
        "proof": {"about": proof.about, "report": report},
    }  # fmt: skip


def _told(said: Said) -> dict[str, Any]:
    return {"verdict": said.verdict, "reason": said.reason, "witness": list(said.witness)}


def _work(stage: Stage) -> dict[str, Any]:
    """What a stage does, in the words of the guard file."""
    work = stage.work
    if isinstance(work, PythonFilter):
        return {"python": work.function, "decode": work.decode, "timeout": work.timeout}
    if isinstance(work, CommandFilter):
        return {"command": list(work.command), "persistent": work.persistent, "timeout": work.timeout}
    return {"stdin" if stage.kind == "source" else "stdout": True} if work.path is None else {work.medium: work.path}


def _does(stage: Stage) -> Iterator[tuple[str, str]]:
    """What a stage reads, does, writes and keeps, each as a word and a text."""
    work = stage.work
    if isinstance(work, PythonFilter):
        yield "runs", f"python {work.function}"
        if work.decode is not None:
            yield "decodes", work.decode
    elif isinstance(work, CommandFilter):
        yield "runs", " ".join(work.command)
    else:
        verb, stream = ("reads", "standard input") if stage.kind == "source" else ("writes", "standard output")
        yield verb, stream if work.path is None else f"{work.medium} {work.path}"
    if isinstance(work, PythonFilter | CommandFilter):
        yield "timeout", f"{work.timeout:g} s"
    if stage.quarantine is not None:
        yield "quarantine", stage.quarantine.directory
        yield "limit", _size(stage.quarantine.limit)


def _size(count: int) -> str:
    """Bytes, as the guard file could say them."""
    for unit, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << unit and count % (1 << unit) == 0:
            return f"{count >> unit} {name}"
    return f"{count} B"


def _stage_lines(stage: Stage, *, confined: bool) -> list[str]:
    user = "whoever starts it" if stage.user is None else str(stage.user)
    group = "" if stage.group is None else f", group {stage.group}"
    return [
        f"{stage.kind}, user {user}{group}",
        f"domain {stage.type}" if confined else "no domain: its channels are dac",
        *(f"{word} {text}" for word, text in _does(stage)),
    ]


def _channel_lines(channel: GuardChannel) -> list[str]:
    spec, geometry = channel.spec, channel.spec.geometry
    if spec.transport is Transport.QUEUE:
        shape = f"queue of {geometry.depth} x {_size(geometry.slot_size)}"
    else:
        shape = f"{geometry.slots} x {_size(geometry.slot_size)}, depth {geometry.depth}"
    return [shape, f"{spec.backend}, {spec.enforcement}{', checksum' if spec.checksum else ''}"]


def as_svg(guard: Guard, proof: Proof) -> str:
    """The picture."""
    asking = [one for one in guard.channels.values() if one.spec.enforcement is Enforcement.SELINUX]
    confined = {stage for channel in asking for stage in (channel.sender, channel.receiver)}
    stages = {
        name: [clean(line) for line in _stage_lines(stage, confined=name in confined)]
        for name, stage in guard.stages.items()
    }
    channels = {name: _channel_lines(channel) for name, channel in guard.channels.items()}
    meeting = {name: max(sum(edge[side] == name for edge in guard.edges) for side in (0, 1)) for name in stages}
    placed = lay_out(
        {name: (_width(name, lines, 0), max(_height(len(lines)), _PORT * (meeting[name] + 1)))
         for name, lines in stages.items()},
        guard.edges,
        {name: (_width(name, [*lines, _OF_CHANNEL[proof.channels[name].verdict]], _MARK + 6), _height(len(lines) + 1))
         for name, lines in channels.items()},
    )  # fmt: skip
    below = _below(guard, proof, max(_NARROWEST, int(placed.width / _CELL)))
    top = _MARGIN + 40
    width = max(placed.width, _CELL * max(_NARROWEST, *(indent + cells(text) + 4 for indent, _, text in below)))
    height = top + placed.height + 22 + _STEP * len(below) + _MARGIN
    size = (_n(width + 2 * _MARGIN), _n(height))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc"',
        f'     viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}">',
        f'<title id="title">Guard {_x(guard.name)}</title>',
        f'<desc id="desc">{_x(_description(guard, proof))}</desc>',
        f"<style>{_STYLE}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        _text(_MARGIN, _MARGIN + 12, f"guard {guard.name}", "name"),
        *_drawing(guard, proof, placed, stages, channels, top),
        *_drawn_below(below, top + placed.height + 34),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _drawing(
    guard: Guard, proof: Proof, placed: Layout, stages: dict[str, list[str]], channels: dict[str, list[str]],
    top: float,
) -> Iterator[str]:  # fmt: skip
    yield f'<g transform="translate({_n(_MARGIN)} {_n(top)})">'
    for name in channels:
        before, behind = placed.lines[name]
        yield f'<path class="line" d="{_path(before)}"/>'
        yield f'<path class="line" d="{_path((*behind[:-1], (behind[-1][0] - 8, behind[-1][1])))}"/>'
        x, y = behind[-1]
        yield f'<path class="head" d="M{_n(x)} {_n(y)} l-10 -5 v10 z"/>'
    for name, lines in stages.items():
        kind = guard.stages[name].kind
        whole = "\n".join([f"{kind} {name}", *lines[1:]])
        yield from _card(placed.boxes[name], f"stage {kind}", name, lines, whole, 8.0 if kind == "filter" else 2.0)
    for name, lines in channels.items():
        channel, said = guard.channels[name], proof.channels[name]
        whole = f"channel {name}, {channel.sender} to {channel.receiver}: {said.verdict}"
        whole = clean(f"{whole}: {said.reason}" if said.reason else whole)
        box = placed.labels[name]
        yield from _card(box, "channel", name, lines, whole, 9.0, last=said.verdict)
    yield "</g>"


def _card(
    box: Box, classes: str, name: str, lines: list[str], whole: str, radius: float, last: Verdict | None = None
) -> Iterator[str]:
    """A box with its name, its lines and, last, a verdict."""
    yield f'<g class="{classes}"><title>{_x(whole)}</title>'
    yield (
        f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" rx="{_n(radius)}"/>'
    )
    x, y = box.x + _PAD, box.y + _PAD + 11
    yield _text(x, y, name, "name")
    for line in lines:
        y += _STEP
        yield _text(x, y, elided(line, _WIDEST), "dim")
    if last is not None:
        y += _STEP
        yield _mark(x, y, last)
        yield _text(x + _MARK + 6, y, _OF_CHANNEL[last], _MARKS[last][0])
    yield "</g>"


_Line = tuple[int, str | Verdict, str]  # indent in cells, class of the text or verdict to be marked, text


def _below(guard: Guard, proof: Proof, columns: int) -> list[_Line]:
    """What stands under the picture: requirements, channels that are not proven, and by what."""
    lines: list[_Line] = []

    def tell(subject: str, said: Said) -> None:
        lines.append((0, said.verdict, f"{said.verdict}: {subject}"))
        if said.reason == proof.about:
            return  # said once, at the end
        lines.extend((3, "dim", part) for part in wrapped(clean(said.reason), columns - 8, _REASON_LINES))
        lines.extend((6, "dim", elided(clean(step), columns - 12)) for step in said.witness[:_WITNESS_LINES])

    if guard.require:
        lines.append((0, "", "Requirements"))
        for requirement, said in zip(guard.require, proof.requirements, strict=True):
            tell(elided(str(requirement), columns - 16), said)
        lines.append((0, "", ""))
    told = {proof.about, *(said.reason for said in proof.requirements)}
    for name, said in proof.channels.items():
        if said.verdict is not Verdict.HOLDS and said.reason not in told:
            tell(f"channel {name} is one-way", said)
    if lines and lines[-1] != (0, "", ""):
        lines.append((0, "", ""))
    if proof.report is None:
        summary = f"Proof: none: {clean(proof.about)}. The channels of the file fit the requirements."
    else:
        summary = f"Proof: of {clean(proof.about)}"
        if proof.report.accepted or proof.report.inherent:
            summary += "; but for what remains open under any policy (docs/policy.md)"
    lines.extend((0, "dim", part) for part in wrapped(summary, columns - 4, 3))
    return lines


def _drawn_below(lines: list[_Line], y: float) -> Iterator[str]:
    yield "<g>"
    for indent, kind, text in lines:
        x = _MARGIN + indent * _CELL
        if isinstance(kind, Verdict):
            yield _mark(x, y, kind)
            yield _text(x + _MARK + 6, y, text, _MARKS[kind][0])
        elif text:
            yield _text(x, y, text, kind)
        y += _STEP
    yield "</g>"


def _description(guard: Guard, proof: Proof) -> str:
    """The picture in words, for who can not see it."""
    said = [f"{stage.kind} {name}" for name, stage in guard.stages.items()]
    said += [
        f"channel {name} from {channel.sender} to {channel.receiver}, {_OF_CHANNEL[proof.channels[name].verdict]}"
        for name, channel in guard.channels.items()
    ]
    said += [
        f"requirement {requirement}: {what.verdict}"
        for requirement, what in zip(guard.require, proof.requirements, strict=True)
    ]
    return "; ".join(said)


def _width(name: str, lines: list[str], extra: float) -> float:
    inner = max(_CELL * min(_WIDEST, max(map(cells, lines))) + extra, _NAME_CELL * cells(name))
    return inner + 2 * _PAD


def _height(lines: int) -> float:
    return 2 * _PAD + 14 + _STEP * lines


def _path(points: tuple[tuple[float, float], ...]) -> str:
    """Level past the columns, an S in the gaps between them."""
    (x, y), *rest = points
    drawn = [f"M{_n(x)} {_n(y)}"]
    for turn, (there, height) in enumerate(rest):
        if turn % 2 or height == y:
            drawn.append(f"L{_n(there)} {_n(height)}")
        else:
            half = (x + there) / 2
            drawn.append(f"C{_n(half)} {_n(y)} {_n(half)} {_n(height)} {_n(there)} {_n(height)}")
        x, y = there, height
    return " ".join(drawn)


def _mark(x: float, y: float, verdict: Verdict) -> str:
    """A tick in a circle, a cross in a square, a question mark in nothing: told apart without colour."""
    kind, path = _MARKS[verdict]
    frame = {
        Verdict.HOLDS: '<circle cx="7" cy="7" r="6.4"/>',
        Verdict.BROKEN: '<rect x=".6" y=".6" width="12.8" height="12.8"/>',
        Verdict.NOT_PROVEN: "",
    }[verdict]
    return f'<g class="mark {kind}" transform="translate({_n(x)} {_n(y - 11)})">{frame}<path d="{path}"/></g>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{_n(x)}" y="{_n(y)}"{named}>{_x(text)}</text>'


def _x(text: str) -> str:
    return html.escape("\n".join(map(clean, text.split("\n"))))


def _n(number: float) -> str:
    """A length, to a tenth."""
    return f"{number:.1f}".removesuffix(".0")
