# SPDX-License-Identifier: Apache-2.0
"""A guard in the foreground: real processes that die, stay, misbehave and are stopped; what is left is nothing."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest
from tests.support.foreground import Run, guard_file, script
from tests.support.program import program

from sipc import process
from sipc.registry import Registry

pytestmark = pytest.mark.host

MESSAGES = [b"one", b"two", b"three"]  # of these a channel that nobody reads takes two
KEPT = ("wait",)


@pytest.fixture
def playbook(folder: Path) -> Path:
    """A folder in which every stage waits until it is told to end, unless a test says otherwise."""
    for stage in ("a", "f", "b"):
        script(folder, stage, [KEPT])
    return folder


def passing(folder: Path) -> None:
    """Scripts of stages that carry three messages from a to f, and two from f to b, and end."""
    script(folder, "a", [("send", "raw", MESSAGES), ("end", "raw")])
    script(folder, "f", [("take", "raw", str(folder / "x")), ("send", "clean", [b"4", b"5"]), ("end", "clean")])
    script(folder, "b", [("take", "clean", str(folder / "y"))])


def channels(registry: Path) -> list[str]:
    """What is registered."""
    with Registry(registry) as opened:
        return opened.names()


def gone(pid: int, pidfd: int) -> bool:
    """Whether a process ends by itself, waited for."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(30_000)) or process.read(pid, pidfd=pidfd).stale is not None


# -- the ordinary run ------------------------------------------------------------------------------------------


def test_a_guard_whose_stages_end_ends_with_them(folder: Path, registry: Path) -> None:
    """All with 0: exit code 0, everything passed on, no channel and no process left."""
    passing(folder)
    with Run(guard_file(folder), registry=registry) as run:
        assert run.end() == 0
    assert run.of("started") == ["f", "b", "a"]
    assert ((folder / "x").read_bytes(), (folder / "y").read_bytes()) == (b"one\ntwo\nthree\n", b"4\n5\n")
    assert channels(registry) == []
    assert run.events[-1]["event"] == "channels-destroyed"


def test_channels_are_kept_when_asked_and_used_again(folder: Path, registry: Path) -> None:
    """The next run finds them, and destroys them when nobody asks to keep them."""
    passing(folder)
    file = guard_file(folder)
    with Run(file, registry=registry, keep=True) as run:
        assert run.end() == 0
    assert channels(registry) == ["g.clean", "g.raw"]
    with Run(file, registry=registry) as run:
        assert run.end() == 0
    assert len(run.of("channel-found")) == 2
    assert channels(registry) == []


def test_each_stage_has_directories_of_its_own(playbook: Path, registry: Path) -> None:
    """State closed, status open, both the stage's; nothing that others may write."""
    with Run(guard_file(playbook), registry=registry) as run:
        run.until("started", stage="a")
        for stage in ("a", "f", "b"):
            place = playbook / "state" / "g" / stage
            modes = [(place / entry).stat().st_mode & 0o777 for entry in (".", "state", "run")]
            assert modes == [0o700, 0o700, 0o755]
        assert run.stop() == 130


def test_what_a_stage_says_is_in_the_log_and_moves_no_cursor(playbook: Path, registry: Path) -> None:
    """Under its name, one event for each line, what a terminal would obey spelled out."""
    script(playbook, "f", [("say", "a\x1b[2Jb\r\nc\u202ed"), ("exit", 3)])
    with Run(guard_file(playbook), registry=registry) as run:
        assert run.end() == 3
    assert [event["text"] for event in run.events if event["event"] == "said"] == [
        "f: a\\x1b[2Jb", "f: c\\u202ed"
    ]  # fmt: skip


