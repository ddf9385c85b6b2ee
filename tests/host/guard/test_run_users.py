# SPDX-License-Identifier: Apache-2.0
"""Who the stages of a guard in the foreground are, and what is refused: other users, other programs, other domains."""

from __future__ import annotations

import os
import select
import stat
import subprocess
from pathlib import Path

import pytest
from tests.host.guard.test_run import channels
from tests.support.channels import Child
from tests.support.foreground import Run, guard_file, script

from sipc import process
from sipc.errors import Denied
from sipc.guard.launch import account_of
from sipc.guard.model import Medium, Source, Stage

pytestmark = pytest.mark.host

A, B = 4201, 4202  # users that no file names; a number is enough for the kernel
# A stage that any user can be: the interpreter of the tests may be root's alone.
SLEEPER = ("/bin/sh", "-c", 'trap "exit 130" TERM; touch "$STATE_DIRECTORY/x"; echo up >&2; sleep 1000 & wait')
TWO = f"""
[stage.a]
user = {A}
source = {{{{ directory = "{{folder}}/in" }}}}
[stage.b]
user = {B}
sink = {{{{ directory = "{{folder}}/out" }}}}
[channel.c]
from = "a"
to = "b"
"""


def up(run: Run) -> None:
    """Both stages have said so."""
    run.until("said")
    run.until("said")


