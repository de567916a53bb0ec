"""What only shows when all resources are seen together: names that lead nowhere, and rules that contradict each other.

All of these are Warnings: the order in which resources arrive must not decide whether they are accepted.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.groups import Groups
from proxyless.control_plane.replaced import Replaced, replaced
from proxyless.control_plane.resources.destination_rule import DestinationRuleSpec
from proxyless.control_plane.resources.names import Known, canonical, covers, qualify, service_host
from proxyless.control_plane.resources.problem import Problem
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.service_entry import ServiceEntrySpec
from proxyless.control_plane.resources.validation.attachments import CONFLICT, attached_to, conflicts, warning
from proxyless.control_plane.resources.virtual_service import MESH_GATEWAY, Destination, VirtualServiceSpec

NOT_FOUND = "ReferencedResourceNotFound"
# What refers to others.
REFERRING = frozenset({"VirtualService", "DestinationRule", "Sidecar", "HTTPRoute", "GRPCRoute"})

# Both kinds of route refer alike.
_READ_AS = {"GRPCRoute": "HTTPRoute"}


def check_references(
    resources: Mapping[Key, Resource[Any]], hosts: Collection[str] = (), cluster_domain: str = "cluster.local"
) -> list[Problem]:
    """hosts: fully qualified names of services that exist without a resource (implied by registered workloads)."""
    return References(cluster_domain).problems(resources, hosts)


@dataclass(frozen=True, slots=True)
class _Read:
    """What refers to hosts (a route, to its parents), and its problems but for conflicts. names: the hosts whose being
    known or not decided about that.
    """

    resource: Resource[Any]
    hosts: tuple[str, ...]
    names: frozenset[str]
    problems: tuple[Problem, ...]

    @property
    def claims(self) -> tuple[str, ...]:
        """The hosts it wants for itself in the mesh."""
        gateways = self.resource.spec.gateways
        return self.hosts if not gateways or MESH_GATEWAY in gateways else ()


class _Reads:
    """Those of one kind, kept from check to check. gone, came: by the last change."""

    def __init__(self, read: Callable[[Resource[Any]], _Read]) -> None:
        self.gone: list[_Read] = []
        self.came: list[_Read] = []
        self.known: dict[Key, _Read] = {}
        # What is wrong with those with which something is.
        self.wrong: dict[Key, tuple[Problem, ...]] = {}
        self._read = read
        self._by_name: Groups[_Read] = Groups(lambda one: [(name,) for name in one.names], order=_age)

    def change(self, changes: Replaced[Resource[Any]], moved: AbstractSet[str]) -> None:
        """moved: the names by which those that mention them are to be read again; a wildcard may be about any."""
        if any(name.startswith("*") for name in moved):
            doubtful = dict(self.known)
        else:
            doubtful = {one.resource.key: one for name in moved for one in self._by_name.get((name,))}
        keys = {resource.key for resource in changes.gone}
        stay = [one.resource for key, one in doubtful.items() if key not in keys]
        self.gone = [self.known[key] for key in (*keys, *(resource.key for resource in stay))]
        self.came = [self._read(resource) for resource in (*stay, *changes.came)]
        new = {one.resource.key: one for one in self.came}
        for one in self.gone:
            self.wrong.pop(one.resource.key, None)
            if one.resource.key not in new:
                del self.known[one.resource.key]
        self.known.update(new)
        self.wrong.update((key, one.problems) for key, one in new.items() if one.problems)
        self._by_name = self._by_name.changed(self.gone, self.came)


class References:
    """``check_references``, again and again, at the cost of what changed. hosts: those of the last check."""

    def __init__(self, cluster_domain: str) -> None:
        self.hosts: frozenset[str] = frozenset()
        self._domain = cluster_domain
        self._resources: Mapping[Key, Resource[Any]] = {}
        self._world = _World(cluster_domain)
        self._rules = _Reads(self._world.read_rule)
        self._routes = _Reads(self._world.read_routes)
        self._claims: Groups[_Read] = Groups(lambda one: [(host,) for host in dict.fromkeys(one.claims)], order=_age)
        self._attached = _Reads(self._world.read_attached)
        self._attachments: Groups[_Read] = Groups(
            lambda one: [(host,) for host in dict.fromkeys(one.hosts)], order=_age
        )
        # By the host that several want.
        self._conflicts: dict[str, tuple[Problem, ...]] = {}
        self._sidecars: list[Resource[Any]] = []
        self._of_sidecars: tuple[Problem, ...] = ()

    def problems(self, resources: Mapping[Key, Resource[Any]], hosts: Collection[str] = ()) -> list[Problem]:
        changes = replaced(self._resources, resources)
        by_kind: dict[str, Replaced[Resource[Any]]] = defaultdict(Replaced)
        for each in changes.gone:
            by_kind[_READ_AS.get(each.kind, each.kind)].gone.append(each)
        for each in changes.came:
            by_kind[_READ_AS.get(each.kind, each.kind)].came.append(each)
        known = frozenset(hosts)
        moved = self._world.serve((by_kind["Service"], by_kind["ServiceEntry"]), self.hosts, known)
        self._resources, self.hosts = resources, known
        self._rules.change(by_kind["DestinationRule"], moved)
        subsets = self._world.divide(self._rules.gone, self._rules.came)
        self._routes.change(by_kind["VirtualService"], moved | subsets)
        self._attached.change(by_kind["HTTPRoute"], moved)
        self._find_conflicts()
        others = by_kind["Sidecar"]
        if others:
            found = [each for key, each in resources.items() if key.kind == "Sidecar"]
            self._sidecars = sorted(found, key=lambda each: each.age)
        if others or (self._sidecars and (moved or subsets or self._routes.gone or self._routes.came)):
            self._of_sidecars = tuple(self._check_sidecars())
        of_each = (self._rules.wrong, self._routes.wrong, self._attached.wrong, self._conflicts)
        wrong = [problems for found in of_each for problems in found.values()]
        return [problem for problems in (*wrong, self._of_sidecars) for problem in problems]

    def _find_conflicts(self) -> None:
        self._claims = self._claims.changed(self._routes.gone, self._routes.came)
        self._attachments = self._attachments.changed(self._attached.gone, self._attached.came)
        for (host,) in self._claims.touched | self._attachments.touched:
            claims, attached = self._claims.get((host,)), self._attachments.get((host,))
            rules, routes = [one.resource for one in claims], [one.resource for one in attached]
            found = (*_conflicts(host, claims), *conflicts(host, self._domain, rules, routes))
            if found:
                self._conflicts[host] = found
            else:
                self._conflicts.pop(host, None)

    def _check_sidecars(self) -> Iterator[Problem]:
        routed = frozenset(host for one in self._routes.known.values() for host in one.hosts)
        for sidecar in self._sidecars:
            yield from self._world.check_sidecar(sidecar, routed)
        yield from _sidecar_conflicts(self._sidecars)


def _age(one: _Read) -> tuple[float, str, str]:
    return one.resource.age


class _World:
    """Indexes of what can be referred to."""

    def __init__(self, cluster_domain: str) -> None:
        self._domain = cluster_domain
        # By how many each is declared.
        self._hosts: Counter[str] = Counter()
        self._wildcards: list[str] = []
        self._subsets: Groups[_Read] = Groups(lambda one: [(host,) for host in one.hosts], order=_age)
        self._wildcard_rules: list[str] = []

    def serve(
        self, declaring: Iterable[Replaced[Resource[Any]]], before: AbstractSet[str], after: AbstractSet[str]
    ) -> frozenset[str]:
        """Take in other services; before, after: hosts that exist without a resource. The hosts that came or went."""
        gone, came = [*(before - after)], [*(after - before)]
        for changes in declaring:
            gone += [host for each in changes.gone for host in self._hosts_of(each)]
            came += [host for each in changes.came for host in self._hosts_of(each)]
        touched = {*gone, *came}
        were = touched & self._hosts.keys()
        self._hosts.update(came)
        self._hosts.subtract(gone)
        for host in touched:
            if not self._hosts[host]:
                del self._hosts[host]
        moved = frozenset(were ^ (touched & self._hosts.keys()))
        if any(host.startswith("*") for host in moved):
            self._wildcards = [host for host in self._hosts if host.startswith("*")]
        return moved

    def _hosts_of(self, resource: Resource[Any]) -> Iterator[str]:
        if isinstance(resource.spec, ServiceEntrySpec):
            yield from {canonical(host) for host in resource.spec.hosts}
        else:
            yield service_host(resource.name, resource.namespace, self._domain)

    def divide(self, gone: Iterable[_Read], came: Iterable[_Read]) -> frozenset[str]:
        """Take in other DestinationRules, for the subsets that they define; the hosts they are for."""
        self._subsets = self._subsets.changed(gone, came)
        touched = frozenset(host for (host,) in self._subsets.touched)
        if any(host.startswith("*") for host in touched):
            self._wildcard_rules = [host for (host,) in self._subsets if host.startswith("*")]
        return touched

    def read_rule(self, resource: Resource[Any]) -> _Read:
        host, known = resource.spec.host, Known(self._hosts)
        problems: tuple[Problem, ...] = ()
        if not self.knows(host, resource.namespace, known):
            problems = (warning(resource, "spec.host", f"no service has the host {host}", NOT_FOUND),)
        return _Read(resource, (self.qualify(host, resource.namespace, known),), frozenset(known.asked), problems)

    def read_routes(self, resource: Resource[Any]) -> _Read:
        spec: VirtualServiceSpec = resource.spec
        known = Known(self._hosts)
        problems = tuple(
            problem
            for path, destination in _destinations(spec)
            for problem in self.check_destination(resource, path, destination, known)
        )
        hosts = tuple(self.qualify(host, resource.namespace, known) for host in spec.hosts)
        return _Read(resource, hosts, frozenset(known.asked), problems)

    def read_attached(self, resource: Resource[Any]) -> _Read:
        known, problems = Known(self._hosts), []
        attached = [(f"spec.parentRefs[{index}].name", host) for index, host, _ in attached_to(resource, self._domain)]
        for path, host in (*attached, *_backends(resource, self._domain)):
            if host not in known:
                message = f"there is no Service {host}"
                if ".backendRefs" in path:
                    message += "; its share is answered with an error"
                problems.append(warning(resource, path, message, NOT_FOUND))
        hosts = tuple(host for _, host in attached)
        return _Read(resource, hosts, frozenset(known.asked), tuple(problems))

    def qualify(self, host: str, namespace: str, known: Known) -> str:
        return qualify(host, namespace, self._domain, known)

    def knows(self, host: str, namespace: str, known: Known) -> bool:
        name = self.qualify(host, namespace, known)
        return name.startswith("*") or name in known or any(covers(pattern, name) for pattern in self._wildcards)

    def check_sidecar(self, resource: Resource[Any], routed: AbstractSet[str]) -> Iterator[Problem]:
        """Hosts that select nothing: most of the time a short name, which a Sidecar does not complete (Istio).

        routed: the hosts of all VirtualServices.
        """
        for index, listener in enumerate(resource.spec.egress):
            for position, host in enumerate(listener.hosts):
                pattern = canonical(host.partition("/")[2])
                if not self._selects(pattern, routed):
                    message = f"{host} selects no service; write its full name, as in reviews.books.svc.{self._domain}"
                    yield warning(resource, f"spec.egress[{index}].hosts[{position}]", message, NOT_FOUND)
        policy = resource.spec.outbound_traffic_policy
        if policy is not None and policy.egress_proxy is not None:
            path = "spec.outboundTrafficPolicy.egressProxy"
            yield from self.check_destination(resource, path, policy.egress_proxy, Known(self._hosts))

    def _selects(self, pattern: str, routed: AbstractSet[str]) -> bool:
        if pattern == "*" or pattern in self._hosts or pattern in routed:
            return True
        wildcards = (*self._wildcards, *(host for host in routed if host.startswith("*")))
        if any(covers(name, pattern) for name in wildcards):
            return True
        return pattern.startswith("*") and any(
            covers(pattern, name) for names in (self._hosts, routed) for name in names
        )

    def check_destination(
        self, resource: Resource[Any], path: str, destination: Destination, known: Known
    ) -> Iterator[Problem]:
        if not self.knows(destination.host, resource.namespace, known):
            message = f"no service has the host {destination.host}; its requests are answered with 503"
            yield warning(resource, f"{path}.host", message, NOT_FOUND)
        elif destination.subset:
            host = self.qualify(destination.host, resource.namespace, known)
            rules = dict.fromkeys([host, *(pattern for pattern in self._wildcard_rules if covers(pattern, host))])
            subsets = {subset for rule in rules for one in self._subsets.get((rule,)) for subset in _subsets(one)}
            if destination.subset not in subsets:
                has = f"has the subsets {', '.join(sorted(subsets))}" if subsets else "has no subsets"
                message = f"no DestinationRule gives {destination.host} the subset {destination.subset}; it {has}"
                yield warning(resource, f"{path}.subset", message, NOT_FOUND)


def _subsets(rule: _Read) -> list[str]:
    spec: DestinationRuleSpec = rule.resource.spec
    return [subset.name for subset in spec.subsets]


def _destinations(spec: VirtualServiceSpec) -> Iterator[tuple[str, Destination]]:
    for index, http in enumerate(spec.http):
        for position, choice in enumerate(http.route):
            yield f"spec.http[{index}].route[{position}].destination", choice.destination
        if http.mirror is not None:
            yield f"spec.http[{index}].mirror", http.mirror
        for position, mirror in enumerate(http.mirrors):
            yield f"spec.http[{index}].mirrors[{position}].destination", mirror.destination
    for index, tls in enumerate(spec.tls):
        for position, target in enumerate(tls.route):
            yield f"spec.tls[{index}].route[{position}].destination", target.destination
    for index, tcp in enumerate(spec.tcp):
        for position, target in enumerate(tcp.route):
            yield f"spec.tcp[{index}].route[{position}].destination", target.destination


def _backends(resource: Resource[Any], domain: str) -> Iterator[tuple[str, str]]:
    for index, rule in enumerate(resource.spec.rules):
        path = f"spec.rules[{index}]"
        refs = [(f"{path}.backendRefs[{place}]", ref) for place, ref in enumerate(rule.backend_refs)]
        of_each = [(f"{path}.filters", rule.filters), *((f"{here}.filters", ref.filters) for here, ref in refs)]
        for here, filters in of_each:
            refs += [
                (f"{here}[{place}].requestMirror.backendRef", one.request_mirror.backend_ref)
                for place, one in enumerate(filters)
                if one.request_mirror is not None
            ]
        for here, ref in refs:
            if ref.is_service:
                yield f"{here}.name", service_host(ref.name, ref.namespace or resource.namespace, domain)


def _conflicts(host: str, users: Sequence[_Read]) -> Iterator[Problem]:
    """Sidecars, and so library clients, take one VirtualService a host: Istio's order is oldest first, then by name.

    users: in that order.
    """
    for position, user in enumerate(users):
        for earlier in users[:position]:
            first, resource = earlier.resource, user.resource
            if _visible_together(first, resource):
                message = f"{host} is already routed by {first.key}, which is used; merge the two"
                yield warning(resource, f"spec.hosts[{user.hosts.index(host)}]", message, CONFLICT)
                break


def _sidecar_conflicts(sidecars: Iterable[Resource[Any]]) -> Iterator[Problem]:
    """One Sidecar is for a workload: the oldest, which comes first here. Istio's analyzers report the others so."""
    first: dict[tuple[str, str], Resource[Any]] = {}
    for resource in sidecars:
        selector = ",".join(f"{key}={value}" for key, value in sorted(resource.spec.selector.items()))
        earlier = first.setdefault((resource.namespace, selector), resource)
        if earlier is resource:
            continue
        if selector:
            message = f"{earlier.key} selects the same workloads and is used; remove one of the two"
            yield warning(resource, "spec.workloadSelector", message, "ConflictingSidecarWorkloadSelectors")
        else:
            message = f"{earlier.key} is for the whole namespace too and is used; remove one of the two"
            yield warning(resource, "spec", message, "MultipleSidecarsWithoutWorkloadSelectors")


def _visible_together(one: Resource[Any], other: Resource[Any]) -> bool:
    """Is there a namespace to which both are exported?"""
    first, second = _exported_to(one), _exported_to(other)
    return "*" in first or "*" in second or bool(first & second)


def _exported_to(resource: Resource[Any]) -> set[str]:
    return {resource.namespace if name == "." else name for name in resource.spec.export_to or ("*",)}