def test_stages_share_no_file(playbook: Path, registry: Path) -> None:
    """Standard input, output and error of two stages are never one open file, by which one could reach the other."""
    with Run(guard_file(playbook), registry=registry) as run:
        run.until("started", stage="a")
        links = {
            stage: [str(Path(f"/proc/{run.pid(stage)}/fd/{fd}").readlink()) for fd in range(3)]
            for stage in ("a", "f", "b")
        }
        assert run.stop() == 130
    for stage, (stdin, stdout, stderr) in links.items():
        assert (stdin, stdout) == ("/dev/null", "/dev/null"), stage
        assert stderr.startswith("pipe:")
    assert len({stderr for _, _, stderr in links.values()}) == 3


def test_a_stage_that_floods_the_log_holds_up_nobody_else(playbook: Path, registry: Path) -> None:
    """The supervisor takes a piece at a time: another stage's death is seen in between."""
    script(playbook, "f", [("flood", 1 << 30)])
    with Run(guard_file(playbook), registry=registry, patience=0.2, grace=0.2) as run:
        run.until("said", stage="f")
        os.kill(run.pid("b"), signal.SIGKILL)
        run.until("ended", stage="b")
        run.until("started", stage="b")
        assert run.stop() == 130


# -- a stage dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [("kill",), ("exit", 75)], ids=["killed", "temporary"])
def test_a_stage_that_dies_is_started_again(playbook: Path, registry: Path, end: tuple[object, ...]) -> None:
    """The others are not touched."""
    script(playbook, "f", [end], [end], [KEPT])
    with Run(guard_file(playbook), registry=registry) as run:
        for _ in range(3):
            run.until("started", stage="f")
        assert run.stop() == 130
    assert sorted(run.of("started")) == ["a", "b", "f", "f", "f"]
    assert channels(registry) == []


def test_a_stage_that_dies_too_often_stops_the_guard(playbook: Path, registry: Path) -> None:
    """As often as systemd would start it, and not once more: exit code 4."""
    script(playbook, "f", [("kill",)])
    with Run(guard_file(playbook), registry=registry, burst=3, interval=60.0) as run:
        assert run.end() == 4
    assert run.of("started").count("f") == 3
    assert run.of("limit") == ["f"]
    assert run.of("told") == ["a", "b"]
    assert channels(registry) == []  # nothing was ever sent


def test_the_last_stage_that_dies_too_often_ends_the_guard(playbook: Path, registry: Path) -> None:
    """With the others ended already nothing else would ever happen, and the supervisor waited for that."""
    for name in "ab":
        script(playbook, name, [("exit", 0)])
    script(playbook, "f", [("kill",)])
    with Run(guard_file(playbook), registry=registry, burst=3, interval=60.0) as run:
        assert run.end() == 4
    assert run.of("limit") == ["f"]
    assert run.of("told") == []


@pytest.mark.parametrize(("code", "ending"), [(3, 3), (4, 4), (1, 70), (70, 70)])
def test_a_stage_that_can_not_run_stops_the_guard(playbook: Path, registry: Path, code: int, ending: int) -> None:
    """It would not do better the next time; the guard ends with its reason."""
    script(playbook, "b", [("exit", code)])
    with Run(guard_file(playbook), registry=registry) as run:
        assert run.end() == ending
    assert run.of("started").count("b") == 1
    assert channels(registry) == []


def test_what_a_stage_leaves_behind_is_killed(playbook: Path, registry: Path) -> None:
    """Also a process that has left its process group and session."""
    script(playbook, "f", [("spawn",), ("exit", 0)])
    with Run(guard_file(playbook), registry=registry) as run:
        stray = int(run.until("stray")["pid"])
        with pytest.raises(ProcessLookupError):
            os.kill(stray, 0)
        assert run.stop() == 130


# -- a stage accuses its sender --------------------------------------------------------------------------------


def test_stop_sender_stops_who_sent_and_leaves_the_rest(playbook: Path, registry: Path) -> None:
    """The filter accuses the source, which is told to end; the sink runs on, nobody is started again."""
    script(playbook, "f", [("exit", 76)])
    with Run(guard_file(playbook, on_violation="stop-sender"), registry=registry) as run:
        run.until("ended", stage="a")
        assert run.of("told") == ["a"]
        os.kill(run.pid("b"), 0)
        assert run.stop() == 1
    assert len(run.of("started")) == 3


