# SPDX-License-Identifier: Apache-2.0
"""A guard's units: names, order, domains, places, what follows from a violation; what systemd says of them."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.guards import GOOD, SMALL, changed

from sipc.definitions import parse as parse_definitions
from sipc.errors import SpecError
from sipc.guard.config import parse
from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs
from sipc.guard.stage import StageExit
from sipc.guard.units import (
    FULL,
    GUARDS,
    VIOLATION,
    Programs,
    act_name,
    channel_name,
    definitions,
    render,
    slice_name,
    stage_name,
    target_name,
)
from sipc.spec import Enforcement

# Above it `systemd-analyze security` no longer says SAFE (src/analyze/analyze-security.c: 10 is worst).
STAGE_EXPOSURE, HELPER_EXPOSURE, ACT_EXPOSURE = 1.0, 2.5, 4.5
DAC = (
    GOOD.replace('"selinux"', '"dac"').replace('"ingest"\n', '"daemon"\n').replace('"deliver"\n', '"bin"\n')
    .replace('from = "daemon"', 'from = "ingest"').replace('to = "bin"', 'to = "deliver"')
)  # fmt: skip


SECOND = '[stage.second]\nuser = "second"\nsource = { directory = "/var/spool/second" }\n'
TWO = changed(("[channel.clean]", '[channel.more]\nfrom = "second"\nto = "scrub"\n[channel.clean]'),
              ("[stage.scrub]", f"{SECOND}[stage.scrub]"))


def guard_of(text: str) -> Guard:
    return parse(text, "guard.toml")


def values(unit: str) -> dict[str, dict[str, list[str]]]:
    """A unit's sections; a directive's values in order, for some may be given twice."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in unit.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def stage(text: str, name: str) -> dict[str, dict[str, list[str]]]:
    guard = guard_of(text)
    return values(render(guard)[stage_name(guard.name, name)])


def script(text: str, name: str) -> str:
    """What the act unit of a stage runs, as the shell gets it."""
    guard = guard_of(text)
    (command,) = values(render(guard)[act_name(guard.name, name)])["Service"]["ExecStart"]
    return shlex.split(command.replace("$$", "$"))[2]


def test_one_target_one_slice_and_a_unit_for_each_channel_and_stage() -> None:
    """Nothing else is made, and the target wants all that runs."""
    units = render(guard_of(GOOD))
    channels = [f"sipc-guard-json-channel-{name}.service" for name in ("raw", "clean")]
    stages = [f"sipc-guard-json-stage-{name}.service" for name in ("ingest", "scrub", "deliver")]
    acts = [name.replace("-stage-", "-act-") for name in stages]
    assert sorted(units) == sorted(["sipc-guard-json.target", "sipc-guard-json.slice", *channels, *stages, *acts])
    assert values(units["sipc-guard-json.target"])["Unit"]["Wants"] == [" ".join((*channels, *stages))]


def test_names_of_two_guards_never_meet() -> None:
    """'-' parts a name, so one inside is escaped: guard a-stage-b and stage c is not guard a and stage b-stage-c."""
    assert stage_name("a-stage-b", "c") == r"sipc-guard-a\x2dstage\x2db-stage-c.service"
    assert stage_name("a", "b-stage-c") != stage_name("a-stage-b", "c")
    for name in ("json", "a-b", "a_b", "x-stage-y"):
        for made in (target_name(name), slice_name(name), channel_name(name, "c-d")):
            part = made.rpartition(".")[0].removeprefix("sipc-guard-").partition("-")[0]
            done = subprocess.run(
                ["systemd-escape", "--unescape", part], capture_output=True, text=True, check=True, timeout=20
            )
            assert done.stdout.strip() == name


def test_a_stage_runs_as_its_user_in_its_domain_in_its_places_alone() -> None:
    """Strictly in the domain; it may write its ends' private directories and what the file gives it, nothing more."""
    service = stage(GOOD, "scrub")["Service"]
    assert service["User"] == ["4242"]
    assert service["Group"] == ["4242"]
    assert service["SELinuxContext"] == ["system_u:system_r:json_scrubber_t:s0"]
    assert service["StateDirectory"] == service["RuntimeDirectory"] == ["sipc-guards/json/scrub"]
    assert service["ReadWritePaths"] == [
        "/run/sipc/.private/json.clean/sender /run/sipc/.private/json.raw/receiver /var/lib/sipc/json/scrub/quarantine"
    ]
    assert service["ExecStart"] == ["sipc guard stage /etc/sipc/guards/json.toml scrub"]
    assert "SELinuxContext" not in stage(DAC, "scrub")["Service"]


