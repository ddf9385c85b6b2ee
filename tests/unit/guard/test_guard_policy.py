# SPDX-License-Identifier: Apache-2.0
"""What a guard's policy gives its stages besides their channels: directories, locks, programs; and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.guards import GOOD, changed

from sipc.cli.policy import texts_of
from sipc.errors import SpecError
from sipc.guard.config import parse
from sipc.guard.policy import channel_specs, options, policy_requirements
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.image import Policy
from sipc.selinux.options import Options
from sipc.selinux.verify import verify

TYPES = ("json_ingest_t", "json_scrubber_t", "json_deliver_t")


def texts(text: str = GOOD) -> dict[str, str]:
    guard = parse(text, "guard.toml")
    return texts_of(channel_specs(guard, users=False).values(), options(guard))


def composed(small: Path, more: str = "") -> Policy:
    return read_policy(compose([small], {**texts(), **({"later": more} if more else {})}), "composed")


def allowed(policy: Policy, source: str, target: str, cls: str) -> set[str]:
    """What the kernel would let `source` do, constraints included."""
    kind = policy.classes[cls]
    return set(kind.names(policy.effective(policy.numbers[source], policy.numbers[target], kind)))


def test_a_guard_with_its_places_and_programs_is_proven(small: Path) -> None:
    """Channels one-way, and the requirements of the file: over files too."""
    guard = parse(GOOD, "guard.toml")
    specs = list(channel_specs(guard, users=False).values())
    report = verify(composed(small), specs, options(guard), policy_requirements(guard))
    assert report.ok, "\n".join(report.lines())


def test_every_directory_of_a_stage_is_labelled_as_its_own() -> None:
    """State, status, and what the file gives it; dots are dots."""
    module = texts(changed(('"/var/spool/ingest"', '"/var/spool/in.d"')))
    for place in (r"/var/spool/in\.d", "/var/lib/sipc-guards/json/ingest", "/run/sipc-guards/json/ingest"):
        assert f'(filecon "{place}(/.*)?" any (system_u object_r json_ingest_data_t' in module["sipc_end_json_ingest"]
    assert '"/var/lib/sipc/json/scrub/quarantine(/.*)?"' in module["sipc_end_json_scrubber"]


def test_a_stage_locks_its_own_files_and_no_later_module_lets_it_lock_anothers(small: Path) -> None:
    """A lock that two could try carries bits either way: the constraint holds whatever is granted later."""
    later = "\n".join(
        f"(allow {one} {other.removesuffix('_t')}_data_t ({cls} (lock getattr)))"
        for one in TYPES for other in TYPES for cls in ("file", "dir")
    )  # fmt: skip
    policy = composed(small, later)
    for one in TYPES:
        for other in TYPES:
            for cls in ("file", "dir"):
                could = allowed(policy, one, f"{other.removesuffix('_t')}_data_t", cls)
                assert ("lock" in could) is (one == other), (one, other, cls)
                assert "getattr" in could


def test_no_stage_reaches_what_is_anothers_nor_runs_what_only_a_filter_may(small: Path) -> None:
    """Nothing between stages but the channels; programs for the filter alone, in its own domain."""
    policy = composed(small)
    for one in TYPES:
        for other in TYPES:
            if one != other:
                assert allowed(policy, one, f"{other.removesuffix('_t')}_data_t", "file") == set()
                assert allowed(policy, one, other, "process") == set()
        assert ("execute_no_trans" in allowed(policy, one, "bin_t", "file")) is (one == "json_scrubber_t")


def test_places_are_for_domains_that_are_made_here() -> None:
    """Another module's domain keeps to what that one gives it."""
    with pytest.raises(SpecError, match="is not made here"):
        Options(places={"sensor_t": ("/srv/x",)})
    with pytest.raises(SpecError, match="is not made here"):
        Options(runners=frozenset({"sensor_t"}))


def test_a_place_that_a_file_context_can_not_name_is_refused_with_its_line() -> None:
    """A space ends a pattern there."""
    from sipc.guard.check import examine

    found = examine(changed(('"/var/spool/ingest"', '"/var/spool/in here"')), "guard.toml")
    assert [line for line in found.lines if "can not name a path with a space" in line]
