# SPDX-License-Identifier: Apache-2.0
"""The picture of a guard: all that the file says is in it, in a form that any viewer reads, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.guards import GOOD, SMALL, changed

from sipc.guard.config import parse
from sipc.guard.graph import as_dict, as_svg
from sipc.guard.model import CommandFilter, Guard, Medium, PythonFilter, Quarantine, Sink, Source
from sipc.guard.proof import Proof, Said, Verdict, unproven
from sipc.guard.text import elided
from sipc.selinux.report import Report

GUARD = parse(GOOD, "F")
QUARANTINE = "quarantine /var/lib/sipc/json/scrub/quarantine"
NS = "{http://www.w3.org/2000/svg}"
CELL = 0.62  # of the size of the letters: the widest monospaced font


def proof(guard: Guard, channel: Verdict, requirement: Verdict, reason: str = "because") -> Proof:
    """The same verdict on every channel, and on every requirement."""
    witness = ("a_t -> b_t: allow a_t b_t:file { write }",)
    return Proof(
        about="some policy",
        channels={name: Said(verdict=channel, reason=reason, witness=witness) for name in guard.channels},
        requirements=(Said(verdict=requirement, reason=f"{reason} so", witness=witness),) * len(guard.require),
        report=Report("some policy"),
    )


def root(guard: Guard, shown: Proof | None = None) -> ET.Element:
    """The picture, parsed."""
    return ET.fromstring(as_svg(guard, shown or unproven(guard)))


def words(picture: ET.Element) -> list[str]:
    """Every text that is drawn."""
    return [text.text or "" for text in picture.iter(f"{NS}text")]


def test_everything_of_the_file_is_in_the_picture() -> None:
    """Stages with kind, user, domain and what they do; channels with geometry and enforcement; requirements."""
    drawn = words(root(GUARD))
    assert drawn == [
        "guard json",
        "ingest", "source, user ingest, group ingest", "domain json_ingest_t", "reads directory /var/spool/ingest",
        "scrub", "filter, user 4242", "domain json_scrubber_t", "runs python json_guard:scrub",
        "decodes json_guard:Order", "timeout 2 s", elided(QUARANTINE, 38),
        "limit 64 MiB",
        "deliver", "sink, user deliver", "domain json_deliver_t", "writes directory /var/spool/deliver",
        "raw", "6 x 256 KiB, depth 2", "sysv, selinux", "one-way: not proven",
        "clean", "4 x 64 KiB, depth 2", "sysv, selinux", "one-way: not proven",
        "Requirements",
        "not proven: ingest -> deliver via scrub",
        "not proven: not deliver -> ingest",
        "not proven: only scrub -> deliver",
        "Proof: none: no policy given. The channels of the file fit the requirements.",
    ]  # fmt: skip


def test_a_stage_that_runs_in_no_domain_is_drawn_with_none() -> None:
    """Under dac alone nothing puts it there, though it has the name of one; a channel that asks for SELinux does."""
    assert words(root(parse(SMALL, "F"))).count("no domain: its channels are dac") == 2
    assert not any(line.startswith("domain ") for line in words(root(parse(SMALL, "F"))))
    mixed = changed(('slot_size = "64 KiB"', 'enforcement = "dac"'))
    drawn = words(root(parse(mixed, "F")))
    assert [line for line in drawn if "domain" in line] == [
        "domain json_ingest_t", "domain json_scrubber_t", "no domain: its channels are dac",
    ]  # fmt: skip


def test_what_was_cut_is_whole_in_the_tooltip() -> None:
    """A path longer than a box."""
    assert QUARANTINE not in words(root(GUARD))
    tips = [title.text or "" for title in root(GUARD).iter(f"{NS}title")]
    assert any(QUARANTINE in tip for tip in tips)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_verdict_is_told_by_words_and_by_a_shape(verdict: Verdict) -> None:
    """Who sees no colours, or prints without them, loses nothing."""
    picture = root(GUARD, proof(GUARD, verdict, verdict))
    text = {Verdict.HOLDS: "proven", Verdict.BROKEN: "broken", Verdict.NOT_PROVEN: "not proven"}[verdict]
    drawn = words(picture)
    assert drawn.count(f"one-way: {text}") == 2
    assert f"{verdict}: not deliver -> ingest" in drawn
    marks = [mark for mark in picture.iter(f"{NS}g") if (mark.get("class") or "").startswith("mark")]
    shapes = {(tuple(part.tag for part in mark), mark[-1].get("d")) for mark in marks}
    assert len(shapes) == 1
    others = [proof(GUARD, other, other) for other in Verdict if other is not verdict]
    for other in others:
        for mark in root(GUARD, other).iter(f"{NS}g"):
            if (mark.get("class") or "").startswith("mark"):
                assert (tuple(part.tag for part in mark), mark[-1].get("d")) not in shapes


def test_reason_and_witness_stand_below() -> None:
    """Of what does not hold."""
    drawn = words(root(GUARD, proof(GUARD, Verdict.BROKEN, Verdict.BROKEN)))
    assert drawn.count("because so") == 3
    assert drawn.count("because") == 2
    assert "broken: channel raw is one-way" in drawn
    assert "a_t -> b_t: allow a_t b_t:file { write }" in drawn
    assert drawn[-1] == "Proof: of some policy"


def test_the_picture_says_what_it_is_to_who_can_not_see_it() -> None:
    """A role, a title, a description with the verdicts."""
    picture = root(GUARD, proof(GUARD, Verdict.HOLDS, Verdict.BROKEN))
    assert (picture.get("role"), picture.get("aria-labelledby")) == ("img", "title desc")
    title, desc = picture.find(f"{NS}title"), picture.find(f"{NS}desc")
    assert title is not None
    assert desc is not None
    assert (title.get("id"), title.text, desc.get("id")) == ("title", "Guard json", "desc")
    assert "channel raw from ingest to scrub, one-way: proven" in (desc.text or "")
    assert "requirement not deliver -> ingest: broken" in (desc.text or "")


def test_both_schemes_have_a_colour_for_everything() -> None:
    """Light and dark: each class that fills or strokes does so in both."""
    style = root(GUARD).find(f"{NS}style")
    assert style is not None
    light, dark = (style.text or "").split("@media (prefers-color-scheme:dark)")
    for name in ("text", ".dim", ".paper", ".stage rect", ".line", ".head", ".channel rect", ".good", ".bad", ".open"):
        assert f"{name}{{" in light, name
        assert f"{name}{{" in dark.replace(",", "{").replace("rect{.sink", "rect{ .sink"), name
    assert "http" not in (style.text or "")


def test_contrast_is_enough_to_read() -> None:
    """WCAG 2.1, 1.4.3: at least 4.5 to 1 for every colour of text on every ground, in both schemes."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    style = root(GUARD).find(f"{NS}style")
    assert style is not None
    for scheme in (style.text or "").split("@media (prefers-color-scheme:dark)"):
        texts = re.findall(r"(?:text(?:\.\w+)?|\.dim)\{[^}]*?fill:(#[0-9a-f]{6})", scheme)
        grounds = re.findall(r"(?:\.paper|rect)\{fill:(#[0-9a-f]{6})", scheme)
        assert len(texts) == 5
        assert len(grounds) == 4
        for text in texts:
            for ground in grounds:
                one, other = sorted((light(text), light(ground)), reverse=True)
                assert (one + 0.05) / (other + 0.05) >= 4.5, (text, ground)