def test_what_is_restarted_is_what_the_stage_says_a_start_may_mend() -> None:
    """Every exit code but the temporary one ends it; a signal does not."""
    service = stage(GOOD, "ingest")["Service"]
    assert service["Restart"] == ["on-failure"]
    kept = {int(code) for code in service["RestartPreventExitStatus"][0].split()}
    assert kept == {*StageExit} - {StageExit.ENDED, StageExit.TEMPORARY}
    assert service["SuccessExitStatus"] == [str(int(StageExit.STOPPED))]
    assert (StageExit.VIOLATED, StageExit.FULL) == (VIOLATION, FULL)


def test_who_receives_starts_before_who_sends_to_it() -> None:
    """So it stops after it; and each needs its channels."""
    unit = stage(GOOD, "ingest")["Unit"]
    assert unit["Requires"] == [channel_name("json", "raw")]
    assert unit["After"] == [f"{channel_name('json', 'raw')} {stage_name('json', 'scrub')}"]
    assert stage(GOOD, "deliver")["Unit"]["After"] == [channel_name("json", "clean")]
    assert unit["PartOf"] == [target_name("json")]


@pytest.mark.parametrize(
    ("rule", "stopped"),
    [
        ("stop-sender", stage_name("json", "ingest")),
        ("stop-guard", target_name("json")),
        ("log", None),
    ],
)
def test_a_violation_stops_what_the_file_says(rule: str, stopped: str | None) -> None:
    """The scrubber saw it: the shell's lines, run with a systemctl that says what it was asked."""
    text = script(changed(('"stop-sender"', f'"{rule}"')), "scrub")
    said = _run(text, VIOLATION)
    assert said.splitlines()[0] == f"stage scrub: its sender violated the protocol: {rule}"
    assert said.splitlines()[1:] == ([f"systemctl stop --no-block {stopped}"] if stopped else [])


@pytest.mark.parametrize(("rule", "stopped"), [("stop-stage", []), ("stop-guard", [target_name("json")])])
def test_a_full_quarantine_stops_what_the_file_says(rule: str, stopped: list[str]) -> None:
    """The stage itself has stopped already."""
    text = script(changed(('on_quarantine_full = "stop-guard"', f'on_quarantine_full = "{rule}"')), "scrub")
    said = _run(text, FULL).splitlines()
    calls = [f"systemctl stop --no-block {unit}" for unit in stopped]
    assert said == [f"stage scrub: its quarantine is full: {rule}", *calls]


def test_any_other_end_stops_nothing_and_is_told() -> None:
    """A crash that was restarted too often is no violation."""
    for code in (3, 4, 75, ""):
        said = _run(script(GOOD, "scrub"), code)
        assert said == "stage scrub has failed and is not started again: sipc guard status json\n"


@pytest.mark.parametrize(
    ("accused", "stopped"),
    [("json.raw", ["ingest"]), ("json.more", ["second"]), ("", ["ingest", "second"]),
     ("json.clean", ["ingest", "second"])],
)
def test_of_two_senders_the_accused_one_is_stopped(accused: str, stopped: list[str]) -> None:
    """By the stage's log; one that names no channel of its own accuses all who send to it."""
    said = _run(script(TWO, "scrub"), VIOLATION, accused)
    units = " ".join(stage_name("json", name) for name in stopped)
    assert said.splitlines()[0] == "stage scrub: its sender violated the protocol: stop-sender"
    assert said.splitlines()[2] == f"systemctl stop --no-block {units}"
    asked = f"sipc guard accused {GUARDS}/json.toml scrub"
    assert asked in script(TWO, "scrub")
    assert asked not in script(GOOD, "scrub")  # there is only one to be stopped


def test_a_name_with_a_dash_reaches_systemctl_unharmed() -> None:
    """Escapes of systemd, of the unit file and of the shell, one inside the other."""
    text = script(changed(('"json"\non', '"js-on"\non'), ('"stop-sender"', '"stop-guard"')), "scrub")
    assert _run(text, VIOLATION).splitlines()[1] == r"systemctl stop --no-block sipc-guard-js\x2don.target"


def _run(text: str, status: int | str, accused: str = "") -> str:
    asked = 'systemctl() { if [ $1 = stop ]; then echo systemctl "$@"; fi; }\n'
    asked += f"sipc() {{ echo {accused}; }}\n"
    text = asked + text.replace("exec systemctl", "systemctl")
    done = subprocess.run(["/bin/sh", "-c", text], env={"MONITOR_EXIT_STATUS": str(status)}, capture_output=True,
                          text=True, check=True, timeout=20)  # fmt: skip
    return done.stdout


