# SPDX-License-Identifier: Apache-2.0
"""docs/ipc-and-information-flow.md, from what happened; only the head's prose stands here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.vm.flow import FLOWS, SEEN, Permission, Refused, Row, short

__all__ = ("Happened", "page")

_HEAD = """\
# IPC and information flow

Which permissions of SELinux let data from a writer's domain to a reader's, by every mechanism of IPC; what the writer
learns of the reader by the same object; and what is left when the rules are taken away. Made by `make vm-test` in an
enforcing guest: every row is a policy that grants two domains exactly what stands in it, and what their processes
then could do. `tests/vm/flow_table.py` says what must come of each row; a run that differs fails, and so does a run
whose document is not this one. It leaves its own in `build/vm`: compare it, and copy it here when it is right.

## How to read it

- **Forward**: eight bytes, a count or a signal that the writer sends and the reader gets.
- **Flows back**: the writer looks twice, the reader does something, the writer looks again. It flows back when the two
  looks before were alike and the third is not. One bit is enough: two programs that agree make a channel of it.
- **Least permissions**: with them data flows forward. Without any single one of them it does not, and the kernel's log
  names that one: there is a row for each. **Bold** permissions are those of the log's line (AVC).
- A way back that works with the least permissions is **gated by nothing**: no policy that lets data forward can close
  it. The others need the permissions beside them, and stay shut without.
- **Revoked**: object open on both sides, then a policy without the row's rules is loaded. *Refused*: the next call
  fails. *Works*: nothing is asked again, and what is written afterwards arrives. To open it anew is refused always.
- Permissions are on the object, if nothing else is said; *own*: on the domain itself, as for sockets that it made. The
  object has its maker's type; a third process made it. All run as uid 0 and have no capability.
- Not in the rows, and the same in all: search on directories, and what drives the processes.

What is *not* measured here: time, caches, memory and processors in use, and what other objects the two domains share.

## What follows

