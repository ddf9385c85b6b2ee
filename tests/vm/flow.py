# SPDX-License-Identifier: Apache-2.0
"""What a row of docs/ipc-and-information-flow.md is: permissions for two domains, and what must come of them.

Owns the expansion of a mechanism (tests/vm/flow_table.py) into rows, their policy, and the judgement of a run.  Each
row has three types of its own, so all rows stand in one policy: the writer's, the reader's, and that of the maker,
which is the object's too.  Three kinds of rows show that the permissions of a mechanism are exactly right:

- the least: data flows forward, and of the ways back those work that no permission gates;
- the least without each one of its permissions: nothing flows, and the kernel's log names that permission;
- the least with what one way back needs: that one works too; where it is missing, the log names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sipc.selinux.denials import Denial

__all__ = ("Back", "Mechanism", "Permission", "Row", "judge", "judge_revoked", "policy", "refusals", "rows", "short")

LAB = "sipc_lab_t"
FLOWS, SEEN = "flows", "seen"


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """One permission: who has it (writer, reader, message), of which class, on whom (object, own, a role, a type)."""

    source: str
    cls: str
    name: str
    target: str

    def __str__(self) -> str:
        """Without its source, which the column says."""
        return short([self])


def _parse(source: str, lines: Iterable[str]) -> frozenset[Permission]:
    """From `class permission... [@target]`; a line may begin with another source: `message: `."""
    found = set()
    for line in lines:
        who, _, rest = line.rpartition(": ")
        words, _, target = rest.partition(" @")
        cls, *names = words.split()
        found |= {Permission(who or source, cls, name, target or "object") for name in names}
    return frozenset(found)


def short(permissions: Iterable[Permission]) -> str:
    """Permissions, grouped by class and target, for people."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in sorted(permissions, key=lambda one: (one.source == "message", one.cls, one.target, one.name)):
        groups.setdefault((one.source, one.cls, one.target), []).append(one.name)
    return "; ".join(
        ("message: " if source == "message" else "")
        + f"{cls} {' '.join(names)}"
        + ("" if target == "object" else f" on {target}")
        for (source, cls, target), names in groups.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """A way back: what the reader does, where the writer looks, and what either needs beyond the least."""

    title: str
    look: str
    act: str
    prepare: str = ""
    together: bool = False
    loud: bool = False  # its answer is a refusal, or not: it is in the log, and is seen all the same
    writer: tuple[str, ...] = ()
    reader: tuple[str, ...] = ()

    @property
    def gates(self) -> frozenset[Permission]:
        """What it needs."""
        return _parse("writer", self.writer) | _parse("reader", self.reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One mechanism: least permissions, ways back, and what is left to each side once its rules are gone.

    `revoked`: the reader's and the writer's next use of what they have open is `refused`, or `works`; None where a use
    leaves nothing to go on with.
    """

    title: str
    kind: str
    writer: tuple[str, ...]
    reader: tuple[str, ...]
    back: tuple[Back, ...]
    revoked: tuple[str, str] | None
    opened: bool = True  # whether there is anything to open

    @property
    def least(self) -> frozenset[Permission]:
        """What a datum needs to cross."""
        return _parse("writer", self.writer) | _parse("reader", self.reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One set of permissions, and its place in the policy."""

    number: int
    mechanism: Mechanism
    granted: frozenset[Permission]
    about: str

    @property
    def domains(self) -> dict[str, str]:
        """Its types."""
        return {role: f"flow_{self.number:03}_{role}_t" for role in ("maker", "writer", "reader")}

    @property
    def missing(self) -> frozenset[Permission]:
        """What of the least is not granted."""
        return self.mechanism.least - self.granted

    def request(self, *, probes: bool = True) -> dict[str, Any]:
        """For tests/vm/acts/flow.py."""
        asked = [] if self.missing or not probes else list(enumerate(self.mechanism.back))
        return {
            "kind": self.mechanism.kind,
            "tag": str(self.number),
            "domains": self.domains,
            "probes": [[f"back{i}", back.prepare, back.look, back.act, back.together] for i, back in asked],
        }

    def type(self, target: str) -> str:
        """The type that a target's word means in this row."""
        return {"object": self.domains["maker"], "message": self.domains["maker"]}.get(
            target, self.domains.get(target, target)
        )


def rows(mechanisms: Sequence[Mechanism]) -> list[Row]:
    """All rows, in order."""
    found: list[Row] = []
    for mechanism in mechanisms:
        least = mechanism.least
        sets = [(least, "the least")]
        sets += [(least - {one}, f"without {one.source}'s {one}") for one in sorted(least)]
        extended: dict[frozenset[Permission], list[str]] = {}
        for back in mechanism.back:
            if not back.gates <= least:
                extended.setdefault(least | back.gates, []).append(back.title)
        sets += [(granted, f"with what this needs: {', '.join(titles)}") for granted, titles in extended.items()]
        for granted, about in sets:
            found.append(Row(number=len(found), mechanism=mechanism, granted=granted, about=about))
    return found


# What makers and ends need to be driven at all, none of it between a writer and a reader.
_PLUMBING = f"""
(typeattribute flow_end) (typeattribute flow_maker) (typeattribute flow_any)
(typeattributeset flow_any (or flow_end flow_maker))
(allow {LAB} flow_any (process (dyntransition signal sigkill)))
(allow {LAB} flow_any (fd (use)))
(allow {LAB} flow_any (file (all))) (allow {LAB} flow_any (fifo_file (all))) (allow {LAB} flow_any (sock_file (all)))
(allow {LAB} flow_any (unix_stream_socket (all))) (allow {LAB} flow_any (unix_dgram_socket (all)))
(allow {LAB} flow_any (msgq (all))) (allow {LAB} flow_any (shm (all))) (allow {LAB} flow_any (sem (all)))
(allow flow_any {LAB} (process (sigchld)))
(allow flow_any {LAB} (fd (use)))
(allow flow_any {LAB} (fifo_file (write getattr)))
(allow flow_any {LAB} (unix_stream_socket (read write)))
(allow flow_any file_type (filesystem (associate)))
(allow flow_any filesystem_type (filesystem (associate)))
(allow flow_any root_t (dir (search))) (allow flow_any var_t (dir (search))) (allow flow_any tmp_t (dir (search)))
(allow flow_any device_t (dir (search))) (allow flow_any tmpfs_t (dir (search)))
(allow flow_any proc_t (dir (search))) (allow flow_any proc_t (lnk_file (read)))
(allow flow_any self (dir (search))) (allow flow_any self (lnk_file (read)))
(allow flow_any self (process (fork sigkill)))
(allow flow_maker tmp_t (dir (add_name write remove_name)))
(allow flow_maker tmpfs_t (dir (add_name write remove_name)))
(allow flow_maker self (file (create open read write append getattr setattr map link unlink)))
(allow flow_maker self (fifo_file (create open read write getattr)))
(allow flow_maker self (unix_stream_socket (create read write getattr getopt)))
(allow flow_maker self (msgq (create associate)))
(allow flow_maker self (shm (create associate)))
(allow flow_maker self (sem (create associate)))
(allow flow_maker self (capability (sys_resource)))
(allow flow_end flow_maker (sock_file (create)))
(allow flow_end tmp_t (dir (add_name write)))
"""


def policy(all_rows: Iterable[Row], *, granting: bool = True) -> str:
    """The policy of all rows; without `granting` all their rules are taken away, and the types stay."""
    lines = [_PLUMBING]
    for row in all_rows:
        maker = row.domains["maker"]
        for role, domain in row.domains.items():
            lines += [
                f"(type {domain}) (roletype system_r {domain})",
                f"(typeattributeset {'flow_maker' if role == 'maker' else 'flow_end'} ({domain}))",
            ]
            lines += [
                f"(typetransition {domain} {place} {cls} {maker})"
                for place, cls in (("tmp_t", "file"), ("tmp_t", "fifo_file"), ("tmp_t", "sock_file"),
                                   ("tmpfs_t", "file"))
            ]  # fmt: skip
        grouped: dict[tuple[str, str, str], set[str]] = {}
        for one in row.granted if granting else ():
            source = row.type(one.source)
            target = source if one.target == "own" else row.type(one.target)
            grouped.setdefault((source, target, one.cls), set()).add(one.name)
        lines += [
            f"(allow {source} {target} ({cls} ({' '.join(sorted(names))})))"
            for (source, target, cls), names in sorted(grouped.items())
        ]
    return "\n".join(lines)


Refused = dict[tuple[int, str], frozenset[Permission]]


def refusals(denials: Iterable[Denial], all_rows: Sequence[Row]) -> Refused:
    """What the kernel's log says was refused, by row and step."""
    owner = {domain: (row, role) for row in all_rows for role, domain in row.domains.items()}
    found: dict[tuple[int, str], set[Permission]] = {}
    for denial in denials:
        if denial.source not in owner:
            continue
        row, role = owner[denial.source]
        role = "message" if role == "maker" else role
        _, target = owner.get(denial.target, (row, denial.target))
        target = "own" if denial.source == denial.target and role != "message" else target
        target = "object" if target == "maker" else target
        found.setdefault((row.number, denial.comm), set()).update(
            Permission(role, denial.cls, name, target) for name in denial.permissions
        )
    return {key: frozenset(value) for key, value in found.items()}


def judge(row: Row, said: Mapping[str, str], refused: Refused) -> list[str]:
    """What is wrong with a row; nothing, when nothing is."""
    wrong = []
    steps = [("forward", said["forward"] == FLOWS, row.missing, False)]
    if not row.missing:
        steps += [
            (f"back{i}", said[f"back{i}"] == SEEN, back.gates - row.granted, back.loud)
            for i, back in enumerate(row.mechanism.back)
        ]
    for step, works, missing, loud in steps:
        logged = refused.get((row.number, step), frozenset())
        title = f"{row.mechanism.title}, {row.about}: {_title(row, step)}: {said[step]}, log: {short(logged) or '-'}"
        if works != (not missing):
            wrong.append(f"{title}: must {'not work' if missing else 'work'}")
        elif missing and not (logged and logged <= missing):
            wrong.append(f"{title}: the log must name {short(missing)}")
        elif not missing and logged and not loud:
            wrong.append(f"{title}: works, and something was refused")
    return wrong


def judge_revoked(row: Row, said: Mapping[str, str], refused: Refused) -> list[str]:
    """What is wrong with a mechanism that was open when its rules went."""
    mechanism = row.mechanism
    wrong = []
    for role, step, expected in zip(("reader", "writer"), ("read", "write"), mechanism.revoked or (), strict=True):
        logged = refused.get((row.number, step), frozenset())
        outcome = "refused" if said[role] == "EACCES" else said[role]
        if outcome != expected or bool(logged) != (expected == "refused"):
            wrong.append(f"{role}: {said[role]}, log: {short(logged) or '-'}; must be: {expected}")
    if (said["flows on"] == "True") != (mechanism.revoked == ("works", "works")):
        wrong.append(f"what is written afterwards arrives: {said['flows on']}")
    if mechanism.opened and (said["again"] == "works" or not refused.get((row.number, "again"))):
        wrong.append(f"opening it again: {said['again']}, and must be refused")
    return [f"{mechanism.title}, revoked: {line}" for line in wrong]


def _title(row: Row, step: str) -> str:
    return row.mechanism.back[int(step.removeprefix("back"))].title if step != "forward" else "forward"
