# SPDX-License-Identifier: Apache-2.0
"""Requirements: their words, routes along channels, and verdicts on a compiled chain."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.policies import modules, specs_of

from sipc.errors import SpecError
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.grants import types_of
from sipc.selinux.image import Policy
from sipc.selinux.options import Options
from sipc.selinux.report import Report
from sipc.selinux.requirements import Requirement, parse_requirement
from sipc.selinux.verify import verify

CHAIN = """
[channel.one]
sender = { type = "low_t" }
receiver = { type = "filter_t" }
[channel.two]
sender = { type = "filter_t" }
receiver = { type = "high_t" }
"""
BYPASS = """
[channel.three]
sender = { type = "low_t" }
receiver = { type = "high_t" }
"""
OPTIONS = Options(new=frozenset({"low_t", "filter_t", "high_t"}))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a_t -> b_t", Requirement(start="a_t", end="b_t")),
        ("  a_t->b_t via c_t ", Requirement(start="a_t", end="b_t", via=("c_t",))),
        ("a_t -> b_t via c_t, d_t", Requirement(start="a_t", end="b_t", via=("c_t", "d_t"))),
        ("not a_t -> b_t", Requirement(start="a_t", end="b_t", negated=True)),
    ],
)
def test_requirements_are_read(text: str, parsed: Requirement) -> None:
    """And written back in one form that reads the same."""
    if "->" in text and " -> " not in text:
        text = text.replace("->", " -> ")
    assert parse_requirement(text) == [parsed]
    assert parse_requirement(str(parsed)) == [parsed]


@pytest.mark.parametrize("text", ["", "a_t", "a_t => b_t", "not a_t -> b_t via c_t", "a_t -> a_t", "a b -> c_t",
                                  "a_t -> b) (c", "a_t -> b_t via c d",
                                  "a_t -> b_t via ,", "a_t -> b_t via c_t,", "only a_t -> b_t",
                                  "only a_t -> b_t via c_t", "only not a_t -> b_t", "only"])  # fmt: skip
def test_what_is_no_requirement_is_refused(text: str) -> None:
    """With the form that would do; `only` speaks of channels, and here are none."""
    with pytest.raises(SpecError):
        parse_requirement(text)


def test_routes_follow_channels_forward_only() -> None:
    """From sender to receiver, over any number of channels, around what is left out."""
    channels = [("a", "b", "1"), ("b", "c", "2"), ("a", "c", "3"), ("c", "a", "4")]
    requirement = Requirement(start="a", end="c")
    assert requirement.route(channels) == ("a -> c: channel 3",)
    assert requirement.route(channels[:2]) == ("a -> b: channel 1", "b -> c: channel 2")
    assert requirement.route(channels[:2], without="b") is None
    assert Requirement(start="b", end="a").route(channels) == ("b -> c: channel 2", "c -> a: channel 4")
    assert Requirement(start="b", end="a").route(channels[:3]) is None


def compiled(small: list[Path], definition: str, extra: str = "") -> Policy:
    """The chain on Debian's base."""
    return read_policy(compose(small, {**modules(definition, OPTIONS), "extra": extra}), "chain")


@pytest.fixture(scope="module")
def chain(small: list[Path]) -> Policy:
    """Low -> filter -> high."""
    return compiled(small, CHAIN)


def requirements(definition: str, *texts: str) -> list[Requirement]:
    """Read requirements on a definition's channels."""
    channels = [(types.sender, types.receiver, types.name) for types in map(types_of, specs_of(definition))]
    return [found for text in texts for found in parse_requirement(text, channels)]


def verdict(policy: Policy, definition: str, *texts: str) -> Report:
    """Verify channels and requirements."""
    return verify(policy, specs_of(definition), OPTIONS, requirements(definition, *texts))


def test_a_chain_goes_through_its_filter_and_not_back(chain: Policy) -> None:
    """The guard's promise, proven."""
    report = verdict(chain, CHAIN, "low_t -> high_t via filter_t", "low_t -> filter_t", "not high_t -> low_t",
                     "not filter_t -> low_t", "not high_t -> filter_t")  # fmt: skip
    assert report.findings == []
    assert report.ok
    assert "not high_t -> low_t" in report.subjects


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not low_t -> high_t", "channels lead from low_t to high_t"),
        ("high_t -> low_t", "no chain of the channels given"),
        ("low_t -> filter_t via high_t", "channels lead around high_t"),
    ],
)
def test_a_requirement_that_does_not_hold_is_found(chain: Policy, text: str, words: str) -> None:
    """With the channels that lead there, where any do."""
    report = verdict(chain, CHAIN, text)
    assert not report.ok
    assert any(words in finding.text for finding in report.findings)


def test_a_channel_around_the_filter_is_found(small: list[Path]) -> None:
    """One more channel from low to high: the filter is no longer in the way."""
    policy = compiled(small, CHAIN + BYPASS)
    report = verdict(policy, CHAIN + BYPASS, "low_t -> high_t via filter_t")
    first, *others = report.findings
    assert first.text == "channels lead around filter_t"
    assert first.witness == ("low_t -> high_t: channel three",)
    # The rules say the same as the definitions: through queue and segment, and through messages.
    through = [finding.text.rsplit(" ", 1)[1] for finding in others]
    assert through == ["sipc_three_t", "sipc_three_msg_t"]


def test_a_file_around_the_filter_is_found(small: list[Path]) -> None:
    """Not only channels lead around: a file that low writes and high reads does."""
    extra = "(type drop_t)\n(roletype object_r drop_t)\n(allow low_t drop_t (file (write)))\n"
    extra += "(allow high_t drop_t (file (read)))\n"
    report = verdict(compiled(small, CHAIN, extra), CHAIN, "low_t -> high_t via filter_t", "not high_t -> low_t")
    (finding,) = report.findings
    assert "through drop_t" in finding.text
    assert len(finding.witness) == 2


def test_requirements_can_stand_alone(chain: Policy) -> None:
    """About any two domains of a policy; unknown names are bad input, and nothing at all is an error."""
    assert verify(chain, [], OPTIONS, parse_requirement("not high_t -> low_t")).ok
    with pytest.raises(SpecError, match="no type nobody_t"):
        verify(chain, [], OPTIONS, parse_requirement("not nobody_t -> low_t"))
    with pytest.raises(SpecError, match="nothing to verify"):
        verify(chain, [], OPTIONS)
    with pytest.raises(SpecError, match="no type domain"):
        verify(chain, [], OPTIONS, parse_requirement("not domain -> low_t"))


def test_only_is_said_of_every_other_end(small: list[Path], chain: Policy) -> None:
    """Each other end reaches it through the one, or not at all: in the channels and in the whole policy."""
    assert requirements(CHAIN, "only filter_t -> high_t") == [
        Requirement(start="filter_t", end="high_t"), Requirement(start="low_t", end="high_t", via=("filter_t",)),
    ]  # fmt: skip
    assert requirements(CHAIN, "only low_t -> filter_t") == [
        Requirement(start="low_t", end="filter_t"), Requirement(start="high_t", end="filter_t", negated=True),
    ]  # fmt: skip
    assert verdict(chain, CHAIN, "only filter_t -> high_t", "only low_t -> filter_t").ok
    assert not verdict(compiled(small, CHAIN + BYPASS), CHAIN + BYPASS, "only filter_t -> high_t").ok
    extra = "(type drop_t)\n(roletype object_r drop_t)\n(allow low_t drop_t (file (write)))\n"
    extra += "(allow high_t drop_t (file (read)))\n"
    assert not verdict(compiled(small, CHAIN, extra), CHAIN, "only filter_t -> high_t").ok
