# SPDX-License-Identifier: Apache-2.0
"""The examples as whole guards that run: what comes out, what is kept back, what is logged, also when stages die."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from examples.json_guard import demo
from tests.support.cli import sipc
from tests.support.orders import BAD, CANONICAL, changed
from tests.support.running_guards import EXAMPLES, LONGEST, RunningGuard, await_change
from tests.unit.test_docs import ROOT, blocks

pytestmark = pytest.mark.host

HEAD = b"<34>1 2024-05-17T09:30:00Z host su 77 - - "


def verified(guard: RunningGuard, stage: str) -> int:
    """How many messages a stage's audit log tells of, each entry bound to the one before."""
    done = sipc("guard", "audit", "verify", guard.audit(stage))
    assert done.returncode == 0, done
    return int(done.stdout.split()[0])


def page_output() -> str:
    (block,) = (body for body in blocks(ROOT / "docs" / "example-json-guard.md", "console") if "demo.py" in body)
    return block.split("\n", 1)[1]


def test_the_demo_shows_what_the_page_shows() -> None:
    """Line by line, but for the hash, and how many messages share an entry; nothing of it is left behind."""
    done = subprocess.run([sys.executable, demo.__file__], capture_output=True, text=True, timeout=LONGEST, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert _common(done.stdout) == _common(page_output())


def _common(text: str) -> str:
    for varying, word in ((r"[0-9a-f]{64}", "HASH"), (r"in \d+ entries", "in N entries"), (r"jsonl:\d+:", "jsonl:N:")):
        text = re.sub(varying, word, text)
    return text


def test_every_bad_order_is_kept_back_and_every_good_one_delivered(registry: Path, folder: Path) -> None:
    """Good, bad and hostile in turn, 100 MB among them, through the guard as it runs."""
    huge = {
        "100 MB": b" " * 100_000_000,
        "a million arrays": b"[" * 1_000_000 + b"]" * 1_000_000,
        "a number of 10 MB": b"9" * 10_000_000,
    }
    bad = [*BAD.values(), *((data, "size") for data in huge.values())]
    with RunningGuard("json_guard", folder, registry) as guard:
        for number, (data, _) in enumerate(bad):
            guard.put(f"{number:03}-bad", data)
            guard.put(f"{number:03}-good", changed(order=f"A-{number}"))
        guard.wait_for(2 * len(bad))
        assert guard.stop() == 130
    expected = [CANONICAL.replace(b"A-1001", b"A-%d" % number) for number in range(len(bad))]
    assert guard.out() == expected
    assert guard.kept() == bad
    assert os.listdir(guard.source) == []
    assert verified(guard, "scrub") == 2 * len(bad)
    log = guard.audit("scrub").read_bytes() + guard.log.read_bytes()
    assert b"BOLT-8" not in log
    assert b"C-17" not in log


def test_killed_at_any_time_no_order_is_lost_or_comes_twice(registry: Path, folder: Path) -> None:
    """Each stage by SIGKILL, again and again, while orders go through; then the whole guard, which goes on again."""
    count = 120
    good = [changed(order=f"A-{number}") for number in range(count)]
    guard = RunningGuard("json_guard", folder, registry)
    with guard:
        for number, data in enumerate(good):
            guard.put(f"{number:03}", data if number % 3 else data[:-1])
            if number % 10 == 5:
                guard.wait_for(number - 5)
                stage = ("ingest", "scrub", "deliver")[number // 10 % 3]
                if pids := guard.pids(stage):
                    with suppress(ProcessLookupError):
                        os.kill(pids[-1], signal.SIGKILL)
        guard.wait_for(count // 2)
        assert guard.process is not None
        guard.process.kill()
        guard.process.wait(LONGEST)
    assert sum(len(guard.pids(stage)) for stage in ("ingest", "scrub", "deliver")) > 9
    with guard:
        guard.wait_for(count)
        assert guard.stop() == 130
    assert guard.out() == [CANONICAL.replace(b"A-1001", b"A-%d" % number) for number in range(count) if number % 3]
    assert guard.kept() == [(data[:-1], "syntax") for number, data in enumerate(good) if number % 3 == 0]
    assert verified(guard, "scrub") == count


def test_a_log_comes_out_whole_and_harmless(registry: Path, folder: Path, tmp_path: Path) -> None:
    """A writer that rotates, the feeder, the guard: every line once, in order, and no escape among them."""
    log = tmp_path / "app.log"
    texts = [b"turn %d line %d \x1b[31m\xff" % (turn, line) for turn in range(4) for line in range(250)]
    with RunningGuard("log_diode", folder, registry) as guard:
        feeder = [sys.executable, str(EXAMPLES / "log_diode" / "feeder.py"), str(log), str(guard.source)]
        log.touch()
        with subprocess.Popen(feeder) as feeding:
            sent = 0
            for turn in range(4):
                with log.open("ab") as file:
                    file.writelines(HEAD + text + b"\n" for text in texts[turn * 250 : turn * 250 + 250])
                sent += 250

                def arrived(sent: int = sent) -> bool:
                    return b"".join(guard.out()).count(b"\n") >= sent

                await_change([guard.sink], arrived, feeding)
                log.rename(tmp_path / f"app.log.{turn}")
            feeding.terminate()
        assert guard.stop() == 130
    lines = b"".join(guard.out()).decode().split("\n")
    assert lines == [
        *((HEAD + text).replace(b"\x1b", rb"\x1b").replace(b"\xff", rb"\xff").decode() for text in texts),
        "",
    ]
    assert all(line.isprintable() for line in lines)
    assert guard.kept() == []


def test_a_batch_that_is_no_log_is_kept_back_and_the_log_goes_on(registry: Path, folder: Path) -> None:
    """From the journal, whatever a program logged; what is no journal is a quarantine of its batch alone."""
    entry = b'{"__REALTIME_TIMESTAMP":"0","MESSAGE":"\\u001b[2J%d","SYSLOG_IDENTIFIER":"a b"}\n'
    bad = [b"no journal\n", entry[:-1], b"[" * 100_000 + b"\n", b"\0" * 100_000_000]
    with RunningGuard("log_diode", folder, registry, function="log_diode:journal") as guard:
        for number, batch in enumerate(bad):
            guard.put(f"{number}-bad.log", batch)
            guard.put(f"{number}-good.log", entry % number)
        guard.wait_for(2 * len(bad))
        assert guard.stop() == 130
    assert guard.out() == [
        rb"<14>1 1970-01-01T00:00:00.000000Z - a_b - - - \x1b[2J%d" % number + b"\n" for number in range(len(bad))
    ]
    assert guard.kept() == list(
        zip(bad, ["no-log-record", "batch-truncated", "no-log-record", "batch-size"], strict=True)
    )
    assert verified(guard, "scrub") == 2 * len(bad)


@pytest.mark.parametrize("name", ["json_guard", "log_diode"])
def test_the_commands_of_the_page_make_a_guard_that_runs(name: str, registry: Path, tmp_path: Path) -> None:
    """In an empty directory, as they stand there."""
    del registry  # it is where the page has its own
    page = ROOT / "docs" / f"example-{name.replace('_', '-')}.md"
    (body,) = (body for body in blocks(page, "sh") if "sipc guard run" in body)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    out = tmp_path / "out"
    out.mkdir()
    script = (
        body + 'echo "$!"\nwait "$!"\n'
        if "&\n" in body
        else body.replace("sipc guard run", "echo $$\nexec sipc guard run")
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        if name == "json_guard":
            (tmp_path / "in" / ".order").write_bytes(changed())
            (tmp_path / "in" / ".order").rename(tmp_path / "in" / "order")
        await_change([out], lambda: any(not one.startswith(".") for one in os.listdir(out)), shell)
        os.kill(pid, signal.SIGTERM)
        _, errors = shell.communicate(timeout=LONGEST)
    assert shell.returncode == 130, errors
    (arrived,) = (path.read_bytes() for path in out.iterdir() if not path.name.startswith("."))
    expected = CANONICAL if name == "json_guard" else blocks(page, "text")[-1].encode()
    assert arrived == expected
