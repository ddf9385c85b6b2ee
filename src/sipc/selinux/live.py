# SPDX-License-Identifier: Apache-2.0
"""Asking the running kernel whether a channel's policy is in force: the only module that touches SELinux.

Owns the checks of DESIGN section 8, in order, and the refusal that each one ends in.  It fails closed: what can
not be asked counts as not in force.  Decisions come from the kernel's own access vectors (`security_compute_av`,
constraints included), compared with the table in `grants.py`: a permission too few is a missing module, one too
many is a weakened one.

`selinux` is the distribution's libselinux binding, imported when the first question is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sipc.errors import Denied, PolicyUnavailable
from sipc.selinux.grants import ChannelTypes, expected, types_of
from sipc.spec import Backend, ChannelSpec, Role

__all__ = ("Fault", "check_end", "check_helper", "check_labels", "faults", "own_type", "state", "type_in")

_FILESYSTEM = Path("/sys/fs/selinux/enforce")
_REGISTRY = "sipc_registry_t"
_PERMISSIVE = 1  # SELINUX_AVD_FLAGS_PERMISSIVE, selinux/selinux.h
_IPC_CLASSES = ("msgq", "sem", "shm")
_BITS = 32  # an access vector is an u32


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One check that failed: its name, what was found, what to do; `absent` when there was nothing to ask."""

    check: str
    found: str
    remedy: str
    absent: bool = False

    def raise_for(self, what: str) -> None:
        """Refuse: `PolicyUnavailable` when the policy could not be asked, else `Denied`."""
        kind = PolicyUnavailable if self.absent else Denied
        raise kind(f"{what}: SELinux check {self.check!r} failed: {self.found}; {self.remedy}")


def _binding() -> Any:
    try:
        import selinux  # noqa: PLC0415 - only where SELinux is asked for
    except ImportError as error:
        raise PolicyUnavailable(
            "enforcement = 'selinux' needs libselinux's Python binding, which is not there: install python3-selinux "
            "(and the extra sipc[selinux] in a virtual environment)"
        ) from error
    return selinux


def type_in(context: str) -> str:
    """The type of a context `user:role:type[:range]`; empty when it is none."""
    parts = context.split(":")
    return parts[2] if len(parts) >= 3 else ""


def own_type() -> str:
    """The type this process runs in."""
    return type_in(_own_context())


def _own_context() -> str:
    code, context = _binding().getcon_raw()
    return str(context) if code == 0 else ""


def state() -> str:
    """"enforcing", "permissive", "disabled", or "unknown" where the binding is missing."""
    if not _FILESYSTEM.exists():
        return "disabled"
    try:
        binding = _binding()
    except PolicyUnavailable:
        return "unknown"
    if binding.is_selinux_enabled() != 1:
        return "disabled"
    return "enforcing" if binding.security_getenforce() == 1 else "permissive"


def check_end(spec: ChannelSpec, role: Role, *, descriptor_label: str | None, registry_label: str | None) -> None:
    """Refuse to open `role` unless this process is confined to it; raises `Denied` or `PolicyUnavailable`.

    The labels are those of the descriptor and its directory, read from their open descriptors.
    """
    what = f"{spec.label}: opening it as {role}"
    types = types_of(spec)
    for fault in _system_faults():
        fault.raise_for(what)
    context = _own_context()
    own = types.sender if role is Role.SENDER else types.receiver
    for fault in (*_domain_faults(context, own), *faults(spec, own, context)):
        fault.raise_for(what)
    check_labels(spec, what, descriptor_label=descriptor_label, registry_label=registry_label)


def check_labels(spec: ChannelSpec, what: str, *, descriptor_label: str | None, registry_label: str | None) -> None:
    """Refuse a descriptor that the helper's domain can not have written; raises `Denied`, which begins with `what`."""
    for name, label, wanted in (
        ("label of the descriptor", descriptor_label, types_of(spec).descriptor),
        ("label of the registry", registry_label, _REGISTRY),
    ):
        if label is None or type_in(label) != wanted:
            Fault(
                check=name,
                found=f"it is {label or 'unlabelled'}, and only what the helper wrote as type {wanted} counts",
                remedy="create the channel anew with its helper under systemd (sipc create --replace)",
            ).raise_for(what)


def check_helper(spec: ChannelSpec) -> None:
    """Refuse to make the objects of a channel in any other domain than the channel's own."""
    what = f"{spec.label}: creating it"
    types = types_of(spec)
    for fault in _system_faults():
        fault.raise_for(what)
    context = _own_context()
    for fault in (*_domain_faults(context, types.channel), *faults(spec, types.channel, context)):
        fault.raise_for(what)