def test_the_helper_reads_the_very_channels_of_the_guard() -> None:
    """What is written for it is read back as what the policy and the stages go by."""
    guard = guard_of(DAC)
    read = parse_definitions(definitions(guard), "channels.toml", enforcement=Enforcement.SELINUX)
    wanted = {spec.name: spec for spec in channel_specs(guard).values()}
    assert read.keys() == wanted.keys()
    for name, spec in wanted.items():
        for key in ("wire", "transport", "backend", "segment_creator", "enforcement", "geometry", "max_message",
                    "checksum", "channel_type", "sender", "receiver", "tag"):  # fmt: skip
            assert getattr(read[name], key) == getattr(spec, key), key


def test_only_who_logs_to_the_journal_has_a_socket() -> None:
    """Stages that receive: what a source does is in the logs of those."""
    journal = DAC.replace('enforcement = "dac"', 'enforcement = "dac"\naudit = "journal"')
    for text, expected in ((DAC, ["none"] * 3), (journal, ["none", "AF_UNIX", "AF_UNIX"])):
        found = [stage(text, name)["Service"]["RestrictAddressFamilies"] for name in ("ingest", "scrub", "deliver")]
        assert found == [[one] for one in expected]


def test_no_stage_may_take_what_the_others_need() -> None:
    """Memory of all stages together stays below the machine's; tasks, files and swap are bounded; a slice holds all."""
    parts = []
    for name in ("ingest", "scrub", "deliver"):
        service = stage(GOOD, name)["Service"]
        parts.append(int(service["MemoryMax"][0].removesuffix("%")))
        assert service["MemorySwapMax"] == ["0"]
        assert int(service["TasksMax"][0]) <= 64
        assert service["CPUWeight"] == service["IOWeight"] == ["100"]
        assert service["Slice"] == ["sipc-guard-json.slice"]
    assert sum(parts) <= 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL, "a service has no terminal"),
        (SMALL, "would run the stage as root"),
        (changed(('"/var/spool/ingest"', '"/var/log"')), "is the system's"),
        (changed(('"/var/spool/ingest"', '"/tmp/in"')), "hidden from services"),
        (changed(('{ directory = "/var/spool/ingest" }', '{ file = "/srv/in" }')), "is the system's"),
        (changed(('{ directory = "/var/spool/ingest" }', '{ socket = "/run/in/s" }')), "names of sockets"),
    ],
)
def test_what_can_not_be_a_service_is_refused_with_its_line(text: str, said: str) -> None:
    """Before anything is written; the message names the line and what would do."""
    with pytest.raises(SpecError, match=said) as caught:
        render(guard_of(text))
    assert all(re.match(r"guard\.toml:\d+: \[stage\.", line) for line in str(caught.value).splitlines())


def test_paths_keep_their_characters() -> None:
    """Spaces, percent signs, quotes and dollars are the path's, not systemd's."""
    text = DAC.replace("/var/spool/ingest", r"/var/spool/a b%n$x\"y")
    assert stage(text, "ingest")["Service"]["ReadWritePaths"] == [
        r'/run/sipc/.private/json.raw/sender "/var/spool/a b%%n$x\"y"'
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units of a guard of three stages in a folder; programs that are here."""
    folder = tmp_path_factory.mktemp("units")
    programs = Programs(sipc=sys.executable, helper=sys.executable)
    for name, text in render(guard_of(DAC.replace('"json"', '"js-on"')), programs).items():
        (folder / name).write_text(text)
    for name, text in render(guard_of(GOOD.replace('"json"\non', '"held"\non')), programs).items():
        (folder / name).write_text(text)
    return folder


def test_systemd_finds_nothing_wrong_with_them(written: Path) -> None:
    """`systemd-analyze verify`: every directive known, every value taken, every unit that is named there."""
    paths = sorted(map(str, written.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if str(written) in line]) == (0, [])


@pytest.mark.parametrize(
    ("kind", "most"), [("stage", STAGE_EXPOSURE), ("channel", HELPER_EXPOSURE), ("act", ACT_EXPOSURE)]
)
def test_systemd_finds_their_exposure_small(written: Path, kind: str, most: float) -> None:
    """`systemd-analyze security`: stages are SAFE; the helper has its five capabilities, the act unit is root's."""
    units = sorted(written.glob(f"*-{kind}-*.service"))
    assert len(units) == {"stage": 6, "channel": 4, "act": 6}[kind]
    for unit in units:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--threshold={int(most * 10)}", str(unit)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_unit_is_read_by_a_stranger() -> None:
    """One directive a line, in three known sections: other tools read them too."""
    for text in render(guard_of(GOOD)).values():
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
        parser.read_string(text)
        assert set(parser) <= {"DEFAULT", "Unit", "Service", "Slice", "Install"}
