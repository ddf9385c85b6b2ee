# SPDX-License-Identifier: Apache-2.0
"""Judging and writing down what flowed back: known traces have known rates, and the page is written whole or not."""

from __future__ import annotations

import ctypes
import errno
import math
from itertools import pairwise
from pathlib import Path

import pytest
from bench import leftover_ways, leftovers, report
from bench.harness import Failed, Place
from bench.leftover_ways import WARM, WAYS, Confined, Mode, Received, Setting, by_time, compile_ways
from bench.stats import Results

ROOT = Path(__file__).parents[3]
FACTS = {
    "machine": {"cpu": "a processor", "virtual": "no", "cores": 2, "kernel": "6.1"}, "load": 0.25,
    "made": "2025-02-03T04:05:06Z",
}  # fmt: skip


def received(symbols: tuple[int, ...], took_ns: int = 1_000_000) -> Received:
    """A run in which nothing was refused."""
    return Received(symbols=symbols, took_ns=took_ns, sender_refused=0, receiver_refused=0)


def results() -> Results:
    """Five rounds of every way: free it carries, a confined sender is refused mincore."""
    made = Results(5)
    for confined in Confined:
        for number, way in enumerate(WAYS):
            refused = "sender: EPERM" if "mincore" in way.code and confined is Confined.BOTH else ""
            for turn in range(5):
                made.add(confined.value, way.key, "raw", turn, 0 if refused else 100.0 + number)
                made.add(confined.value, way.key, "capacity", turn, 0 if refused else 50.0 + number + turn)
                made.add(confined.value, way.key, "wrong", turn, 0.01)
            made.note(confined.value, way.key, "capacity", bits=3, span_ns=700, refused=refused)
    return made


def test_the_programs_compile_and_have_every_way(tmp_path: Path) -> None:
    """Without a warning, and each way's steps are there by its name."""
    library = tmp_path / "ways.so"
    compile_ways(library)
    data = library.read_bytes()
    assert all(way.function.encode() + b"\0" in data for way in WAYS)
    loaded = ctypes.CDLL(str(library))
    assert all(hasattr(loaded, f"leftover_{name}") for name in ("send", "receive", "reset", "look", "act", "done"))


