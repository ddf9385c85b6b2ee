# SPDX-License-Identifier: Apache-2.0
"""`sipc doctor`: what on this host would keep a channel from working, and the command that fixes each."""

from __future__ import annotations

import os
import pwd
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sipc.errors import ChannelNotFound, RegistryError
from sipc.kernel import limits
from sipc.proto.segment import segment_size
from sipc.registry import Registry, ipc_namespace
from sipc.spec import Geometry

__all__ = ("Finding", "examine")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `level` is ok, warn or bad."""

    level: str
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def examine(directories: list[Path]) -> list[Finding]:
    """Look at everything; changes nothing."""
    findings = [*_limits(), _mqueue(), _namespace(), *_users()]
    keys: dict[str, set[str]] = {"msg": set(), "shm": set()}
    for directory in directories:
        findings += _registry(directory, keys)
    return findings + [finding for kind in ("msg", "shm") for finding in _strangers(kind, keys[kind])]


def _limits() -> list[Finding]:
    needs = {
        "kernel.msgmni": 1, "kernel.msgmax": 32, "kernel.msgmnb": 64, "kernel.shmmni": 1,
        "kernel.shmmax": segment_size(Geometry()), "fs.mqueue.queues_max": 1, "fs.mqueue.msg_max": 2,
        "fs.mqueue.msgsize_max": 32,
    }  # fmt: skip
    findings = []
    for name, limit in limits.LIMITS.items():
        value = limits.read(name)
        if value is None:
            findings.append(Finding("warn", f"{name}: this kernel does not have it ({limit.bounds})"))
        elif name == "kernel.shm_rmid_forced":
            fix = "" if value == 0 else "sysctl -w kernel.shm_rmid_forced=0"
            findings.append(Finding("bad" if value else "ok", f"{name} = {value}: {limit.bounds}", fix))
        else:
            enough = value >= needs[name]
            fix = "" if enough else f"sysctl -w {name}={needs[name]}"
            findings.append(Finding("ok" if enough else "bad", f"{name} = {value}: {limit.bounds}", fix))
    return findings


def _mqueue() -> Finding:
    mounted = any(line.split()[2] == "mqueue" for line in Path("/proc/mounts").read_text().splitlines())
    if mounted:
        return Finding("ok", "the mqueue filesystem is mounted: POSIX queues can be listed")
    return Finding(
        "warn",
        "the mqueue filesystem is not mounted: POSIX queues work, but can not be listed",
        "mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue",
    )


def _namespace() -> Finding:
    here = ipc_namespace()
    try:
        first = Path("/proc/1/ns/ipc").stat().st_ino
    except OSError:
        return Finding("ok", f"ipc namespace {here}")
    if first == here:
        return Finding("ok", f"ipc namespace {here}, the same as process 1's")
    return Finding(
        "warn",
        f"ipc namespace {here}, process 1 has {first}: channels made there are not visible here",
        "nsenter --ipc --target 1",
    )


def _users() -> list[Finding]:
    findings = []
    for name in ("sipc-send", "sipc-recv"):
        try:
            findings.append(Finding("ok", f"user {name} exists (uid {pwd.getpwnam(name).pw_uid})"))
        except KeyError:
            findings.append(
                Finding("warn", f"user {name} does not exist; only the shipped units want it", "systemd-sysusers")
            )
    return findings


def _registry(directory: Path, keys: dict[str, set[str]]) -> list[Finding]:
    try:
        registry = Registry(directory)
    except ChannelNotFound:
        return [Finding("ok", f"registry {directory}: none yet; the first 'sipc create' makes it")]
    except RegistryError as error:
        return [Finding("bad", str(error), f"ls -ld {directory}")]
    findings = []
    where = f"--registry {shlex.quote(str(directory))}"
    with registry:
        names = registry.names()
        findings.append(Finding("ok", f"registry {directory}: {len(names)} channels"))
        for name in names:
            try:
                found = registry.read(name).keys
                keys["msg"].add(found.queue)
                keys["shm"].add(found.segment or "")
            except (RegistryError, ChannelNotFound) as error:
                findings.append(Finding("bad", str(error), f"sipc destroy {name} {where}"))
        findings += [
            Finding(
                "bad", f"{directory}: the helper of {name!r} died before publishing it", f"sipc destroy {name} {where}"
            )
            for name in registry.journals()
        ]
    return findings


def _strangers(kind: str, known: set[str]) -> list[Finding]:
    """Objects of this user that no descriptor in the registries names."""
    what, option = ("queue", "-q") if kind == "msg" else ("segment", "-m")
    try:
        lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
    except OSError:
        return []
    fields = lines[0].split()
    findings = []
    for line in lines[1:]:
        row = dict(zip(fields, map(int, line.split()), strict=False))
        number = row["msqid" if kind == "msg" else "shmid"]
        if row["cuid"] == os.geteuid() and str(row["key"]) not in known:
            findings.append(
                Finding(
                    "warn",
                    f"{what} {number} (key {row['key']}) is yours and no descriptor here names it: "
                    "another program's, or a leftover",
                    f"ipcrm {option} {number}",
                )
            )
    return findings