def test_a_sender_that_does_not_end_is_killed(playbook: Path, registry: Path) -> None:
    """SIGTERM is a request; who broke the protocol gets no second one."""
    script(playbook, "f", [("take", "raw", str(playbook / "x")), ("exit", 76)])
    script(playbook, "a", [("deaf",), ("send", "raw", MESSAGES), ("end", "raw"), KEPT])
    with Run(guard_file(playbook, on_violation="stop-sender"), registry=registry, patience=0.2) as run:
        assert run.until("ended", stage="a")["code"] == -signal.SIGKILL
        assert run.of("killed") == ["a"]
        assert run.stop() == 1


def test_an_accused_sender_that_waits_to_be_started_is_not(playbook: Path, registry: Path) -> None:
    """A sender that has just died is stopped by not starting it."""
    script(playbook, "a", [("exit", 75)])
    script(playbook, "f", [("exit", 76)])
    with Run(guard_file(playbook, on_violation="stop-sender"), registry=registry, burst=1000) as run:
        run.until("ended", stage="f")
        starts = run.of("started").count("a")
        assert run.stop() == 1
    assert run.of("started").count("a") <= starts + 1


def test_stop_guard_stops_everybody(playbook: Path, registry: Path) -> None:
    """Exit code 1, and the accuser is not started again."""
    script(playbook, "f", [("exit", 76)])
    with Run(guard_file(playbook, on_violation="stop-guard"), registry=registry) as run:
        assert run.end() == 1
    assert sorted(run.of("ended")) == ["a", "b", "f"]
    assert len(run.of("started")) == 3
    assert channels(registry) == []


def test_log_stops_nobody(playbook: Path, registry: Path) -> None:
    """The accuser has ended, and that is all."""
    script(playbook, "f", [("exit", 76)])
    with Run(guard_file(playbook, on_violation="log"), registry=registry) as run:
        assert run.until("ended", stage="f")["why"] == "violation"
        for stage in ("a", "b"):
            os.kill(run.pid(stage), 0)
        assert run.stop() == 1
    assert len(run.of("started")) == 3


def test_stages_learn_nothing_of_an_accusation(playbook: Path, registry: Path) -> None:
    """Who is not the offender gets no signal: its script would end with it."""
    script(playbook, "f", [("exit", 76)])
    with Run(guard_file(playbook, on_violation="stop-sender"), registry=registry) as run:
        run.until("ended", stage="a")
        assert run.of("ended") in (["f", "a"], ["a", "f"])
        assert run.stop() == 1


MEETING = """
[stage.a]
source = {{ directory = "{folder}/in" }}
[stage.f]
source = {{ directory = "{folder}/more" }}
[stage.b]
sink = {{ directory = "{folder}/out" }}
[channel.one]
from = "a"
to = "b"
[channel.two]
from = "f"
to = "b"
"""


def test_of_several_senders_the_accused_one_is_stopped(playbook: Path, registry: Path) -> None:
    """The stage's log names the channel."""
    script(playbook, "b", [("accuse", "g.two")])
    with Run(guard_file(playbook, stages=MEETING, on_violation="stop-sender"), registry=registry) as run:
        run.until("ended", stage="f")
        assert run.of("told") == ["f"]
        os.kill(run.pid("a"), 0)
        assert run.stop() == 1


@pytest.mark.parametrize("accusation", [("exit", 76), ("accuse", "g.elsewhere"), ("accuse", "other.one")])
def test_where_no_sender_is_accused_by_name_all_are_stopped(
    playbook: Path, registry: Path, accusation: tuple[object, ...]
) -> None:
    """Nobody goes on that may be the offender, and no accusation reaches who does not send to the stage."""
    script(playbook, "b", [accusation])
    with Run(guard_file(playbook, stages=MEETING, on_violation="stop-sender"), registry=registry) as run:
        assert run.end() == 1
    assert sorted(run.of("told")) == ["a", "f"]


