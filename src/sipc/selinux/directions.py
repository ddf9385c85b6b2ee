# SPDX-License-Identifier: Apache-2.0
"""Which way information goes when a permission is used.

Owns one table: per class, which permissions carry something from the caller to the object (write) and which from
the object to the caller (read).  A permission in neither list of its class, and every permission of a class that
is not here, counts as both ways: what nobody has thought about is not assumed to be harmless.  Read for calls
whose effect the object does not show; a call that leaves a trace that others can see (a lock, a time, a position)
is both.
"""

from __future__ import annotations

from sipc.selinux.image import ObjectClass, bits

__all__ = ("READS", "WRITES", "both_ways", "direction", "flows")

_FILE_READ = "audit_access execmod execute execute_no_trans getattr map open read search watch"
_FILE_WRITE = (
    "add_name append create link mounton quotaon relabelto remove_name rename reparent rmdir setattr unlink write"
)
_FILES = ("anon_inode", "blk_file", "chr_file", "dir", "fifo_file", "file", "lnk_file", "sock_file")
# Changing a plain file by ioctl is checked as setattr or needs a descriptor open for writing (hooks.c,
# selinux_file_ioctl; fs/ioctl.c).  A device, a pipe and a socket have commands of their own: both ways.
_PLAIN = ("dir", "file", "lnk_file", "sock_file")
_SOCKET_READ = "accept getattr getopt listen read recv_msg recvfrom"
_SOCKET_WRITE = "append create relabelto send_msg sendto setattr setopt shutdown write"
# connectto is in neither: a connection carries data both ways, and nothing is asked again.
_SOCKETS = (
    "alg_socket", "icmp_socket", "key_socket", "netlink_audit_socket", "netlink_generic_socket",
    "netlink_kobject_uevent_socket", "netlink_route_socket", "netlink_selinux_socket", "netlink_socket",
    "packet_socket", "rawip_socket", "sctp_socket", "socket", "tcp_socket", "tun_socket", "udp_socket",
    "unix_dgram_socket", "unix_stream_socket", "vsock_socket",
)  # fmt: skip

# `associate` is the key looked up: it tells only whether the object exists.  getattr is IPC_STAT: the other end's
# pids and times, but seeing them changes nothing.  lock (SHM_LOCK) shows in IPC_STAT.
READS: dict[str, frozenset[str]] = {
    "msg": frozenset({"receive"}),
    "filesystem": frozenset({"getattr", "quotaget"}),
    "process": frozenset({"getattr", "getcap", "getpgid", "getrlimit", "getsched", "getsession", "signull"}),
    "key": frozenset({"read", "search", "view"}),
    "system": frozenset({"ipc_info", "status", "syslog_read"}),
    "security": frozenset({"check_context", "compute_av", "compute_create", "compute_member", "compute_relabel",
                           "compute_user", "read_policy"}),
    "service": frozenset({"status"}),
    "bpf": frozenset({"map_read"}),
    "perf_event": frozenset({"read"}),
    "peer": frozenset({"recv"}),
    "packet": frozenset({"recv"}),
    "association": frozenset({"recvfrom"}),
    "node": frozenset({"recvfrom"}),
    "netif": frozenset({"ingress"}),
    **{cls: frozenset(_FILE_READ.split()) | ({"ioctl"} if cls in _PLAIN else set()) for cls in _FILES},
    **{cls: frozenset(_SOCKET_READ.split()) for cls in _SOCKETS},
    **{cls: frozenset({"associate", "getattr", "read", "unix_read"}) for cls in ("ipc", "msgq", "sem", "shm")},
}  # fmt: skip
WRITES: dict[str, frozenset[str]] = {
    "msg": frozenset({"send"}),
    "process": frozenset({"dyntransition", "noatsecure", "rlimitinh", "setcap", "setpgid", "setrlimit", "setsched",
                          "sigchld", "siginh", "sigkill", "signal", "sigstop", "transition"}),
    "process2": frozenset({"nnp_transition", "nosuid_transition"}),
    "key": frozenset({"create", "link", "setattr", "write"}),
    "filesystem": frozenset({"associate", "mount", "relabelto", "remount", "unmount"}),
    "service": frozenset({"disable", "enable", "reload", "start", "stop"}),
    "system": frozenset({"module_load", "module_request"}),
    "bpf": frozenset({"map_write"}),
    "packet": frozenset({"send"}),
    "association": frozenset({"sendto"}),
    "node": frozenset({"sendto"}),
    "netif": frozenset({"egress"}),
    **{cls: frozenset(_FILE_WRITE.split()) for cls in _FILES},
    **{cls: frozenset(_SOCKET_WRITE.split()) for cls in _SOCKETS},
    "ipc": frozenset({"create", "destroy", "setattr", "unix_write", "write"}),
    "msgq": frozenset({"create", "destroy", "enqueue", "setattr", "unix_write", "write"}),
    "sem": frozenset({"create", "destroy", "setattr", "unix_write", "write"}),
    "shm": frozenset({"create", "destroy", "setattr", "unix_write", "write"}),
}  # fmt: skip
# Permissions to act on oneself or on what is not a type's: no information passes between two types by them alone.
_NEITHER: dict[str, frozenset[str]] = {
    "file": frozenset({"entrypoint"}),
    "process": frozenset({"execheap", "execmem", "execstack", "fork", "setcurrent", "setexec", "setfscreate",
                          "setkeycreate", "setsockcreate"}),
}  # fmt: skip


def direction(cls: str, permission: str) -> str:
    """'read', 'write', 'none' or 'both', seen from the caller."""
    if permission in _NEITHER.get(cls, ()):
        return "none"
    reads, writes = permission in READS.get(cls, ()), permission in WRITES.get(cls, ())
    if reads != writes:
        return "read" if reads else "write"
    return "both"


def both_ways(cls: str, permission: str) -> bool:
    """Whether a permission carries information in both directions, or is unknown, which counts the same."""
    return direction(cls, permission) == "both"


_masks: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[int, int]] = {}


def flows(cls: ObjectClass) -> tuple[int, int]:
    """(permissions that write, permissions that read) as masks; unknown ones, even without a name, are in both."""
    key = (cls.name, tuple(cls.permissions.items()))
    if key not in _masks:
        writes = reads = 0
        named = {bit: name for name, bit in cls.permissions.items()}
        for n in bits((1 << 32) - 1):
            way = direction(cls.name, named.get(1 << n, f"unknown_{n}"))
            writes |= (way in ("write", "both")) << n
            reads |= (way in ("read", "both")) << n
        _masks[key] = writes, reads
    return _masks[key]
