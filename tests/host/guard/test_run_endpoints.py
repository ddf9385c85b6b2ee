# SPDX-License-Identifier: Apache-2.0
"""Who may be an end of a guard's channels: rules, peers and keys, each attacked in a guard that runs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.host.guard.test_run import channels
from tests.host.guard.test_run_endurance import STAGES, Load
from tests.host.guard.test_run_users import SLEEPER
from tests.host.test_tagged_channel import announce, overwrite, put, squatter_block
from tests.support.channels import Child
from tests.support.foreground import Run, guard_file
from tests.support.keys import RIGHT, WRONG, key_file
from tests.support.stages import Built, build, wait_for, wait_for_files

from sipc import helper, process
from sipc.endpoint_policy import Failed
from sipc.guard.config import parse
from sipc.guard.launch import Account, Running, judged, start
from sipc.guard.model import EndpointRules, Guard
from sipc.guard.places import Places
from sipc.guard.stage import run_stage
from sipc.guard.status import read_status
from sipc.kernel import seccomp
from sipc.registry import Registry
from sipc.spec import Role

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[3]
PYTHON = os.path.realpath(sys.executable)
SHA = hashlib.sha256(Path(PYTHON).read_bytes()).hexdigest()
GROUP, OTHER = 12, 54322
SENDER, RECEIVER = 1, 2  # accounts of every host, of which the helper asks where an end names its program
FORGED = b"forged" * 10


@pytest.fixture(autouse=True)
def _as_root() -> None:
    assert os.geteuid() == 0, "these tests start processes as other users: run them as root"


def stages(*, a: str = "user = 0", f: str = "user = 0", b: str = "user = 0", raw: str = "") -> str:
    """A guard a -> f -> b with more in its tables."""
    return f"""
[stage.a]
{a}
source = {{{{ directory = "{{folder}}/in" }}}}
[stage.f]
{f}
filter = {{{{ command = ["/bin/cat"] }}}}
[stage.b]
{b}
sink = {{{{ directory = "{{folder}}/out" }}}}
[channel.raw]
from = "a"
to = "f"
slot_size = 4096
{raw}
[channel.clean]
from = "f"
to = "b"
slot_size = 4096
"""


def rules(**given: object) -> str:
    """A user, and rules about its process."""
    inside = ", ".join(f"{key} = {json.dumps(value)}" for key, value in given.items())
    return f"user = 0\nendpoint = {{{{ {inside} }}}}"


def out(folder: Path) -> list[bytes]:
    """What was delivered."""
    return [path.read_bytes() for path in sorted((folder / "out").iterdir()) if not path.name.startswith(".")]


def put_message(folder: Path, data: bytes) -> None:
    """One message into the spool of the source."""
    (folder / "in" / ".new").write_bytes(data)
    (folder / "in" / ".new").rename(folder / "in" / "new")


def delivered(folder: Path, data: bytes) -> None:
    """A message comes out."""
    put_message(folder, data)
    wait_for_files(folder / "out", 1)
    assert out(folder) == [data]


def inject(registry: Path, *, secret: bytes | None = None, name: str = "g.raw") -> None:
    """A block by all the rules of the protocol, put by this process into the channel from a to f, or another."""
    with Registry(registry) as opened:
        descriptor = opened.read(name)
    block = FORGED if secret is None else squatter_block(descriptor, seq=1, payload=FORGED, secret=secret)
    overwrite(descriptor, lambda segment: put(segment, 1, block, 0))
    announce(descriptor, 1, len(block), 0)


def sender_is_open(run: Run, folder: Path) -> None:
    """The right sender is there: what lies in the segment before that it would take for its predecessor's."""
    run.until("started", stage="a")
    place = folder / "state" / "g" / "a" / "run"

    def opened() -> bool:
        status = read_status(place / "status.json")
        return status is not None and bool(status["channels"]["raw"]["epoch"])

    wait_for(place, opened)


def violated(run: Run, folder: Path, words: str) -> None:
    """The filter refused it and said why, nothing came out, and the guard was stopped."""
    ended = run.until("ended", stage="f")
    assert ended["code"] == 76
    assert run.end() == 1
    said = " ".join(event["text"] for event in run.events if event["event"] == "said")
    assert words in said, said
    assert out(folder) == []


# -- who sent last


def another_user() -> None:
    os.setresuid(54321, -1, -1)  # the kernel looks at the effective one, which may write there


def another_group() -> None:
    os.setgroups([OTHER])


