# SPDX-License-Identifier: Apache-2.0
"""The base module: what all channels share.

Owns the registry's type, the programs' types, and the rules by which Python programs of this package run in the
ends' and helpers' domains.  The rules are written by hand: refpolicy's macros for daemons give two domains 97
types in common, `r_shm_perms` grants getattr, and so on (DESIGN section 9).  Nothing here lets an end write
anything but what its launcher handed to it.

Attributes carry the common rules; no constraint names one, because any later module may join an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

from sipc.selinux.cil import (
    Allow,
    Attribute,
    AttributeMembers,
    Comment,
    DontAudit,
    FileContext,
    Module,
    Optional,
    RoleType,
    Statement,
    Type,
    TypeTransition,
)

__all__ = ("CLIENT", "CREATOR", "PROGRAM", "base_module", "file_type", "program_file")

PROGRAM = "sipc_program"  # domains made here: run Python and this package
CLIENT = "sipc_client"  # both ends' domains, made here or not: find channels
CREATOR = "sipc_creator"  # helpers' domains: make channels
REGISTRY = "sipc_registry_t"
EXEC = "sipc_exec_t"
HELPER_EXEC = "sipc_helper_exec_t"

_SEARCH = ("getattr", "open", "search")
_LIST = ("getattr", "ioctl", "open", "read", "search")
_READ = ("getattr", "ioctl", "open", "read")
_MAP = (*_READ, "map")
_CODE = (*_MAP, "execute")


@dataclass(frozen=True, slots=True)
class _Line:
    """One reason, the types it is about, and the permissions by class."""

    why: str
    types: tuple[str, ...]
    classes: tuple[tuple[str, tuple[str, ...]], ...]


_RUN = (
    _Line("walk to programs, libraries and files", ("root_t", "var_t", "var_lib_t", "var_run_t", "device_t", "proc_t",
          "sysfs_t", "sysctl_t", "mnt_t"), (("dir", _SEARCH),)),
    _Line("run and import: programs, libraries, their data", ("bin_t", "lib_t", "usr_t", "ld_so_t"),
          (("dir", _LIST), ("file", _CODE), ("lnk_file", ("getattr", "read")))),
    _Line("the linker's cache, locale, zones", ("ld_so_cache_t", "locale_t"),
          (("dir", _LIST), ("file", _MAP), ("lnk_file", ("getattr", "read")))),
    _Line("settings that everyone reads: names of users and hosts", ("etc_t",),
          (("dir", _LIST), ("file", _MAP), ("lnk_file", ("getattr", "read")))),
    _Line("/run is a link on some systems", ("var_run_t", "var_t"), (("lnk_file", ("getattr", "read")),)),
    _Line("kernel limits, to check what a channel may hold", ("sysctl_kernel_t", "sysctl_fs_t"),
          (("dir", _LIST), ("file", _READ))),
    _Line("/proc/self", ("proc_t",), (("lnk_file", ("getattr", "read")),)),
    _Line("which ipc namespace this is", ("nsfs_t",), (("file", ("getattr", "open", "read")),)),
    _Line("devices without a memory; no lock, which would be one", ("null_device_t", "zero_device_t"),
          (("chr_file", ("append", "getattr", "ioctl", "open", "read", "write")),)),
    _Line("random numbers", ("urandom_device_t",), (("chr_file", _READ),)),
    _Line("is SELinux enforcing, and what does the loaded policy allow (DESIGN section 8)", ("security_t",),
          (("dir", _LIST), ("file", ("getattr", "map", "open", "read", "write")), ("lnk_file", ("getattr", "read")),
           ("filesystem", ("getattr",)), ("security", ("check_context", "compute_av")))),
    _Line("libselinux looks for its settings before it says that SELinux is there", ("selinux_config_t",),
          (("dir", _SEARCH), ("file", ("getattr", "open", "read")))),
)  # fmt: skip
# No capabilities, no sockets, no IPC objects; fork stands for threads too.
_SELF = (
    ("process", ("fork", "getcap", "getpgid", "getrlimit", "getsched", "getsession", "sigchld", "sigkill", "signal",
                 "signull", "sigstop")),
    ("dir", _LIST), ("file", _READ), ("lnk_file", ("getattr", "read")),
    ("fifo_file", ("append", "getattr", "ioctl", "open", "read", "write")), ("fd", ("use",)),
)  # fmt: skip
_HELPER_CAPABILITIES = ("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "ipc_owner")


def file_type(name: str) -> list[Statement]:
    """Statements that make a type one of files, on disk or on a tmpfs."""
    return [
        Type(name),
        RoleType("object_r", name),
        AttributeMembers("file_type", (name,)),
        AttributeMembers("non_security_file_type", (name,)),
        AttributeMembers("non_auth_file_type", (name,)),
    ]


def program_file(name: str) -> list[Statement]:
    """Statements that make a type one of programs."""
    return [*file_type(name), AttributeMembers("exec_type", (name,)), AttributeMembers("entry_type", (name,))]


def _lines(attribute: str, lines: tuple[_Line, ...]) -> list[Statement]:
    statements: list[Statement] = []
    for line in lines:
        statements.append(Comment(line.why))
        statements += [Allow(attribute, name, cls, perms) for name in line.types for cls, perms in line.classes]
    return statements


def base_module() -> Module:
    """The module `sipc`: install it once, before any channel's."""
    statements: list[Statement] = [
        Comment("sipc: what all channels share. Generated by 'sipc policy generate'; a test keeps it so."),
        Attribute(PROGRAM),
        Attribute(CLIENT),
        Attribute(CREATOR),
        *program_file(EXEC),
        *program_file(HELPER_EXEC),
        *file_type(REGISTRY),
        Comment("lets systemd-tmpfiles make /run/sipc"),
        AttributeMembers("pidfile", (REGISTRY,)),
        Comment(""),
        Comment("Running Python and this package"),
        *_lines(PROGRAM, _RUN),
        Comment("itself"),
        *(Allow(PROGRAM, "self", cls, perms) for cls, perms in _SELF),
        Comment("the command, for domains that start from it"),
        Allow(PROGRAM, EXEC, "file", _CODE),
        Comment("asked for by libraries, not needed"),
        *_quiet(),
        Comment(""),
        Comment("Finding channels: read, never write, never lock"),
        Allow(CLIENT, REGISTRY, "dir", (*_LIST, "watch")),
        Allow(CLIENT, "var_run_t", "dir", (*_LIST, "watch")),
        Comment(""),
        Comment("Making channels"),
        Allow(CREATOR, "self", "capability", _HELPER_CAPABILITIES),
        Allow(CREATOR, HELPER_EXEC, "file", (*_CODE, "entrypoint")),
        Allow(CREATOR, "var_run_t", "dir", ("add_name", "write")),
        TypeTransition(CREATOR, "var_run_t", "dir", REGISTRY, "sipc"),
        Allow(CREATOR, REGISTRY, "dir", (*_LIST, "add_name", "create", "lock", "remove_name", "rename", "rmdir",
                                         "setattr", "write")),
        Comment("helpers of all channels share one lock file in the registry"),
        Allow(CREATOR, REGISTRY, "file", (*_READ, "create", "lock", "setattr", "write")),
        Comment(""),
        FileContext("/usr/bin/sipc", "file", EXEC),
        FileContext("/usr/bin/sipc-helper", "file", HELPER_EXEC),
        FileContext("/usr/local/bin/sipc", "file", EXEC),
        FileContext("/usr/local/bin/sipc-helper", "file", HELPER_EXEC),
        FileContext("/run/sipc", "dir", REGISTRY),
        FileContext("/run/sipc/\\.helper-lock", "file", REGISTRY),
        FileContext("/run/sipc/\\.private", "dir", REGISTRY),
    ]  # fmt: skip
    return Module("sipc", tuple(statements))


