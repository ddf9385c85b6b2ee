# SPDX-License-Identifier: Apache-2.0
"""What a verification found, in a form that a person can file and a program can read.

Owns the report's shape and its text; `verify.py` fills it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ("Accepted", "Check", "Finding", "Report")

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: which check, of which channel or requirement, and what shows it."""

    check: str
    subject: str
    text: str
    witness: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A way back that the committed list accepts, with its reason; seen in this policy."""

    subject: str
    through: str
    reason: str
    witness: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check that was made, and over how many things."""

    name: str
    subject: str
    examined: int
    found: int


@dataclass(slots=True)
class Report:
    """Everything about one verification; `ok` is the verdict."""

    source: str
    version: int = 0
    types: int = 0
    rules: int = 0
    subjects: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    doors: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    inherent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Proven: something was checked and nothing was found."""
        return bool(self.checks) and not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": SCHEMA, "ok": self.ok, "policy": self.source, "policy_version": self.version,
                "types": self.types, "rules": self.rules, "subjects": self.subjects,
                "checks": [asdict(check) for check in self.checks],
                "findings": [asdict(finding) for finding in self.findings],
                "accepted": [asdict(entry) for entry in self.accepted], "doors": self.doors,
                "inherent": self.inherent, "notes": self.notes}  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        size = f"version {self.version}, {self.types} types, {self.rules} allow rules"
        lines = [
            f"{'PROVEN' if self.ok else 'NOT PROVEN'}: {', '.join(self.subjects)}",
            f"policy {self.source}: {size}, every boolean taken as both on and off",
            "",
            "Checked:",
        ]
        for check in self.checks:
            verdict = "ok" if check.found == 0 else f"{check.found} found"
            lines.append(f"  {check.subject}: {check.name}: {check.examined} examined, {verdict}")
        if self.findings:
            lines += ["", "Found:"]
            for finding in self.findings:
                lines.append(f"  {finding.subject}: {finding.check}: {finding.text}")
                lines += [f"      {step}" for step in finding.witness]
        if self.doors:
            lines += ["", "Who may act on each domain:"]
            for name, doors in self.doors.items():
                acts = "; ".join(f"{act}: {', '.join(who) or 'nobody'}" for act, who in doors.items())
                lines.append(f"  {name}: {acts}")
        if self.accepted:
            lines += ["", "Accepted ways back (residual.toml):"]
            for through in dict.fromkeys(entry.through for entry in self.accepted):
                entries = [entry for entry in self.accepted if entry.through == through]
                lines.append(f"  through {through}: {entries[0].reason}")
                lines += [f"      {' ; '.join(entry.witness)}" for entry in entries]
        if self.inherent:
            lines += ["", "What no policy closes:"]
            lines += [f"  {text}" for text in self.inherent.values()]
        if self.notes:
            lines += ["", "Notes:", *(f"  {note}" for note in self.notes)]
        return lines