# -- a quarantine is full --------------------------------------------------------------------------------------


def test_stop_stage_leaves_the_rest(playbook: Path, registry: Path) -> None:
    """The stage stays ended, and exit code 1 says that somebody has to look."""
    script(playbook, "f", [("exit", 77)])
    with Run(guard_file(playbook, on_quarantine_full="stop-stage"), registry=registry) as run:
        assert run.until("ended", stage="f")["why"] == "quarantine-full"
        for stage in ("a", "b"):
            os.kill(run.pid(stage), 0)
        assert run.stop() == 1
    assert len(run.of("started")) == 3


def test_a_full_quarantine_can_stop_the_guard(playbook: Path, registry: Path) -> None:
    """Everybody ends."""
    script(playbook, "f", [("exit", 77)])
    with Run(guard_file(playbook, on_quarantine_full="stop-guard"), registry=registry) as run:
        assert run.end() == 1
    assert sorted(run.of("ended")) == ["a", "b", "f"]


# -- stopped ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_guard_is_stopped_in_order(playbook: Path, registry: Path, number: signal.Signals) -> None:
    """Source, filter, sink, each when the one before has ended; then nothing is left, and the exit code is 130."""
    with Run(guard_file(playbook), registry=registry) as run:
        run.until("started", stage="a")
        assert run.stop(number) == 130
    assert run.of("told") == run.of("ended") == ["a", "f", "b"]
    assert channels(registry) == []


@pytest.mark.parametrize("ignored", ["INT", "HUP"])
def test_a_signal_that_is_ignored_from_the_start_stays_so(playbook: Path, registry: Path, ignored: str) -> None:
    """As nohup(1) and background jobs ask for: a guard that goes on restarts what is killed."""
    with Run(guard_file(playbook), registry=registry, before=["env", f"--ignore-signal={ignored}"]) as run:
        run.until("started", stage="b")
        run.process.send_signal(signal.Signals[f"SIG{ignored}"])
        os.kill(run.pid("f"), signal.SIGKILL)
        run.until("started", stage="f")
        assert run.of("told") == []
        assert run.stop(signal.SIGTERM) == 130


def test_stages_finish_what_has_come_before_they_are_told_to_end(folder: Path, registry: Path) -> None:
    """The sink is slow to begin; the guard waits until it has everything."""
    script(folder, "a", [("send", "raw", MESSAGES), ("say", "sent"), KEPT])
    script(folder, "f", [("take", "raw", str(folder / "x"))])
    script(folder, "b", [("say", "up"), KEPT])
    with Run(guard_file(folder), registry=registry, grace=60.0) as run:
        run.until("said")
        run.until("said")  # both take signals by now
        assert run.stop() == 130
    assert (folder / "x").read_bytes() == b"one\ntwo\nthree\n"
    assert channels(registry) == []


def test_what_nobody_has_finished_stays_and_the_next_run_goes_on(folder: Path, registry: Path) -> None:
    """The first run takes nothing, says so and keeps all channels; the second takes everything."""
    file = guard_file(folder)
    script(folder, "a", [("send", "raw", MESSAGES[:2]), ("say", "sent"), KEPT], [("end", "raw")])
    script(folder, "f", [KEPT], [("take", "raw", str(folder / "x")), ("end", "clean")])
    script(folder, "b", [KEPT], [("take", "clean", str(folder / "y"))])
    with Run(file, registry=registry, grace=0.3) as run:
        run.until("said", stage="a")
        assert run.stop() == 130
    assert (run.events[-1]["event"], run.events[-1]["left"]) == ("channels-kept", {"raw": 2})
    assert channels(registry) == ["g.clean", "g.raw"]
    with Run(file, registry=registry) as run:
        assert run.end() == 0
    assert (folder / "x").read_bytes() == b"one\ntwo\n"
    assert channels(registry) == []


