# SPDX-License-Identifier: Apache-2.0
"""One stage's process, started: its user, its directories, what it is given, and what must be true of it.

Owns that a stage gets nothing by which another stage could reach it.  Its state directory is its own (0700), the one
of its status (0755) lies below a directory that no other stage may enter (0710), so that what it writes there is no way
back; standard error is a pipe to whoever started it, never one file shared by all; standard input and output are given
to the one stage that has them as its work.

The process dies with the one that started it (prctl(2) PR_SET_PDEATHSIG, set after the user was changed, as that
forgets it) and can gain no rights by exec (PR_SET_NO_NEW_PRIVS), so no program of another user escapes that.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sipc import process
from sipc.endpoint_policy import EndpointPolicy, Failed, Verdict
from sipc.errors import Denied, KernelError, SpecError
from sipc.guard.endpoints import groups_of, started_policy
from sipc.guard.model import Guard, Kind, Medium, Stage
from sipc.guard.places import Places
from sipc.guard.policy import account
from sipc.guard.process import environment
from sipc.guard.storage import close_directory, doing, open_directory

__all__ = (
    "Account",
    "Running",
    "account_of",
    "endpoint_policy",
    "judged",
    "make_places",
    "stage_command",
    "start",
)

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_prctl = ctypes.CDLL(None).prctl
_MASK = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who a stage runs as; `switched`: not who starts it, so with no supplementary groups but what it must have."""

    uid: int
    gid: int
    groups: frozenset[int]
    switched: bool


@dataclass(slots=True, kw_only=True)
class Running:
    """A stage's process.  `errors` is where it says what goes wrong, not blocking, -1 when it has closed that.

    `close` when it was reaped.
    """

    process: subprocess.Popen[bytes]
    pidfd: int
    errors: int

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def deafen(self) -> None:
        """Hear no more of it."""
        self.errors = -1
        if self.process.stderr is not None:
            self.process.stderr.close()

    def close(self) -> None:
        """Let go of the descriptors."""
        self.deafen()
        os.close(self.pidfd)


def account_of(stage: Stage) -> Account:
    """Who a stage would run as, started from here.

    Raises `SpecError` for a user or group that there is not, `Denied` for one that this process can not become.
    """
    try:
        uid, gid = account(stage)
    except LookupError as error:
        kind, name = error.args
        raise SpecError(f"stage {stage.name}: there is no {kind} {name!r} on this host: create it, or name another") \
            from None  # fmt: skip
    mine, my_group = os.geteuid(), os.getegid()
    uid, gid = mine if uid is None else uid, my_group if gid is None else gid
    wanted = groups_of(stage, stage.endpoint.in_groups if stage.endpoint is not None else None) or frozenset()
    if (uid, gid) == (mine, my_group) and (mine != 0 or wanted <= frozenset(os.getgroups())):
        return Account(uid=uid, gid=gid, groups=frozenset(os.getgroups()), switched=False)
    if mine != 0:
        raise Denied(
            f"stage {stage.name} runs as uid {uid}, gid {gid}, and only root can start it so (this is uid {mine}, gid "
            f"{my_group}): run the guard as root, or remove user and group from the file"
        )
    return Account(uid=uid, gid=gid, groups=wanted, switched=True)


def endpoint_policy(stage: Stage, who: Account, program: str) -> EndpointPolicy:
    """What must be true of a stage's process: its users and groups, all of them, what it runs, and the file's rules."""
    return started_policy(stage, uid=who.uid, gid=who.gid, groups=who.groups, program=program)


def make_places(state: Path, guard: Guard, who: Mapping[str, Account]) -> dict[str, Places]:
    """Make the directories of every stage: STATE/GUARD/STAGE/{state,run}; those that are there are checked.

    Raises `SpecError` or `Denied` for one that others may write, that belongs to another, or that its stage could not
    reach.
    """
    shared = any(one.switched for one in who.values())
    mode = 0o755 if shared else 0o700
    with doing("mkdir", state, "give --state a directory of this user's own"):
        state.mkdir(mode=mode, parents=True, exist_ok=True)
    places = {}
    top = open_directory(state, "state directory", private=True)
    try:
        middle = _made(top, guard.name, state / guard.name, mode)
        try:
            for name, one in who.items():
                places[name] = _place(middle, name, state / guard.name / name, one)
        finally:
            close_directory(middle)
    finally:
        close_directory(top)
    return places


