# SPDX-License-Identifier: Apache-2.0
"""The SELinux policy of a guard in the module store: what `sipc policy install` does, for all channels of a guard.

Owns what of it is asked: the requirements of the guard file are proven with it.
"""

from __future__ import annotations

from pathlib import Path

from sipc.cli.modules import LABELLED
from sipc.cli.policy import texts_of
from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs, options, policy_requirements
from sipc.selinux.binary import read_policy
from sipc.selinux.changes import installation, removal
from sipc.selinux.compose import compose
from sipc.selinux.report import Report
from sipc.selinux.store import Store
from sipc.selinux.verify import verify

__all__ = ("LABELLED", "install_policy", "missing_policy", "remove_policy")


def missing_policy(guard: Guard, root: Path | None) -> list[str]:
    """Modules of the guard that are not in the store as they should be, or not in force."""
    there = {module.name: module for module in Store(root).read() if module.kind and not module.why_not}
    texts = texts_of(channel_specs(guard, users=False).values(), options(guard))
    return [name for name, text in texts.items() if name not in there or there[name].text() != text]


def install_policy(guard: Guard, root: Path | None) -> Report:
    """Prove the policy that would come of a guard, and install it if it holds; the report says whether it did."""
    place = Store(root)
    place.ready()
    specs, shape, modules = list(channel_specs(guard, users=False).values()), options(guard), place.read()
    texts = texts_of(specs, shape)
    change = installation(place, modules, specs, texts)
    policy = read_policy(compose(place.base_for(change, modules), texts), f"composed of {place.modules} and the guard")
    report = verify(policy, specs, shape, policy_requirements(guard))
    if report.ok and missing_policy(guard, root):
        place.apply(change, modules, proven=True)
    return report


def remove_policy(guard: Guard, root: Path | None) -> list[str]:
    """Remove the guard's modules; returns their names."""
    place = Store(root)
    place.ready()
    modules = place.read()
    change = removal(modules, [spec.name for spec in channel_specs(guard, users=False).values()])
    place.apply(change, modules, proven=False)
    return [module.name for module in change.remove]
