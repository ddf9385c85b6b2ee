# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: an error that says so, nothing half written, and all of it once there is room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[2]
# Its own mounts end with it.
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_a_small_disk(place: Path, size: str, script: str) -> list[str]:
    """What a script prints whose directory `place`, also its first argument, has room for `size`."""
    place.mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", MOUNT, "sh", size, place, sys.executable, "-c", script, place],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_cursor_that_there_is_no_room_for_is_no_mistake_in_its_name(tmp_path: Path) -> None:
    """Who starts stages again by their exit code shall do so; the file that was begun does not stand in the way."""
    script = """
import subprocess, sys
from pathlib import Path
from sipc.cursor import Cursor
from sipc.errors import KernelError
place = Path(sys.argv[1])
(place / "full").write_bytes(bytes(4096))
try:
    Cursor(place / "cursor", 1)
except KernelError as error:
    print(str(error).replace(str(place), "PLACE"))
(place / "full").unlink()
print(Cursor(place / "cursor", 1).seq)
"""
    assert on_a_small_disk(tmp_path / "disk", "4k", script) == [
        "fallocate on PLACE/cursor: No space left on device: make room and open again [errno 28]", "0",
    ]  # fmt: skip


def test_a_message_that_a_sink_has_no_room_for_appears_once_when_there_is(tmp_path: Path) -> None:
    """Not half before; put again, by this sink and by a new one, and then once more, it is there once."""
    script = """
import os, subprocess, sys
from sipc.errors import KernelError
from sipc.guard.sinks import DirectorySink
from sipc.guard.verdicts import MessageId
place = sys.argv[1]
data = [os.urandom(40_000) for _ in range(3)]
sink = DirectorySink(place)
for number in range(2):
    try:
        sink.put(data[number], MessageId(epoch=1, seq=number))
    except KernelError as error:
        print(number, error.errno, len([name for name in os.listdir(place) if not name.startswith(".")]))
sink.close()
sink = DirectorySink(place)
try:
    sink.put(data[1], MessageId(epoch=1, seq=1))
except KernelError as error:
    print("again", error.errno, len([name for name in os.listdir(place) if not name.startswith(".")]))
subprocess.run(["mount", "-o", "remount,size=1m", place], check=True)
sink.put(data[1], MessageId(epoch=1, seq=1))
sink.close()
with DirectorySink(place) as sink:
    sink.put(data[1], MessageId(epoch=1, seq=1))
names = sorted(name for name in os.listdir(place) if not name.startswith("."))
print([open(f"{place}/{name}", "rb").read() == data[number] for number, name in enumerate(names)])
"""
    assert on_a_small_disk(tmp_path / "disk", "64k", script) == ["1 28 1", "again 28 1", "[True, True]"]
