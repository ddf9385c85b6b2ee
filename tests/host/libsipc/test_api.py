# SPDX-License-Identifier: Apache-2.0
"""What `sipc.libsipc` promises its callers: errors, the life of views, creation, not waiting, letting go."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sysv_ipc

from sipc import libsipc
from sipc.errors import (
    Broken,
    Busy,
    ChannelExists,
    ChannelNotFound,
    Closed,
    Denied,
    KernelError,
    LocalProtocolError,
    SpecError,
    Timeout,
)
from sipc.libsipc import CREATOR, RECEIVER, SENDER, SYSV_MQUEUES, SYSV_SHM

if TYPE_CHECKING:
    from tests.host.libsipc.conftest import Lab

pytestmark = pytest.mark.host

SIZE = 20000
TYPES = (SYSV_SHM, SYSV_MQUEUES)


def create(lab: Lab, ipc_type: libsipc.IpcType, size: int = SIZE) -> None:
    libsipc.open(lab.path, CREATOR, ipc_type, size).close()
    lab.note()


def test_the_numbers_are_those_of_the_c_header() -> None:
    assert (libsipc.CREATOR, libsipc.SENDER, libsipc.RECEIVER) == (0, 1, 2)
    assert (libsipc.SYSV_SHM, libsipc.SYSV_MQUEUES) == (0, 1)
    assert (libsipc.BLOCK, libsipc.NOBLOCK) == (0, 1)


def test_everything_public_is_there() -> None:
    assert all(hasattr(libsipc, name) for name in libsipc.__all__)


# Arguments


@pytest.mark.parametrize(
    "change",
    [
        {"role": 3},
        {"role": -1},
        {"ipc_type": 2},
        {"size": 0},
        {"size": -1},
        {"size": "4096"},
        {"size": 1 << 63},
        {"mode": 0o1600},
        {"mode": 0o700},
        {"mode": -1},
        {"mode": "0600"},
        {"key": "/no/such/file"},
        {"key": "with\x00nul"},
        {"key": 5},
    ],
)
def test_an_argument_that_can_not_be_is_refused(lab: Lab, change: dict[str, object]) -> None:
    """Nothing is made."""
    arguments: dict[str, object] = {"key": lab.path, "role": CREATOR, "ipc_type": SYSV_SHM, "size": SIZE}
    function: Callable[..., object] = libsipc.open
    with pytest.raises(SpecError):
        function(**(arguments | change))
    assert lab.rows("msg") == lab.rows("shm") == []


def test_unlink_refuses_what_open_refuses(lab: Lab) -> None:
    with pytest.raises(SpecError):
        libsipc.unlink(lab.path, 2)
    with pytest.raises(SpecError):
        libsipc.unlink("/no/such/file", SYSV_SHM)


@pytest.mark.parametrize("length", [-1, SIZE + 1, "5", None])
def test_more_than_the_size_is_not_sent(lab: Lab, length: object) -> None:
    """C: ENOMEM."""
    create(lab, SYSV_MQUEUES)
    with libsipc.open(lab.path, SENDER, SYSV_MQUEUES, SIZE) as sender:
        send: Callable[[object], None] = sender.send_data  # type: ignore[assignment]
        with pytest.raises(SpecError):
            send(length)
        assert lab.rows("msg")[0]["qnum"] == "0"
        sender.send_data(SIZE // 2)


# Creation


@pytest.mark.parametrize("ipc_type", TYPES)
@pytest.mark.parametrize(
    ("given", "perms"), [({}, "600"), ({"mode": 0o660}, "660"), ({"mode": 0o666}, "666")]
)
def test_a_channel_is_private_unless_said_otherwise(
    lab: Lab, ipc_type: libsipc.IpcType, given: dict[str, int], perms: str
) -> None:
    """The C library's 0666 lets anyone in; here it must be asked for."""
    libsipc.open(lab.path, CREATOR, ipc_type, SIZE, **given).close()
    found = [row["perms"] for row in (*lab.rows("msg"), *lab.rows("shm"))]
    assert found == [perms] * (2 if ipc_type is SYSV_SHM else 1)


