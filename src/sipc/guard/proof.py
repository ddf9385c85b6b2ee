# SPDX-License-Identifier: Apache-2.0
"""What a policy proves of a guard: one verdict for each channel and each requirement.

Owns how the verifier's report is said of the guard file's own names.  Fails closed: what was not looked at, and what
was looked at together with something that makes the whole policy doubtful, is not proven; nothing that a policy can
not hold is ever said to hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs, options, policy_requirements
from sipc.guard.requirements import Requirement
from sipc.selinux.image import Policy
from sipc.selinux.report import Finding, Report
from sipc.selinux.verify import verify
from sipc.spec import Enforcement

__all__ = ("NO_POLICY", "Proof", "Said", "Verdict", "judged", "prove", "unproven")

NO_POLICY = "no policy given"
_THERE = "types are there"  # the verifier's first check: without the module there is nothing to break
_DAC = "enforcement is dac: users and file modes alone hold it"


class Verdict(StrEnum):
    """What is known of one thing."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A verdict, why it is that (empty for what holds), and what shows it."""

    verdict: Verdict
    reason: str = ""
    witness: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was looked at, and the verdicts: by channel's name in the file, and in the order of `require`."""

    about: str
    channels: Mapping[str, Said]
    requirements: tuple[Said, ...]
    report: Report | None = None

    @property
    def refuted(self) -> bool:
        """Whether a policy was looked at, and does not hold all that it should."""
        return self.report is not None and not self.report.ok


def unproven(guard: Guard, reason: str = NO_POLICY) -> Proof:
    """Nothing was looked at."""
    said = Said(verdict=Verdict.NOT_PROVEN, reason=reason)
    return Proof(about=reason, channels=dict.fromkeys(guard.channels, said), requirements=(said,) * len(guard.require))


def prove(guard: Guard, policy: Policy) -> Proof:
    """Ask the verifier.  Never an error for a policy that has not the guard's types: then nothing is proven."""
    specs = channel_specs(guard, users=False)
    held = [name for name, spec in specs.items() if spec.enforcement is Enforcement.SELINUX]
    if not held:
        return unproven(guard, _DAC)
    missing = [stage.type for stage in guard.stages.values() if not _there(policy, stage.type)]
    # A requirement is about all channels: with one that no policy holds, or types that are not there, it can not be.
    whole = not missing and len(held) == len(specs)
    requirements = policy_requirements(guard) if whole else []
    return judged(guard, verify(policy, specs.values(), options(guard), requirements))


def _there(policy: Policy, kind: str | None) -> bool:
    number = policy.numbers.get(kind) if kind is not None else None
    return number is not None and not policy.attributes >> number & 1


def judged(guard: Guard, report: Report) -> Proof:
    """The report, said of the guard's channels and requirements."""
    channels = {}
    for name, channel in guard.channels.items():
        if channel.spec.enforcement is Enforcement.SELINUX:
            channels[name] = _said(report, f"channel {channel.spec.name}")
        else:
            channels[name] = Said(verdict=Verdict.NOT_PROVEN, reason=_DAC)
    requirements = tuple(_required(guard, requirement, report) for requirement in guard.require)
    return Proof(about=report.source, channels=channels, requirements=requirements, report=report)


def _required(guard: Guard, requirement: Requirement, report: Report) -> Said:
    dac = [name for name, channel in guard.channels.items() if channel.spec.enforcement is not Enforcement.SELINUX]
    if dac:
        return Said(verdict=Verdict.NOT_PROVEN, reason=f"no policy holds channel {dac[0]}: its enforcement is dac")
    types = {name: stage.type for name, stage in guard.stages.items() if stage.type is not None}
    parts = [_said(report, str(part)) for part in requirement.by_types(types, guard.edges)]
    for verdict in (Verdict.BROKEN, Verdict.NOT_PROVEN):
        for part in parts:
            if part.verdict is verdict:
                return part
    return Said(verdict=Verdict.HOLDS)


def _said(report: Report, subject: str) -> Said:
    found = [finding for finding in report.findings if finding.subject == subject]
    if found:
        missing = found[0].check == _THERE
        return _from(found[0], Verdict.NOT_PROVEN if missing else Verdict.BROKEN, more=len(found) - 1)
    if not any(check.subject == subject for check in report.checks):
        return Said(verdict=Verdict.NOT_PROVEN, reason=f"not looked at: {report.source} has not all of its types")
    whole = [finding for finding in report.findings if finding.subject == "policy"]
    if whole:
        return _from(whole[0], Verdict.NOT_PROVEN, more=len(whole) - 1)
    return Said(verdict=Verdict.HOLDS)


def _from(finding: Finding, verdict: Verdict, *, more: int) -> Said:
    others = f" (and {more} more)" if more else ""
    return Said(verdict=verdict, reason=f"{finding.text}{others}", witness=finding.witness)
