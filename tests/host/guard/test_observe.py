# SPDX-License-Identifier: Apache-2.0
"""Reading what hostile stages publish: nothing hangs, nothing is followed, nobody speaks for another."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.support.cli import sipc
from tests.support.statuses import publish, status, written
from tests.support.users import User, tried

from sipc.errors import SpecError
from sipc.guard.metrics import exposition
from sipc.guard.observe import Seen, observe, places
from sipc.guard.reported import LARGEST

pytestmark = pytest.mark.host


def one(place: Path) -> Seen:
    """The only stage there."""
    (found,) = observe([place], "json")
    return found


@pytest.mark.parametrize("foreground", [False, True])
def test_a_stage_is_read_where_it_publishes(tmp_path: Path, foreground: bool) -> None:
    """GUARD/STAGE under systemd, GUARD/STAGE/run in the foreground; with whose word it is."""
    publish(tmp_path, "json", "scrub", written(), foreground=foreground)
    (tmp_path / "json/notes.txt").write_text("no stage")
    found = one(tmp_path)
    assert found.report is not None
    assert (found.stage, found.problem, found.report.pid) == ("scrub", "", 12)
    assert found.owner in ("root", str(os.geteuid())) or found.owner.isprintable()


def test_a_stage_that_has_published_nothing_is_there_without_a_report(tmp_path: Path) -> None:
    """Not left out: that it is missing is what somebody must see."""
    publish(tmp_path, "json", "scrub")
    assert (one(tmp_path).report, one(tmp_path).problem) == (None, "has published nothing yet")


def fifo(path: Path) -> None:
    """Whoever opens it waits for a writer."""
    os.mkfifo(path)


def listening(path: Path) -> None:
    """A socket can not be opened."""
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(path.parent, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def huge(path: Path) -> None:
    """A terabyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def device(path: Path) -> None:
    """Whoever reads it does not come to an end."""
    path.symlink_to("/dev/zero")


def elsewhere(path: Path) -> None:
    """A link to a status that would do."""
    other = path.parents[2] / "elsewhere.json"
    other.write_bytes(written())
    path.symlink_to(other)


def folder(path: Path) -> None:
    """A directory of its name."""
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [(fifo, "is no plain file"), (listening, "is no plain file"), (huge, f"has {1 << 40} bytes"),
     (device, "is no plain file"), (elsewhere, "is no plain file"), (folder, "is no plain file")],
)  # fmt: skip
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """It is looked at, and told; the others are read all the same."""
    make(publish(tmp_path, "json", "scrub"))
    publish(tmp_path, "json", "ingest", written(stage="ingest"))
    ingest, scrub = observe([tmp_path])
    assert words in scrub.problem
    assert scrub.report is None
    assert ingest.report is not None


def test_a_lease_holds_up_nobody(tmp_path: Path) -> None:
    """Whoever holds a write lease on a file makes others wait for 45 seconds, unless they would not."""
    path = publish(tmp_path, "json", "scrub", written())
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the holder is told that somebody would read
    try:
        with path.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            assert one(tmp_path).problem == "can not be read: Resource temporarily unavailable"
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        signal.signal(signal.SIGIO, before)
    assert one(tmp_path).report is not None


@pytest.mark.parametrize("where", ["json", "json/scrub", "json/scrub/run"])
def test_links_are_not_followed(tmp_path: Path, where: str) -> None:
    """Neither for a guard, nor for a stage, nor for its directory."""
    place, outside = tmp_path / "place", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    publish(outside, "json", "scrub", written(), foreground=True)
    (place / where).parent.mkdir(parents=True, exist_ok=True)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)
    (place / where).symlink_to(outside / where)
    try:
        found = observe([place])
    except SpecError:
        found = []
    assert [seen for seen in found if seen.report is not None] == []


def test_a_stage_can_not_put_another_beside_itself(tmp_path: Path) -> None:
    """Another's status, copied or linked, in its own directory: the names are another's."""
    path = publish(tmp_path, "json", "ingest", written(stage="ingest"))
    mine = publish(tmp_path, "json", "scrub")
    os.link(path, mine)
    assert "a stage speaks for itself alone" in observe([tmp_path], "json")[1].problem
    mine.unlink()
    mine.write_bytes(path.read_bytes())
    assert "a stage speaks for itself alone" in observe([tmp_path], "json")[1].problem


