# SPDX-License-Identifier: Apache-2.0
"""The guard file: what it becomes, and for every mistake the line, the key, and what would do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.guards import GOOD, SMALL, changed, problems

from sipc.errors import SpecError
from sipc.guard.config import (
    CommandFilter,
    Kind,
    Medium,
    OnQuarantineFull,
    OnViolation,
    PythonFilter,
    Quarantine,
    Requirement,
    Sink,
    Source,
    parse,
    read,
)
from sipc.guard.model import AuditPlace
from sipc.spec import Backend, Enforcement, Geometry, Transport

# -- what it becomes


def test_a_guard_reads_as_it_is_written() -> None:
    """Every key."""
    guard = parse(GOOD, "F")
    assert (guard.source, guard.name, guard.enforcement) == ("F", "json", Enforcement.SELINUX)
    assert (guard.on_violation, guard.on_quarantine_full) == (OnViolation.STOP_SENDER, OnQuarantineFull.STOP_GUARD)
    assert guard.require == (
        Requirement(start="ingest", end="deliver", via=("scrub",)),
        Requirement(start="deliver", end="ingest", negated=True),
        Requirement(start="scrub", end="deliver", only=True),
    )
    ingest, scrub, deliver = guard.stages.values()
    assert [stage.kind for stage in guard.stages.values()] == [Kind.SOURCE, Kind.FILTER, Kind.SINK]
    assert ingest.work == Source(medium=Medium.DIRECTORY, path="/var/spool/ingest")
    assert (ingest.name, ingest.user, ingest.group, ingest.type) == ("ingest", "ingest", "ingest", "json_ingest_t")
    assert scrub.work == PythonFilter(function="json_guard:scrub", decode="json_guard:Order", timeout=2.0)
    assert (scrub.user, scrub.type) == (4242, "json_scrubber_t")
    assert scrub.quarantine == Quarantine(directory="/var/lib/sipc/json/scrub/quarantine", limit=64 << 20)
    assert deliver.work == Sink(medium=Medium.DIRECTORY, path="/var/spool/deliver")
    assert guard.edges == (("ingest", "scrub", "raw"), ("scrub", "deliver", "clean"))
    assert guard.channels["raw"].spec.geometry == Geometry(slots=6)
    assert guard.channels["clean"].spec.geometry == Geometry(slot_size=65536)


def test_a_channel_is_registered_under_its_guard_and_says_where_it_is_defined() -> None:
    """So two guards may each have a channel called raw."""
    spec = parse(GOOD, "F").channels["raw"].spec
    assert (spec.name, spec.label) == ("json.raw", "F:24: [channel.raw]")


def test_what_is_not_said_does_not_mean_less() -> None:
    """SELinux, and the whole guard stops; but a full quarantine stops its stage."""
    with pytest.raises(SpecError, match=r"F:4: \[stage.a\] user: is missing, and a channel asks for SELinux"):
        parse(SMALL.replace('enforcement = "dac"\n', ""), "F")
    guard = parse(SMALL, "F")
    assert (guard.on_violation, guard.on_quarantine_full) == (OnViolation.STOP_GUARD, OnQuarantineFull.STOP_STAGE)
    assert guard.require == ()
    assert guard.audit is AuditPlace.FILE
    elsewhere = parse(SMALL.replace('enforcement = "dac"\n', 'enforcement = "dac"\naudit = "journal"\n'), "F")
    assert elsewhere.audit is AuditPlace.JOURNAL
    assert guard.stages["a"].work == Source(medium=Medium.STREAM)
    assert guard.stages["b"].work == Sink(medium=Medium.STREAM)
    assert (guard.stages["a"].user, guard.stages["a"].type, guard.stages["a"].quarantine) == (None, "g_a_t", None)


@pytest.mark.parametrize(
    ("key", "path", "medium"),
    [("file", "/dev/null", Medium.FILE), ("directory", "/a/b/", Medium.DIRECTORY), ("socket", "/run/s", Medium.SOCKET)],
)
def test_sources_and_sinks_have_a_place(key: str, path: str, medium: Medium) -> None:
    """A file, a directory, a socket, or the standard streams; a slash at the end says nothing."""
    guard = parse(SMALL.replace("stdin = true", f'{key} = "{path}"'), "F")
    assert guard.stages["a"].work == Source(medium=medium, path=path.rstrip("/"))
    guard = parse(SMALL.replace("stdout = true", f'{key} = "{path}"'), "F")
    assert guard.stages["b"].work == Sink(medium=medium, path=path.rstrip("/"))


def test_a_filter_may_be_a_program() -> None:
    """Run for each record, or once."""
    text = changed(
        ('python = "json_guard:scrub", timeout = 2, decode = "json_guard:Order"', 'command = ["/bin/jq", ""]')
    )
    assert parse(text, "F").stages["scrub"].work == CommandFilter(command=("/bin/jq", ""), timeout=5.0)
    text = text.replace('""]', '""], persistent = true, timeout = 0.5')
    work = parse(text, "F").stages["scrub"].work
    assert work == CommandFilter(command=("/bin/jq", ""), persistent=True, timeout=0.5)


@pytest.mark.parametrize(
    ("written", "size"),
    [("1", 1), ('"64 MiB"', 64 << 20), ('"64MiB"', 64 << 20), ('"12 B"', 12), ('"7"', 7), ('"3 KiB"', 3072),
     ('"2 GiB"', 2 << 30), ('"1 TiB"', 1 << 40)],
)  # fmt: skip
def test_sizes_are_bytes_or_have_a_unit(written: str, size: int) -> None:
    """Powers of 1024, by their names."""
    quarantine = parse(changed(('"64 MiB"', written)), "F").stages["scrub"].quarantine
    assert quarantine is not None
    assert quarantine.limit == size


def test_a_channel_takes_the_keys_of_a_definition() -> None:
    """And its own enforcement; only SELinux needs users."""
    more = 'backend = "posix"\ntransport = "queue"\nchecksum = true\nmax_message = "1 MiB"\ntype = "x_t"\ndepth = 5\n'
    spec = parse(SMALL + more, "F").channels["c"].spec
    assert (spec.backend, spec.transport, spec.checksum) == (Backend.POSIX, Transport.QUEUE, True)
    assert (spec.max_message, spec.channel_type, spec.geometry.depth) == (1 << 20, "x_t", 5)
    assert spec.geometry.slot_size == 8160
    found = problems(SMALL + 'enforcement = "selinux"\n')
    assert [line.split(": ")[1] for line in found] == ["[stage.a] user", "[stage.b] user"]


def test_names_may_have_hyphens_and_types_have_not() -> None:
    """The policy language does not take them."""
    text = GOOD.replace('"json"', '"my-json"').replace("ingest]", "in-gest]").replace('"ingest', '"in-gest')
    text = text.replace("-> ingest", "-> in-gest")
    guard = parse(text, "F")
    assert guard.stages["in-gest"].type == "my_json_in_gest_t"
    assert guard.channels["raw"].spec.name == "my-json.raw"


def test_a_name_that_makes_no_type_is_fine_without_selinux() -> None:
    """A type begins with a letter; under SELinux the file has to name one."""
    assert parse(SMALL.replace('"g"', '"9"'), "F").stages["a"].type is None
    found = problems(GOOD.replace('"json"', '"9"'))
    assert [line.split(": ")[:2] for line in found] == [["F:12", "[stage.ingest]"], ["F:21", "[stage.deliver]"]]
    assert "9_ingest_t can not be one" in found[0]


# -- anything else

texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.one_of(
        st.integers(-2, 2), st.sampled_from(["nan", "-inf", "true", "1979-05-27", '"a"', "'/x'", "[]", "{}"]),
        texts.map(lambda text: "'''" + text + "'''"),
    ).map(str),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
    | st.lists(st.tuples(st.sampled_from(["file", "directory", "stdin", "python", "x"]), inner), max_size=2).map(
        lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
    ),
    max_leaves=4,
)  # fmt: skip
VALUES = [match.span(1) for match in re.finditer(r"= ([^\n]+)\n", GOOD) if not match[1].startswith("[")]


def check_any(text: str) -> None:
    """A guard, or problems that begin as they must, all of them on lines that there are."""
    guard, found = read(text, "F")
    assert (guard is None) == bool(found)
    count = text.replace("\r\n", "\n").count("\n") + 1
    for problem in found:
        assert 1 <= problem.line <= count
        assert problem.reason
        assert problem.fix
        assert problem.text("F").isprintable()
    if guard is None:
        with pytest.raises(SpecError, match=r"^F:"):
            parse(text, "F")


@settings(max_examples=500)
@given(st.sampled_from(VALUES), values)
def test_one_wrong_value_is_told_on_its_line(span: tuple[int, int], value: str) -> None:
    """Whatever it is, whatever else follows from it; and no value of the file makes anything but a `SpecError`."""
    text = GOOD[: span[0]] + value + GOOD[span[1] :]
    check_any(text)


@settings(max_examples=500)
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 30),
    texts | st.sampled_from(["[", "]", '"', "'", '"""', "\n", "=", "\r", "\\"]),
)
def test_a_damaged_file_is_a_guard_or_problems_and_nothing_else(start: int, cut: int, junk: str) -> None:
    """Something cut out, something put in."""
    check_any(GOOD[:start] + junk + GOOD[start + cut :])


@given(st.text(max_size=60) | texts)
def test_any_text_is_problems(text: str) -> None:
    """No short text is a guard."""
    check_any(text)
    assert read(text, "F")[0] is None


def test_a_text_too_deep_is_a_problem() -> None:
    """Not a crash of the parser, nor of the message."""
    for text in ("x = " + "[" * 5000, "x = " + "{a=" * 5000, "version = " + "[" * 60 + "]" * 60):
        check_any(text)
