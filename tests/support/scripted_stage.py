# SPDX-License-Identifier: Apache-2.0
"""A stage that does as it is told: `scripted_stage.py FILE STAGE`, told by the file STAGE in $TMPDIR.

The file has one Python expression for each start, a list of acts; the last one holds for all further starts.  Acts:
`("send", channel, [message, ...])`, `("take", channel, path)` until the stream ends, `("end", channel)`,
`("say", text)`, `("flood", count)` of what is said, `("exit", code)`, `("kill",)`, `("wait",)` for a signal,
`("deaf",)` to SIGTERM, `("spawn",)` a process that leaves the group, `("accuse", registered name)` in the audit log.
SIGTERM ends it with 130 wherever it waits.  A line is added to STAGE.starts at each start.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import sipc
from sipc.guard.audit import Audit, FileLog
from sipc.guard.verdicts import MessageId


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    stage = sys.argv[2]
    book = Path(os.environ["TMPDIR"])
    with (book / f"{stage}.starts").open("a") as log:
        log.write(f"{os.getpid()}\n")
    turn = len((book / f"{stage}.starts").read_text().splitlines())
    scripts = (book / stage).read_text().splitlines()
    for act, *given in ast.literal_eval(scripts[min(turn, len(scripts)) - 1]):
        play(act, given)
    return 0


def play(act: str, given: list[Any]) -> None:
    """Do one thing."""
    state = Path(os.environ["STATE_DIRECTORY"])
    if act == "send":
        channel, messages = given
        for message in messages:
            sender_of(channel).send(message)
    elif act == "end":
        sender_of(given[0]).close()
    elif act == "take":
        channel, path = given
        with sipc.open_receiver(f"{Path(sys.argv[1]).stem}.{channel}", cursor=state / f"{channel}.cursor") as receiver:
            for message in receiver:
                with Path(str(path)).open("ab") as file:
                    file.write(message + b"\n")
    elif act == "say":
        print(given[0], file=sys.stderr, flush=True)
    elif act == "exit":
        sys.exit(int(str(given[0])))
    elif act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif act == "accuse":
        with closing(FileLog(state / "audit.jsonl")) as log:
            Audit(log, stage=sys.argv[2]).violation(MessageId(epoch=1, seq=1), channel=given[0], reason="magic")
        sys.exit(76)
    elif act == "flood":
        for _ in range(given[0]):
            os.write(2, b"x" * 65536)
    elif act == "spawn":
        subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    elif act == "wait":
        while True:
            signal.pause()
    else:
        raise ValueError(act)


SENDERS: dict[object, sipc.Sender] = {}


def sender_of(channel: object) -> sipc.Sender:
    """One end for each channel, open until the process ends."""
    guard = Path(sys.argv[1]).stem
    if channel not in SENDERS:
        SENDERS[channel] = sipc.open_sender(f"{guard}.{channel}")
    return SENDERS[channel]


if __name__ == "__main__":
    sys.exit(main())
