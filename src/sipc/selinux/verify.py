# SPDX-License-Identifier: Apache-2.0
"""The proof that a policy keeps channels one-way.

Owns the checks of DESIGN section 9, on a policy as the kernel would load it.  Fails closed: a name that is missing,
a permission that is unknown, a boolean that could be switched all count against the policy, and checking nothing is
an error.  What must hold is taken from the channel's definition (`grants.py`, `constraints.py`); what does hold is
taken from the binary policy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sipc.errors import SpecError
from sipc.selinux.cil import Constrain, Expression, Is, IsNot, Or, TypeTransition
from sipc.selinux.ends import End, ends_of
from sipc.selinux.flows import Graph
from sipc.selinux.grants import ChannelTypes, expected, types_of
from sipc.selinux.image import ObjectClass, Policy, bits
from sipc.selinux.options import Options, Profile
from sipc.selinux.policy import channel_module, end_module
from sipc.selinux.report import Accepted, Check, Finding, Report
from sipc.selinux.requirements import Requirement
from sipc.selinux.ways import residual, ways
from sipc.spec import Backend, ChannelSpec

__all__ = ("verify",)

_DOORS = {
    "start": ("transition",),
    "change into": ("dyntransition",),
    "trace": ("ptrace",),
    "signal": ("sigkill", "signal", "sigstop"),
}
_CAPABILITY = ("capability", "capability2", "cap_userns", "cap2_userns")
_SYSTEM_V = ("msg", "msgq", "sem", "shm")


def verify(
    policy: Policy,
    specs: Iterable[ChannelSpec],
    options: Options | None = None,
    requirements: Sequence[Requirement] = (),
) -> Report:
    """Check channels and requirements on a policy.

    Raises `SpecError` when there is nothing to check, or a requirement names a type the policy does not have.
    """
    specs, options = list(specs), options or Options()
    if not specs and not requirements:
        raise SpecError("nothing to verify: name channel definitions, or requirements like 'not high_t -> low_t'")
    report = Report(policy.source, policy.version, len(list(bits(policy.all_types))), len(policy.rules))
    graph = Graph(policy)
    _permissive(policy, report)
    ends = ends_of(specs, options)
    for spec in specs:
        _Channel(policy, graph, report, spec, ends, options).check()
    for requirement in requirements:
        _require(policy, graph, report, requirement, specs, options)
    report.inherent = dict(residual()["inherent"])
    if any(spec.backend is Backend.POSIX for spec in specs):
        report.inherent |= residual()["inherent_posix"]
    if policy.allow_unknown:
        report.notes.append(
            "this policy lets everybody use classes and permissions it does not know (handle_unknown = allow): those "
            "of a newer kernel are not covered by this proof"
        )
    return report


def _permissive(policy: Policy, report: Report) -> None:
    """Neither rules nor constraints bind a permissive domain, whatever it is for."""
    names = [policy.type_names[number] for number in bits(policy.permissive)]
    report.checks.append(
        Check(name="no domain is permissive", subject="policy", examined=len(policy.type_names), found=len(names))
    )
    report.findings += [
        Finding(
            check="no domain is permissive", subject="policy",
            text=f"{name} is permissive: the kernel refuses it nothing, not even what constraints forbid",
            witness=(f"(typepermissive {name})",),
        )
        for name in names
    ]  # fmt: skip


class _Channel:
    """The checks of one channel."""

    def __init__(
        self, policy: Policy, graph: Graph, report: Report, spec: ChannelSpec, ends: dict[str, End], options: Options
    ) -> None:
        self.policy, self.graph, self.report, self.spec, self.options = policy, graph, report, spec, options
        self.types: ChannelTypes = types_of(spec)
        self.ends = [ends[name] for name in (self.types.sender, self.types.receiver)]
        statements = list(channel_module(spec, ends, options).statements)
        for end in self.ends:
            if end.home is None:
                statements += end_module(end, options).statements
        self.statements = statements
        self.subject = f"channel {spec.name}"
        report.subjects.append(f"{self.subject} ({self.types.sender} -> {self.types.receiver})")
        self._found: list[Finding] = []
        self._examined = 0

    def check(self) -> None:
        """Make them all; without the types there is nothing to look at."""
        self._run("types are there", self._names)
        if self.report.findings and self.report.findings[-1].check == "types are there":
            return
        self._run("each role's permissions", self._grants)
        self._run("constraints", self._constraints)
        self._run("message type", self._message_type)
        self._run("ends make no IPC object and have no power", self._creation)
        self._run("flows back", self._flows)
        self._run("doors", self._doors)

    def _run(self, name: str, check: Callable[[str], None]) -> None:
        self._found, self._examined = [], 0
        check(name)
        self.report.checks.append(
            Check(name=name, subject=self.subject, examined=self._examined, found=len(self._found))
        )
        self.report.findings += self._found

    def _find(self, check: str, text: str, witness: tuple[str, ...] = ()) -> None:
        self._found.append(Finding(check=check, subject=self.subject, text=text, witness=witness))

    def _n(self, name: str) -> int:
        return self.policy.numbers[name]

    def _names(self, check: str) -> None:
        """The channel's module is in the policy."""
        types = self.types
        wanted = [types.sender, types.receiver, types.channel, types.message, *types.files,
                  *(name for name in (types.segment, types.objects) if name)]  # fmt: skip
        for name in dict.fromkeys(wanted):
            self._examined += 1
            number = self.policy.numbers.get(name)
            if number is None or self.policy.attributes >> number & 1:
                self._find(check, f"type {name} is not in this policy: is the channel's module installed?")
        for name in ("process", *(_SYSTEM_V if self.spec.backend is Backend.SYSV else ("file",))):
            self._examined += 1
            if name not in self.policy.classes:
                self._find(check, f"class {name} is not in this policy: nothing about it can be enforced")

    def _objects(self) -> dict[str, tuple[str, ...]]:
        """Types of the channel's objects, and their classes."""
        types = self.types
        if self.spec.backend is Backend.POSIX:
            return {name: ("file",) for name in (types.objects, types.segment) if name}
        found = {types.channel: ("msgq", "sem", "shm"), types.message: ("msg", "msgq")}
        if types.segment == types.sender:
            found[types.sender] = ("shm",)
        return found

    def _grants(self, check: str) -> None:
        """Allow rules give sender, receiver, helper and messages exactly what the table says."""
        types, policy = self.types, self.policy
        wanted: dict[tuple[str, str, str], set[str]] = {}
        for grant in expected(self.spec, types):
            wanted[grant.source, grant.target, grant.cls] = set(grant.permissions)
        for target, classes in self._objects().items():
            for cls_name in classes:
                cls = policy.classes[cls_name]
                for source in dict.fromkeys((types.sender, types.receiver, types.channel, types.message)):
                    self._examined += 1
                    mask = policy.granted(self._n(source), self._n(target), cls)
                    granted = set(cls.names(mask))
                    usable = set(cls.names(policy.effective(self._n(source), self._n(target), cls)))
                    should = wanted.get((source, target, cls_name), set())
                    for name in sorted(granted - should):
                        if self._by_profile(source, target, cls_name) and name not in usable:
                            continue
                        now = "usable now" if name in usable else "only a constraint stops it"
                        self._find(
                            check, f"{source} is granted {cls_name} {name} on {target}, which no call of its role "
                            f"takes: {now}", self._rule(source, target, cls, name),
                        )  # fmt: skip
                    for name in sorted(should - usable):
                        why = "a constraint stops it" if name in granted else "no rule grants it"
                        self._find(check, f"{source} needs {cls_name} {name} on {target}, and {why}")
        if all(end.made for end in self.ends):
            self._between(check, set(wanted))

    def _between(self, check: str, wanted: set[tuple[str, str, str]]) -> None:
        """Two ends made here have no rule about each other, not even one that a constraint stops."""
        ends = [self.types.sender, self.types.receiver]
        for source, target in (ends, ends[::-1]):
            for cls in self.policy.classes.values():
                self._examined += 1
                if (source, target, cls.name) in wanted:
                    continue
                if mask := self.policy.granted(self._n(source), self._n(target), cls):
                    names = cls.names(mask)
                    self._find(
                        check, f"{source} is granted {cls.name} {' '.join(names)} on {target}: the ends share the "
                        "channel and nothing else", self._rule(source, target, cls, names[0]),
                    )  # fmt: skip

    def _by_profile(self, source: str, target: str, cls: str) -> bool:
        """Whether the base policy is known to grant this to every domain."""
        return self.options.profile is Profile.FEDORA and source == target and cls in ("msgq", "sem", "shm")

    def _rule(self, source: str, target: str, cls: ObjectClass, permission: str) -> tuple[str, ...]:
        """The rule that grants it, as it stands in the policy."""
        policy, bit = self.policy, cls.permissions[permission]
        targets = policy.attributes_of[self._n(target)]
        for rule in policy.rules_from(self._n(source)):
            if rule.cls == cls.number and rule.permissions & bit and targets >> rule.target & 1:
                names = policy.type_names
                gate = " (under a boolean)" if rule.conditional else ""
                rights = " ".join(cls.names(rule.permissions))
                return (f"allow {names[rule.source]} {names[rule.target]}:{cls.name} {{ {rights} }}{gate}",)
        return ()

    def _constraints(self, check: str) -> None:
        """Every constraint of the channel is there in effect: what it forbids, no rule of any module could grant."""
        for statement in self.statements:
            if not isinstance(statement, Constrain):
                continue
            cls = self.policy.classes.get(statement.cls)
            if cls is None:
                self._find(check, f"class {statement.cls} is not in this policy: it can not be constrained")
                continue
            for name in statement.permissions or sorted(cls.permissions):
                self._examined += 1
                if name not in cls.permissions:
                    self._find(check, f"permission {cls.name} {name} is not in this policy: it can not be constrained")
                elif holes := self._holes(statement.condition, cls, cls.permissions[name]):
                    self._report_holes(check, statement.condition, cls, name, holes)

    def _holes(self, condition: Expression, cls: ObjectClass, bit: int) -> list[tuple[str, str]]:
        """Pairs (t1, t2) that the condition forbids and the policy's constraints do not."""
        fixed, excluded = _region(condition)
        policy = self.policy
        if "t2" in fixed:
            target = self._n(fixed["t2"])
            free = policy.unconstrained(target, cls, bit)
            free &= 1 << self._n(fixed["t1"]) if "t1" in fixed else self._without(excluded["t1"])
            return [(policy.type_names[number], fixed["t2"]) for number in bits(free)]
        source = self._n(fixed["t1"])
        free = policy.reachable(source, cls, bit) & self._without(excluded["t2"])
        return [(fixed["t1"], policy.type_names[number]) for number in bits(free)]

    def _without(self, names: list[str]) -> int:
        """All types but these (launchers that this policy lacks exclude nothing)."""
        mask = self.policy.all_types
        for name in names:
            if name in self.policy.numbers:
                mask &= ~(1 << self._n(name))
        return mask

    def _report_holes(
        self, check: str, condition: Expression, cls: ObjectClass, name: str, holes: list[tuple[str, str]]
    ) -> None:
        bit = cls.permissions[name]
        granted = [pair for pair in holes if self.policy.granted(self._n(pair[0]), self._n(pair[1]), cls) & bit]
        source, target = (granted or holes)[0]
        text = f"no constraint keeps {source} from {cls.name} {name} on {target}"
        if granted:
            self._find(check, f"{text}, and a rule grants it", self._rule(source, target, cls, name))
        else:
            missing = f"missing: {cls.name} {name}: {condition}"
            self._find(check, f"{text}: no rule grants it now, and any module may", (missing,))

    def _message_type(self, check: str) -> None:
        """Messages of this sender on this queue get this type."""
        policy = self.policy
        for statement in self.statements:
            if isinstance(statement, TypeTransition) and statement.cls == "msg":
                self._examined += 1
                key = (self._n(statement.source), self._n(statement.target), policy.classes["msg"].number)
                results = {result for *where, result in policy.transitions if tuple(where) == key}
                if results != {self._n(statement.result)}:
                    self._find(
                        check, f"messages of {statement.source} on {statement.target} do not get the type "
                        f"{statement.result}: the message's own checks do not apply", ("missing: type transition",)
                    )  # fmt: skip
        if not self._examined:
            self._examined = 1  # POSIX: queues have no messages of their own type

    def _creation(self, check: str) -> None:
        """Rules let new ends make no IPC object of their own type either, and give them no power."""
        policy = self.policy
        for made_here, end, makes in ((end.made, end.name, end.makes_segment) for end in self.ends):
            for cls_name in _CAPABILITY if made_here else ():
                self._examined += 1
                powers = policy.classes.get(cls_name)
                if powers is not None and (mask := policy.granted(self._n(end), self._n(end), powers)):
                    names = powers.names(mask)
                    self._find(check, f"{end} has {cls_name} {' '.join(names)}: an end needs none",
                               self._rule(end, end, powers, names[0]))  # fmt: skip
            for cls_name in ("msgq", "sem", "shm"):
                if cls_name == "shm" and makes:
                    continue
                cls = policy.classes[cls_name]
                self._examined += 1
                mask = policy.granted(self._n(end), self._n(end), cls)
                usable = policy.effective(self._n(end), self._n(end), cls)
                making = cls.permissions["create"] | cls.permissions["destroy"]
                if (mask if made_here else usable) & making:
                    if self.options.profile is Profile.FEDORA and not usable & making:
                        continue
                    self._find(
                        check, f"{end} may make {cls_name} objects of its own: such an object is a way back",
                        self._rule(end, end, cls, "create") or self._rule(end, end, cls, "destroy"),
                    )  # fmt: skip

    def _flows(self, check: str) -> None:
        """No flow from receiver to sender, direct or through one type, but the accepted ones."""
        receiver, sender = self._n(self.types.receiver), self._n(self.types.sender)
        self._examined += len(self.graph.out_of(receiver)) + len(self.graph.into(sender))
        found, accepted = ways(self.policy, self.graph, receiver, sender, self.options)
        for text, witness in found:
            self._find(check, text, witness)
        self.report.accepted += [
            Accepted(subject=self.subject, through=name, reason=reason, witness=witness)
            for name, reason, witness in accepted
        ]

    def _doors(self, check: str) -> None:
        """Nobody but launchers reaches into sender, receiver or helper; who may is listed."""
        cls = self.policy.classes["process"]
        for name in (self.types.sender, self.types.receiver, self.types.channel):
            number = self._n(name)
            doors: dict[str, list[str]] = {}
            allowed = {name, *self.options.launchers, *self.options.switchers}
            for act, permissions in _DOORS.items():
                who: set[str] = set()
                for permission in permissions:
                    who |= self._actors(number, cls, cls.permissions.get(permission, 0))
                self._examined += 1
                doors[act] = sorted(who - {name})
                for stranger in sorted(who - allowed):
                    permission = next(
                        p for p in permissions if stranger in self._actors(number, cls, cls.permissions.get(p, 0))
                    )
                    self._find(check, f"{stranger} may {act} {name}", self._rule(stranger, name, cls, permission))
            self.report.doors[name] = doors

    def _actors(self, number: int, cls: ObjectClass, bit: int) -> set[str]:
        policy = self.policy
        sources = 0
        for rule in policy.rules_to(number):
            if rule.cls == cls.number and rule.permissions & bit:
                sources |= policy.expand(rule.source)
        sources &= policy.unconstrained(number, cls, bit)
        return {policy.type_names[source] for source in bits(sources)}