# -- what may stand in a file


hostile = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)


@settings(max_examples=60, deadline=None)
@given(hostile, hostile, hostile)
def test_whatever_a_file_or_a_policy_says_it_is_text(path: str, function: str, reason: str) -> None:
    """Markup, quotes, controls, surrogates: the picture is XML, has the elements it would have, and no script."""
    plain = root(GUARD, proof(GUARD, Verdict.BROKEN, Verdict.BROKEN, "x"))
    for special in ("", "</text><script>alert(1)</script>", '"/><a href="javascript:1">', "]]>", "&lt;", "<!--"):
        stages = {
            "ingest": dataclasses.replace(GUARD.stages["ingest"], work=Source(medium=Medium.FILE, path=special + path)),
            "scrub": dataclasses.replace(
                GUARD.stages["scrub"], work=PythonFilter(function=special + function),
                quarantine=Quarantine(directory=path + special), type=special,
            ),
            "deliver": dataclasses.replace(GUARD.stages["deliver"], user=function + special),
        }  # fmt: skip
        guard = dataclasses.replace(GUARD, stages=stages)
        text = as_svg(guard, proof(guard, Verdict.BROKEN, Verdict.BROKEN, special + reason))
        picture = ET.fromstring(text.encode())
        assert {element.tag for element in picture.iter()} == {element.tag for element in plain.iter()}
        names = {key for element in picture.iter() for key in element.attrib}
        assert names == {key for element in plain.iter() for key in element.attrib}
        json.dumps(as_dict(guard, proof(guard, Verdict.BROKEN, Verdict.BROKEN, special + reason))).encode()


