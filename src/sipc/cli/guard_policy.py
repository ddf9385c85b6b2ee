# SPDX-License-Identifier: Apache-2.0
"""The SELinux policy of a guard in the module store: what `sipc policy install` does, for all channels of a guard.

Owns what of it is asked: the requirements of the guard file are proven with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sipc.cli.modules import LABELLED
from sipc.cli.policy import texts_of
from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs, options, policy_requirements
from sipc.selinux.binary import read_policy
from sipc.selinux.changes import installation, removal
from sipc.selinux.compose import compose
from sipc.selinux.report import Report
from sipc.selinux.store import Change, Store, Stored
from sipc.selinux.verify import verify

__all__ = ("LABELLED", "Plan", "missing_policy", "plan_policy", "plan_removal")


def missing_policy(guard: Guard, root: Path | None) -> list[str]:
    """Modules of the guard that are not in the store as they should be, or not in force."""
    there = {module.name: module for module in Store(root).read() if module.kind and not module.why_not}
    texts = texts_of(channel_specs(guard, users=False).values(), options(guard))
    return [name for name, text in texts.items() if name not in there or there[name].text() != text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done to a store, which is as it was when this was made, or nothing is done."""

    store: Store
    modules: tuple[Stored, ...]
    change: Change
    report: Report | None = None

    def apply(self) -> list[str]:
        """Do it, all or nothing; returns the names of the modules.  Raises what `Store.apply` raises."""
        if self.change.install or self.change.remove:
            self.store.apply(self.change, self.modules, proven=self.report is not None)
        return [*self.change.install, *(module.name for module in self.change.remove)]


def plan_policy(guard: Guard, root: Path | None) -> Plan:
    """Prove the policy that would come of a guard: the report says whether it holds.  Nothing is changed by this."""
    place = Store(root)
    place.ready()
    specs, shape, modules = list(channel_specs(guard, users=False).values()), options(guard), place.read()
    texts = texts_of(specs, shape)
    change = installation(place, modules, specs, texts)
    policy = read_policy(compose(place.base_for(change, modules), texts), f"composed of {place.modules} and the guard")
    report = verify(policy, specs, shape, policy_requirements(guard))
    if not missing_policy(guard, root):
        change = Change(install={}, remove=())
    return Plan(store=place, modules=tuple(modules), change=change, report=report)


def plan_removal(guard: Guard, root: Path | None) -> Plan:
    """Find the guard's modules, as far as they are there."""
    place = Store(root)
    place.ready()
    modules = place.read()
    names = {spec.name for spec in channel_specs(guard, users=False).values()}
    there = sorted(names & {module.channel for module in modules if module.kind == "channel"})
    change = removal(modules, there) if there else Change(install={}, remove=())
    return Plan(store=place, modules=tuple(modules), change=change)
