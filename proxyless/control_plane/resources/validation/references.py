"""What only shows when all resources are seen together: names that lead nowhere, and rules that contradict each other.

All of these are Warnings: the order in which resources arrive must not decide whether they are accepted.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.resources.destination_rule import DestinationRuleSpec
from proxyless.control_plane.resources.names import canonical, covers, qualify, service_host
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.service_entry import ServiceEntrySpec
from proxyless.control_plane.resources.virtual_service import MESH_GATEWAY, Destination, VirtualServiceSpec

NOT_FOUND = "ReferencedResourceNotFound"
# What refers to others, and what can be referred to.
REFERRING = frozenset({"VirtualService", "DestinationRule", "Sidecar"})
_TARGETS = frozenset({"Service", "ServiceEntry", "DestinationRule"})
CONFLICT = "ConflictingMeshGatewayVirtualServiceHosts"


def check_references(
    resources: Mapping[Key, Resource[Any]], hosts: Collection[str] = (), cluster_domain: str = "cluster.local"
) -> list[Problem]:
    """hosts: fully qualified names of services that exist without a resource (implied by registered workloads)."""
    return References(cluster_domain).problems(resources, hosts)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A VirtualService, its problems but for conflicts, its hosts, and whether it acts in the mesh."""

    resource: Resource[Any]
    problems: tuple[Problem, ...]
    hosts: tuple[str, ...]
    in_mesh: bool


class References:
    """``check_references``, again and again: what is checked against the same services and subsets is checked once.

    hosts: those of the last check.
    """

    def __init__(self, cluster_domain: str) -> None:
        self._domain = cluster_domain
        self._targets: dict[Key, Resource[Any]] = {}
        self.hosts: frozenset[str] = frozenset()
        self._world = _World({}, (), cluster_domain)
        self._rules: list[Problem] = []
        self._checked: dict[Key, _Checked] = {}

    def problems(self, resources: Mapping[Key, Resource[Any]], hosts: Collection[str] = ()) -> list[Problem]:
        targets = {key: each for key, each in resources.items() if key.kind in _TARGETS}
        if self.hosts != frozenset(hosts) or not _same(self._targets, targets):
            self._targets, self.hosts, self._checked = targets, frozenset(hosts), {}
            self._world = _World(targets, hosts, self._domain)
            self._rules = [
                _warning(rule, "spec.host", f"no service has the host {rule.spec.host}", NOT_FOUND)
                for rule in targets.values()
                if isinstance(rule.spec, DestinationRuleSpec) and not self._world.knows(rule.spec.host, rule.namespace)
            ]
        before, self._checked = self._checked, {}
        for key, resource in resources.items():
            if key.kind == "VirtualService":
                known = before.get(key)
                unchanged = known is not None and known.resource is resource
                self._checked[key] = known if known is not None and unchanged else self._check(resource)
        problems = [*self._rules, *(problem for each in self._checked.values() for problem in each.problems)]
        sidecars = sorted((each for key, each in resources.items() if key.kind == "Sidecar"), key=lambda each: each.age)
        if sidecars:
            routed = frozenset(host for each in self._checked.values() for host in each.hosts)
            for sidecar in sidecars:
                problems += self._world.check_sidecar(sidecar, routed)
        return [*problems, *_conflicts(self._checked.values()), *_sidecar_conflicts(sidecars)]

    def _check(self, resource: Resource[Any]) -> _Checked:
        spec: VirtualServiceSpec = resource.spec
        problems = tuple(
            problem
            for path, destination in _destinations(spec)
            for problem in self._world.check_destination(resource, path, destination)
        )
        in_mesh = not spec.gateways or MESH_GATEWAY in spec.gateways
        hosts = tuple(self._world.qualify(host, resource.namespace) for host in spec.hosts)
        return _Checked(resource, problems, hosts, in_mesh)


def _same(before: Mapping[Key, Resource[Any]], after: Mapping[Key, Resource[Any]]) -> bool:
    return len(before) == len(after) and all(before.get(key) is each for key, each in after.items())


