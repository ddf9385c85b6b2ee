# SPDX-License-Identifier: Apache-2.0
"""Which modules come and go together: decided on what a store holds, without one being changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.support.policies import modules, specs_of

from sipc.errors import SpecError
from sipc.selinux.changes import installation, removal
from sipc.selinux.options import Options
from sipc.selinux.store import PRIORITY, Change, Store, Stored, describe

FEED, LOG = "[channel.feed]\n", "[channel.log]\n"
LOW = '[channel.low]\nreceiver = { type = "filter_t" }\n'
HIGH = '[channel.high]\nsender = { type = "filter_t" }\n'
OPTIONS = Options(new=frozenset({"filter_t"}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store, for what the messages say."""
    (tmp_path / "var/lib/selinux/default/active/modules").mkdir(parents=True)
    return Store(tmp_path)


def held(text: str, options: Options | None = None, priority: int = PRIORITY) -> list[Stored]:
    """What a store holds after these definitions were installed."""
    found = []
    for name, module in modules(text, options).items():
        kind, channel, ends = describe(name, module)
        found.append(Stored(name=name, priority=priority, path=Path(f"/{priority}/{name}/cil"), kind=kind,
                            channel=channel, ends=ends, data=module.encode()))  # fmt: skip
    return found


def install(
    store: Store, there: Iterable[Stored], text: str, options: Options | None = None, remove: tuple[str, ...] = ()
) -> Change:
    """The change that these definitions make."""
    return installation(store, there, specs_of(text), modules(text, options), remove)


def gone(change: Change) -> list[tuple[int, str]]:
    """What a change removes, in order."""
    return [module.key for module in change.remove]


def test_what_the_generator_writes_is_recognised() -> None:
    """Each kind by its first line and its name, whatever the channel is called; nothing else is."""
    found = {name: describe(name, text) for name, text in modules(LOW + '[channel."a.b-c"]\n', OPTIONS).items()}
    assert found == {
        "sipc": ("base", "", ()),
        "sipc_end_filter": ("end", "", ("filter_t",)),
        "sipc_low": ("channel", "low", ("sipc_low_sender_t", "filter_t")),
        "sipc_a_b_c": ("channel", "a.b-c", ("sipc_a_b_c_sender_t", "sipc_a_b_c_receiver_t")),
    }
    assert describe("sipc_feed", modules(FEED)["sipc"]) == ("", "", ())
    assert describe("sipc", modules(FEED)["sipc_feed"]) == ("", "", ())
    assert describe("sipc_feed", "(type a_t)\n; sipc channel feed: a_t -> b_t\n") == ("", "", ())


def test_the_base_module_stays_while_a_channel_does() -> None:
    """It can not be removed alone; it goes with the last channel, and nothing of ours is left then."""
    there = held(FEED + LOG)
    with pytest.raises(SpecError, match="base of the channels installed, feed, log"):
        removal(there, ["sipc"])
    with pytest.raises(SpecError, match="base of the channels installed"):
        removal(there, ["sipc", "feed"])
    assert gone(removal(there, ["feed"])) == [(400, "sipc_feed")]
    both = [(400, "sipc_feed"), (400, "sipc_log"), (400, "sipc")]
    assert gone(removal(there, ["feed", "log"])) == gone(removal(there, ["log", "sipc", "feed"])) == both


def test_a_base_module_that_was_left_alone_is_removed_by_its_name() -> None:
    """Somebody removed the channel's module by hand; an end's module needs the base, so it goes too."""
    assert gone(removal(held(LOW, OPTIONS)[:2], ["sipc"])) == [(400, "sipc_end_filter"), (400, "sipc")]
    with pytest.raises(SpecError, match="nothing to remove"):
        removal([], ["sipc"])


def test_a_channel_may_be_called_like_the_base() -> None:
    """Then the name is the channel's."""
    assert gone(removal(held("[channel.sipc]\n[channel.log]\n"), ["sipc"])) == [(400, "sipc_sipc")]


def test_ends_go_with_the_last_channel_that_has_them() -> None:
    """And not before."""
    there = held(LOW + HIGH + FEED, OPTIONS)
    with pytest.raises(SpecError, match="'high' stays and has the end filter_t"):
        removal(there, ["low"])
    with pytest.raises(SpecError, match="'high' stays"):
        removal(there, ["low", "feed"])
    assert gone(removal(there, ["low", "high"])) == [(400, "sipc_high"), (400, "sipc_low"), (400, "sipc_end_filter")]


def test_a_new_definition_without_the_shared_end_is_the_others_business_too(store: Store) -> None:
    """The end's module that stays would still name the files of the channel as it was."""
    there = held(LOW + HIGH, OPTIONS)
    with pytest.raises(SpecError, match="'high' is installed and has the end filter_t too"):
        install(store, there, "[channel.low]\n")
    change = install(store, there, "[channel.low]\n[channel.high]\n")
    assert gone(change) == [(400, "sipc_end_filter")]
    assert set(change.install) == {"sipc", "sipc_low", "sipc_high"}


def test_channels_that_share_nothing_do_not_matter(store: Store) -> None:
    """Neither installing nor replacing one touches another's modules."""
    change = install(store, held(LOG + LOW, OPTIONS), FEED)
    assert (set(change.install), gone(change)) == ({"sipc", "sipc_feed"}, [])


def test_two_channels_of_one_module_name_do_not_replace_each_other(store: Store) -> None:
    """Names that differ in '.', '-' and '_' alone make the same types, and so the same module."""
    there = held('[channel."a.b"]\nsender = { type = "one_t" }\nreceiver = { type = "two_t" }\n')
    new = '[channel.a-b]\nsender = { type = "three_t" }\nreceiver = { type = "four_t" }\n'
    with pytest.raises(SpecError, match=r"sipc_a_b \(priority 400\) .* was not made by sipc for this"):
        install(store, there, new)
    change = install(store, there, new, remove=("a.b",))
    assert gone(change) == [(400, "sipc_end_one"), (400, "sipc_end_two")]
    assert "; sipc channel a-b:" in change.install["sipc_a_b"]


def test_what_an_older_install_left_at_another_priority_goes(store: Store) -> None:
    """Else it would come back when ours is removed."""
    assert gone(install(store, held(FEED, priority=300), FEED)) == [(300, "sipc_feed")]
    there = held(FEED, priority=300) + held(FEED)
    assert gone(removal(there, ["feed"])) == [(300, "sipc_feed"), (400, "sipc_feed"), (300, "sipc"), (400, "sipc")]
