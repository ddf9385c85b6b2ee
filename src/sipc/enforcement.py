# SPDX-License-Identifier: Apache-2.0
"""What holds the direction of a channel, and the refusal to open one that nothing holds.

Owns the question, for endpoint, helper and tools alike; the answers about SELinux are `selinux/live.py`'s (DESIGN
section 8).  A channel whose definition asks for `enforcement = "selinux"` never falls back to less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sipc.descriptor import Descriptor
from sipc.errors import Denied, RegistryError
from sipc.registry import Registry, ipc_namespace
from sipc.spec import Backend, ChannelSpec, Enforcement, Role

__all__ = ("Account", "account", "check", "read_vetted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What enforces a channel's direction right now (`holds`), what does not (`open`), in one sentence (`summary`)."""

    summary: str
    holds: tuple[str, ...]
    open: tuple[str, ...]


def check(descriptor: Descriptor, role: Role, registry: Registry) -> None:
    """Refuse to open `role` of a channel whose enforcement is not in force here.

    Raises `RegistryError` for another ipc namespace; where SELinux is asked for `Denied`, or `PolicyUnavailable`
    when it can not be asked.  Each refusal names the check, the two contexts, and what to do.
    """
    spec = descriptor.spec
    _check_namespace(descriptor)
    if spec.enforcement is Enforcement.SELINUX:
        from sipc.selinux import live  # noqa: PLC0415 - only where it is asked for

        live.check_end(spec, role, descriptor_label=descriptor.label, registry_label=registry.label)


def _check_namespace(descriptor: Descriptor) -> None:
    here = ipc_namespace()
    if descriptor.ipc_namespace and here and descriptor.ipc_namespace != here:
        raise RegistryError(
            f"channel {descriptor.spec.name!r} was made in ipc namespace {descriptor.ipc_namespace}, this process is "
            f"in {here}: run the helper and both ends in one namespace"
        )


def read_vetted(registry: Registry, name: str) -> Descriptor:
    """Read a descriptor and refuse it when no end of it could be opened here, whatever the role.

    On top of `Registry.read`: `RegistryError` for another ipc namespace, or a descriptor that the helper withdrew and
    somebody put back; `Denied` for a wrong label where SELinux is asked for.
    """
    while True:
        descriptor = registry.read(name)
        try:
            _vet(descriptor, registry)
        except (RegistryError, Denied):
            if registry.read(name).epoch == descriptor.epoch:
                raise
        else:
            return descriptor  # and when it is refused but was replaced meanwhile, look at the new one


def _vet(descriptor: Descriptor, registry: Registry) -> None:
    spec = descriptor.spec
    _check_namespace(descriptor)
    if spec.enforcement is Enforcement.SELINUX:
        from sipc.selinux import live  # noqa: PLC0415 - only where it is asked for

        what = f"{spec.label}: finding it"
        live.check_labels(spec, what, descriptor_label=descriptor.label, registry_label=registry.label)
    registry.check_epoch(descriptor)


def account(descriptor: Descriptor) -> Account:
    """Say truthfully what holds the direction of a channel on this host."""
    spec = descriptor.spec
    if spec.enforcement is Enforcement.SELINUX:
        return _account_selinux(spec)
    holds: list[str] = ["sipc's own code: a sender can not receive and a receiver can not send"]
    if spec.tag is not None:
        holds.append(f"tags ({spec.tag}): a receiver takes no block that was not made with the channel's key")
    left = ["the queue being full for a while is visible to the sender (inherent)"]
    sender, receiver = spec.sender, spec.receiver
    if sender.uid is not None and receiver.uid is not None and sender.uid != receiver.uid:
        holds.insert(
            0,
            f"uid, gid and mode: uid {sender.uid} may only write the queue (0240), gid {receiver.gid} may only read "
            "it and the segment (0640)",
        )
        left += [
            "root and CAP_IPC_OWNER are not bound by modes",
            "the sender owns the objects and may change their mode (IPC_SET) or remove them",
            "IPC_STAT, /proc/sysvipc and /proc/locks show the other end's pids and times",
            "both may read the descriptor, and so lock it, watch it, and see when it was last read",
        ]
        summary = (
            f"The direction is held by file modes alone (enforcement = dac): uid {sender.uid} writes, "
            f"gid {receiver.gid} reads; no SELinux policy backs it, and root is not bound."
        )
    else:
        who = sender.uid if sender.uid is not None else descriptor.creator_uid
        left.append(f"sender and receiver are one user (uid {who}): the kernel keeps neither from the other's calls")
        summary = (
            f"Nothing in the kernel enforces the direction here: both ends run as uid {who} and no SELinux policy is "
            "in force (enforcement = dac), so only sipc's own code keeps data going one way."
        )
    if spec.backend is Backend.POSIX:
        left.append("POSIX queues: mq_getattr, mq_notify and poll are ways back, and the owner may shrink the segment")
    if Path("/sys/fs/selinux/enforce").exists():
        left.append("SELinux runs on this host, but this channel does not ask for it")
    return Account(summary=summary, holds=tuple(holds), open=tuple(left))


def _account_selinux(spec: ChannelSpec) -> Account:
    from sipc.selinux import grants, live  # noqa: PLC0415 - only where it is asked for

    state = live.state()
    if state != "enforcing":
        return Account(
            summary=f"Nothing passes: the channel asks for SELinux, which is {state} here, so no end opens.",
            holds=("refusal to open",),
            open=(),
        )
    types = grants.types_of(spec)
    found = []
    for domain in (types.sender, types.receiver, types.channel):
        found += list(live.faults(spec, domain, f"system_u:system_r:{domain}:s0"))
    if found:
        return Account(
            summary=f"Nothing passes: the loaded policy is not the channel's ({found[0].check}), so no end opens.",
            holds=("refusal to open",),
            open=tuple(f"{fault.check}: {fault.found}; {fault.remedy}" for fault in found),
        )
    left = [
        "the queue being full for a while is visible to the sender (inherent)",
        "futex and page residency on the shared mapping, until seccomp filters are on (SELinux does not see them)",
        "a mapped segment stays mapped when the policy is taken away: end the process",
    ]
    if spec.backend is Backend.POSIX:
        left.append("POSIX queues: mq_getattr, mq_notify and poll are ways back that no policy mediates")
    return Account(
        summary=(
            f"SELinux enforces the direction: {types.sender} may only write, {types.receiver} may only read, and "
            f"what the loaded policy grants {types.sender}, {types.receiver} and {types.channel} is exactly that."
        ),
        holds=(f"the loaded policy: {types.sender} -> {types.receiver}", "refusal to open whenever that changes"),
        open=tuple(left),
    )