SQUATTERS: dict[str, tuple[Callable[[], None], str, str]] = {
    "another user": (another_user, "user = 0", "FAILED uid: real, effective, saved and file system's are 54321"),
    "another group": (another_group, rules(only_groups=[]), "FAILED only_groups: it also has [54322]"),
    "lacks a group": (lambda: os.setgroups([]), rules(in_groups=[GROUP]), "FAILED in_groups: it lacks [12]"),
}


@pytest.mark.parametrize("squatter", SQUATTERS)
def test_a_block_that_another_process_put_is_refused_and_the_guard_acts(
    squatter: str, folder: Path, registry: Path
) -> None:
    """While the right sender is open and idle: the kernel lets the squatter write, the receiver does not believe it."""
    become, sender, words = SQUATTERS[squatter]
    reading, writing = os.pipe()

    def squat() -> None:
        become()
        inject(registry)
        os.write(writing, b"x")
        signal.pause()  # until it is killed

    with Run(guard_file(folder, stages=stages(a=sender)), registry=registry, command=None) as run:
        sender_is_open(run, folder)
        child = Child(squat)
        os.read(reading, 1)
        try:
            violated(run, folder, words)
        finally:
            child.kill()
            os.close(reading)
            os.close(writing)
    entry = json.loads((folder / "state/g/f/state/audit.jsonl").read_text().splitlines()[-1])
    assert entry["reason"] == "last-sender"


def test_a_squatter_that_ends_at_once_is_refused_too(folder: Path, registry: Path) -> None:
    """Nobody can tell who it was, and nobody vouches for it: by its user it would have passed."""
    with Run(guard_file(folder, stages=stages()), registry=registry, command=None) as run:
        sender_is_open(run, folder)
        os.kill(run.pid("f"), signal.SIGSTOP)  # else it could see the squatter while that lives
        Child(lambda: inject(registry)).result()
        os.kill(run.pid("f"), signal.SIGCONT)
        violated(run, folder, "FAILED process: it can not be looked at")


def test_what_a_killed_stage_left_is_still_its_own(folder: Path, registry: Path) -> None:
    """Its receiver never saw it alive, and it can not be asked any more: whoever started it says who it was."""
    with Run(guard_file(folder, stages=stages()), registry=registry, command=None) as run:
        run.until("started", stage="a")
        receiver, sender = run.pid("f"), run.pid("a")
        os.kill(receiver, signal.SIGSTOP)
        put_message(folder, b"left behind")
        wait_for(folder / "in", lambda: not os.listdir(folder / "in"))
        os.kill(sender, signal.SIGKILL)
        run.until("started", stage="a")
        os.kill(receiver, signal.SIGCONT)
        wait_for_files(folder / "out", 1)
        assert out(folder) == [b"left behind"]
        assert run.stop() == 130
    assert [event["text"] for event in run.events if event["event"] == "said"] == []


@pytest.mark.timeout(300)
def test_kills_of_stages_that_are_judged_lose_and_repeat_nothing(folder: Path, registry: Path) -> None:
    """SIGKILL at any moment, of the supervisor at last: no block of a stage's own is taken for another's."""
    load = Load(folder, random.randrange(1 << 32))
    file = guard_file(folder, stages=stages())
    for kills in (20, 0):
        with Run(file, registry=registry, command=None, burst=100_000, grace=60.0) as run:
            run.until("started", stage="a")
            for _ in range(kills):
                load.feed(20)
                stage = load.random.choice(STAGES)
                time.sleep(load.random.random() * 0.5)  # a random moment, from its start on
                os.kill(run.pid(stage), signal.SIGKILL)
                run.until("started", stage=stage)
            load.feed(100)
            time.sleep(load.random.random())  # a random moment
            run.process.kill()
    load.finish(file, registry)


def as_stage(built: Built, name: str, uid: int) -> Child:
    """A stage as a user of its own; forked, as the interpreter may be root's alone."""
    place = built.place(name)
    os.chown(place / "state", uid, uid)
    os.chown(place / "run", uid, uid)
    places = Places(state=place / "state", run=place / "run", registry=built.registry)
    process.read(os.getpid())  # what is imported on the way can be root's alone as well
    seccomp.build(Role.RECEIVER)

    def run() -> tuple[int, list[str]]:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        said: list[str] = []
        return int(run_stage(built.guard, name, places, said.append)), said

    return Child(run)