@pytest.mark.parametrize(
    ("where", "words"),
    [("json/scrub", "can be written by others"), ("json/scrub/run", "can be written by others"),
     ("json", "stages could speak for each other")],
)  # fmt: skip
def test_a_directory_that_others_may_write_is_not_believed(tmp_path: Path, where: str, words: str) -> None:
    """A file in it could be anybody's."""
    publish(tmp_path, "json", "scrub", written(), foreground=True)
    (tmp_path / where).chmod(0o775)
    assert words in one(tmp_path).problem
    assert one(tmp_path).report is None


def test_a_place_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Then every guard in it could be anybody's."""
    publish(tmp_path, "json", "scrub", written())
    tmp_path.chmod(0o777)
    with pytest.raises(SpecError, match="can be written by others"):
        observe([tmp_path])


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    """Showing nothing is no answer."""
    for where, guard in (([tmp_path / "x"], None), ([tmp_path], None), ([tmp_path], "json"), ([tmp_path], "../json")):
        with pytest.raises(SpecError):
            observe(where, guard)
    (tmp_path / "json").mkdir(mode=0o755)
    with pytest.raises(SpecError, match="has published nothing in"):
        observe([tmp_path], "json")


def test_a_guard_is_taken_from_the_first_place_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's before one's own; never from both, which would count twice."""
    system, own = tmp_path / "system", tmp_path / "own/sipc-guards"
    system.mkdir()
    own.mkdir(parents=True)
    publish(system, "json", "scrub", written(pid=1))
    publish(own, "json", "scrub", written(pid=2), foreground=True)
    publish(own, "mine", "scrub", written(guard="mine", pid=3), foreground=True)
    found = observe([system, own])
    assert [(seen.guard, seen.report.pid) for seen in found if seen.report] == [("json", 1), ("mine", 3)]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    assert places(None) == [Path("/run/sipc-guards"), own]
    assert places(system) == [system]
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert places(None)[1] == Path.home() / ".local/state/sipc-guards"


# -- contents, through to what is shown


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 1000, b"[" * LARGEST, b'{"a":' * (LARGEST // 5), b"9" * LARGEST, b"\xff" * 10,
     written(since="X").replace(b'"X"', b"NaN"), written(pid=10**300), written(state="\x1b[2J"),
     written(guard='json"} 1\nevil{a="'), written(channels={"a\nb": {}}), json.dumps([status()]).encode()],
)  # fmt: skip
def test_whatever_is_in_a_file_the_answer_is_in_order(tmp_path: Path, data: bytes) -> None:
    """Within seconds, without a traceback, on lines of our own; the other stages are as they were."""
    publish(tmp_path, "json", "scrub", data)
    publish(tmp_path, "json", "ingest", written(stage="ingest"))
    done = sipc("guard", "top", "--state", tmp_path, "--interval", "0.1")
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert re.search(r"^scrub +\? ", done.stdout, re.MULTILINE)
    assert re.search(r"^ingest +filter +running ", done.stdout, re.MULTILINE)
    text = exposition(observe([tmp_path]))
    assert "evil" not in text
    assert [line for line in text.splitlines() if 'stage="scrub"' in line] == [
        'sipc_guard_stage_status_valid{guard="json",stage="scrub"} 0'
    ]


def test_a_reason_injects_nothing(tmp_path: Path) -> None:
    """No escape sequence, no line, no bell, no title of a window."""
    publish(tmp_path, "json", "scrub", written(reason="\x1b]0;x\x07\x1b[2J\nguard other\r\x9b31m", state="failed"))
    done = sipc("guard", "top", "--state", tmp_path, "--interval", "0.1")
    assert not set(done.stdout) & {"\x1b", "\x07", "\r", "\x9b"}
    assert done.stdout.count("\nguard other") == 0
    assert "\\x1b]0;x\\x07" in done.stdout


# -- users


SCRUB, INGEST, READER = (User(name=str(uid), uid=uid, gid=uid) for uid in (64001, 64002, 64003))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A place with a guard as systemd makes it: the directories root's, each stage's own a user's."""
    assert os.geteuid() == 0, "these tests are of several users: run them as root"
    with tempfile.TemporaryDirectory(prefix="sipc-test-") as name:
        place = Path(name)
        for stage, user in (("ingest", INGEST), ("scrub", SCRUB)):
            path = publish(place, "json", stage, written(stage=stage))
            for own in (path, path.parent):
                os.chown(own, user.uid, user.gid)
        yield place