def _place(middle: int, name: str, where: Path, who: Account) -> Places:
    own = _made(middle, name, where, 0o710 if who.switched else 0o700, gid=who.gid if who.switched else None)
    try:
        for entry, mode in (("state", 0o700), ("run", 0o755)):
            close_directory(_made(own, entry, where / entry, mode, uid=who.uid, gid=who.gid))
    finally:
        close_directory(own)
    if who.switched:
        _check_reachable(name, where, who)
    return Places(state=where / "state", run=where / "run")


def _made(parent: int, entry: str, where: Path, mode: int, *, uid: int | None = None, gid: int | None = None) -> int:
    """A descriptor of a directory that is there, with this owner and mode.  One that is there keeps what is in it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with doing("mkdir", where, "the state directory must be this user's"):
        new = True
        try:
            os.mkdir(entry, 0o700, dir_fd=parent)
        except FileExistsError:
            new = False
        fd = os.open(entry, flags, dir_fd=parent)
    try:
        status = os.fstat(fd)
        owner = os.geteuid() if uid is None else uid
        if not new and status.st_uid != owner:
            raise SpecError(
                f"{where} belongs to uid {status.st_uid}, and to uid {owner} by the guard file: who was it made for? "
                "move it away, or give another --state"
            )
        with doing("chown", where, "the state directory must be this user's"):
            group = status.st_gid if gid is None else gid
            if (status.st_uid, status.st_gid) != (owner, group):
                os.fchown(fd, owner, group)
            if stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(fd, mode)
    except BaseException:
        close_directory(fd)
        raise
    return fd


def _check_reachable(name: str, where: Path, who: Account) -> None:
    """Every directory above a stage's own lets it through."""
    for above in (where, *where.absolute().parents):
        status = above.stat()
        shift = 6 if status.st_uid == who.uid else 3 if status.st_gid == who.gid else 0
        if not status.st_mode >> shift & 0o1 and who.uid != 0:
            raise Denied(
                f"stage {name} (uid {who.uid}) can not reach {where}: {above} is closed to it: give a --state that "
                "every stage's user can reach, for example /var/lib/sipc-run"
            )


def start(
    guard: Guard, stage: Stage, who: Account, place: Places, argv: Sequence[str], variables: Mapping[str, str]
) -> Running:
    """Start one stage.  Raises `Denied` when what is planned is not what must be, `KernelError` when it can not be.

    It runs when this returns: judge it.
    """
    program = os.path.realpath(argv[0])
    # Started from here it keeps this process's domain, unless a policy says otherwise: then it is judged after.
    context = process.read(os.getpid()).context
    subject = process.planned(uid=who.uid, gid=who.gid, groups=who.groups, program=argv[0], context=context)
    endpoint_policy(stage, who, program).judge(subject).require(f"guard {guard.name}: starting stage {stage.name}")
    parent = os.getpid()

    def prepare() -> None:
        os.umask(_MASK)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it died before the line above

    given = environment({
        **variables, "STATE_DIRECTORY": str(place.state), "RUNTIME_DIRECTORY": str(place.run),
    })  # fmt: skip
    stream = getattr(stage.work, "medium", None) is Medium.STREAM
    try:
        child = subprocess.Popen(
            list(argv), bufsize=0, env=given, close_fds=True, start_new_session=True, preexec_fn=prepare,  # noqa: PLW1509 - one thread
            stdin=None if stream and stage.kind is Kind.SOURCE else subprocess.DEVNULL,
            stdout=None if stream and stage.kind is Kind.SINK else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            user=who.uid if who.switched else None, group=who.gid if who.switched else None,
            extra_groups=sorted(who.groups) if who.switched else None,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelError(
            getattr(error, "errno", None) or 0,
            f"{getattr(error, 'strerror', None) or error}: stage {stage.name} could not be started as uid {who.uid}, "
            f"gid {who.gid}; that user must be able to run {program}",
            syscall="execve", obj=argv[0],
        ) from error  # fmt: skip
    errors = child.stderr.fileno() if child.stderr is not None else -1
    os.set_blocking(errors, False)
    return Running(process=child, pidfd=os.pidfd_open(child.pid), errors=errors)


def judged(running: Running, stage: Stage, who: Account, program: str) -> Verdict | None:
    """What the policy says of a process that was started; None when it has ended, which says nothing of it."""
    verdict = endpoint_policy(stage, who, program).judge_pid(running.process.pid, pidfd=running.pidfd)
    return None if verdict.failed & Failed.PROCESS and process.ended(running.pidfd) else verdict


def stage_command() -> tuple[str, ...]:
    """What runs a stage, before FILE and NAME."""
    isolated = () if os.environ.get("PYTHONPATH") else ("-I",)
    return (sys.executable, *isolated, "-m", "sipc.cli", "guard", "stage")