@pytest.mark.parametrize("forged", [False, True], ids=["honest", "squatter"])
def test_a_stage_of_another_user_is_judged_by_what_can_be_seen_of_it(forged: bool, reachable: Path) -> None:
    """What it runs can not be seen, and is not asked: users can. Root, whom modes do not bind, is not the sender."""
    for place, uid in (("in", SENDER), ("out", RECEIVER)):
        (reachable / place).mkdir()
        os.chown(reachable / place, uid, uid)
    registry = reachable / "registry"
    built = build(reachable, registry, f"""
version = 1
[guard]
name = "g"
enforcement = "dac"
[stage.a]
user = {SENDER}
endpoint = {{ program = "{PYTHON}", only_groups = [] }}
source = {{ directory = "{reachable}/in" }}
[stage.b]
user = {RECEIVER}
sink = {{ directory = "{reachable}/out" }}
[channel.c]
from = "a"
to = "b"
""")  # fmt: skip
    try:
        receiver = as_stage(built, "b", RECEIVER)
        if forged:
            Child(lambda: inject(registry, name="g.c")).result()
            code, said = receiver.result()
            assert code == 76
            assert "last sender" in said[-1]
        else:
            sender = as_stage(built, "a", SENDER)
            (reachable / ".new").write_bytes(b"data")
            os.chown(reachable / ".new", SENDER, SENDER)
            (reachable / ".new").rename(reachable / "in" / "new")
            wait_for_files(reachable / "out", 1)
            for child in (sender, receiver):
                os.kill(child.pid, signal.SIGTERM)
                assert child.result()[0] == 130
        assert len(out(reachable)) == int(not forged)
    finally:
        helper.destroy("g.c", registry)