def test_what_does_not_compile_is_said_in_the_compilers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not measured, instead of measured with something else."""
    (tmp_path / "broken.c").write_text("int broken(void) { return nothing; }\n")
    monkeypatch.setattr(leftover_ways, "SOURCES", tmp_path)
    with pytest.raises(Failed, match="nothing"):
        compile_ways(tmp_path / "ways.so")


def test_both_sides_mean_the_same_structure_and_modes() -> None:
    """Names and order in leftover.h are those of `End` and `Mode`."""
    text = (ROOT / "bench" / "leftovers" / "leftover.h").read_text()
    body = text[text.index("struct end {") : text.index("};", text.index("struct end {"))]
    words = [line.split("/*")[0].replace("*", " ") for line in body.splitlines()[1:]]
    names = [name.strip(" ;").split()[-1] for line in words if line.strip() for name in line.split(",") if name.strip()]
    assert names == [field[0] for field in leftover_ways.End._fields_]
    modes = text[text.index("enum mode {") : text.index("};")]
    assert [line.split(",")[0].strip() for line in modes.splitlines()[1:] if "/*" in line] == [m.name for m in Mode]


@pytest.mark.parametrize("late", [0, 340, 1000, 12_345])
def test_a_trace_of_times_is_decoded_whatever_the_symbols_take_to_show(late: int) -> None:
    """Parts of 500 ns, eight of them; a receiver that is late uses a later round; spread less than half a part."""
    setting = Setting(bits=3, span_ns=500)
    order = [0, 1, 3, 2, 6, 7, 5, 4]  # neighbours differ in one bit
    symbols = [0] * WARM + [order[at * 5 % 8] for at in range(100)]
    spread = [-240, -100, 0, 130, 240]
    times = [
        late + 250 + 500 * order.index(symbol) + 4000 * (at % 3) + spread[at % 5] for at, symbol in enumerate(symbols)
    ]
    assert by_time(times, setting) == symbols
    assert by_time([], setting) == []


def test_a_neighbouring_part_is_one_wrong_bit() -> None:
    """What is mistaken most costs least."""
    setting = Setting(bits=3, span_ns=500)
    times = [250] * WARM + [250 + 500 * part for part in range(8)]
    parts = by_time(times, setting)[WARM:]
    assert sorted(parts) == list(range(8))
    assert [(a ^ b).bit_count() for a, b in pairwise(parts)] == [1] * 7


def test_bits_that_arrive_wrong_are_counted() -> None:
    """In what came; what did not come is no bit."""
    assert leftovers.wrong_bits([0b101, 0b111, 0], [0b101, 0b001]) == 2
    judged = leftovers.outcome([0b101, 0b111], received((0b101, 0b001)), 3)
    assert judged.wrong == pytest.approx(2 / 6)
    assert judged.raw == pytest.approx((2 + WARM) * 3 / 1e6 * 1e6)


def test_the_capacity_of_a_known_trace() -> None:
    """All right: the raw rate. A tenth wrong: 0.531 of it. All wrong carries as much as all right."""
    bits = 10_000
    assert leftovers.capacity(100.0, 0, bits) == 100.0
    assert leftovers.capacity(100.0, bits // 10, bits) == pytest.approx(53.1, abs=0.01)
    assert leftovers.capacity(100.0, bits, bits) == 100.0


@pytest.mark.parametrize("wrong", [4801, 5000, 5199])
def test_what_could_be_guessed_carries_nothing(wrong: int) -> None:
    """Half wrong, within four deviations, is no information; nor is nothing."""
    assert leftovers.capacity(100.0, wrong, 10_000) == 0.0
    assert leftovers.capacity(100.0, 0, 0) == 0.0


def test_a_refused_run_carries_nothing_and_says_who_was_refused() -> None:
    """Rate 0, with the errno by name."""
    run = Received(symbols=(), took_ns=1, sender_refused=errno.EPERM, receiver_refused=errno.EACCES)
    judged = leftovers.outcome([1, 0], run, 1)
    assert (judged.raw, judged.capacity) == (0.0, 0.0)
    assert math.isnan(judged.wrong)
    assert run.refused == "receiver: EACCES, sender: EPERM"


def test_the_page_is_the_same_when_written_again(tmp_path: Path) -> None:
    """Only what is between the marks changes, and a second time nothing does."""
    page = tmp_path / "page.md"
    begin, end = leftovers.MARKS
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    text = leftovers.fragment(results(), FACTS)
    report.into_page(page, text, leftovers.MARKS)
    once = page.read_text()
    report.into_page(page, leftovers.fragment(results(), FACTS), leftovers.MARKS)
    assert page.read_text() == once == f"before\n{begin}\n{text}{end}\nafter\n"
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize("text", ["", "{0}\n", "{1}\n{0}\n", "{0}\n{1}\n{0}\n{1}\n"])
def test_a_page_without_its_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    """Neither, one, both in the wrong order, or twice."""
    page = tmp_path / "page.md"
    page.write_text(text.format(*leftovers.MARKS))
    with pytest.raises(ValueError, match="no single pair"):
        report.into_page(page, "new\n", leftovers.MARKS)
    assert page.read_text() == text.format(*leftovers.MARKS)


def test_the_table_says_what_was_measured_where_and_what_is_refused() -> None:
    """Machine, kernel, date, load; a row for every way; the errno where nothing came; the widest of what is open."""
    text = leftovers.fragment(results(), FACTS)
    assert text.startswith("Measured on a processor (2 cores), Linux 6.1, load 0.2, 2025-02-03: 5 rounds")
    lines = text.splitlines()
    for way in WAYS:
        (row,) = [line for line in lines if line.startswith(f"| {way.name} | {way.code}, 3 bits, 700 ns |")]
        assert ("| 0 (sender: EPERM) |" in row) == ("mincore" in way.code)
    still = [number for number, way in enumerate(WAYS) if way.backend == "sysv" and way.closed_by.startswith("nothing")]
    median = 50 + still[-1] + 2
    assert f"System V: {median + 2:.1f} kbit/s in its best round, {median:.1f} in the median" in text


def test_when_the_time_is_over_nothing_more_is_played_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops by itself: every way is named as not measured."""
    monkeypatch.setattr(leftovers, "_BUDGET", -1.0)
    rounds = leftovers.Rounds(WAYS, 5, Place(sender_core=None, receiver_core=None), seed=1)
    found = rounds.all_rounds()
    assert len(found.failures) == len(WAYS) * len(Confined)
    assert all("are over" in fail["reason"] for fail in found.failures)
    assert leftovers.fragment(found, FACTS).count("- not measured:") == len(found.failures)


@pytest.mark.parametrize("argv", [["--rounds", "4"], ["--only", "no such way"], ["--only", "flock", "--write-docs"]])
def test_too_few_rounds_or_part_of_the_page_is_a_usage_error(argv: list[str]) -> None:
    """Exit code 2, before anything is made."""
    with pytest.raises(SystemExit) as ended:
        leftovers.main(argv)
    assert ended.value.code == 2


def test_what_was_not_measured_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page keeps its last whole table; exit code 1."""
    page = tmp_path / "page.md"
    page.write_text("\n".join(leftovers.MARKS))
    monkeypatch.setattr(leftovers, "_BUDGET", -1.0)
    monkeypatch.setattr(leftovers, "PAGE", page)
    monkeypatch.setattr(leftovers, "OUT", tmp_path / "out.json")
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process keeps its own
    assert leftovers.main(["--write-docs"]) == 1
    assert page.read_text() == "\n".join(leftovers.MARKS)
    assert list(tmp_path.iterdir()) == [page]


def test_rounds_that_were_not_played_are_in_no_summary() -> None:
    """Of a run that ended early."""
    made = Results(11)
    made.add("section", "name", "column", 0, 1.0)
    made.add("section", "name", "column", 2, 3.0)
    made.trim(5)
    assert made.rounds == 5
    assert made.series["section"]["name"]["column"] == [1.0, None, 3.0, None, None]
