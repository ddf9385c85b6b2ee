# SPDX-License-Identifier: Apache-2.0
"""Channels and their policies for the SELinux tests: golden cases, and modules as text."""

from __future__ import annotations

from pathlib import Path

from sipc.definitions import parse
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.options import Options, Profile
from sipc.selinux.policy import generate
from sipc.selinux.report import Report
from sipc.selinux.verify import verify
from sipc.spec import ChannelSpec, Enforcement

GOLDEN = Path(__file__).resolve().parents[1] / "unit/selinux/golden"
# What a golden case's definition does not say.
OPTIONS = {
    "chain": Options(new=frozenset({"filter_t"})),
    "launchers": Options(launchers=("init_t", "sysadm_t"), switchers=("unconfined_t",)),
    "fedora": Options(profile=Profile.FEDORA),
}


def specs_of(text: str) -> list[ChannelSpec]:
    """The channels of a definition file's text."""
    return list(parse(text, "test", enforcement=Enforcement.SELINUX).values())


def modules(text: str, options: Options | None = None) -> dict[str, str]:
    """All modules for a definition file's text, as CIL by name."""
    return {name: module.text() for name, module in generate(specs_of(text), options).items()}


def prove_mutant(
    definition: str, base: list[Path], extra: str = "", without: str = "", options: Options | None = None
) -> Report:
    """Compile channels with one more module, or one line less in any of theirs, and verify them."""
    texts = modules(definition, options)
    if without:
        (name,) = (name for name, text in texts.items() if f"\n{without}\n" in text)
        texts[name] = texts[name].replace(f"\n{without}\n", "\n")
    policy = read_policy(compose(base, {**texts, "mutant": extra}), "mutant")
    return verify(policy, specs_of(definition), options)


def golden_text(case: str) -> str:
    """What a golden case's definition generates, without the base module."""
    made = modules((GOLDEN / f"{case}.toml").read_text(), OPTIONS.get(case))
    return "".join(f"; module {name}\n{text}\n" for name, text in made.items() if name != "sipc")


def write_golden() -> None:
    """Write the expected files anew, to be reviewed as a diff."""
    root = GOLDEN.parents[3]
    for definition in sorted(GOLDEN.glob("*.toml")):
        definition.with_suffix(".cil").write_text(golden_text(definition.stem))
    (root / "policy/sipc.cil").write_text(modules("[channel.any]\n")["sipc"])


if __name__ == "__main__":
    write_golden()
