# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies shared by the tests: what the protocol's values look like, valid and hostile."""

from __future__ import annotations

from hypothesis import strategies as st

from sipc.proto.control import CONTROL_SIZE, ControlMessage, Flag, Kind
from sipc.spec import (
    MAX_DEPTH,
    MAX_SLOT_SIZE,
    MAX_SLOTS,
    TAG_SIZE,
    Backend,
    ChannelSpec,
    Enforcement,
    Geometry,
    Principal,
    SegmentCreator,
    Tag,
    Transport,
    Wire,
)

__all__ = (
    "CLOSE_FLAGS",
    "DATA_FLAGS",
    "channel_names",
    "channel_specs",
    "control_fields",
    "control_messages",
    "corrupted",
    "epochs",
    "flow_geometries",
    "geometries",
    "hostile_bytes",
    "record_batches",
    "seqs",
    "streams",
    "u32",
    "u64",
)

# Every meaningful combination, written out: a block of a record (first, middle, last), or of packed records.
DATA_FLAGS = (
    Flag.NONE,
    Flag.MORE,
    Flag.CONTINUED,
    Flag.CONTINUED | Flag.MORE,
    Flag.RECORDS,
    Flag.RESTART,
    Flag.RESTART | Flag.MORE,
    Flag.RESTART | Flag.RECORDS,
)
CLOSE_FLAGS = (
    Flag.CLOSE,
    Flag.CLOSE | Flag.MORE,
    Flag.CLOSE | Flag.RESTART,
    Flag.CLOSE | Flag.RESTART | Flag.MORE,
)

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
epochs = u64
seqs = st.integers(1, (1 << 64) - 1)

# Segments are allocated for real: keep them small.
geometries = st.builds(
    Geometry, slots=st.integers(1, 9), depth=st.integers(1, 5), slot_size=st.integers(1, 3 * 4096)
)

# Small enough that slots and queue wrap around many times within one example.
flow_geometries = st.builds(
    Geometry, slots=st.integers(1, 6), depth=st.integers(1, 4), slot_size=st.sampled_from([1, 8, 64, 4096, 5000])
)

# What a sender sends as one piece, as (length, flags) of each block: a message in one block or in several, packed
# records, or the end of the stream (in order, or cut).
_lengths = st.one_of(st.integers(0, 70), st.just(4096))


@st.composite
def _large(draw: st.DrawFn) -> list[tuple[int, int]]:
    lengths = draw(st.lists(_lengths, min_size=2, max_size=5))
    last = len(lengths) - 1
    return [
        (length, int((Flag.MORE if at < last else 0) | (Flag.CONTINUED if at else 0)))
        for at, length in enumerate(lengths)
    ]


streams = st.one_of(
    _lengths.map(lambda length: [(length, 0)]),
    _lengths.map(lambda length: [(length, int(Flag.RECORDS))]),
    _large(),
    st.sampled_from([[(0, int(Flag.CLOSE))], [(0, int(Flag.CLOSE | Flag.MORE))]]),
)

# Empty records are records too; a batch of none is no block.
record_batches = st.lists(st.binary(max_size=64), min_size=1, max_size=40)

_data = st.builds(
    ControlMessage,
    kind=st.just(Kind.DATA_READY),
    slot=st.integers(0, 0xFFFF),
    flags=st.sampled_from(DATA_FLAGS),
    epoch=epochs,
    seq=seqs,
    length=u64,
)
_noop = st.builds(ControlMessage, kind=st.just(Kind.NOOP), epoch=epochs)
_close = st.builds(
    ControlMessage,
    kind=st.just(Kind.CLOSE),
    slot=st.integers(0, 0xFFFF),
    flags=st.sampled_from(CLOSE_FLAGS),
    epoch=epochs,
    seq=seqs,
)
control_messages = st.one_of(_data, _noop, _close)


@st.composite
def control_fields(draw: st.DrawFn, *, epoch: int, slots: int, slot_size: int) -> dict[str, int]:
    """The fields of a message that is nearly right, or is: each one is what it should be most of the time."""
    seq = draw(st.one_of(st.integers(1, 6), st.integers(1, 6), u64))
    kind = draw(st.sampled_from([1, 1, 1, 1, 1, 2, 3, 0, 4, 255]))
    flags = CLOSE_FLAGS if kind == Kind.CLOSE else DATA_FLAGS
    right = (seq - 1) % slots
    return {
        "kind": kind,
        "slot": draw(st.sampled_from([right, right, right, draw(st.integers(0, 0xFFFF))])),
        "flags": draw(st.one_of(st.sampled_from(flags).map(int), st.sampled_from(flags).map(int), u32)),
        "epoch": draw(st.sampled_from([epoch, epoch, epoch, epoch, draw(epochs)])),
        "seq": seq,
        "length": draw(st.one_of(st.integers(0, slot_size), st.integers(0, slot_size + 1), u64)),
    }


@st.composite
def corrupted(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were valid before some of them were overwritten, cut off, or followed by others."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    tail = draw(st.binary(max_size=8))
    return draw(st.sampled_from([bytes(data), bytes(data[:cut]), bytes(data) + tail]))


# Mostly of the right size, so that the checks behind the size check are reached.
hostile_bytes = st.one_of(
    st.binary(max_size=3 * CONTROL_SIZE),
    st.binary(min_size=CONTROL_SIZE, max_size=CONTROL_SIZE),
    corrupted(control_messages.map(ControlMessage.encode)),
)

channel_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
# What TOML can hold in a string, and JSON too: no lone surrogates; and no NUL, which no path and no type has.
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
_ids = st.integers(0, 0xFFFFFFFE)


@st.composite
def _principals(draw: st.DrawFn) -> Principal:
    uid = draw(st.none() | _ids)
    return Principal(uid=uid, gid=None if uid is None else draw(_ids), type=draw(st.none() | _texts))


@st.composite
def channel_specs(draw: st.DrawFn) -> ChannelSpec:
    """Any channel that a definition can describe."""
    wire = draw(st.sampled_from(Wire))
    transport = draw(st.sampled_from(Transport))
    libsipc = wire is Wire.LIBSIPC
    tag = None if libsipc else draw(st.sampled_from([None, Tag.BLAKE2B]))
    sender, receiver = draw(_principals()), draw(_principals())
    if sender.gid == receiver.gid and sender.uid != receiver.uid and sender.gid is not None:
        receiver = Principal(uid=sender.uid, gid=sender.gid, type=receiver.type)  # two users are in two groups
    return ChannelSpec(
        name=draw(channel_names),
        wire=wire,
        transport=transport,
        backend=Backend.SYSV if libsipc else draw(st.sampled_from([Backend.SYSV, Backend.POSIX])),
        geometry=Geometry(
            slots=1 if libsipc else draw(st.integers(1, MAX_SLOTS)),
            depth=1 if libsipc else draw(st.integers(1, MAX_DEPTH)),
            slot_size=draw(st.integers(1 if tag is None else TAG_SIZE + 1, MAX_SLOT_SIZE)),
        ),
        segment_creator=(
            SegmentCreator.HELPER if transport is Transport.QUEUE else draw(st.sampled_from(SegmentCreator))
        ),
        enforcement=draw(st.sampled_from(Enforcement)),
        checksum=not libsipc and tag is None and draw(st.booleans()),
        tag=tag,
        max_message=draw(st.integers(1, (1 << 63) - 1)),
        key_path=draw(_texts) if libsipc else None,
        channel_type=draw(st.none() | _texts),
        sender=sender,
        receiver=receiver,
    )
