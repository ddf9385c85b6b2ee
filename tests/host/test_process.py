# SPDX-License-Identifier: Apache-2.0
"""Reading real processes: what they are, and never another one under the same number."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.descriptors import descriptors

from sipc import process
from sipc.endpoint_policy import EndpointPolicy, Failed
from sipc.process import read

pytestmark = pytest.mark.host

SLEEP = os.path.realpath(shutil.which("sleep") or "/bin/sleep")


@contextmanager
def running(*argv: str | Path, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is past its exec (it waits for its input, or sleeps), killed afterwards."""
    child = subprocess.Popen([*map(str, argv)], stdin=subprocess.PIPE, **more)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_this_process_is_read_as_it_is() -> None:
    """Users, groups, program and its digest, start."""
    found = read(os.getpid(), digest=True)
    assert found.stale is None
    assert found.uids is not None
    assert found.gids is not None
    assert found.uids[:3] == os.getresuid()
    assert found.gids[:3] == os.getresgid()
    assert found.groups == frozenset(os.getgroups())
    assert found.program == str(Path("/proc/self/exe").resolve())
    assert found.digest == hashlib.sha256(Path("/proc/self/exe").read_bytes()).hexdigest()
    assert not found.deleted
    began = found.started_at
    assert began is not None
    assert abs(began - Path(f"/proc/{os.getpid()}").stat().st_ctime) < 60


def test_a_digest_is_taken_when_it_is_asked_for() -> None:
    """It costs a read of the program."""
    found = read(os.getpid())
    assert found.digest is None
    assert "not asked for" in found.unread["digest"]


def test_another_users_process_is_read_too(tmp_path: Path) -> None:
    """All four users and groups, and the supplementary ones."""
    with running(SLEEP, "60", user=54321, group=54322, extra_groups=[54323, 54324]) as child:
        found = read(child.pid, digest=True)
    assert found.uids == (54321,) * 4
    assert found.gids == (54322,) * 4
    assert found.groups == frozenset({54323, 54324})
    assert found.program == SLEEP
    policy = EndpointPolicy(uid=54321, gid=54322, only_groups=frozenset({54323}))
    assert policy.judge(found).failed == Failed.ONLY_GROUPS


def test_a_program_that_was_replaced_under_its_path_is_known_by_what_runs(tmp_path: Path) -> None:
    """The path is marked as gone, and the digest is of what runs, not of what lies there now."""
    program = tmp_path / "end"
    shutil.copy(SLEEP, program)
    sha = hashlib.sha256(program.read_bytes()).hexdigest()
    with running(program, "60") as child:
        assert read(child.pid).program == str(program)
        program.unlink()
        program.write_bytes(b"#!/bin/sh\n")
        found = read(child.pid, digest=True)
    assert (found.program, found.deleted, found.digest) == (str(program), True, sha)
    policy = EndpointPolicy(program=str(program), digest=sha)
    assert policy.judge(found).failed == Failed.PROGRAM


def test_a_file_that_is_really_called_deleted_passes_for_no_other(tmp_path: Path) -> None:
    """Its name ends in the words that the kernel puts behind a removed one."""
    program = tmp_path / "end (deleted)"
    shutil.copy(SLEEP, program)
    with running(program, "60") as child:
        found = read(child.pid)
    assert found.deleted
    assert EndpointPolicy(program=str(tmp_path / "end")).judge(found).failed == Failed.PROGRAM


def test_a_process_that_named_itself_like_a_table_of_proc_is_read_right() -> None:
    """Its name goes into the files that are read: brackets, blanks, line ends."""
    code = (
        "import ctypes, os, sys\n"
        "os.setresuid(54321, 54321, 54321)\n"
        "ctypes.CDLL(None).prctl(15, b'x) R 1 (\\nUid:\\t9')\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with running(sys.executable, "-c", code, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = read(child.pid)
    assert found.stale is None
    assert found.uids == (54321,) * 4
    began = found.started_at
    mine = read(os.getpid()).started_at
    assert began is not None
    assert mine is not None
    assert began >= mine - 1


def test_an_ended_process_is_nobody() -> None:
    """Whether its parent has noticed yet, or has not."""
    with running(SLEEP, "0") as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert read(child.pid).stale == "it has ended"  # a zombie still has its number and its users
        child.wait()
        gone = read(child.pid)
    assert gone.stale is not None
    assert gone.uids is None


def test_a_pid_that_another_process_has_now_does_not_pass() -> None:
    """The pidfd is of one that has ended, or of another one; the number leads to a live process that would pass."""
    with running(SLEEP, "60") as one, running(SLEEP, "60") as other:
        policy = EndpointPolicy(program=SLEEP)
        first, second = os.pidfd_open(one.pid), os.pidfd_open(other.pid)
        try:
            assert policy.judge_pid(other.pid, pidfd=second).allowed
            found = read(other.pid, pidfd=first)
            assert found.stale is not None
            assert "another one" in found.stale
            assert found.program is None
            one.kill()
            one.wait()
            found = read(other.pid, pidfd=first)
            assert found.stale == "it has ended"
            verdict = policy.judge_pid(other.pid, pidfd=first)
            assert verdict.failed == Failed.PROCESS | Failed.PROGRAM
        finally:
            os.close(first)
            os.close(second)


def test_a_change_between_two_looks_is_seen() -> None:
    """Another program, or other users, in the same process."""
    code = (
        "import os, sys\n"
        "for line in sys.stdin:\n"
        "    os.setegid(54321) if 'group' in line else os.execv(sys.argv[1], [sys.argv[1], '60'])\n"
        "    print(flush=True)\n"
    )
    with running(sys.executable, "-u", "-c", code, SLEEP, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        directory = os.open(f"/proc/{child.pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            child.stdin.write(b"nothing about a group\n")
            child.stdin.flush()
            child.stdout.readline()
            first = process._look(directory)
            assert process._look(directory) == first
            child.stdin.write(b"exec\n")
            child.stdin.flush()
            child.stdout.close()
            while (second := process._look(directory)).program != SLEEP:
                os.sched_yield()
            assert second.started == first.started
            assert second != first
        finally:
            os.close(directory)


@pytest.mark.parametrize("pid", [0, -1, 1 << 22, 1 << 70])
def test_what_is_no_pid_is_nobody(pid: int) -> None:
    """And nothing is raised."""
    assert read(pid).stale is not None


def test_no_descriptor_is_left_open() -> None:
    """Neither for one that lives nor for one that does not."""
    before = descriptors()
    for pid in (os.getpid(), 1 << 22):
        read(pid, digest=True)
    assert descriptors() == before
