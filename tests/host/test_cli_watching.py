# SPDX-License-Identifier: Apache-2.0
"""`sipc list --watch`: a line for each change, an end in order, and no second look without a reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.host.test_finding import asleep
from tests.support.channels import make
from tests.support.cli import ended, started

from sipc import helper
from sipc.cli.exits import Exit

pytestmark = pytest.mark.host


@contextmanager
def watching(registry: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, asleep: it has reported what there was."""
    with started("list", "--watch", *options, registry=registry) as process:
        asleep(process.pid)
        yield process


def line(process: subprocess.Popen[bytes]) -> str:
    """The next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline().decode()


def test_people_get_a_line_for_each_change(registry: Path) -> None:
    """On stdout, at once, through a pipe as well."""
    first = make(registry, "a", slot_size=64)
    with watching(registry) as process:
        assert line(process).split()[:2] == ["appeared", "a"]
        second = make(registry, "a", replacing=True, slot_size=64)
        told = line(process)
        assert told.split()[:2] == ["replaced", "a"]
        assert f"epoch {second.epoch}, epoch {first.epoch} before" in told
        (registry / "b.json").write_text("[" * 50_000)
        (registry / "b.json").chmod(0o644)
        told = line(process)
        assert told.split()[:2] == ["refused", "b"]
        assert "not JSON" in told
        helper.destroy("a", registry)
        assert line(process).split()[:2] == ["gone", "a"]
        (registry / "b.json").unlink()
        assert line(process).split()[:2] == ["gone", "b"]
        process.terminate()
        code, out, _ = ended(process)
        assert (code, out) == (Exit.INTERRUPTED, b"")


def test_programs_get_one_versioned_object_in_each_line(registry: Path) -> None:
    """The same keys in each, null where there is nothing to say."""

    def told(process: subprocess.Popen[bytes]) -> dict[str, Any]:
        event = json.loads(line(process))
        assert list(event) == ["version", "event", "name", "registry", "epoch", "old_epoch", "reason", "channel"]
        assert (event["version"], event["registry"]) == (1, str(registry))
        return dict(event)

    with watching(registry, "--json") as process:
        first = make(registry, "a", slot_size=64)
        event = told(process)
        assert (event["event"], event["name"], event["epoch"]) == ("appeared", "a", first.epoch)
        assert event["channel"]["slot_size"] == 64
        second = make(registry, "a", replacing=True, slot_size=64)
        event = told(process)
        assert (event["event"], event["epoch"], event["old_epoch"]) == ("replaced", second.epoch, first.epoch)
        registry.chmod(0o777)
        event = told(process)
        assert (event["event"], event["name"], event["channel"]) == ("refused", None, None)
        assert "writable by others" in event["reason"]
        event = told(process)
        assert (event["event"], event["name"], event["old_epoch"]) == ("refused", "a", second.epoch)
        registry.chmod(0o700)
        event = told(process)
        assert (event["event"], event["name"], event["epoch"]) == ("appeared", "a", second.epoch)
        helper.destroy("a", registry)
        event = told(process)
        assert (event["event"], event["old_epoch"], event["channel"]) == ("gone", second.epoch, None)
        process.terminate()
        assert ended(process)[0] == Exit.INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_it_in_order(number: signal.Signals, registry: Path) -> None:
    """With the code and the word of every command."""
    with watching(registry) as process:
        process.send_signal(number)
        code, out, err = ended(process)
        assert (code, out, err.strip()) == (Exit.INTERRUPTED, b"", "sipc: interrupted")


def test_it_ends_when_nobody_reads_any_more(registry: Path) -> None:
    """At once, although nothing happens that it could try to write."""
    with watching(registry) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == Exit.NO
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_it_ends_when_nobody_reads_what_it_writes_first(registry: Path) -> None:
    """As every command in front of a `head` that had enough."""
    make(registry, "a", slot_size=64)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe, started("list", "--watch", registry=registry, stdout=pipe) as process:
        assert process.wait(60) == Exit.NO
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_it_waits_for_a_registry_that_is_not_there(tmp_path: Path, registry: Path) -> None:
    """Nothing on stdout until there is something to say; a registry that is a link is refused, and it goes on."""
    place = tmp_path / "later"
    with watching(place) as process:
        place.symlink_to(registry)
        told = line(process)
        assert told.split()[:2] == ["refused", "-"]
        assert "must be a real directory" in told
        place.unlink()
        place.mkdir(mode=0o700)
        make(place, "a", slot_size=64)
        assert line(process).split()[:2] == ["appeared", "a"]
        helper.destroy("a", place)
        assert line(process).split()[:2] == ["gone", "a"]
        process.terminate()
        assert ended(process)[0] == Exit.INTERRUPTED
