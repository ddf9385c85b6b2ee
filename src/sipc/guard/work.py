# SPDX-License-Identifier: Apache-2.0
"""What sources and sinks do with a message, in the order that survives a kill, and how every stage ends.

Owns that order.  A source: take, note the intent, send, let go.  A sink: receive, put, finish.  Before the intent
nothing was done; after it everything is decided, and a successor does the rest of it.  Filters are `filtering.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

from sipc.errors import Broken, EndOfStream, SpecError
from sipc.guard.filtering import Filtering
from sipc.guard.inputs import Inputs
from sipc.guard.intents import Intent, Intents, digest_of
from sipc.guard.outputs import Outputs
from sipc.guard.sinks import Sink, StreamSink
from sipc.guard.sources import DirectorySource, FileSource, Source, StreamSource
from sipc.guard.status import StageState, Status
from sipc.guard.stopping import Stopping
from sipc.guard.verdicts import MessageId
from sipc.receiver import Receiver

__all__ = ("run_filter", "run_sink", "run_source")

# What has come behind the message in hand goes with it from a stream, up to so much.
_TOGETHER_BYTES, _TOGETHER = 4 << 20, 1024


def _over(last: Intent | None) -> Mapping[str, tuple[int, int]]:
    return last.over if last is not None else {}


def _ended(receivers: Mapping[str, Receiver], last: Intent | None) -> set[str]:
    """Inputs whose stream has ended, which a predecessor was not able to pass on."""
    over = _over(last)
    return {name for name, end in receivers.items() if end.at_end and over.get(name) != (end.epoch, end.last_seq or 0)}


def _all_over(receivers: Mapping[str, Receiver]) -> dict[str, tuple[int, int]]:
    return {name: (end.epoch, end.last_seq or 0) for name, end in receivers.items()}


def _in_hand(receivers: Mapping[str, Receiver], last: Intent | None) -> str | None:
    """The channel of the block that a predecessor had in hand, if it noted that."""
    if last is None or last.channel not in receivers:
        return None
    end = receivers[last.channel]
    return last.channel if last.about(last.channel, end.epoch, (end.last_seq or 0) + 1) else None


def run_source(source: Source, outputs: Outputs, intents: Intents, status: Status, stop: Stopping, *, run: str) -> None:
    """Until the source has ended, which a directory or a socket never does.

    A file is sent once in each run; where runs have no names, once as it is.
    """
    last = intents.last
    if isinstance(source, FileSource) and last is not None and last.ended and run in ("", last.run):
        if digest_of(source.take()) == last.digest:
            return
        last = None
    closed = outputs.closed_since(last.marks) if last is not None and isinstance(source, FileSource) else set()
    while True:
        status.state = StageState.WAITING
        try:
            with stop:
                data = source.take()
        except EndOfStream:
            break
        except Broken as error:
            if isinstance(source, StreamSource):
                raise SpecError(f"standard input: {error}") from error  # what follows has no beginning, now or later
            raise
        status.state = StageState.RUNNING
        if isinstance(source, DirectorySource | FileSource):
            intent = _source_intent(source, data, outputs, intents)
            with stop:
                outputs.send([data], intent.marks)
        else:
            behind = source.take_behind(_TOGETHER_BYTES, _TOGETHER) if isinstance(source, StreamSource) else []
            outputs.send([data, *behind], outputs.marks())
        source.done()
        stop.check()
    with stop:
        outputs.close(closed)
    sent = intents.last.digest if isinstance(source, FileSource) and intents.last is not None else ""
    intents.write(Intent(digest=sent, marks=outputs.marks(), ended=True, run=run))


def _source_intent(source: DirectorySource | FileSource, data: bytes, outputs: Outputs, intents: Intents) -> Intent:
    """The intent for the message in hand: that of a predecessor who had it in hand, or a new one."""
    last, digest = intents.last, digest_of(data)
    if last is not None and isinstance(source, FileSource):
        known = last.digest == digest and not last.ended
    elif last is not None and isinstance(source, DirectorySource):
        noted = source.intended
        known = noted is not None and last.digest == digest and last.about("", noted.epoch, noted.seq)
    else:
        known = False
    if known and last is not None:
        intent = replace(last, marks=outputs.resumed([data], last.marks))
        intents.write(intent)
        return intent
    intent = Intent(epoch=outputs.epoch, seq=outputs.seq, digest=digest, marks=outputs.marks())
    intents.write(intent)
    if isinstance(source, DirectorySource):
        source.intend(MessageId(epoch=intent.epoch, seq=intent.seq))
    return intent


def run_filter(
    receivers: Mapping[str, Receiver], inputs: Inputs, filtering: Filtering, outputs: Outputs, intents: Intents,
    stop: Stopping, *, run: str,
) -> None:  # fmt: skip
    """Until all inputs have ended, and that was passed on."""
    last = intents.last
    closed = outputs.closed_since(last.marks if last is not None else {})
    filtering.finish_taken()
    inputs.begin(_ended(receivers, last))
    filtering.run()
    with stop:
        outputs.close(closed)
    intents.write(Intent(marks=outputs.marks(), over=_all_over(receivers), ended=True, run=run))


def run_sink(
    receivers: Mapping[str, Receiver], inputs: Inputs, sink: Sink, intents: Intents, stop: Stopping, *,
    may_repeat: bool, run: str,
) -> None:  # fmt: skip
    """Until all inputs have ended.  A sink that `may_repeat` is left in the middle of a message when asked to stop."""
    ended = _ended(receivers, intents.last)
    for arrival in inputs.arrivals(first=_in_hand(receivers, intents.last), ended=ended):
        epoch = arrival.receiver.epoch
        if len(receivers) > 1:
            # After a kill the sink is asked for this one again before it gets another channel's: it knows one message.
            noted = Intent(
                channel=arrival.channel, epoch=epoch, seq=arrival.seq, first=arrival.record, over=_over(intents.last)
            )
            intents.write(noted)
        with stop if may_repeat else nullcontext():
            if isinstance(sink, StreamSink):
                sink.put_all(arrival.messages)
                continue
            for number, data in enumerate(arrival.messages, arrival.record):
                sink.put(data, MessageId(epoch=epoch, seq=arrival.seq, record=number))
    intents.write(Intent(over=_all_over(receivers), ended=True, run=run))