def test_anybody_may_read_it(shared: Path) -> None:
    """A user without any right of a stage's sees what root sees."""
    seen = READER.do(lambda: [(one.stage, one.owner, one.report is not None) for one in observe([shared])])
    assert seen == [("ingest", "64002", True), ("scrub", "64001", True)]


def test_a_hostile_stage_changes_nothing_but_its_own_row(shared: Path) -> None:
    """With all that its user may do in the directories that there are."""

    def attack() -> list[str]:
        mine, other = shared / "json/scrub", shared / "json/ingest"
        return list(tried({
            "write another's": lambda: (other / "status.json").write_bytes(b"{}"),
            "replace another's": lambda: (other / "status.json").unlink(),
            "rename another's directory": lambda: other.rename(shared / "json/gone"),
            "make a stage": (shared / "json/extra").mkdir,
            "make a guard": (shared / "extra").mkdir,
            "rename its own directory": lambda: mine.rename(shared / "json/ingest2"),
            "link another's": lambda: os.link(other / "status.json", mine / "linked"),
        }).values())  # fmt: skip

    assert set(SCRUB.do(attack)) <= {"EACCES", "EPERM"}

    def lie(way: str) -> None:
        mine, other = shared / "json/scrub/status.json", shared / "json/ingest/status.json"
        mine.unlink(missing_ok=True)
        if way == "copy":
            mine.write_bytes(other.read_bytes())
        elif way == "link":
            mine.symlink_to(other)
        elif way == "run":
            (mine.parent / "run").symlink_to(other.parent)
        else:
            os.mkfifo(mine)

    for way in ("copy", "link", "run", "pipe"):
        SCRUB.do(partial(lie, way))
        ingest, scrub = observe([shared])
        assert ingest.report is not None
        assert (scrub.report, ingest.owner) == (None, "64002")
        (shared / "json/scrub/run").unlink(missing_ok=True)


def test_a_file_of_another_user_is_not_believed(shared: Path) -> None:
    """Whoever the directory belongs to, speaks."""
    os.chown(shared / "json/scrub/status.json", INGEST.uid, INGEST.gid)
    assert observe([shared])[1].problem == "status.json belongs to 64002, and its directory to 64001"


@pytest.mark.parametrize("where", ["json", "json/ingest"])
def test_a_directory_of_a_stage_has_no_other_stages_in_it(shared: Path, where: str) -> None:
    """What lies in a directory of a stage's user could be put there by that user."""
    if where == "json/ingest":
        path = publish(shared, "json", "ingest", written(stage="ingest"), foreground=True)
        for own in (path, path.parent):
            os.chown(own, SCRUB.uid, SCRUB.gid)
    else:
        os.chown(shared / "json", SCRUB.uid, SCRUB.gid)
    assert observe([shared])[0].report is None
    assert "can be" in observe([shared])[0].problem


# -- rights


_WATCHED = """
import os, sys
calls = []
def hook(event, arguments):
    if event == "open":
        calls.append((str(arguments[0]), arguments[2]))
    elif event.startswith(("os.", "socket.", "subprocess.", "fcntl.", "ctypes.dlsym")):
        calls.append((event, -1))
from sipc.cli import main
import json, pwd, sipc.guard.observe
from sipc.guard.observe import observe
from sipc.guard.metrics import exposition
from pathlib import Path
sys.addaudithook(hook)
text = exposition(observe([Path(sys.argv[1])]))
found = list(calls)
assert text
print(json.dumps(found))
"""


def test_nothing_but_reading_what_is_published_is_done(tmp_path: Path) -> None:
    """No queue, no segment, no process is asked, and nothing is written: every call that Python audits."""
    publish(tmp_path, "json", "scrub", written())
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    calls = json.loads(done.stdout)
    assert calls
    for what, flags in calls:
        if flags == -1:
            assert what == "os.listdir"
        else:
            assert flags & os.O_ACCMODE == os.O_RDONLY, what
            assert not flags & (os.O_CREAT | os.O_TRUNC), what