def as_user(uid: int, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    """A command run as a user who has no groups."""
    return subprocess.run(
        list(map(str, argv)), user=uid, group=uid, extra_groups=(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_each_stage_runs_as_its_user_and_keeps_no_way_back(reachable: Path, registry: Path) -> None:
    """All four users and groups, no other group, no capability, and none to be had by exec."""
    with Run(guard_file(reachable, stages=TWO), registry=registry, command=SLEEPER) as run:
        up(run)
        for stage, uid in (("a", A), ("b", B)):
            pid = run.pid(stage)
            found = process.read(pid)
            assert (found.uids, found.gids, found.groups) == ((uid,) * 4, (uid,) * 4, frozenset())
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
            assert status["NoNewPrivs"] == "1"
        assert run.stop() == 130
    assert channels(registry) == []


def test_what_one_stage_shows_the_other_can_not_see(reachable: Path, registry: Path) -> None:
    """Status is for those outside: a receiver that writes it has no way back to its sender by that."""
    with Run(guard_file(reachable, stages=TWO), registry=registry, command=SLEEPER) as run:
        up(run)
        base = reachable / "state" / "g"
        for stage, uid, other in (("a", A, B), ("b", B, A)):
            state, shown = base / stage / "state", base / stage / "run"
            assert [(place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) for place in (state, shown)] == [
                (uid, 0o700), (uid, 0o755)
            ]  # fmt: skip
            assert as_user(uid, "/bin/ls", state).stdout == "x\n"
            for place in (state, shown, base / stage):
                denied = as_user(other, "/bin/ls", place)
                assert denied.returncode != 0
                assert "Permission denied" in denied.stderr
            assert as_user(uid, "/bin/touch", base / stage / "y").returncode != 0
        assert run.stop() == 130


def test_stages_of_other_users_die_with_their_supervisor(reachable: Path, registry: Path) -> None:
    """The kernel forgets the signal of a parent's death when the user changes; it is asked for after that."""
    with Run(guard_file(reachable, stages=TWO), registry=registry, command=SLEEPER) as run:
        up(run)
        pidfds = [os.pidfd_open(run.pid(stage)) for stage in ("a", "b")]
        run.process.kill()
        for pidfd in pidfds:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(30_000)
            os.close(pidfd)


def test_a_state_that_a_stage_can_not_reach_is_refused(folder: Path, reachable: Path, registry: Path) -> None:
    """Named, with the directory that is closed, before anything is started."""
    with Run(guard_file(reachable, stages=TWO), registry=registry, command=SLEEPER, state=str(folder / "s")) as run:
        assert run.end() == 4
        assert f"stage a (uid {A}) can not reach" in run.words
    assert run.events == []


def test_a_state_of_another_user_is_refused(reachable: Path, registry: Path) -> None:
    """Files that a former user of the stage has left there would be its cursor."""
    file = guard_file(reachable, stages=TWO)
    with Run(file, registry=registry, command=SLEEPER) as run:
        up(run)
        assert run.stop() == 130
    file.write_text(file.read_text().replace(str(A), "4203"))
    with Run(file, registry=registry, command=SLEEPER) as run:
        assert run.end() == 3
        assert f"belongs to uid {A}" in run.words
    assert run.events == []


def test_a_state_that_others_may_write_is_refused(reachable: Path, registry: Path) -> None:
    """Whoever may write there could make stages skip what nobody has finished."""
    (reachable / "state").mkdir(mode=0o777)
    (reachable / "state").chmod(0o777)
    with Run(guard_file(reachable, stages=TWO), registry=registry, command=SLEEPER) as run:
        assert run.end() == 3
        assert "can be changed by others" in run.words


def test_links_in_the_state_are_not_followed(reachable: Path, registry: Path) -> None:
    """A link in place of a stage's directory is refused, and what it leads to not given away."""
    target = reachable / "root"
    target.mkdir(mode=0o700)
    (reachable / "state" / "g").mkdir(parents=True)
    (reachable / "state" / "g" / "a").symlink_to(target)
    with Run(guard_file(reachable, stages=TWO), registry=registry, command=SLEEPER) as run:
        assert run.end() == 4
    assert target.stat().st_uid == 0
    assert list(target.iterdir()) == []


def test_a_process_that_is_not_what_was_planned_is_killed(folder: Path, registry: Path) -> None:
    """A script in place of the program: what runs is its interpreter, which nobody has allowed."""
    impostor = folder / "impostor"
    impostor.write_text("#!/bin/sh\nsleep 1000\n")
    impostor.chmod(0o700)
    with Run(guard_file(folder), registry=registry, command=[str(impostor)]) as run:
        assert run.end() == 4
    refused = [event["text"] for event in run.events if event["event"] == "refused"]
    assert "is not what was started: FAILED program" in refused[0]
    assert run.of("started") == ["f"]
    assert channels(registry) == []


def test_a_program_that_is_not_there_is_refused(folder: Path, registry: Path) -> None:
    """Before it is started; exit code 4, nothing left."""
    with Run(guard_file(folder), registry=registry, command=[str(folder / "nothing")]) as run:
        assert run.end() == 4
    assert run.of("refused") == ["f"]
    assert run.of("started") == []
    assert channels(registry) == []


def test_who_is_not_root_starts_nobody_else(reachable: Path) -> None:
    """Refused, not run as somebody else; a stage of the same user is no other."""
    work = Source(medium=Medium.DIRECTORY, path="/in")

    def look() -> tuple[int, int]:
        os.setgroups([])
        os.setgid(A)
        os.setuid(A)
        for stage in (Stage(name="b", work=work, user=B), Stage(name="g", work=work, user=A, group=B)):
            with pytest.raises(Denied, match="only root can start it so"):
                account_of(stage)
        mine = account_of(Stage(name="a", work=work, user=A))
        assert not mine.switched
        assert mine == account_of(Stage(name="n", work=work))
        return mine.uid, mine.gid

    assert Child(look).result() == (A, A)


def test_a_guard_that_asks_for_selinux_is_refused(folder: Path, registry: Path) -> None:
    """In the foreground no stage gets a domain; with less than the file asks for it does not run."""
    for stage in ("a", "f", "b"):
        script(folder, stage, [("wait",)])
    file = guard_file(folder)
    text = file.read_text().replace('enforcement = "dac"', 'enforcement = "selinux"')
    for stage, uid in (("a", A), ("f", B), ("b", 4203)):
        text = text.replace(f"[stage.{stage}]", f"[stage.{stage}]\nuser = {uid}")
    file.write_text(text)
    with Run(file, registry=registry) as run:
        assert run.end() == 4
        assert "asks for SELinux" in run.words
    assert run.events == []
    assert not (folder / "state").exists()