def _system_faults() -> Iterator[Fault]:
    if not _FILESYSTEM.exists() or _binding().is_selinux_enabled() != 1:
        yield Fault(
            check="SELinux is enabled",
            found="this kernel runs without it",
            remedy="boot with selinux=1 and a policy, or set enforcement = 'dac' in the definition to rely on modes",
            absent=True,
        )
    elif _binding().security_getenforce() != 1:
        yield Fault(
            check="SELinux is enforcing",
            found="it is permissive: nothing would be refused",
            remedy="run 'setenforce 1', and set SELINUX=enforcing in /etc/selinux/config",
        )


def _domain_faults(context: str, wanted: str) -> Iterator[Fault]:
    if type_in(context) != wanted:
        yield Fault(
            check="own domain",
            found=f"this process runs as {context or 'an unknown context'}, and the channel's policy names {wanted}",
            remedy=f"start it with SELinuxContext= in its unit, or from a program whose label leads to {wanted}",
        )


def faults(spec: ChannelSpec, domain: str, context: str) -> Iterator[Fault]:
    """What the loaded policy has wrong for one domain of a channel, by the kernel's own decisions.

    `domain` is S, R or C of the channel, `context` a context of it to ask for.
    """
    types = types_of(spec)
    binding = _binding()
    install = f"load the modules of channel {spec.name!r}: sipc policy install DEFINITION"
    for target in _targets(spec, types, domain):
        tcontext = context if target == domain else _context_of(types, target)
        if not _known(binding, tcontext):
            yield Fault(
                check="policy module",
                found=f"{tcontext} is not a context of the loaded policy",
                remedy=install,
                absent=True,
            )
            return
    for cls, target, wanted in _vectors(spec, types, domain):
        tcontext = context if target == domain else _context_of(types, target)
        asked = f"{context} on {tcontext} class {cls}"
        granted = _granted(binding, context, tcontext, cls)
        if granted is None:
            yield Fault(
                check="access vector",
                found=f"the kernel does not answer for {asked}",
                remedy=install,
                absent=True,
            )
            return
        permissions, permissive = granted
        if permissive:
            yield Fault(
                check="own domain is not permissive",
                found=f"{domain} is a permissive domain: {context} is refused nothing",
                remedy=f"run 'semanage permissive -d {domain}', or remove the module that says so",
            )
            return
        if missing := sorted(wanted - permissions):
            yield Fault(check="forward calls are allowed", found=f"{asked}: lacks {' '.join(missing)}", remedy=install)
        if extra := sorted(permissions - wanted):
            yield Fault(
                check="reverse calls are denied",
                found=f"{asked}: the loaded policy grants {' '.join(extra)}, which weakens the channel",
                remedy="run 'sipc policy verify' to see which, remove the module that grants it or install this "
                "channel's module again",
            )


def _known(binding: Any, context: str) -> bool:
    try:
        return bool(binding.security_check_context_raw(context) == 0)
    except OSError:
        return False


def _context_of(types: ChannelTypes, target: str) -> str:
    role = "object_r" if target in (types.message, types.objects) else "system_r"
    if target == types.segment and target not in (types.channel, types.sender):
        role = "object_r"
    return f"system_u:{role}:{target}:s0"


def _targets(spec: ChannelSpec, types: ChannelTypes, domain: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(target for _, target, _ in _vectors(spec, types, domain)))


def _vectors(
    spec: ChannelSpec, types: ChannelTypes, domain: str
) -> Iterator[tuple[str, str, frozenset[str]]]:
    """(class, target, permissions exactly granted) of every vector that decides over the direction."""
    table = {
        (grant.cls, grant.target): frozenset(grant.permissions)
        for grant in expected(spec, types)
        if grant.source == domain
    }
    if spec.backend is Backend.POSIX:
        targets = [target for target in (types.objects, types.segment) if target is not None]
        pairs = [("file", target) for target in dict.fromkeys(targets)]
    else:
        pairs = [("msgq", types.channel), ("shm", types.channel), ("sem", types.channel), ("msg", types.message)]
        if types.segment not in (None, types.channel):
            pairs.append(("shm", str(types.segment)))
    # An end makes no IPC object of its own: whatever it made would have its own type.
    pairs += [(cls, domain) for cls in _IPC_CLASSES]
    for cls, target in dict.fromkeys(pairs):
        yield cls, target, table.get((cls, target), frozenset())


def _granted(binding: Any, source: str, target: str, cls: str) -> tuple[frozenset[str], bool] | None:
    """(permissions the kernel grants, whether the source is permissive); None when it does not answer."""
    number = binding.string_to_security_class(cls)
    if number == 0:
        return None
    decision = binding.av_decision()
    try:
        if binding.security_compute_av_flags_raw(source, target, number, 0, decision) != 0:
            return None
    except OSError:
        return None
    # The kernel also sets bits that stand for no permission; they decide nothing.
    bits = [1 << bit for bit in range(_BITS) if decision.allowed >> bit & 1]
    names = [binding.security_av_perm_to_string(number, bit) for bit in bits]
    return frozenset(str(name) for name in names if name), bool(decision.flags & _PERMISSIVE)