def _quiet() -> list[Statement]:
    """Refusals that mean nothing: what the C library, Python and journald try and do without."""
    return [
        Optional(
            "sipc_quiet_caches",
            (
                DontAudit(PROGRAM, "lib_t", "dir", ("add_name", "write")),
                DontAudit(PROGRAM, "usr_t", "dir", ("add_name", "write")),
                DontAudit(PROGRAM, "bin_t", "dir", ("add_name", "write")),
            ),
        ),
        Optional("sipc_quiet_cgroup", (DontAudit(PROGRAM, "cgroup_t", "dir", ("search",)),)),
        Comment("OpenSSL, below hashlib, looks for its settings"),
        Optional("sipc_quiet_ssl", (DontAudit(PROGRAM, "cert_t", "dir", ("search",)),)),
        Comment("what systemd puts over a home that ProtectHome= hides, where Python looks for a user's packages"),
        Optional("sipc_quiet_home", (DontAudit(PROGRAM, "init_runtime_t", "dir", ("getattr", "search")),)),
        Comment("journald looks with signal 0 whether a process still lives that it had a line from, and does without"),
        Optional("sipc_quiet_journal", (DontAudit("syslogd_t", PROGRAM, "process", ("signull",)),)),
        DontAudit(PROGRAM, "self", "unix_stream_socket", ("connect",)),
        DontAudit(PROGRAM, "self", "unix_dgram_socket", ("create",)),
        DontAudit(PROGRAM, "self", "capability", ("dac_override", "dac_read_search", "net_admin", "sys_ptrace")),
    ]
