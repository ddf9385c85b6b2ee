# SPDX-License-Identifier: Apache-2.0
"""The mechanisms: the least that lets a datum across, the ways back, what revoking does.  The guest confirms each."""

from __future__ import annotations

from tests.vm.flow import Back, Mechanism

__all__ = ("MECHANISMS",)

_GONE = Back(title="reader closes: EPIPE", look="look_room", act="close")


def _full(title: str) -> Back:
    return Back(title=title, look="look_room", act="drain", prepare="fill")


def _poll(*, prepare: str = "fill") -> Back:
    return Back(title="full or not: poll", look="look_poll", act="drain", prepare=prepare)


def _atime(cls: str, *, act: str = "read_later", prepare: str = "write_later") -> Back:
    return Back(
        title="time of last reading: fstat", look="look_atime", act=act, prepare=prepare, writer=(f"{cls} getattr",)
    )


def _locks(cls: str, *, record: bool = False) -> tuple[Back, ...]:
    lock = (f"{cls} lock",)
    flock = Back(title="a lock: flock", look="look_flock", act="hold_flock", writer=lock, reader=lock)
    getlk = Back(title="a lock: F_GETLK", look="look_record", act="hold_record", writer=lock, reader=lock)
    return (flock, getlk) if record else (flock,)


_PIPE = (
    _full("full or not: EAGAIN"),
    _poll(),
    _GONE,
    Back(title="bytes unread: FIONREAD", look="look_unread", act="drain", prepare="fill",
         writer=("fifo_file getattr",)),
    _atime("fifo_file"),
    *_locks("fifo_file"),
)  # fmt: skip
_WRITES_PIPE = Back(title="reader writes, writer reads: opened again", look="look_back", act="write_back",
                    writer=("fifo_file open read",), reader=("fifo_file open write",))  # fmt: skip
_FILE = (
    Back(title="reader writes, writer reads", look="look_back", act="write_back", writer=("file open read",),
         reader=("file open write",)),
    _atime("file"),
    *_locks("file", record=True),
    Back(title="opened or read: inotify", look="look_events", act="read_later", prepare="watch_it",
         writer=("file read watch watch_reads",)),
    Back(title="times set: utimensat", look="look_mtime", act="set_times", writer=("file getattr",),
         reader=("file setattr",)),
    Back(title="name taken away: unlink", look="look_there", act="unlink",
         reader=("file unlink", "dir remove_name write @tmp_t")),
    Back(title="locks of all: /proc/locks", look="look_locks", act="hold_flock", writer=("file open read @proc_t",),
         reader=("file lock",)),
)  # fmt: skip
_PAGES = (
    Back(title="page touched: mincore", look="look_resident", act="touch"),
    Back(title="futex in the mapping", look="look_woken", act="wake", together=True),
)


def _stream(whose: str, *, writer: tuple[str, ...] = (), reader: tuple[str, ...] = ()) -> tuple[Back, ...]:
    return (
        _full("full or not: EAGAIN"),
        _poll(),
        _GONE,
        Back(title="bytes unread: SIOCOUTQ", look="look_outq", act="drain", prepare="write_something",
             writer=(f"unix_stream_socket ioctl{whose}",)),
        Back(title="reader writes, writer reads", look="look_back", act="write_back", writer=writer, reader=reader),
        Back(title="reader shuts: EPIPE", look="look_room", act="shut",
             reader=(f"unix_stream_socket shutdown{whose}",)),
    )  # fmt: skip


def _system_v(cls: str, table: str) -> tuple[Back, ...]:
    return (
        Back(title="removed: IPC_RMID", look="look_mode", act="remove", reader=(f"{cls} destroy",)),
        Back(title="mode changed: IPC_SET", look="look_mode", act="change", reader=(f"{cls} setattr",), loud=True),
        Back(title="another object made: does its key exist", look="look_made", act="make_other", loud=True,
             reader=(f"{cls} create @own",)),
        Back(title=f"state of all: /proc/sysvipc/{table}", look="look_table", act="make_other",
             writer=("file open read @proc_t",), reader=(f"{cls} create @own",)),
    )  # fmt: skip