@pytest.mark.parametrize("ipc_type", TYPES)
def test_a_channel_that_exists_is_not_made_again(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    """And it stays as it was."""
    create(lab, ipc_type)
    before = lab.rows("msg") + lab.rows("shm")
    with pytest.raises(ChannelExists, match="unlink"):
        libsipc.open(lab.path, CREATOR, ipc_type, SIZE)
    assert lab.rows("msg") + lab.rows("shm") == before


def test_a_foreign_segment_under_the_key_makes_creation_fail_whole(lab: Lab) -> None:
    """The queue that was made is removed; the foreign segment is not."""
    foreign = sysv_ipc.SharedMemory(lab.key, sysv_ipc.IPC_CREX, mode=0o600, size=4096)
    foreign.detach()
    lab.note()
    with pytest.raises(ChannelExists):
        libsipc.open(lab.path, CREATOR, SYSV_SHM, SIZE)
    assert lab.rows("msg") == []
    assert len(lab.rows("shm")) == 1


def test_a_segment_that_can_not_be_made_takes_the_queue_along(lab: Lab) -> None:
    with pytest.raises(KernelError):
        libsipc.open(lab.path, CREATOR, SYSV_SHM, 1 << 62)
    assert lab.rows("msg") == lab.rows("shm") == []


def test_every_page_of_a_new_segment_is_there(lab: Lab) -> None:
    """DESIGN 6: no page holes."""
    create(lab, SYSV_SHM, size=3 << 20)
    (row,) = lab.rows("shm")
    assert int(row["rss"]) + int(row["swap"]) == 3 << 20


@pytest.mark.parametrize("role", [SENDER, RECEIVER])
@pytest.mark.parametrize("ipc_type", TYPES)
def test_a_channel_that_is_not_there_is_not_found(
    lab: Lab, role: libsipc.Role, ipc_type: libsipc.IpcType
) -> None:
    with pytest.raises(ChannelNotFound):
        libsipc.open(lab.path, role, ipc_type, SIZE)


def test_a_segment_without_a_queue_is_let_go(lab: Lab) -> None:
    """Opening fails, and does not stay attached."""
    create(lab, SYSV_SHM)
    assert libsipc.unlink(lab.path, SYSV_MQUEUES)
    with pytest.raises(ChannelNotFound):
        libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE)
    assert lab.rows("shm")[0]["nattch"] == "0"


def test_a_segment_that_is_smaller_than_asked_is_refused(lab: Lab) -> None:
    create(lab, SYSV_SHM, size=4096)
    with pytest.raises(KernelError) as caught:
        libsipc.open(lab.path, RECEIVER, SYSV_SHM, 8192)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("ipc_type", TYPES)
def test_unlink_says_whether_there_was_anything(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    create(lab, ipc_type)
    assert libsipc.unlink(lab.path, ipc_type)
    assert not libsipc.unlink(lab.path, ipc_type)
    assert lab.rows("msg") == lab.rows("shm") == []


def test_a_segment_outlives_unlink_until_the_last_one_lets_go(lab: Lab) -> None:
    create(lab, SYSV_SHM)
    with libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE) as sender:
        libsipc.unlink(lab.path, SYSV_SHM)
        sender.get_data_ptr()[:5] = b"still"
        assert lab.rows("shm") == []
        assert lab.left_over() != set()
    assert lab.left_over() == set()


def test_another_user_is_kept_out_by_the_default_mode(lab: Lab) -> None:
    """And let in by a wider one."""
    if os.geteuid() != 0:
        pytest.fail("this test becomes another user: run it as root")
    lab.path.parent.chmod(0o755)  # and its parents are not: hence a path relative to it
    for mode, refused in ((0o600, True), (0o666, False)):
        libsipc.open(lab.path, CREATOR, SYSV_SHM, SIZE, mode=mode).close()
        lab.note()
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                os.chdir(lab.path.parent)
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                libsipc.open(lab.path.name, SENDER, SYSV_SHM, SIZE)
                code = 0
            except Denied:
                code = 1
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == (1 if refused else 0)
        libsipc.unlink(lab.path, SYSV_SHM)


# Roles and order


@pytest.mark.parametrize("ipc_type", TYPES)
def test_each_role_has_its_own_calls(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    """C: EBADF, EINVAL, NULL.  The handle goes on."""
    with libsipc.open(lab.path, CREATOR, ipc_type, SIZE) as creator:
        for wrong in (creator.recv_data, creator.shm_recv_done, creator.get_data_ptr):
            with pytest.raises(LocalProtocolError):
                wrong()
        with pytest.raises(LocalProtocolError):
            creator.send_data(0)
        assert (creator.pending, creator.sent) == (False, 0)
    with libsipc.open(lab.path, SENDER, ipc_type, SIZE) as sender:
        for wrong in (sender.recv_data, sender.shm_recv_done):
            with pytest.raises(LocalProtocolError):
                wrong()
        assert (sender.pending, sender.sent) == (False, 0)
    with libsipc.open(lab.path, RECEIVER, ipc_type, SIZE) as receiver:
        with pytest.raises(LocalProtocolError):
            receiver.send_data(0)
        with pytest.raises(LocalProtocolError):
            receiver.shm_recv_done()


def test_a_block_is_finished_before_the_next_is_asked_for(lab: Lab) -> None:
    """In C this takes the sender's 4, and the channel is stuck.  Here nothing changes."""
    create(lab, SYSV_SHM)
    sending = lab.start("c", "send", "shm", SIZE, stdin=lab.frame([b"one", b"two"]))
    with libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE) as receiver:
        view = receiver.recv_data()
        with pytest.raises(LocalProtocolError, match="shm_recv_done"):
            receiver.recv_data()
        assert bytes(view) == b"one"
        receiver.shm_recv_done()
        with pytest.raises(LocalProtocolError):
            receiver.shm_recv_done()
        assert bytes(receiver.recv_data()) == b"two"
        receiver.shm_recv_done()
    sending.finish()