@pytest.mark.parametrize("long", ["x" * 4000, "日本語" * 1000, "a b " * 1000])
def test_no_text_leaves_its_box_or_the_picture(long: str) -> None:
    """However long a path, a program or a reason is, and however wide its characters."""
    stages = {
        "ingest": dataclasses.replace(GUARD.stages["ingest"], work=Source(medium=Medium.FILE, path=long)),
        "scrub": dataclasses.replace(GUARD.stages["scrub"], work=CommandFilter(command=("/usr/bin/jq", long))),
        "deliver": dataclasses.replace(
            GUARD.stages["deliver"], work=Sink(medium=Medium.FILE, path=long), user="u" * 32
        ),
    }  # fmt: skip
    guard = dataclasses.replace(GUARD, stages=stages)
    picture = root(guard, proof(guard, Verdict.BROKEN, Verdict.BROKEN, long))
    _, _, width, height = map(float, (picture.get("viewBox") or "").split())
    for group in picture.iter(f"{NS}g"):
        rect = group.find(f"{NS}rect")
        for text in group.findall(f"{NS}text"):
            shown = text.text or ""
            wide = sum(2 if ord(char) > 0x2E7F else 1 for char in shown)
            size = 15 if text.get("class") == "name" else 12
            end = float(text.get("x") or 0) + wide * CELL * size
            if rect is None:
                assert end <= width
                assert float(text.get("y") or 0) < height
            else:
                assert end <= float(rect.get("x") or 0) + float(rect.get("width") or 0)
                assert float(text.get("y") or 0) < float(rect.get("y") or 0) + float(rect.get("height") or 0)


def test_streams_programs_and_queues_are_named() -> None:
    """Whatever a stage does, and whatever carries a channel."""
    text = SMALL.replace('to = "b"', 'to = "f"\ntransport = "queue"\nslot_size = 1000\nchecksum = true')
    text += '[channel.d]\nfrom = "f"\nto = "b"\n[stage.f]\nfilter = { command = ["/bin/cat", "-"] }\n'
    drawn = words(root(parse(text, "F")))
    for line in ("reads standard input", "writes standard output", "runs /bin/cat -", "timeout 5 s",
                 "source, user whoever starts it", "queue of 2 x 1000 B", "sysv, dac, checksum"):  # fmt: skip
        assert line in drawn, drawn


def test_the_object_has_the_same() -> None:
    """Versioned, with each verdict beside what it is about."""
    document = as_dict(GUARD, proof(GUARD, Verdict.HOLDS, Verdict.BROKEN))
    assert (document["version"], document["guard"], document["file"]) == (1, "json", "F")
    ingest, scrub, _ = document["stages"]
    assert ingest["source"] == {"directory": "/var/spool/ingest"}
    assert (scrub["kind"], scrub["user"], scrub["type"]) == ("filter", 4242, "json_scrubber_t")
    assert scrub["filter"] == {"python": "json_guard:scrub", "decode": "json_guard:Order", "timeout": 2.0}
    assert scrub["quarantine"] == {"directory": "/var/lib/sipc/json/scrub/quarantine", "limit": 64 << 20}
    raw = document["channels"][0]
    assert (raw["from"], raw["to"], raw["registered"], raw["slots"]) == ("ingest", "scrub", "json.raw", 6)
    assert raw["one_way"]["verdict"] == "holds"
    assert [one["requirement"] for one in document["requirements"]] == [str(one) for one in GUARD.require]
    assert document["requirements"][1]["verdict"] == "broken"
    assert document["proof"]["report"]["ok"] is False
    assert as_dict(GUARD, unproven(GUARD))["proof"] == {"about": "no policy given", "report": None}
    assert json.loads(json.dumps(document)) == document


def test_a_guard_without_requirements_has_a_picture() -> None:
    """With nothing below but where the proof is from."""
    drawn = words(root(parse(SMALL, "F")))
    assert drawn[-1].startswith("Proof: none")
    assert "Requirements" not in drawn
    assert words(root(parse(changed(('"not deliver -> ingest",\n', "")), "F"))).count("Requirements") == 1