def _region(condition: Expression) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What a condition forbids: operands that are fixed, and for the others the types that are spared.

    Our conditions are 'not this type, or one of those': false when every part is false.
    """
    fixed: dict[str, str] = {}
    spared: dict[str, list[str]] = {"t1": [], "t2": []}
    for part in condition.parts if isinstance(condition, Or) else (condition,):
        if isinstance(part, IsNot):
            fixed[part.operand] = part.type
        elif isinstance(part, Is):
            spared[part.operand].append(part.type)
    return fixed, spared


def _require(
    policy: Policy,
    graph: Graph,
    report: Report,
    requirement: Requirement,
    specs: list[ChannelSpec],
    options: Options,
) -> None:
    """`A -> B via F`: by channels, and only so.  `not A -> B`: in no way, neither by channels nor by any rule."""
    check, subject = "requirement", str(requirement)
    report.subjects.append(subject)
    for name in (requirement.start, requirement.end, *requirement.via):
        number = policy.numbers.get(name)
        if number is None or policy.attributes >> number & 1:
            raise SpecError(f"requirement '{requirement}': there is no type {name} in {policy.source}")
    start, end = policy.numbers[requirement.start], policy.numbers[requirement.end]
    channels = [(types.sender, types.receiver, types.name) for types in map(types_of, specs)]
    found: list[Finding] = []

    def find(text: str, witness: tuple[str, ...] = ()) -> None:
        found.append(Finding(check=check, subject=subject, text=text, witness=witness))

    route = requirement.route(channels)
    found_ways, accepted = ways(policy, graph, start, end, options)
    if requirement.negated:
        if route is not None:
            find(f"channels lead from {requirement.start} to {requirement.end}", route)
    else:
        if route is None:
            find(f"no chain of the channels given leads from {requirement.start} to {requirement.end}")
        for name in requirement.via:
            around = requirement.route(channels, without=name)
            if around is not None:
                find(f"channels lead around {name}", around)
        if not requirement.via and route is not None:
            found_ways = []
    spared = {f"through {name}" for name in requirement.via}
    for text, witness in found_ways:
        if not any(text.endswith(way) for way in spared):
            find(text, witness)
    report.accepted += [
        Accepted(subject=subject, through=name, reason=reason, witness=witness) for name, reason, witness in accepted
    ]
    examined = 1 + len(found_ways) + len(accepted)
    report.checks.append(Check(name=check, subject=subject, examined=examined, found=len(found)))
    report.findings += found