# Not waiting


def test_noblock_is_for_reads_and_can_be_taken_back(lab: Lab) -> None:
    """C: EAGAIN."""
    create(lab, SYSV_SHM)
    with libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE) as receiver:
        receiver.ioctl(libsipc.NOBLOCK)
        with pytest.raises(Timeout):
            receiver.recv_data()
        sending = lab.start("c", "send", "shm", SIZE, stdin=lab.frame([b"one", b"two"]))
        lab.until(lambda: lab.rows("msg")[0]["qnum"] == "1")
        assert bytes(receiver.recv_data()) == b"one"
        receiver.shm_recv_done()  # waits, whatever was asked for
        receiver.ioctl(libsipc.BLOCK)
        assert bytes(receiver.recv_data()) == b"two"
        receiver.shm_recv_done()
        with pytest.raises(SpecError):
            receiver.ioctl(2)
    sending.finish()


def test_noblock_goes_on_in_the_middle_of_data(lab: Lab) -> None:
    create(lab, SYSV_MQUEUES)
    with libsipc.open(lab.path, RECEIVER, SYSV_MQUEUES, SIZE) as receiver:
        receiver.ioctl(libsipc.NOBLOCK)
        for message in [(b"10\x00", 9), (b"hello", 3), (b"world", 3)]:
            with pytest.raises(TimeoutError):
                receiver.recv_data()
            lab.put("py", [message])
        with pytest.raises(Timeout):
            receiver.recv_data()
        lab.put("py", [(b"\x01", 12)])
        assert receiver.recv_data() == b"helloworld"


# Views


@pytest.mark.parametrize("ipc_type", TYPES)
def test_a_sender_writes_and_a_receiver_does_not(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    create(lab, ipc_type)
    with libsipc.open(lab.path, SENDER, ipc_type, SIZE) as sender:
        view = sender.get_data_ptr()
        assert (view.nbytes, view.readonly, view.format, view.ndim) == (SIZE, False, "B", 1)
        view[:3] = b"abc"
        assert bytes(sender.get_data_ptr()[:3]) == b"abc"
        assert sender.get_data_ptr() is view
    with libsipc.open(lab.path, RECEIVER, ipc_type, SIZE) as receiver:
        view = receiver.get_data_ptr()
        assert (view.nbytes, view.readonly) == (SIZE, True)


@pytest.mark.parametrize("ipc_type", TYPES)
def test_a_view_dies_with_its_handle(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    """And the segment is let go."""
    create(lab, ipc_type)
    handles = [libsipc.open(lab.path, role, ipc_type, SIZE) for role in (SENDER, RECEIVER)]
    views = [handle.get_data_ptr() for handle in handles]
    for handle, view in zip(handles, views, strict=True):
        handle.close()
        handle.close()
        with pytest.raises(ValueError, match="released"):
            view[0]
        assert handle.closed
    assert all(row["nattch"] == "0" for row in lab.rows("shm"))


def test_a_view_the_caller_released_is_given_again(lab: Lab) -> None:
    create(lab, SYSV_SHM)
    with libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE) as sender:
        with sender.get_data_ptr() as view:
            view[:1] = b"a"
        with sender.get_data_ptr() as view:
            assert bytes(view[:1]) == b"a"


def test_a_block_is_a_read_only_view_until_it_is_done(lab: Lab) -> None:
    create(lab, SYSV_SHM)
    sending = lab.start("c", "send", "shm", SIZE, stdin=lab.frame([b"block"]))
    with libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE) as receiver:
        view = receiver.recv_data()
        assert isinstance(view, memoryview)
        assert view.readonly
        assert bytes(view) == b"block"
        receiver.shm_recv_done()
        with pytest.raises(ValueError, match="released"):
            view[0]
    sending.finish()


