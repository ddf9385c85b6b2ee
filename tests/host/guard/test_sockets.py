# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: a sink and a source understand each other, and no client, however hostile, stops the others."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.channels import Child

from sipc.errors import Broken, Busy, SpecError, Timeout
from sipc.guard.framing import message
from sipc.guard.sockets import SocketSink, SocketSource
from sipc.guard.verdicts import MessageId

pytestmark = pytest.mark.host

LIMIT = 300_000
ONE = MessageId(epoch=1, seq=1)


def client(place: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(30)
    peer.connect(str(place))
    return peer


def test_what_a_sink_puts_a_source_takes(folder: Path) -> None:
    """Messages of any size, in order; put returns when the other side is done, not before."""
    place, messages = folder / "s", [os.urandom(size) for size in (0, 1, 5, 65536, LIMIT)]

    def put() -> None:
        with SocketSink(place, timeout=60) as sink:
            for number, data in enumerate(messages):
                sink.put(data, ONE)
                (folder / f"put-{number}").touch()

    with SocketSource(place, max_message=LIMIT) as source:
        child = Child(put)
        for number, data in enumerate(messages):
            assert source.take(60) == source.take(0) == data
            assert not (folder / f"put-{number}").exists()
            source.done()
        child.result()
        with pytest.raises(Timeout):
            source.take(0.01)
    assert not place.exists()


def test_hostile_clients_do_not_stop_the_others(folder: Path) -> None:
    """Too large a frame, half a frame, silence, a hang-up: each is for its own connection alone."""
    place = folder / "s"
    with SocketSource(place, max_message=LIMIT) as source:
        large, half, silent, gone, good = (client(place) for _ in range(5))
        large.sendall(struct.pack("<I", LIMIT + 1))
        half.sendall(struct.pack("<I", 10) + b"half")
        gone.sendall(struct.pack("<I", 10) + b"half")
        gone.close()
        good.sendall(message(b"good"))
        assert source.take(30) == b"good"
        source.done()
        assert good.recv(100) == struct.pack("<BI", 0, 0)
        good.sendall(message(b"again"))
        half.sendall(b" whole")
        got = []
        for _ in range(2):
            got.append(source.take(30))
            source.done()
        assert sorted(got) == [b"again", b"half whole"]
        assert large.recv(1) == b""
        for peer in (large, half, silent, good):
            peer.close()


def test_a_client_that_goes_after_its_message_has_sent_it(folder: Path) -> None:
    """There is nobody to tell, and no error either."""
    place = folder / "s"
    with SocketSource(place, max_message=LIMIT) as source:
        with client(place) as peer:
            peer.sendall(message(b"one") + message(b"two"))
        for expected in (b"one", b"two"):
            assert source.take(30) == expected
            source.done()
        with pytest.raises(Timeout):
            source.take(0.01)


def test_clients_take_turns(folder: Path) -> None:
    """One that sends without end does not keep another waiting."""
    place = folder / "s"
    with SocketSource(place, max_message=LIMIT) as source:
        with client(place) as busy, client(place) as other:
            busy.sendall(message(b"busy") * 1000)
            assert source.take(30) == b"busy"
            other.sendall(message(b"other"))
            got = []
            while b"other" not in got:
                source.done()
                got.append(source.take(30))
            assert len(got) <= 1001


def test_a_socket_is_private_and_a_dead_one_replaced_and_nothing_else(folder: Path) -> None:
    """A live one is `Busy`; a file there is left alone."""
    place = folder / "s"
    with SocketSource(place, max_message=LIMIT):
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        with pytest.raises(Busy, match="another process listens"):
            SocketSource(place, max_message=LIMIT)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(place))
    dead.close()
    with SocketSource(place, max_message=LIMIT, mode=0o660):
        assert stat.S_IMODE(place.stat().st_mode) == 0o660
    place.write_text("precious")
    with pytest.raises(SpecError, match="something else is there"):
        SocketSource(place, max_message=LIMIT)
    assert place.read_text() == "precious"
    with pytest.raises(SpecError, match="at most 107 bytes"):
        SocketSource(folder / ("x" * 100), max_message=LIMIT)