def test_a_stage_that_was_killed_keeps_the_channels(folder: Path, registry: Path) -> None:
    """Everything is finished, but what a killed stage has noted holds for these very channels."""
    passing(folder)
    script(folder, "a", [("send", "raw", MESSAGES), ("end", "raw"), ("deaf",), ("say", "deaf"), KEPT])
    with Run(guard_file(folder), registry=registry, patience=0.2) as run:
        run.until("ended", stage="b")
        assert run.stop() == 130
    assert run.of("killed") == ["a"]
    assert run.events[-1]["event"] == "channels-kept"
    assert run.events[-1]["left"] == {}


@pytest.mark.parametrize("held", [".taken", ".taken-0000000000000001-00000000000000000001-0000000000"])
def test_a_source_that_stops_within_a_message_keeps_the_channels(folder: Path, registry: Path, held: str) -> None:
    """What it began to send may be through; on other channels it would send it again.  What it only took is not."""
    script(folder, "a", [("send", "raw", MESSAGES), ("say", "sent"), KEPT])
    script(folder, "f", [("take", "raw", str(folder / "x"))])
    script(folder, "b", [("say", "up"), KEPT])
    file = guard_file(folder)
    (folder / "in" / held).touch()
    with Run(file, registry=registry, grace=60.0) as run:
        run.until("said")
        run.until("said")  # both take signals by now
        assert run.stop() == 130
    began = held != ".taken"
    assert run.events[-1]["event"] == ("channels-kept" if began else "channels-destroyed")
    assert channels(registry) == (["g.clean", "g.raw"] if began else [])


def test_a_second_signal_waits_no_longer_and_a_third_kills(playbook: Path, registry: Path) -> None:
    """For those at a terminal."""
    script(playbook, "a", [("deaf",), ("say", "deaf"), KEPT])
    with Run(guard_file(playbook), registry=registry, grace=1000.0, patience=1000.0) as run:
        run.until("said", stage="a")
        run.process.send_signal(signal.SIGINT)
        run.until("told", stage="a")
        run.process.send_signal(signal.SIGINT)
        run.until("ended")
        run.until("ended")
        assert sorted(run.of("ended")) == ["b", "f"]
        assert run.stop(signal.SIGINT) == 130
    assert run.events[-1]["event"] in ("channels-kept", "channels-destroyed")


def test_ctrl_c_at_a_terminal_reaches_the_supervisor_alone(playbook: Path, registry: Path) -> None:
    """Each stage is a session of its own: the order of a stop is the supervisor's."""
    with Run(guard_file(playbook), registry=registry) as run:
        run.until("started", stage="a")
        for stage in ("a", "f", "b"):
            assert os.getsid(run.pid(stage)) == run.pid(stage)
        assert run.stop() == 130


# -- the supervisor is killed ----------------------------------------------------------------------------------


def test_stages_die_with_their_supervisor_and_the_next_run_recovers(folder: Path, registry: Path) -> None:
    """SIGKILL of the supervisor: no stage lives on; the channels are there with what is in them."""
    file = guard_file(folder)
    script(folder, "a", [("send", "raw", MESSAGES[:2]), ("say", "sent"), KEPT], [("end", "raw")])
    script(folder, "f", [("say", "up"), ("deaf",), KEPT], [("take", "raw", str(folder / "x")), ("end", "clean")])
    script(folder, "b", [("say", "up"), ("deaf",), KEPT], [("take", "clean", str(folder / "y"))])
    with Run(file, registry=registry) as run:
        for _ in range(3):
            run.until("said")
        stages = {run.pid(stage): os.pidfd_open(run.pid(stage)) for stage in ("a", "f", "b")}
        run.process.kill()
        for pid, pidfd in stages.items():
            assert gone(pid, pidfd)
            os.close(pidfd)
    with Run(file, registry=registry) as run:
        assert run.end() == 0
    assert len(run.of("channel-found")) == 2
    assert (folder / "x").read_bytes() == b"one\ntwo\n"
    assert channels(registry) == []