- **Where data waits to be taken, the writer sees whether there is room.** Pipes, sockets, both kinds of queues: no
  permission gates it. Where nothing waits (a file that is written and read), the reader can be kept invisible, and then
  the writer can not know when a block was read. sipc accepts this one way back; it has been
  [measured](threat-model.md#measured).
- **System V queue, not POSIX.** A message needs the right of its class at every call, and is refused at the next one
  when it is revoked; everything but *full or not* is gated by `getattr`, `read` and others that an end has no use for.
  A POSIX queue tells its writer how many messages wait and whether the reader asked for notice, gated by nothing, and
  an open one asks nothing again.
- **System V memory.** A class of its own, so that a rule for files can not open it by accident; and no descriptor, so
  no locks, times, flags or position. What remains is gated by nothing: pages touched (the helper fills every page,
  and a sender can make holes again) and futexes; both are for the [seccomp filter](seccomp.md). A mapping outlives its
  rule, here and everywhere: end the processes.
- **Sockets.** Two that connect can be held to one direction by `write` and `read` on their own sockets; `connectto`
  gives none. A socketpair that is handed over can not: whoever gets an end needs both.
- **Semaphores** that are taken and given tell both sides. A System V set that is only looked at does not.
- **`associate` and `open` do not gate what is had already**: System V objects work by number, descriptors by being
  handed over.
- **One descriptor for two** shares its position, flags and seals, and needs `write` of both.
- **eventfd** has no type: `fd use` is both directions.
- **Signals** go one way, by four permissions. Whoever may send them sees when too many wait; whether a process exists
  is told to whoever asks, also by the refusal: EACCES if it does, ESRCH if not.
"""


_COLUMNS = (
    "mechanism", "least of the writer", "least of the reader", "flows back, gated by nothing", "flows back, gated by",
    "revoked: reader's next use", "revoked: writer's next use", "to open it again",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One run: what came of each row, by step, and of what was open when the rules went, by row's number."""

    rows: Sequence[Row]
    said: Sequence[Mapping[str, str]]
    refused: Refused
    revoked: Mapping[int, Mapping[str, str]]
    refused_after: Refused


_Pair = tuple[Row, Mapping[str, str]]


def page(happened: Happened) -> str:
    """The document."""
    groups = [
        list(group)
        for _, group in itertools.groupby(
            zip(happened.rows, happened.said, strict=True), key=lambda pair: pair[0].mechanism.title
        )
    ]
    lines = [
        _HEAD,
        "## The mechanisms",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    lines += [_summary(group, happened) for group in groups]
    measured = sum(len(said) for said in happened.said)
    lines += [
        "",
        "## Every row",
        "",
        f"{len(happened.rows)} policies, {measured} measurements, and {2 * len(happened.revoked)} after revoking.",
        "Refused: by whom what was missed first.",
    ]
    for group in groups:
        lines += ["", f"### {_first_up(group[0][0].mechanism.title)}", ""]
        lines += ["| writer has | reader has | forward | flows back | refused |", "|---|---|---|---|---|"]
        lines += [_line(row, said, happened.refused) for row, said in group]
    return "\n".join(lines) + "\n"


def _first_up(text: str) -> str:
    return text[0].upper() + text[1:]


def _has(row: Row, role: str) -> str:
    return _cell(one for one in row.granted if (one.source == "reader") == (role == "reader"))


def _cell(permissions: Iterable[Permission]) -> str:
    text = short(permissions)
    return "; ".join(f"`{part}`" for part in text.split("; ")) if text else "nothing"


def _seen(row: Row, said: Mapping[str, str]) -> list[str]:
    return [back.title for i, back in enumerate(row.mechanism.back) if said.get(f"back{i}") == SEEN]


def _summary(group: Sequence[_Pair], happened: Happened) -> str:
    row, said = group[0]
    free = _seen(row, said)
    gated = []
    for back in row.mechanism.back:
        if back.title not in free:
            extra = min((one.granted - row.granted for one, its in group if back.title in _seen(one, its)), key=len)
            gated.append(f"{back.title} ({_who(extra)})")
    after = happened.revoked.get(row.number)
    words = ["-"] * 3
    if after is not None:
        words = [
            _used(row, role, step, after, happened.refused_after)
            for role, step in (("reader", "read"), ("writer", "write"))
        ]
        words.append(_refusal(happened.refused_after, row, "again") if row.mechanism.opened else "-")
    cells = [
        row.mechanism.title, _has(row, "writer"), _has(row, "reader"), "<br>".join(free) or "nothing",
        "<br>".join(gated) or "nothing", *words,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _used(row: Row, role: str, step: str, after: Mapping[str, str], refused: Refused) -> str:
    return "works" if after[role] == "works" else _refusal(refused, row, step)


def _who(permissions: Iterable[Permission], *, bold: bool = False) -> str:
    """Permissions with whose they are."""
    parts = []
    for who, text in (("writer", "writer"), ("reader", "reader"), ("message", "")):
        own = [one for one in permissions if one.source == who]
        if own:
            parts.append(f"{text} {f'**{short(own)}**' if bold else _cell(own)}".strip())
    return ", ".join(parts)


def _refusal(refused: Refused, row: Row, step: str) -> str:
    return f"refused: {_who(refused.get((row.number, step), frozenset()), bold=True)}"


def _line(row: Row, said: Mapping[str, str], refused: Refused) -> str:
    forward = "yes" if said["forward"] == FLOWS else f"no: {said['forward']}"
    shut = []
    if said["forward"] != FLOWS:
        shut.append(_who(refused.get((row.number, "forward"), frozenset()), bold=True))
    for i, back in enumerate(row.mechanism.back):
        if said.get(f"back{i}", SEEN) != SEEN:
            shut.append(f"{back.title}: {_who(refused.get((row.number, f'back{i}'), frozenset()), bold=True)}")
    back_cell = "<br>".join(_seen(row, said)) or ("-" if said["forward"] != FLOWS else "nothing")
    cells = [_has(row, "writer"), _has(row, "reader"), forward, back_cell, "<br>".join(shut) or "nothing"]
    return f"| {' | '.join(cells)} |"