MECHANISMS = (
    Mechanism(
        title="pipe",
        kind="Pipe",
        writer=("fd use", "fifo_file write"),
        reader=("fd use", "fifo_file read"),
        back=(
            *_PIPE,
            Back(title="size changed: F_SETPIPE_SZ", look="look_size", act="resize"),
            _WRITES_PIPE,
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="FIFO",
        kind="Fifo",
        writer=("fifo_file open write",),
        reader=("fifo_file open read",),
        back=(
            *_PIPE,
            Back(title="size changed: F_SETPIPE_SZ", look="look_size", act="resize", prepare="shrink"),
            Back(title="reader there or not: ENXIO", look="look_reader", act="close"),
            _WRITES_PIPE,
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="Unix stream socket",
        kind="Stream",
        writer=("unix_stream_socket create connect write @own", "unix_stream_socket connectto @reader",
                "sock_file write"),
        reader=("unix_stream_socket create bind listen accept read @own",),
        back=(
            *_stream(" @own", writer=("unix_stream_socket read @own",), reader=("unix_stream_socket write @own",)),
            Back(title="connections taken: EAGAIN", look="look_backlog", act="accept", prepare="fill_backlog"),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="Unix stream socketpair, handed over",
        kind="Pair",
        writer=("fd use", "unix_stream_socket read write"),
        reader=("fd use", "unix_stream_socket read write"),
        back=_stream(""),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="Unix datagram socket",
        kind="Datagram",
        writer=("unix_dgram_socket create write @own", "unix_dgram_socket sendto @reader", "sock_file write"),
        reader=("unix_dgram_socket create bind read @own",),
        back=(
            _full("full or not: EAGAIN"),
            Back(title="reader closes: ECONNREFUSED", look="look_room", act="close"),
            Back(title="bytes unread: SIOCOUTQ", look="look_outq", act="drain", prepare="write_something",
                 writer=("unix_dgram_socket ioctl @own",)),
            Back(title="reader writes, writer reads", look="look_back", act="write_back", prepare="bind_back",
                 writer=("unix_dgram_socket bind read @own",),
                 reader=("unix_dgram_socket write @own", "unix_dgram_socket sendto @writer")),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="POSIX message queue",
        kind="PosixQueue",
        writer=("file open write",),
        reader=("file open read",),
        back=(
            _full("full or not: EAGAIN"),
            _poll(),
            Back(title="messages in it: mq_getattr", look="look_count", act="drain", prepare="fill"),
            Back(title="reader asks for notice: mq_notify", look="look_notify", act="ask_notify"),
            _atime("file", prepare="write_something"),
            *_locks("file"),
            Back(title="reader writes, writer reads: opened again", look="look_back", act="write_back",
                 writer=("file open read",), reader=("file open write",)),
        ),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="System V message queue",
        kind="Queue",
        writer=("msgq associate unix_write write", "msg send", "message: msgq enqueue"),
        reader=("msgq associate unix_read read", "msg receive"),
        back=(
            _full("full or not: EAGAIN"),
            Back(title="state: IPC_STAT", look="look_state", act="drain", prepare="write_something",
                 writer=("msgq getattr unix_read",)),
            Back(title="message still there: MSG_COPY", look="look_copy", act="drain", prepare="write_something",
                 writer=("msgq read unix_read", "msg receive")),
            Back(title="reader writes, writer reads", look="look_back", act="write_back",
                 writer=("msgq read unix_read", "msg receive"), reader=("msgq write unix_write", "msg send")),
            *_system_v("msgq", "msg"),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="System V shared memory",
        kind="Segment",
        writer=("shm associate unix_read unix_write read write",),
        reader=("shm associate unix_read read",),
        back=(
            *_PAGES,
            Back(title="attaches counted: IPC_STAT", look="look_state", act="attach_again", writer=("shm getattr",)),
            Back(title="reader writes, writer reads", look="look_back", act="write_back",
                 reader=("shm unix_write write",)),
            *_system_v("shm", "shm"),
        ),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="System V message queue, by its number",
        kind="NumberedQueue",
        writer=("msgq unix_write write", "msg send", "message: msgq enqueue"),
        reader=("msgq unix_read read", "msg receive"),
        back=(_full("full or not: EAGAIN"),),
        revoked=("refused", "refused"),
        opened=False,
    ),
    Mechanism(
        title="System V shared memory, by its number",
        kind="NumberedSegment",
        writer=("shm unix_read unix_write read write",),
        reader=("shm unix_read read",),
        back=_PAGES,
        revoked=("works", "works"),
    ),
    Mechanism(
        title="System V semaphores, set and looked at",
        kind="Semaphores",
        writer=("sem associate unix_write write",),
        reader=("sem associate unix_read read",),
        back=(
            Back(title="waits for zero: GETPID", look="look_pid", act="wait_for_zero", prepare="set_zero",
                 writer=("sem getattr unix_read",)),
            Back(title="state: IPC_STAT", look="look_state", act="wait_for_zero", prepare="set_zero",
                 writer=("sem getattr unix_read",)),
            Back(title="reader sets, writer looks", look="look_value", act="set_two",
                 writer=("sem unix_read read",), reader=("sem unix_write write",)),
            *_system_v("sem", "sem"),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="System V semaphores, up and down",
        kind="Counting",
        writer=("sem associate unix_read unix_write read write",),
        reader=("sem associate unix_read unix_write read write",),
        back=(
            Back(title="taken or not: GETVAL", look="look_value", act="take", prepare="up"),
            Back(title="who was last: GETPID", look="look_pid", act="take", prepare="up",
                 writer=("sem getattr",)),
            Back(title="reader adds", look="look_value", act="up"),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="POSIX shared memory",
        kind="SharedMemory",
        writer=("file open read write map",),
        reader=("file open read map",),
        back=(
            *_PAGES,
            _atime("file", act="map_later"),
            *_locks("file", record=True),
            Back(title="reader writes, writer reads", look="look_back", act="write_back", reader=("file write",)),
        ),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="file, mapped",
        kind="MappedFile",
        writer=("file open read write map",),
        reader=("file open read map",),
        back=(
            *_PAGES,
            _atime("file", act="map_later"),
            *_locks("file", record=True),
            Back(title="reader writes, writer reads", look="look_back", act="write_back", reader=("file write",)),
        ),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="memfd, read and written",
        kind="Memfd",
        writer=("fd use", "file write"),
        reader=("fd use", "file read"),
        back=(_atime("file"), *_locks("file", record=True)),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="memfd, mapped",
        kind="MappedMemfd",
        writer=("fd use", "file read write map"),
        reader=("fd use", "file read map"),
        back=(
            *_PAGES,
            *_locks("file"),
            Back(title="reader writes, writer reads: opened again", look="look_back", act="write_back",
                 reader=("file open write",)),
        ),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="memfd, one descriptor for both",
        kind="OneMemfd",
        writer=("fd use", "file read write"),
        reader=("fd use", "file read write"),
        back=(
            Back(title="position: lseek", look="look_offset", act="seek"),
            Back(title="flags: F_SETFL", look="look_flags", act="set_flags"),
            Back(title="seals: F_ADD_SEALS", look="look_seals", act="seal"),
            Back(title="reader writes, writer reads", look="look_back", act="write_back"),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="eventfd",
        kind="Event",
        writer=("fd use",),
        reader=("fd use",),
        back=(
            _full("full or not: EAGAIN"),
            Back(title="reader writes, writer reads", look="look_back", act="write_back"),
        ),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="POSIX semaphore",
        kind="Semaphore",
        writer=("file open read write map getattr",),
        reader=("file open read write map getattr",),
        back=(Back(title="taken or not: sem_getvalue", look="look_value", act="take", prepare="post"),
              Back(title="reader adds", look="look_value", act="post")),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="POSIX semaphore, looked at by a mapping to read",
        kind="WatchedSemaphore",
        writer=("file open read write map getattr",),
        reader=("file open read map",),
        back=(
            Back(title="futex in the mapping", look="look_woken", act="wake", together=True),
            Back(title="reader adds", look="look_value", act="write_back", reader=("file write getattr",)),
        ),
        revoked=("works", "works"),
    ),
    Mechanism(
        title="file, read and written",
        kind="File",
        writer=("file open write",),
        reader=("file open read",),
        back=_FILE,
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="file, appended to",
        kind="Append",
        writer=("file append open",),
        reader=("file open read",),
        back=(_atime("file"), *_locks("file")),
        revoked=("refused", "refused"),
    ),
    Mechanism(
        title="signal: all but the next three",
        kind="Signal",
        writer=("process signal @reader",),
        reader=(),
        back=(
            Back(title="many wait already: EAGAIN", look="look_room", act="drain", prepare="fill"),
            Back(title="reader signals back", look="look_back", act="write_back", prepare="expect",
                 reader=("process signal @writer",)),
        ),
        revoked=("works", "refused"),
        opened=False,
    ),
    Mechanism(
        title="signal: SIGCHLD", kind="ChildSignal", writer=("process sigchld @reader",), reader=(), back=(),
        revoked=("works", "refused"), opened=False,
    ),
    Mechanism(
        title="signal: SIGSTOP", kind="Stop", writer=("process sigstop @reader",), reader=(),
        back=(Back(title="process there or not: kill(0)", look="look_there", act="finish", loud=True),),
        revoked=None,
    ),
    Mechanism(
        title="signal: SIGKILL", kind="Kill", writer=("process sigkill @reader",), reader=(),
        back=(Back(title="process there or not: kill(0)", look="look_there", act="finish", loud=True),),
        revoked=None,
    ),
)  # fmt: skip