def test_a_block_that_another_program_put_is_refused(folder: Path, registry: Path) -> None:
    """The same user and groups, another file that runs."""
    copy = folder / "another"
    shutil.copy(PYTHON, copy)
    code = (
        f"import sys, signal; sys.path[:0] = {[*sys.path, str(ROOT)]!r}\n"
        "from pathlib import Path; from tests.host.guard.test_run_endpoints import inject\n"
        f"inject(Path({str(registry)!r})); print('put', flush=True); signal.pause()"
    )
    with Run(guard_file(folder, stages=stages(a=rules(program=PYTHON))), registry=registry, command=None) as run:
        sender_is_open(run, folder)
        squatter = subprocess.Popen(
            [copy, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHOME": sys.base_prefix}
        )
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == b"put\n"
            violated(run, folder, f"FAILED program: it runs {copy}, not {PYTHON}")
        finally:
            squatter.kill()
            squatter.communicate()


def test_what_the_right_process_sends_passes_under_every_rule(folder: Path, registry: Path) -> None:
    """All three stages by all rules, the sink behind its filters of system calls; from a file to its end."""
    all_rules = rules(only_groups=[GROUP], in_groups=[GROUP], program=PYTHON, digest=SHA)
    text = stages(a=all_rules, f=all_rules, b=all_rules).replace("directory", "file").replace("/in", "/in/x")
    (folder / "in").mkdir()
    (folder / "in" / "x").write_bytes(b"m" * 30_000)
    with Run(guard_file(folder, stages=text.replace("/out", "/out/x")), registry=registry, command=None) as run:
        assert run.end() == 0, run.events
    assert out(folder) == [b"m" * 30_000]
    assert [event["text"] for event in run.events if event["event"] == "said"] == []
    assert channels(registry) == []


# -- who is started


def test_a_stage_has_the_groups_that_it_must_have_and_no_others(folder: Path, registry: Path) -> None:
    """Given by whoever starts it, as it could not take them."""
    file = guard_file(folder, stages=stages(a=rules(in_groups=[GROUP, "daemon"])))
    with Run(file, registry=registry, command=SLEEPER) as run:
        for _ in range(3):
            run.until("said")
        assert process.read(run.pid("a")).groups == frozenset({GROUP, 1})
        assert run.stop() == 130


def refused(run: Run, stage: str) -> str:
    """The guard did not start a stage, and ended with 4; why."""
    assert run.end() == 4
    (text,) = [event["text"] for event in run.events if event["event"] == "refused"]
    assert text.startswith(f"{stage}: ")
    return str(text)


def test_the_supervisor_starts_no_other_program_and_no_other_file(folder: Path, registry: Path) -> None:
    """Every rule that fails is named before anything of the stage runs."""
    true = os.path.realpath("/bin/true")
    wrong = rules(program=true, only_groups=[])
    with Run(guard_file(folder, stages=stages(b=wrong)), registry=registry, command=None) as run:
        text = refused(run, "b")
    assert "not started: guard g: starting stage b: the endpoint policy refuses process 0: FAILED program" in text
    assert f"it runs {PYTHON}, not {true}" in text
    assert run.of("started") == ["f"]
    with Run(guard_file(folder, stages=stages(b=rules(digest="0" * 64))), registry=registry, command=None) as run:
        assert "FAILED digest" in refused(run, "b")
    assert channels(registry) == []


def test_a_domain_that_the_stage_would_not_have_is_refused(folder: Path, registry: Path) -> None:
    """Where no kernel tells a domain there is none: that is a denial."""
    wrong = rules(selinux_type="nobody_has_this_t", selinux_range="s0")
    with Run(guard_file(folder, stages=stages(b=wrong)), registry=registry, command=None) as run:
        text = refused(run, "b")
    assert "FAILED selinux_type" in text
    assert "FAILED selinux_range" in text


@pytest.fixture
def shell(folder: Path) -> Path:
    """A copy of the shell, for a stage to run."""
    path = folder / "shell"
    shutil.copy(os.path.realpath("/bin/sh"), path)
    path.chmod(0o755)
    return path


def test_a_program_that_was_replaced_is_not_started_again(folder: Path, registry: Path, shell: Path) -> None:
    """Its digest is asked at every start."""
    digest = hashlib.sha256(shell.read_bytes()).hexdigest()
    file = guard_file(folder, stages=stages(b=rules(program=str(shell), digest=digest)))
    with Run(file, registry=registry, command=[str(shell), *SLEEPER[1:]]) as run:
        for _ in range(3):
            run.until("said")
        shell.rename(folder / "old")
        shutil.copy(os.path.realpath("/bin/sh"), shell)
        with shell.open("ab") as other:
            other.write(b"more")
        os.kill(run.pid("b"), 9)
        assert "FAILED digest" in refused(run, "b")


@pytest.fixture
def started(folder: Path, shell: Path) -> Iterator[Callable[[EndpointRules], Running]]:
    """Starts a stage of the copied shell that says when it is up."""
    running: list[Running] = []

    def begin(given: EndpointRules) -> Running:
        guard = guard_with(folder, given)
        for place in ("state", "run"):
            (folder / "s" / place).mkdir(parents=True)
        places = Places(state=folder / "s" / "state", run=folder / "s" / "run")
        running.append(start(guard, guard.stages["b"], WHO, places, [str(shell), *SLEEPER[1:]], {}))
        return running[0]

    yield begin
    for one in running:
        one.process.kill()
        one.process.wait()
        one.close()


WHO = Account(uid=0, gid=0, groups=frozenset(os.getgroups()), switched=False)


def guard_with(folder: Path, given: EndpointRules) -> Guard:
    """A guard whose last stage has these rules."""
    guard = parse(guard_file(folder, stages=stages()).read_text(), "F")
    return replace(guard, stages={**guard.stages, "b": replace(guard.stages["b"], endpoint=given)})


def test_a_program_that_is_replaced_after_the_check_is_found_by_the_next(
    folder: Path, shell: Path, started: Callable[[EndpointRules], Running]
) -> None:
    """What was planned passed; what runs is looked at by itself, and not by its path."""
    digest = hashlib.sha256(shell.read_bytes()).hexdigest()
    given = EndpointRules(program=str(shell), digest=digest)
    running = started(given)
    stage = guard_with(folder, given).stages["b"]
    verdict = judged(running, stage, WHO, str(shell))
    assert verdict is not None
    assert verdict.allowed
    shell.unlink()
    shell.write_bytes(b"another")
    verdict = judged(running, stage, WHO, str(shell))
    assert verdict is not None
    assert verdict.failed == Failed.PROGRAM
    assert "removed or replaced since" in verdict.refusals[0]


def test_a_script_with_the_right_digest_is_killed_for_what_runs(folder: Path, registry: Path) -> None:
    """The file is as it should be, and passes before; what it starts is another program."""
    impostor = folder / "impostor"
    impostor.write_text("#!/bin/sh\nsleep 1000\n")
    impostor.chmod(0o755)
    digest = hashlib.sha256(impostor.read_bytes()).hexdigest()
    given = rules(program=str(impostor), digest=digest)
    file = guard_file(folder, stages=stages(a=given, f=given, b=given))
    with Run(file, registry=registry, command=[str(impostor)]) as run:
        assert run.end() == 4
    text = next(event["text"] for event in run.events if event["event"] == "refused")
    assert "is not what was started: FAILED program" in text
    assert "FAILED digest" in text


def test_the_helper_refuses_ends_before_a_channel_is_there(folder: Path, registry: Path, shell: Path) -> None:
    """Each channel at once, with what is wrong of each end; nothing is made and nothing started."""
    shell.chmod(0o777)
    given = rules(program=str(shell), digest="0" * 64)
    with Run(guard_file(folder, stages=stages(b=given)), registry=registry, command=None) as run:
        assert run.end() == 4
    assert f"receiver mode: {shell} has mode 0777" in run.words
    assert f"receiver digest: {shell} has " in run.words
    assert "g.clean" in run.words
    assert run.events == []
    assert channels(registry) == []


def test_a_stage_judges_itself(folder: Path, registry: Path) -> None:
    """Started by something that does not ask, as somebody else than the file says: exit code 4, every rule named."""
    wrong = rules(in_groups=[GROUP], digest="0" * 64).replace("user = 0", "user = 4201")
    file = guard_file(folder, stages=stages(a=wrong))
    environment = {**os.environ, "SIPC_REGISTRY": str(registry)}
    done = subprocess.run(
        [sys.executable, "-m", "sipc.cli", "guard", "stage", file, "a", "--state", folder / "s"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    for rule in ("uid", "gid", "in_groups", "digest"):
        assert f"FAILED {rule}" in done.stderr


# -- keys


def with_key(path: object) -> str:
    """The key file of the channel raw, the same for both, or one for each end."""
    if isinstance(path, tuple):
        return f'key_file = {{{{ from = "{path[0]}", to = "{path[1]}" }}}}'
    return f'key_file = "{path}"'


def test_a_guard_with_a_key_delivers(folder: Path, registry: Path) -> None:
    """One copy for each stage; the channel has tags."""
    copies = key_file(folder, name="k1"), key_file(folder, name="k2")
    with Run(guard_file(folder, stages=stages(raw=with_key(copies))), registry=registry, command=None) as run:
        delivered(folder, b"m" * 30_000)
        with Registry(registry) as opened:
            assert opened.read("g.raw").spec.tag == "blake2b"
            assert opened.read("g.clean").spec.tag is None
        assert run.stop() == 130


@pytest.mark.parametrize("secret", [None, WRONG], ids=["no key", "wrong key"])
def test_a_block_made_without_the_key_is_refused_whoever_put_it(
    secret: bytes | None, folder: Path, registry: Path
) -> None:
    """By somebody whom no rule about processes would refuse: nothing in the file says who sends."""
    text = stages(a="", f="", b="", raw=with_key(key_file(folder)))
    with Run(guard_file(folder, stages=text), registry=registry, command=None) as run:
        sender_is_open(run, folder)
        Child(lambda: inject(registry, secret=secret)).result()
        violated(run, folder, "the sender broke the protocol: tag is")


def test_a_stage_with_another_key_is_stopped_as_a_violation(folder: Path, registry: Path) -> None:
    """Two copies that differ: nothing passes."""
    copies = key_file(folder, RIGHT, name="k1"), key_file(folder, WRONG, name="k2")
    with Run(guard_file(folder, stages=stages(raw=with_key(copies))), registry=registry, command=None) as run:
        run.until("started", stage="a")
        put_message(folder, b"data")
        violated(run, folder, "the sender broke the protocol: tag is")


def theirs(path: Path) -> None:
    os.chown(path, 4201, 4201)


def a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


KEYS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda path: path.unlink(), 3, "No such file or directory: make one with"),
    "short": (lambda path: path.write_bytes(b"short"), 3, "has 5 bytes or more, not 32 to 4096"),
    "readable by others": (lambda path: path.chmod(0o444), 4, "has mode 0444, so that others may get at the key"),
    "another user's": (theirs, 4, "belongs to uid 4201: trusted are root and uid 0"),
    "a link": (a_link, 4, "it must be a plain file of this user's, not a link"),
}


@pytest.mark.parametrize("wrong", KEYS)
def test_a_guard_whose_key_file_is_not_to_be_trusted_does_not_run(wrong: str, folder: Path, registry: Path) -> None:
    """Whichever stage it is, the guard is stopped, and the log says which file and what to do."""
    act, code, words = KEYS[wrong]
    path = key_file(folder)
    path.chmod(0o600)
    act(path)
    with Run(guard_file(folder, stages=stages(raw=with_key(path))), registry=registry, command=None) as run:
        assert run.end() == code
    said = " ".join(event["text"] for event in run.events if event["event"] == "said")
    assert f"key file {path}" in said
    assert words in said
    assert code in [event.get("code") for event in run.events if event["event"] == "ended"]
    assert channels(registry) == []
