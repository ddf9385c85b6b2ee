# SPDX-License-Identifier: Apache-2.0
"""What surrounds `sipc send` and `sipc recv` may be odd: pipes that do not block, closed standard streams, full disks.

Each case keeps the bytes, or says in one line what is wrong and leaves nothing half-written.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from tests.support.channels import make
from tests.support.cli import PROGRAM, ended, sipc, started

from sipc.cli.exits import Exit

pytestmark = pytest.mark.host

SLOT = 4096


def test_pipes_that_do_not_block_are_waited_for(registry: Path) -> None:
    """Whoever started us may have left O_NONBLOCK on our standard streams."""
    make(registry, "c", slot_size=SLOT)
    data = os.urandom(300_000)
    source, feed = os.pipe()
    sink, target = os.pipe()
    os.set_blocking(source, False)
    os.set_blocking(target, False)
    got = bytearray()

    def drain() -> None:
        while part := os.read(sink, 1000):
            got.extend(part)

    def fill() -> None:
        with os.fdopen(feed, "wb", buffering=0) as file:
            file.writelines(data[at : at + 30_000] for at in range(0, len(data), 30_000))

    def start(verb: str, **streams: int) -> subprocess.Popen[bytes]:
        argv = [*PROGRAM, verb, "c", "--registry", str(registry)]
        return subprocess.Popen(argv, stderr=subprocess.PIPE, **streams)  # type: ignore[call-overload,no-any-return]

    threads = [threading.Thread(target=drain), threading.Thread(target=fill)]
    with start("recv", stdout=target) as receiver, start("send", stdin=source) as sender:
        os.close(target)
        os.close(source)
        for thread in threads:
            thread.start()
        for process in (sender, receiver):
            _, words = process.communicate(timeout=60)
            assert (process.returncode, words) == (0, b"")
    for thread in threads:
        thread.join()
    os.close(sink)
    assert bytes(got) == data


@pytest.mark.parametrize(("verb", "closed", "which"), [("send", "<&-", "input"), ("recv", ">&-", "output")])
def test_a_closed_standard_stream_is_named(verb: str, closed: str, which: str, registry: Path) -> None:
    """Its number would be another file's by the time we use it."""
    make(registry, "c", slot_size=SLOT)
    line = " ".join([*PROGRAM, verb, "c", "--registry", str(registry), closed])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == Exit.BAD_INPUT
    assert f"standard {which} is closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_said_to_a_closed_standard_error_is_no_result(registry: Path) -> None:
    """Python's print takes standard output for a stream that there is not."""
    line = " ".join([*PROGRAM, "status", "c", "--registry", str(registry), "2>&-"])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (Exit.BAD_INPUT, "")


def test_a_full_disk_is_said_and_leaves_nothing(registry: Path, tmp_path: Path) -> None:
    """The device that is always full, and what the error says to do."""
    make(registry, "c", slot_size=SLOT)
    source = tmp_path / "in"
    source.write_bytes(bytes(1000))  # the sender is not told, so all of it must fit into the channel
    with started("recv", "c", "/dev/full", registry=registry) as receiver:
        sipc("send", "c", source, registry=registry)
        code, _, words = ended(receiver)
    assert code != 0
    assert "/dev/full: No space left on device: the stream was not received whole" in words


@pytest.mark.parametrize(
    ("target", "words"),
    [("missing/out", "is not a directory: make it first"), (".", "is a directory")],
    ids=["no such folder", "a folder"],
)
def test_a_target_that_can_not_be_is_refused_before_anything_is_received(
    target: str, words: str, registry: Path, tmp_path: Path
) -> None:
    """The stream stays in the channel for one that can be."""
    make(registry, "c", slot_size=SLOT)
    source, good = tmp_path / "in", tmp_path / "good"
    source.write_bytes(b"kept")
    refused = sipc("recv", "c", tmp_path / target, registry=registry)
    assert refused.returncode in (Exit.BAD_INPUT, Exit.USAGE)
    assert words in refused.stderr
    with started("recv", "c", good, registry=registry) as receiver:
        assert sipc("send", "c", source, registry=registry).returncode == 0
        assert ended(receiver)[0] == 0
    assert good.read_bytes() == b"kept"


def test_a_file_that_is_there_keeps_its_mode_and_a_link_its_target(registry: Path, tmp_path: Path) -> None:
    """A secret file stays secret, and what a link points to is what is written."""
    make(registry, "c", slot_size=SLOT)
    source, secret, link = tmp_path / "in", tmp_path / "secret", tmp_path / "link"
    source.write_bytes(b"new")
    secret.write_bytes(b"old")
    secret.chmod(0o600)
    link.symlink_to(secret)
    with started("recv", "c", link, registry=registry) as receiver:
        assert sipc("send", "c", source, registry=registry).returncode == 0
        assert ended(receiver)[0] == 0
    assert link.is_symlink()
    assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (b"new", 0o600)


def test_json_counts_the_bytes_and_needs_a_file_to_receive_to(registry: Path, tmp_path: Path) -> None:
    """One object on standard output, which must not be the stream's too."""
    make(registry, "c", slot_size=SLOT)
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(bytes(10_001))
    assert sipc("recv", "c", "--json", registry=registry).returncode == Exit.USAGE
    with started("recv", "c", target, "--json", registry=registry) as receiver:
        sent = sipc("send", "c", source, "--json", registry=registry)
        code, out, words = ended(receiver)
    assert (sent.returncode, code, words) == (0, 0, "")
    for text in (sent.stdout, out.decode()):
        assert json.loads(text) == {"version": 1, "name": "c", "bytes": 10_001, "ok": True}


@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_a_time_that_can_not_be_waited_for_is_usage(value: str, registry: Path) -> None:
    """Negative, not a number, not a time."""
    done = sipc("recv", "c", "--wait", value, registry=registry)
    assert done.returncode == Exit.USAGE
    assert "Traceback" not in done.stderr


def test_left_by_its_terminal_an_end_tells_the_other(registry: Path, tmp_path: Path) -> None:
    """SIGHUP is as Ctrl-C: the receiver is told that the stream was cut, and makes no file."""
    make(registry, "c", slot_size=SLOT)
    target = tmp_path / "out"
    with started("recv", "c", target, registry=registry) as receiver:
        with started("send", "c", registry=registry, stdin=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            sender.stdin.write(bytes(3 * SLOT))
            sender.stdin.flush()
            while not any(path.stat().st_size for path in tmp_path.glob(".out.*")):
                os.sched_yield()
            sender.send_signal(signal.SIGHUP)
            assert sender.wait(30) == Exit.INTERRUPTED
            sender.stdin.close()
        code, _, words = ended(receiver)
    assert code == Exit.NO
    assert "cut" in words
    assert [path.name for path in tmp_path.iterdir() if path != registry] == []


def test_a_bad_descriptor_hides_no_other_channel(registry: Path) -> None:
    """`sipc list` says which one can not be read, lists the rest, and its exit code tells."""
    make(registry, "good", slot_size=SLOT)
    (registry / "bad.json").write_text("{}")
    (registry / "bad.json").chmod(0o644)
    done = sipc("list", registry=registry)
    assert done.returncode == Exit.REFUSED
    assert done.stdout.startswith("good ")
    assert "bad" in done.stderr
    (registry / "bad.json").unlink()