def test_channels_whose_kernel_objects_are_gone_are_made_anew(folder: Path, registry: Path) -> None:
    """As after a boot with a registry on disk."""
    passing(folder)
    file = guard_file(folder)
    with Run(file, registry=registry, keep=True) as run:
        assert run.end() == 0
    with Registry(registry) as opened:
        descriptor = opened.read("g.raw")
    from sipc.kernel import backend

    backend(descriptor.spec.backend).remove(descriptor.keys)
    for name in ("x", "y"):
        (folder / name).unlink()
    passing(folder)
    (folder / "a.starts").unlink()
    with Run(file, registry=registry) as run:
        assert run.end() == 0
    assert [event["channel"] for event in run.events if event["event"] == "channel-made"] == ["raw"]
    assert (folder / "x").read_bytes() == b"one\ntwo\nthree\n"


# -- who else runs ---------------------------------------------------------------------------------------------


def test_two_guards_run_side_by_side(folder: Path, registry: Path) -> None:
    """In one registry and one state directory; the end of one does nothing to the other."""
    first, second = folder / "1", folder / "2"
    for place in (first, second):
        place.mkdir()
        for stage in ("a", "f", "b"):
            script(place, stage, [KEPT])
    state = str(folder / "state")
    with (
        Run(guard_file(first, "one"), registry=registry, state=state) as one,
        Run(guard_file(second, "two"), registry=registry, state=state) as two,
    ):
        one.until("started", stage="a")
        two.until("started", stage="a")
        assert one.stop() == 130
        assert channels(registry) == ["two.clean", "two.raw"]
        os.kill(two.pid("b"), 0)
        assert two.stop() == 130
    assert channels(registry) == []


@pytest.mark.parametrize("state", ["state", "elsewhere"])
def test_a_guard_that_runs_is_not_run_again(playbook: Path, registry: Path, state: str) -> None:
    """Neither with the same state nor, in one registry, with another; the first run is not disturbed."""
    file = guard_file(playbook)
    with Run(file, registry=registry) as run:
        run.until("started", stage="a")
        with Run(file, registry=registry, state=str(playbook / state)) as again:
            assert again.end() == 4
            assert "runs already" in again.words
        assert channels(registry) == ["g.clean", "g.raw"]
        assert run.stop() == 130
    assert channels(registry) == []


def test_an_end_that_a_stranger_holds_stops_the_start(playbook: Path, registry: Path) -> None:
    """A channel that is there, open in a process that this guard did not start: refused, and not destroyed."""
    file = guard_file(playbook)
    with Run(file, registry=registry, keep=True) as run:
        run.until("started", stage="a")
        assert run.stop() == 130
    from sipc import open_receiver

    with open_receiver("g.raw", registry=registry), Run(file, registry=registry) as run:
        assert run.end() == 4
        assert "open in a process that this guard did not start" in run.words
    assert channels(registry) == ["g.clean", "g.raw"]


def test_a_channel_with_another_definition_is_neither_used_nor_destroyed(playbook: Path, registry: Path) -> None:
    """It may have something in it that nobody has finished."""
    file = guard_file(playbook)
    with Run(file, registry=registry, keep=True) as run:
        run.until("started", stage="a")
        assert run.stop() == 130
    file.write_text(file.read_text().replace("slot_size = 4096", "slot_size = 8192", 1))
    with Run(file, registry=registry) as run:
        assert run.end() == 3
        assert f"'sipc destroy g.raw --registry {registry}'" in run.words
    assert channels(registry) == ["g.clean", "g.raw"]


def test_when_the_helper_refuses_nothing_is_left(playbook: Path, registry: Path) -> None:
    """One of two channels can not be: neither is, and no stage was started."""
    file = guard_file(playbook)
    assert program(registry, "destroy", "nothing").returncode == 3  # the registry itself is usable
    text = file.read_text()
    at = text.rindex("slot_size = 4096")
    file.write_text(f'{text[:at]}transport = "queue"\nslot_size = 65536\n')
    with Run(file, registry=registry) as run:
        assert run.end() == 3
    assert run.events == []
    assert channels(registry) == []