def test_a_block_that_is_lent_out_is_not_given_back(lab: Lab) -> None:
    """When the borrower is gone, the same call works."""
    create(lab, SYSV_SHM)
    sending = lab.start("c", "send", "shm", SIZE, stdin=lab.frame([b"block"]))
    with libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE) as receiver:
        borrower = PickleBuffer(receiver.recv_data())
        with pytest.raises(LocalProtocolError, match="lent"):
            receiver.shm_recv_done()
        assert bytes(borrower) == b"block"
        borrower.release()
        receiver.shm_recv_done()
    sending.finish()


def test_an_array_over_a_view_outlives_close_without_harm(lab: Lab) -> None:
    """The mapping stays for as long as the array does, and goes with it."""
    create(lab, SYSV_SHM)
    sender = libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE)
    array = np.frombuffer(sender.get_data_ptr(), dtype=np.uint8)
    sender.close()
    array[:] = 7
    assert lab.rows("shm")[0]["nattch"] == "1"
    del array, sender
    assert lab.rows("shm")[0]["nattch"] == "0"


# Letting go


@pytest.mark.parametrize("ipc_type", TYPES)
def test_a_closed_handle_takes_no_calls(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    create(lab, ipc_type)
    sender = libsipc.open(lab.path, SENDER, ipc_type, SIZE)
    receiver = libsipc.open(lab.path, RECEIVER, ipc_type, SIZE)
    sender.close()
    receiver.close()
    for call in (sender.get_data_ptr, receiver.recv_data, receiver.shm_recv_done, receiver.get_data_ptr):
        with pytest.raises(Closed):
            call()
    with pytest.raises(Closed):
        sender.send_data(0)
    with pytest.raises(Closed):
        receiver.ioctl(libsipc.BLOCK)


def test_closing_leaves_the_objects(lab: Lab) -> None:
    create(lab, SYSV_SHM)
    libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE).close()
    libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE).close()
    assert len(lab.rows("msg")) == len(lab.rows("shm")) == 1


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Run a call that waits; the thread ends with what it raised."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread, raised


@pytest.mark.parametrize("ipc_type", TYPES)
def test_who_waits_is_told_of_unlink(lab: Lab, ipc_type: libsipc.IpcType) -> None:
    """C: EIDRM."""
    create(lab, ipc_type)
    with (
        libsipc.open(lab.path, SENDER, ipc_type, SIZE) as sender,
        libsipc.open(lab.path, RECEIVER, ipc_type, SIZE) as receiver,
    ):
        thread, raised = in_thread(lambda: sender.send_data(SIZE))
        lab.until(lambda: sender.pending)
        libsipc.unlink(lab.path, ipc_type)
        thread.join(30)
        assert [type(error) for error in raised] == [Broken]
        with pytest.raises(Broken):
            receiver.recv_data()


def test_a_handle_is_for_one_thread_at_a_time(lab: Lab) -> None:
    create(lab, SYSV_SHM)
    with libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE) as sender:
        thread, raised = in_thread(lambda: sender.send_data(1))
        lab.until(lambda: sender.pending)
        with pytest.raises(Busy):
            sender.send_data(1)
        with pytest.raises(Busy):
            sender.get_data_ptr()
        libsipc.unlink(lab.path, SYSV_SHM)
        thread.join(30)
        assert [type(error) for error in raised] == [Broken]


def test_a_forked_child_may_go_on_with_a_handle(lab: Lab) -> None:
    """C programs open both ends, fork, and use one in each process."""
    create(lab, SYSV_SHM)
    sender = libsipc.open(lab.path, SENDER, SYSV_SHM, SIZE)
    receiver = libsipc.open(lab.path, RECEIVER, SYSV_SHM, SIZE)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            receiver.close()
            sender.get_data_ptr()[:5] = b"child"
            sender.send_data(5)
            code = 0
        finally:
            os._exit(code)
    sender.close()
    assert bytes(receiver.recv_data()) == b"child"
    receiver.shm_recv_done()
    receiver.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_key_is_that_of_ftok(lab: Lab) -> None:
    """ftok(path, 'a'): device, inode, 'a'; the same for str and path."""
    status = lab.path.stat()
    expected = (status.st_dev & 0xFF) << 16 | (status.st_ino & 0xFFFF) | ord("a") << 24
    libsipc.open(str(lab.path), CREATOR, SYSV_SHM, SIZE).close()
    assert [int(row["key"]) for row in (*lab.rows("msg"), *lab.rows("shm"))] == [expected] * 2
    libsipc.open(os.fsencode(lab.path), SENDER, SYSV_SHM, SIZE).close()  # type: ignore[arg-type]
    libsipc.open(Path(lab.path), RECEIVER, SYSV_SHM, SIZE).close()
