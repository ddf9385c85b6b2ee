# SPDX-License-Identifier: Apache-2.0
"""`sipc send` and `sipc recv` in pipes: exact bytes, an end that crosses, and a cut that is known to be one."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support.channels import make
from tests.support.cli import ended, sipc, started

from sipc.cli.exits import Exit

pytestmark = pytest.mark.host

SLOT = 4096
SIZES = (0, 1, SLOT - 1, SLOT, SLOT + 1, 4 * SLOT, 5_000_003)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["files", "pipes"])
def test_bytes_arrive_exactly(way: str, size: int, registry: Path, tmp_path: Path) -> None:
    """From a file to a file, and from a pipe to a pipe."""
    make(registry, "c", slot_size=SLOT)
    data = os.urandom(size)
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    if way == "files":
        with started("recv", "c", target, registry=registry) as receiver:
            assert sipc("send", "c", source, registry=registry).returncode == 0
            assert ended(receiver) == (0, b"", "")
        assert target.read_bytes() == data
        assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()
    else:
        with started("recv", "c", registry=registry) as receiver:
            with started("send", "c", registry=registry, stdin=subprocess.PIPE) as sender:
                out: dict[str, tuple[int, bytes, str]] = {}
                import threading

                reading = threading.Thread(target=lambda: out.update(receiver=ended(receiver)))
                reading.start()
                sender.communicate(data, timeout=60)
                assert sender.returncode == 0
                reading.join()
            assert out["receiver"] == (0, data, "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("first", ["send", "recv"])
def test_either_side_may_come_first(first: str, registry: Path, tmp_path: Path) -> None:
    """Before the other one, and before the channel: it says that it waits."""
    file = tmp_path / "in"
    file.write_bytes(b"early")
    other = "recv" if first == "send" else "send"
    words: dict[str, tuple[str | Path, ...]] = {"send": ("send", "c", file), "recv": ("recv", "c")}
    with started(*words[first], registry=registry) as early:
        assert early.stderr is not None
        assert b"waiting for channel 'c'" in early.stderr.readline()
        make(registry, "c", slot_size=SLOT)
        with started(*words[other], registry=registry) as late:
            ends = {first: ended(early), other: ended(late)}
    assert ends["send"][0] == ends["recv"][0] == 0
    assert ends["recv"][1] == b"early"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_cut_stream_is_known_to_be_cut(how: signal.Signals, registry: Path, tmp_path: Path) -> None:
    """The sender ends in the middle: the receiver says so, exits 1, and no file appears under its name."""
    make(registry, "c", slot_size=SLOT)
    target = tmp_path / "out"
    target.write_bytes(b"what was there")
    with started("recv", "c", target, registry=registry) as receiver:
        with started("send", "c", registry=registry, stdin=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            sender.stdin.write(bytes(3 * SLOT))
            sender.stdin.flush()
            _until_written(tmp_path)
            sender.send_signal(how)
            sender.stdin.close()
            sender.wait(30)
            assert sender.returncode == (-how if how is signal.SIGKILL else Exit.INTERRUPTED)
        if how is signal.SIGKILL:  # nobody told the receiver: the next sender's first block does
            (tmp_path / "next").write_bytes(b"next")
            with started("send", "c", tmp_path / "next", registry=registry) as following:
                code, _, words = ended(receiver)
                following.kill()
                following.communicate()
        else:
            code, _, words = ended(receiver)
    assert code == Exit.NO
    assert "cut" in words
    assert target.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".out")) == []


def _until_written(folder: Path) -> None:
    """Until the receiver has something in its temporary file."""
    while not any(path.stat().st_size for path in folder.glob(".out.*")):
        os.sched_yield()


def test_an_interrupted_receiver_leaves_a_channel_that_goes_on(registry: Path, tmp_path: Path) -> None:
    """Exit code 130, a word, no traceback; the next receiver gets the next stream."""
    make(registry, "c", slot_size=SLOT)
    with started("recv", "c", tmp_path / "out", registry=registry) as receiver:
        with started("send", "c", registry=registry, stdin=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            sender.stdin.write(b"x" * SLOT)
            sender.stdin.flush()
            _until_written(tmp_path)
            receiver.send_signal(signal.SIGINT)
            code, _, words = ended(receiver)
            assert (code, words.strip()) == (Exit.INTERRUPTED, "sipc: interrupted")
            assert not (tmp_path / "out").exists()
            sender.stdin.write(b"rest")
            sender.stdin.close()
            with started("recv", "c", registry=registry) as second:
                code, out, _ = ended(second)
            assert (code, out[-4:]) == (0, b"rest")
            assert sender.wait(30) == 0


def test_a_reader_that_goes_away_ends_the_receiver_quietly(registry: Path) -> None:
    """`sipc recv | head`."""
    make(registry, "c", slot_size=SLOT)
    with started("send", "c", registry=registry, stdin=subprocess.PIPE) as sender:
        with started("recv", "c", registry=registry) as receiver:
            assert sender.stdin is not None
            assert receiver.stdout is not None
            sender.stdin.write(bytes(2 * SLOT))
            sender.stdin.flush()
            assert receiver.stdout.read(10) == bytes(10)
            receiver.stdout.close()
            receiver.stdout = None
            sender.stdin.write(bytes(SLOT))
            sender.stdin.flush()
            code, _, words = ended(receiver)
            assert code == Exit.NO
            assert words == ""
        sender.kill()
        sender.communicate()


def test_a_full_disk_is_said_in_words(registry: Path) -> None:
    """And nothing counts as received."""
    make(registry, "c", slot_size=SLOT)
    with started("send", "c", registry=registry, stdin=subprocess.PIPE) as sender:
        assert sender.stdin is not None
        sender.stdin.write(bytes(SLOT))
        sender.stdin.flush()
        with Path("/dev/full").open("wb") as full, started("recv", "c", registry=registry, stdout=full) as receiver:
            receiver.wait(30)
            assert receiver.stderr is not None
            assert b"No space left on device" in receiver.stderr.read()
            assert receiver.returncode == Exit.REFUSED
        sender.kill()
        sender.communicate()


def test_a_receiver_may_give_up_in_time(registry: Path) -> None:
    """Exit code 5."""
    make(registry, "c")
    done = sipc("recv", "c", "--timeout", "0.05", registry=registry)
    assert done.returncode == Exit.TIMEOUT
    assert "no message in time" in done.stderr


def test_memory_is_flat_in_the_files_size(registry: Path, tmp_path: Path) -> None:
    """Both ends need the same for 8 MiB and for 256 MiB."""
    make(registry, "c")
    peaks: dict[int, list[int]] = {}
    for size in (8 << 20, 256 << 20):
        source = tmp_path / "in"
        with source.open("wb") as file:
            file.truncate(size)
        with (
            Path("/dev/null").open("wb") as nowhere,
            started("recv", "c", registry=registry, stdout=nowhere) as receiver,
            started("send", "c", source, registry=registry) as sender,
        ):
            peaks[size] = []
            for process in (sender, receiver):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                assert process.returncode == 0
                peaks[size].append(usage.ru_maxrss)
    small, large = peaks.values()
    for one, other in zip(small, large, strict=True):
        assert abs(one - other) < 24 << 10, peaks  # KiB


def test_a_tar_crosses(registry: Path, tmp_path: Path) -> None:
    """What the help says: tar on both sides."""
    make(registry, "c")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(100_000))
    (tmp_path / "there").mkdir()
    with subprocess.Popen(["tar", "c", "-C", tmp_path, "tree"], stdout=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        with started("send", "c", registry=registry, stdin=packing.stdout) as sender:
            with started("recv", "c", registry=registry) as receiver:
                code, out, _ = ended(receiver)
                assert code == 0
            assert sender.wait(30) == 0
    subprocess.run(["tar", "x", "-C", tmp_path / "there"], input=out, check=True, timeout=30)
    sums = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("**/file")}
    assert len(sums) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", sums.pop())
