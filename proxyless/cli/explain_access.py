"""Whether the servers behind an explained request would let it in, and which policy says so: ``engine.inbound`` over
what those servers are sent themselves.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from proxyless.engine import inbound
from proxyless.engine.caller import Caller
from proxyless.engine.engine import Engine
from proxyless.engine.request import Request
from proxyless.engine.steps import Attempt, Respond
from proxyless.model.authorization import Action, Rbac
from proxyless.model.cluster import Cluster, Endpoint, Health, LocalityEndpoints
from proxyless.model.inbound import InboundListener
from proxyless.model.route import Forward, WeightedCluster
from proxyless.model.snapshot import Snapshot
from proxyless.model.spiffe import SpiffeId

# Serialized google.protobuf.Any by type URL and name.
Resources = Mapping[str, Mapping[str, bytes]]
# What a workload of this namespace and these labels is sent for listeners of these names.
Ask = Callable[[str, Mapping[str, str], str], Resources]

# Beside an endpoint's own labels: where it is and what it is called, for telemetry.
_TOLD = frozenset({"namespace", "workload", "canonical_service", "canonical_revision", "cluster"})
# Istio's name of a rule in Envoy's configuration, and Envoy's reason.
_NAME = r"ns\[([^]]*)\]-policy\[([^]]*)\]-rule\[(\d+)\]"
_POLICY, _DENIED = re.compile(_NAME), re.compile(rf"rbac_access_denied_matched_policy\[{_NAME}\]")
_TRUST_DOMAIN = re.compile(r"spiffe://([^/]+)/")


@dataclass(frozen=True, slots=True)
class Access:
    """What workloads of a cluster with these labels do with the request. caller: SPIFFE ID, "" over plaintext."""

    cluster: str
    namespace: str
    labels: dict[str, str]
    port: int
    caller: str
    allowed: bool
    reason: str

    def to_text(self) -> str:
        who = ", ".join(f"{key}={value}" for key, value in sorted(self.labels.items())) or "any workload"
        verdict = "let in" if self.allowed else "refused with 403"
        return f"  {self.cluster}: port {self.port} of {who} in {self.namespace}: {verdict}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Server:
    """Workloads that are alike to policies. endpoint: one of them."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    endpoint: Endpoint


def accesses(
    snapshot: Snapshot,
    request: Request,
    route: int,
    *,
    caller: tuple[str, str],
    ask: Ask,
    unknown: Callable[[Cluster], list[Server]],
) -> Iterator[Access]:
    """route: index of the one that forwards. caller: namespace and service account. unknown: the servers of a cluster
    without endpoints.
    """
    listener = snapshot.listeners[request.target]
    assert listener is not None and listener.virtual_host is not None
    rule = listener.virtual_host.routes[route]
    assert isinstance(rule.action, Forward)
    for leg in rule.action.clusters:
        cluster = snapshot.clusters[leg.cluster]
        for server in _servers(cluster) or unknown(cluster):
            head = _sent(snapshot, request, route, leg, server.endpoint)
            if head is not None:
                yield _access(cluster, server, head, caller, ask)


def _servers(cluster: Cluster) -> list[Server]:
    found: dict[object, Server] = {}
    for endpoint in cluster.endpoints:
        labels = tuple(sorted((key, value) for key, value in endpoint.labels.items() if key not in _TOLD))
        namespace = endpoint.labels.get("namespace", cluster.service_namespace)
        found.setdefault((namespace, labels, endpoint.tls is None), Server(namespace, labels, endpoint))
    return list(found.values())


def _sent(snapshot: Snapshot, request: Request, route: int, leg: WeightedCluster, to: Endpoint) -> Request | None:
    """The request as it leaves the client for this endpoint, by the engine, with what is left to chance left out."""
    listener = snapshot.listeners[request.target]
    assert listener is not None
    host = listener.virtual_host
    assert host is not None
    rule = host.routes[route]
    assert isinstance(rule.action, Forward)
    action = replace(rule.action, clusters=(replace(leg, weight=1, fault=None),), mirrors=())
    only = replace(rule, fault=None, action=action)
    routes = (*host.routes[:route], only, *host.routes[route + 1 :])
    cluster = replace(
        snapshot.clusters[leg.cluster], localities=(LocalityEndpoints((replace(to, health=Health.HEALTHY),)),), drops=()
    )
    world = replace(
        snapshot,
        listeners={request.target: replace(listener, virtual_host=replace(host, routes=routes))},
        clusters={**snapshot.clusters, leg.cluster: cluster},
    )
    step = Engine().call(world, replace(request, headers=list(request.headers))).next_step()
    if not isinstance(step, Attempt):
        return None
    return Request(step.method, request.target, step.path, step.authority, request.scheme, list(step.headers))


def _access(cluster: Cluster, server: Server, head: Request, caller: tuple[str, str], ask: Ask) -> Access:
    from proxyless.xds_client.client import INBOUND_LISTENER
    from proxyless.xds_client.offline import compile_inbound

    port, tls, labels = server.endpoint.port, server.endpoint.tls, dict(server.labels)
    named = (_TRUST_DOMAIN.match(san.value) for san in (tls.san if tls is not None else ()))
    trust_domain = next((found[1] for found in named if found), "cluster.local")
    peer = SpiffeId(trust_domain, *caller) if tls is not None and tls.identity else None
    name = INBOUND_LISTENER % f"0.0.0.0:{port}"
    listener = compile_inbound(ask(server.namespace, labels, name), name, port)
    answer = inbound.decide(listener, Caller(tls is not None, peer, str(server.endpoint)), head)
    said = str(peer) if peer is not None else ""
    reason = f"{_reason(listener, answer)} ({f'as {said}' if said else 'without mutual TLS'})"
    return Access(cluster.name, server.namespace, labels, port, said, isinstance(answer, inbound.Allow), reason)


def _reason(listener: InboundListener, answer: inbound.Allow | Respond) -> str:
    policies = [one for one in listener.filters if isinstance(one, Rbac)]
    if isinstance(answer, inbound.Allow):
        return "its AuthorizationPolicies allow it" if policies else "no AuthorizationPolicy is about it"
    if found := _DENIED.fullmatch(answer.reason):
        return f"AuthorizationPolicy {found[1]}/{found[2]} rules[{found[3]}] denies it"
    if answer.reason == "rbac_access_denied_matched_policy[none]":
        allowing = {one.name for rbac in policies if rbac.action is Action.ALLOW for one in rbac.policies}
        names = sorted({f"{found[1]}/{found[2]}" for name in allowing if (found := _POLICY.fullmatch(name))})
        return f"no rule of AuthorizationPolicy {', '.join(names)} allows it"
    return answer.reason