def test_a_sink_says_that_nobody_is_there_or_answers(folder: Path) -> None:
    """Before there was anybody, when one is silent, and when he has gone; it can be put again each time."""
    place = folder / "s"
    with SocketSink(place, timeout=0.3) as sink:
        with pytest.raises(Broken, match="nobody listens there:"):
            sink.put(b"x", ONE)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
            listener.listen()
            with pytest.raises(Timeout, match="it may have the message"):
                sink.put(b"x", ONE)
        with pytest.raises(Broken, match="nobody listens there any more"):
            sink.put(b"x", ONE)


def test_a_stages_message_waits_for_who_is_not_there_or_has_gone(folder: Path) -> None:
    """Nobody yet, one who dies with the message in hand, one whose socket is left behind: told once, taken at last."""
    place, told = folder / "s", folder / "told"

    def put() -> None:
        with told.open("a", buffering=1) as file, SocketSink(place, report=lambda line: print(line, file=file)) as sink:
            sink.put(b"x", ONE)

    child = Child(put)
    while not told.exists() or not told.read_text():
        assert not child.done()
    for number in range(3):
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
            listener.listen()
            peer = listener.accept()[0]
            assert peer.recv(100) == message(b"x")
            if number == 2:
                peer.sendall(struct.pack("<BI", 0, 0))
            peer.close()
    child.result()
    assert told.read_text().splitlines() == [
        f"socket {place}: nobody listens there: start who should, then put the message again; the message waits",
        f"socket {place}: the message that waited was taken",
    ]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "hung up without an answer"),
        (b"\0\0", "hung up without an answer"),
        (b"\7", "does not answer in frames"),
        (struct.pack("<BI", 0, 1), "does not answer in frames"),
        (struct.pack("<BI", 0, 0) + b"x", "does not answer in frames"),
        (struct.pack("<BI", 10, 0), "refused the message"),
    ],
)
def test_only_a_whole_and_right_answer_is_one(answer: bytes, why: str, folder: Path) -> None:
    """Else the message is to be put again, and can be."""
    place = folder / "s"
    with socket.socket(socket.AF_UNIX) as listener, SocketSink(place, timeout=30) as sink:
        listener.bind(str(place))
        listener.listen()

        def speak() -> None:
            for told in (answer, struct.pack("<BI", 0, 0)):
                peer = listener.accept()[0]
                data = b""
                while data != message(b"x"):
                    piece = peer.recv(100)
                    assert piece
                    data += piece
                peer.sendall(told)
                peer.close()

        child = Child(speak)
        with pytest.raises(Broken, match=why):
            sink.put(b"x", ONE)
        sink.put(b"x", ONE)
        child.result()


def test_an_answer_too_many_is_not_the_next_messages(folder: Path) -> None:
    """It lies there before the message is sent; a hang-up in between is only a reason to connect again."""
    place = folder / "s"
    right = struct.pack("<BI", 0, 0)
    with socket.socket(socket.AF_UNIX) as listener, SocketSink(place, timeout=30) as sink:
        listener.bind(str(place))
        listener.listen()

        def speak() -> None:
            for number in range(3):
                peer = listener.accept()[0]
                assert peer.recv(100) == message(b"x")
                peer.sendall(right)
                if number == 0:
                    peer.sendall(right)
                    (folder / "twice").touch()
                    with suppress(ConnectionResetError):
                        assert peer.recv(100) == b""
                peer.close()
                (folder / f"closed-{number}").touch()

        child = Child(speak)
        with pytest.raises(Broken, match=r"answered what it was not asked|does not answer in frames"):
            sink.put(b"x", ONE)  # at once, when both answers come together
            while not (folder / "twice").exists():
                assert not child.done()
            sink.put(b"x", ONE)
        sink.put(b"x", ONE)
        while not (folder / "closed-1").exists():
            assert not child.done()
        sink.put(b"x", ONE)
        child.result()
