# SPDX-License-Identifier: Apache-2.0
"""The interfaces for the reference policy's language build with Debian's headers and grant what is generated."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.policies import GOLDEN, modules, specs_of

from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.options import Options
from sipc.selinux.verify import verify

FOLDER = GOLDEN.parents[3] / "policy"
DEFINITION = (FOLDER / "sensor_example.toml").read_text()
OPTIONS = Options(sealed=frozenset({"sensor_t", "archive_t"}))


@pytest.fixture(scope="module")
def built(base_policies: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """policy/sensor_example.te with policy/sipc.if, built as users build it, then turned into CIL."""
    work = tmp_path_factory.mktemp("refpolicy")
    shutil.copytree(base_policies / "include", work / "include")
    shutil.copy(FOLDER / "sipc.if", work / "include/services")
    for suffix in (".te", ".fc"):
        shutil.copy(FOLDER / f"sensor_example{suffix}", work)
    argv = ["make", "-f", "include/Makefile", "NAME=default", f"HEADERDIR={work}/include", "AWK=awk",
            "sensor_example.pp"]  # fmt: skip
    done = subprocess.run(argv, cwd=work, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    turned = subprocess.run(
        [base_policies / "pp", work / "sensor_example.pp"], capture_output=True, text=True, check=False, timeout=60
    )
    assert turned.returncode == 0, turned.stderr
    return turned.stdout


def grants(text: str) -> set[tuple[str, str, str, frozenset[str]]]:
    """Allow rules of the two ends and the messages about the channel's types."""
    found = set()
    for source, target, cls, names in re.findall(r"\(allow (\S+) (\S+) \((\S+) \(([^)]*)\)\)\)", text):
        ends = ("sensor_t", "archive_t", "sipc_readings_msg_t")
        if source in ends and target.startswith("sipc_readings_"):
            found.add((source, target, cls, frozenset(names.split())))
    return found


def test_interfaces_grant_what_the_generated_module_grants(built: str) -> None:
    """Two ways to write one policy; neither grants more."""
    ours = grants(modules(DEFINITION, OPTIONS)["sipc_readings"])
    assert grants(built) == ours
    assert len(ours) == 15
    assert "(typetransition sensor_t sipc_readings_t msg sipc_readings_msg_t)" in built


@pytest.mark.parametrize("checks", [False, True], ids=["expand-check=0", "expand-check=1"])
def test_the_example_is_proven_on_debians_policy(checks: bool, built: str, small: list[Path]) -> None:
    """Domains of a module of the user's, sealed, with the channel's generated modules."""
    texts = {**modules(DEFINITION, OPTIONS), "sensor_example": built}
    report = verify(read_policy(compose(small, texts, checks=checks), "example"), specs_of(DEFINITION), OPTIONS)
    assert report.findings == []


def test_ends_that_are_not_sealed_are_not_proven_where_the_unconfined_may_do_anything(
    built: str, small: list[Path]
) -> None:
    """Debian lets unconfined domains use every domain's pipes: without the seal that is a way, and is shown."""
    texts = {**modules(DEFINITION), "sensor_example": built}
    report = verify(read_policy(compose(small, texts), "example"), specs_of(DEFINITION))
    assert any("through unconfined_t" in finding.text for finding in report.findings)
