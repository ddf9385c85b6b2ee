# SPDX-License-Identifier: Apache-2.0
"""Where information can go in a policy, one hop at a time.

Owns the graph: types are nodes, and a rule that a constraint does not certainly stop is an edge from its source to
its target when it writes, and back when it reads (`directions.py`).  Must not know channels.  An object and the
domain that uses it are both nodes, so "R writes a file that S reads" is two hops.
"""

from __future__ import annotations

from dataclasses import dataclass

from sipc.selinux.directions import flows
from sipc.selinux.image import ObjectClass, Policy, Rule, bits

__all__ = ("Graph", "Hop", "Legs")


# Objects that every process has: itself, and its files in /proc.
_ALWAYS = frozenset({"dir", "file", "lnk_file", "process", "process2"})
# Objects that have the type of the domain that made them, and can be made with no other.
_BY_MAKER = frozenset({"msgq", "sem", "shm"})
# Classes of packets and of those who exchange them.
_PACKETS = frozenset({"association", "netif", "node", "packet", "peer"})
_INTERNET = frozenset({"icmp_socket", "rawip_socket", "sctp_socket", "tcp_socket", "udp_socket"})


@dataclass(frozen=True, slots=True)
class Hop:
    """One edge: information goes from `start` to `end`, because `source` may use `permissions` on `target`."""

    start: str
    end: str
    source: str
    target: str
    cls: str
    permissions: tuple[str, ...]
    conditional: bool

    def __str__(self) -> str:
        gate = " (under a boolean)" if self.conditional else ""
        return (
            f"{self.start} -> {self.end}: allow {self.source} {self.target}:{self.cls} "
            f"{{ {' '.join(self.permissions)} }}{gate}"
        )


Legs = dict[tuple[str, int], Hop]  # by class and acting type


class Graph:
    """Flows of one policy, worked out as they are asked for."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._out: dict[int, dict[int, Legs]] = {}
        self._in: dict[int, dict[int, Legs]] = {}
        self._network: dict[int, bool] = {}

    def out_of(self, number: int) -> dict[int, Legs]:
        """Types that information reaches from this one in one hop, each with a witness."""
        if number not in self._out:
            self._out[number] = self._edges(number, outward=True)
        return self._out[number]

    def into(self, number: int) -> dict[int, Legs]:
        """Types from which information reaches this one in one hop, each with a witness."""
        if number not in self._in:
            self._in[number] = self._edges(number, outward=False)
        return self._in[number]

    def _edges(self, number: int, *, outward: bool) -> dict[int, Legs]:
        policy = self.policy
        found: dict[int, Legs] = {}
        # This type acts: it writes to others (outward) or reads from them.
        for rule in policy.rules_from(number):
            cls = policy.class_by_number[rule.cls]
            mask = rule.permissions & flows(cls)[0 if outward else 1]
            mask = self._able(number, cls, mask)
            if mask and not self._idle(number, cls, mask):
                for other in bits(policy.expand(rule.target)):
                    if other != number and (left := self._unstopped(number, other, cls, mask)):
                        self._add(found, (number, other), (number, other), cls, left, rule, outward=outward)
        # Others act on objects of this type: they read from them (outward) or write to them.
        for rule in policy.rules_to(number):
            cls = policy.class_by_number[rule.cls]
            mask = rule.permissions & flows(cls)[1 if outward else 0]
            mask = self._shared(number, cls, mask, outward=outward)
            if mask and not self._idle(number, cls, mask):
                for other in bits(policy.expand(rule.source)):
                    if other != number and (left := self._unstopped(other, number, cls, mask)):
                        self._add(found, (number, other), (other, number), cls, left, rule, outward=outward)
        return found

    def _shared(self, number: int, cls: ObjectClass, mask: int, *, outward: bool) -> int:
        """Of what others may do to a domain's own objects of a class, what the domain itself takes part in.

        Somebody who may read a domain's tcp sockets learns nothing from a domain that may have none; a lock tells
        something only to who may lock the same thing.  A process, and its files in /proc, are there whatever
        the rules say.
        """
        policy = self.policy
        if policy.permissive >> number & 1 or not policy.granted(number, number, policy.classes["process"]):
            return mask  # it may do anything; or it is an object, not a domain
        own = policy.effective(number, number, cls)
        if cls.name in _BY_MAKER and not own & cls.permissions["create"]:
            return 0  # such objects keep their maker's type: there is none of this type
        writes, reads = flows(cls)
        if cls.name not in _ALWAYS and not own & (writes if outward else reads):
            return 0
        lock = cls.permissions.get("lock", 0)
        return mask if own & lock else mask & ~lock

    def _able(self, number: int, cls: ObjectClass, mask: int) -> int:
        """What is left when a domain that can not connect any socket is allowed to connect to somebody."""
        to = cls.permissions.get("connectto", 0)
        if not mask & to or self.policy.permissive >> number & 1:
            return mask
        connect = cls.permissions["connect"]
        able = any(
            rule.cls == cls.number
            and rule.permissions & connect
            and self.policy.reachable(number, cls, connect) & self.policy.expand(rule.target)
            for rule in self.policy.rules_from(number)
        )
        return mask if able else mask & ~to

    def _idle(self, number: int, cls: ObjectClass, mask: int) -> bool:
        """Whether a class is about packets, and this domain can have no socket that sends or receives any."""
        if cls.name in _PACKETS or (cls.name in _INTERNET and cls.names(mask) == ("recvfrom",)):
            if number not in self._network:
                self._network[number] = self._has_network(number)
            return not self._network[number]
        return False

    def _has_network(self, number: int) -> bool:
        policy = self.policy
        if policy.permissive >> number & 1:
            return True
        for rule in policy.rules_from(number):
            cls = policy.class_by_number[rule.cls]
            if cls.name.endswith("_socket") and not cls.name.startswith("unix_"):
                use = sum(cls.permissions.get(name, 0) for name in ("append", "create", "read", "write"))
                if rule.permissions & use:
                    return True
        return False

    def _add(
        self, found: dict[int, Legs], ends: tuple[int, int], actors: tuple[int, int], cls: ObjectClass, mask: int,
        rule: Rule, *, outward: bool,
    ) -> None:  # fmt: skip
        """Note one flow; of several of one class by one actor, the first that no boolean gates."""
        names, legs = self.policy.type_names, found.setdefault(ends[1], {})
        key = (cls.name, actors[0])
        if key in legs and not (legs[key].conditional and not rule.conditional):
            return
        start, end = ends if outward else ends[::-1]
        legs[key] = Hop(
            names[start], names[end], names[actors[0]], names[actors[1]], cls.name, cls.names(mask), rule.conditional
        )

    def _unstopped(self, source: int, target: int, cls: ObjectClass, mask: int) -> int:
        policy = self.policy
        left = 0
        for n in bits(mask):
            if policy.permissive >> source & 1 or policy.unconstrained(target, cls, 1 << n) >> source & 1:
                left |= 1 << n
        return left

    def between(self, start: int, end: int) -> Legs:
        """Witnesses that information goes from one type to another in one hop, one per class and actor."""
        return self.out_of(start).get(end, {})

    def two_hops(self, start: int, end: int) -> dict[int, tuple[Legs, Legs]]:
        """Every type through which information goes from `start` to `end`, with witnesses for both legs."""
        first, last = self.out_of(start), self.into(end)
        return {middle: (first[middle], last[middle]) for middle in sorted(first.keys() & last.keys())}
