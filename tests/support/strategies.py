# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies shared by the tests: what the protocol's values look like, valid and hostile."""

from __future__ import annotations

from hypothesis import strategies as st

from sipc.proto.control import CONTROL_SIZE, ControlMessage, Flag, Kind
from sipc.spec import Geometry

__all__ = (
    "CLOSE_FLAGS",
    "DATA_FLAGS",
    "control_messages",
    "corrupted",
    "epochs",
    "geometries",
    "hostile_bytes",
    "record_batches",
    "seqs",
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