class _World:
    """Indexes of what can be referred to."""

    def __init__(self, resources: Mapping[Key, Resource[Any]], hosts: Collection[str], cluster_domain: str) -> None:
        self._domain = cluster_domain
        self._hosts = set(hosts)
        self._wildcards: list[str] = []
        self._subsets: dict[str, set[str]] = defaultdict(set)
        for resource in resources.values():
            if resource.kind == "Service":
                self._hosts.add(service_host(resource.name, resource.namespace, cluster_domain))
            elif isinstance(resource.spec, ServiceEntrySpec):
                for host in resource.spec.hosts:
                    if host.startswith("*"):
                        self._wildcards.append(canonical(host))
                    else:
                        self._hosts.add(canonical(host))
        for resource in resources.values():
            if isinstance(resource.spec, DestinationRuleSpec):
                host = self.qualify(resource.spec.host, resource.namespace)
                self._subsets[host] |= {subset.name for subset in resource.spec.subsets}
        self._wildcard_rules = [host for host in self._subsets if host.startswith("*")]

    def qualify(self, host: str, namespace: str) -> str:
        return qualify(host, namespace, self._domain, self._hosts)

    def knows(self, host: str, namespace: str) -> bool:
        name = self.qualify(host, namespace)
        return name.startswith("*") or name in self._hosts or any(covers(pattern, name) for pattern in self._wildcards)

    def check_sidecar(self, resource: Resource[Any], routed: AbstractSet[str]) -> Iterator[Problem]:
        """Hosts that select nothing: most of the time a short name, which a Sidecar does not complete (Istio).

        routed: the hosts of all VirtualServices.
        """
        for index, listener in enumerate(resource.spec.egress):
            for position, host in enumerate(listener.hosts):
                pattern = canonical(host.partition("/")[2])
                if not self._selects(pattern, routed):
                    message = f"{host} selects no service; write its full name, as in reviews.books.svc.{self._domain}"
                    yield _warning(resource, f"spec.egress[{index}].hosts[{position}]", message, NOT_FOUND)
        policy = resource.spec.outbound_traffic_policy
        if policy is not None and policy.egress_proxy is not None:
            yield from self.check_destination(resource, "spec.outboundTrafficPolicy.egressProxy", policy.egress_proxy)

    def _selects(self, pattern: str, routed: AbstractSet[str]) -> bool:
        if pattern == "*" or pattern in self._hosts or pattern in routed:
            return True
        wildcards = (*self._wildcards, *(host for host in routed if host.startswith("*")))
        if any(covers(name, pattern) for name in wildcards):
            return True
        return pattern.startswith("*") and any(
            covers(pattern, name) for names in (self._hosts, self._wildcards, routed) for name in names
        )

    def check_destination(self, resource: Resource[Any], path: str, destination: Destination) -> Iterator[Problem]:
        if not self.knows(destination.host, resource.namespace):
            message = f"no service has the host {destination.host}; its requests are answered with 503"
            yield _warning(resource, f"{path}.host", message, NOT_FOUND)
        elif destination.subset:
            host = self.qualify(destination.host, resource.namespace)
            rules = [host, *(pattern for pattern in self._wildcard_rules if covers(pattern, host))]
            known = set().union(*(self._subsets.get(rule, set()) for rule in rules))
            if destination.subset not in known:
                has = f"has the subsets {', '.join(sorted(known))}" if known else "has no subsets"
                message = f"no DestinationRule gives {destination.host} the subset {destination.subset}; it {has}"
                yield _warning(resource, f"{path}.subset", message, NOT_FOUND)


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


def _conflicts(checked: Iterable[_Checked]) -> Iterator[Problem]:
    """Sidecars, and so library clients, take one VirtualService a host: Istio's order is oldest first, then by name."""
    by_host: dict[str, list[tuple[Resource[Any], int]]] = {}
    for each in checked:
        for index, host in enumerate(each.hosts if each.in_mesh else ()):
            by_host.setdefault(host, []).append((each.resource, index))
    for host, users in by_host.items():
        if len(users) == 1:
            continue
        users.sort(key=lambda user: user[0].age)
        for position, (resource, index) in enumerate(users):
            for first, _ in users[:position]:
                if first.key != resource.key and _visible_together(first, resource):
                    message = f"{host} is already routed by {first.key}, which is used; merge the two"
                    yield _warning(resource, f"spec.hosts[{index}]", message, CONFLICT)
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
            yield _warning(resource, "spec.workloadSelector", message, "ConflictingSidecarWorkloadSelectors")
        else:
            message = f"{earlier.key} is for the whole namespace too and is used; remove one of the two"
            yield _warning(resource, "spec", message, "MultipleSidecarsWithoutWorkloadSelectors")


def _visible_together(one: Resource[Any], other: Resource[Any]) -> bool:
    """Is there a namespace to which both are exported?"""
    first, second = _exported_to(one), _exported_to(other)
    return "*" in first or "*" in second or bool(first & second)


def _exported_to(resource: Resource[Any]) -> set[str]:
    return {resource.namespace if name == "." else name for name in resource.spec.export_to or ("*",)}


def _warning(resource: Resource[Any], path: str, message: str, code: str) -> Problem:
    source = resource.source
    line = source.line_of(path)
    return Problem(code, Level.WARNING, f"{path}: {message}", *resource.key, file=source.file, line=line, field=path)
