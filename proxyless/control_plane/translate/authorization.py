"""The filters of a server by which AuthorizationPolicies are enforced: those that deny, then those that allow.

Source: Istio's pilot/pkg/security/authz/builder. A policy with action CUSTOM names an authorizer that nobody has
configured, and Istio denies then what its rules match. AUDIT and dry runs enforce nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.resources.authorization_policy import Action, is_dry_run
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.translate import rate_limit, rbac_rules
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.jwt_authn import jwt_filters
from proxyless.control_plane.translate.rbac_rules import Context, Server

_HTTP_FILTER, _NETWORK_FILTER = "envoy.filters.http.rbac", "envoy.filters.network.rbac"
_SERVERS = {
    ClientKind.ENVOY: Server.ENVOY,
    ClientKind.PROXYLESS: Server.LIBRARY,
    ClientKind.GRPC: Server.GRPC,
}


@dataclass(frozen=True, slots=True)
class Guard:
    """What a server's filter chains begin with."""

    http: tuple[hcm_pb2.HttpFilter, ...] = ()
    network: tuple[listener_components_pb2.Filter, ...] = ()


def guard(catalog: Catalog, scope: Scope, port: int, notes: Notes) -> Guard:
    """For a port of the servers of a scope: tokens are verified first, then DENY, then ALLOW, then rates limited."""
    labels = scope.label_map
    policies = catalog.authorization_policies.of(scope.namespace, labels)
    authentications = catalog.request_authentications.of(scope.namespace, labels)
    http = [*jwt_filters(catalog, scope, authentications, notes)]
    for rules in _rules(policies, _SERVERS[scope.kind], catalog.settings.trust_domain, notes):
        # gRPC refuses two filters of one name.
        name = _HTTP_FILTER if rules.action == rbac_pb2.RBAC.ALLOW else f"{_HTTP_FILTER}.DENY"
        http.append(hcm_pb2.HttpFilter(name=name, typed_config=pack(http_rbac_pb2.RBAC(rules=rules))))
    # Those who may not come in must not use up what others may send.
    http += rate_limit.server_filters(catalog, scope, port, notes)
    network = []
    if scope.kind is ClientKind.ENVOY:
        for rules in _rules(policies, Server.ENVOY_TCP, catalog.settings.trust_domain, Notes()):
            config = network_rbac_pb2.RBAC(rules=rules, stat_prefix="tcp.")
            network.append(listener_components_pb2.Filter(name=_NETWORK_FILTER, typed_config=pack(config)))
    return Guard(tuple(http), tuple(network))


def _rules(
    policies: Iterable[Resource[Any]], server: Server, trust_domain: str, notes: Notes
) -> Iterable[rbac_pb2.RBAC]:
    enforced = [one for one in policies if one.spec.action is not Action.AUDIT and not is_dry_run(one.annotations)]
    custom, deny, allow = (
        [one for one in enforced if one.spec.action is action] for action in (Action.CUSTOM, Action.DENY, Action.ALLOW)
    )
    for action, those in ((rbac_pb2.RBAC.DENY, [*custom, *deny]), (rbac_pb2.RBAC.ALLOW, allow)):
        if those:
            rbac = rbac_pb2.RBAC(action=action)
            for one in those:
                _add(rbac, one, server, trust_domain, notes)
            yield rbac


def _add(rbac: rbac_pb2.RBAC, resource: Resource[Any], server: Server, trust_domain: str, notes: Notes) -> None:
    allow = rbac.action == rbac_pb2.RBAC.ALLOW
    context = Context(server, resource.namespace, trust_domain, allow)
    for index, rule in enumerate(resource.spec.rules):

        def left_out(attribute: str, index: int = index) -> None:
            what = "lets nobody in" if allow else "acts without it"
            notes.add(f"{resource.key}: rules[{index}] {what}, {server.value} cannot tell {attribute}")

        policy = rbac_rules.policy(rule, context, left_out)
        if policy is not None:
            rbac.policies[_name(resource, index)].CopyFrom(policy)
    if not resource.spec.rules:
        rbac.policies[_name(resource, 0)].CopyFrom(rbac_rules.never())


def _name(resource: Resource[Any], index: int) -> str:
    return f"ns[{resource.namespace}]-policy[{resource.name}]-rule[{index}]"
