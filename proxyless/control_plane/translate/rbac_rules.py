"""One rule of an AuthorizationPolicy as a policy of Envoy's RBAC.

Source: Istio's pilot/pkg/security/authz/model: every ``to`` is a permission, every ``from`` a principal, and a
condition of ``when`` is a part of all permissions or of all principals.
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal

from proxyless.control_plane.resources.authorization_policy import CLAIMS, FILTERS, HEADERS, From, Rule, To
from proxyless.control_plane.translate import rbac_matchers as matchers
from proxyless.control_plane.translate.tcp_proxy import cidr

_HOST, _METHOD, _PATH = ":authority", ":method", "path"
_ABOUT_REQUESTS = (_HOST, _METHOD, _PATH, "request.")
_ABOUT_TOKENS = "request.auth."
_NOT_IN_GRPC = (f"{HEADERS}[grpc-", f"{HEADERS}[:scheme]")


class Server(enum.Enum):
    """Who enforces a rule, which decides what can be asked of a caller."""

    ENVOY = "Envoys"
    ENVOY_TCP = "ports that are not HTTP"
    LIBRARY = "library servers"
    GRPC = "gRPC servers"

    def knows(self, attribute: str) -> bool:
        if self is Server.ENVOY_TCP:
            return not attribute.startswith(_ABOUT_REQUESTS)
        if self is Server.GRPC:
            # gRFC A41: no metadata of filters, no server name, and a rule about these headers is refused.
            return not attribute.lower().startswith((_ABOUT_TOKENS, FILTERS, "connection.sni", *_NOT_IN_GRPC))
        return self is Server.ENVOY or not attribute.startswith(FILTERS)


@dataclass(frozen=True, slots=True)
class Context:
    """namespace: of the policy. allow: the rule lets callers in, as against keeping them out."""

    server: Server
    namespace: str
    trust_domain: str
    allow: bool


class Unknown(Exception):
    """The server cannot tell an attribute, and so the rule lets nobody in."""


# A condition on one attribute.
_Asked = tuple[str, tuple[str, ...], tuple[str, ...]]


def policy(rule: Rule, context: Context, left_out: Callable[[str], None]) -> Policy | None:
    """None: nobody can match. left_out: told of each attribute that the server cannot tell.

    Such a rule lets nobody in; one that keeps callers out does so whatever the attribute is (Istio, for TCP).
    """
    asked = [(one.key, one.values, one.not_values) for one in rule.when]
    permissions = [one for one in asked if _is_of_permission(one[0])]
    principals = [one for one in asked if not _is_of_permission(one[0])]
    result = Policy()
    try:
        for operation in [_operation(to) for to in rule.to] or [[]]:
            result.permissions.append(_all_permissions([*operation, *permissions], context, left_out))
        for source in [_source(one) for one in rule.from_] or [[]]:
            result.principals.append(_all_principals([*source, *principals], context, left_out))
    except Unknown:
        return None
    return result


def never() -> Policy:
    """Istio's policy that matches no request."""
    return Policy(
        permissions=[Permission(not_rule=Permission(any=True))], principals=[Principal(not_id=Principal(any=True))]
    )


def _is_of_permission(key: str) -> bool:
    return key.startswith(("destination.", "connection.", FILTERS))


def _operation(to: To) -> list[_Asked]:
    one = to.operation
    if one is None:
        return []
    return [
        (_HOST, one.hosts, one.not_hosts),
        (_METHOD, one.methods, one.not_methods),
        (_PATH, one.paths, one.not_paths),
        ("destination.port", one.ports, one.not_ports),
    ]


def _source(source: From) -> list[_Asked]:
    one = source.source
    if one is None:
        return []
    return [
        ("source.principal", one.principals, one.not_principals),
        ("request.auth.principal", one.request_principals, one.not_request_principals),
        ("source.namespace", one.namespaces, one.not_namespaces),
        ("source.serviceAccount", one.service_accounts, one.not_service_accounts),
        ("remote.ip", one.remote_ip_blocks, one.not_remote_ip_blocks),
        ("source.ip", one.ip_blocks, one.not_ip_blocks),
    ]


def _known(asked: Iterable[_Asked], context: Context, left_out: Callable[[str], None]) -> Iterator[_Asked]:
    for key, values, not_values in asked:
        if not values and not not_values:
            continue
        if context.server.knows(key):
            yield key, values, not_values
            continue
        left_out(key)
        if context.allow:
            raise Unknown(key)


def _all_permissions(asked: Iterable[_Asked], context: Context, left_out: Callable[[str], None]) -> Permission:
    found = []
    for key, values, not_values in _known(asked, context, left_out):
        if values:
            found.append(Permission(or_rules=Permission.Set(rules=_permissions(key, values, context))))
        if not_values:
            either = Permission(or_rules=Permission.Set(rules=_permissions(key, not_values, context)))
            found.append(Permission(not_rule=either))
    return Permission(and_rules=Permission.Set(rules=found or [Permission(any=True)]))


def _all_principals(asked: Iterable[_Asked], context: Context, left_out: Callable[[str], None]) -> Principal:
    found = []
    for key, values, not_values in _known(asked, context, left_out):
        if values:
            found.append(Principal(or_ids=Principal.Set(ids=_principals(key, values, context))))
        if not_values:
            either = Principal(or_ids=Principal.Set(ids=_principals(key, not_values, context)))
            found.append(Principal(not_id=either))
    return Principal(and_ids=Principal.Set(ids=found or [Principal(any=True)]))


def _permissions(key: str, values: tuple[str, ...], context: Context) -> list[Permission]:
    if key == _HOST:
        return [Permission(header=matchers.header(_HOST, value, ignore_case=True)) for value in values]
    if key == _METHOD:
        return [Permission(header=matchers.header(_METHOD, value)) for value in values]
    if key == _PATH:
        return [matchers.path(value, template=context.server is Server.ENVOY) for value in values]
    if key == "destination.port":
        return [Permission(destination_port=int(value)) for value in values]
    if key == "destination.ip":
        return [Permission(destination_ip=cidr(value)) for value in values]
    if key == "connection.sni":
        return [Permission(requested_server_name=matchers.text(value)) for value in values]
    name, _, field = key.removeprefix("experimental.").removesuffix("]").partition("[")
    return [matchers.filter_metadata(name, field, values)]


def _principals(key: str, values: tuple[str, ...], context: Context) -> list[Principal]:
    match key:
        case "source.principal":
            return [matchers.principal(value, context.trust_domain) for value in values]
        case "source.namespace":
            return [matchers.namespace(value) for value in values]
        case "source.serviceAccount":
            return [matchers.service_account(value, context.namespace) for value in values]
        case "source.ip":
            return [Principal(direct_remote_ip=cidr(value)) for value in values]
        case "remote.ip":
            return [Principal(remote_ip=cidr(value)) for value in values]
        case "request.auth.principal":
            return [matchers.request_principal(value) for value in values]
        case "request.auth.audiences":
            return [matchers.claim(["aud"], values)]
        case "request.auth.presenter":
            return [matchers.claim(["azp"], values)]
    if key.startswith(CLAIMS):
        return [matchers.claim(_names(key.removeprefix(CLAIMS)), values)]
    name = key.removeprefix(f"{HEADERS}[").removesuffix("]")
    return [Principal(header=matchers.header(name, value)) for value in values]


def _names(brackets: str) -> list[str]:
    """Of ``[a][b]`` a and b; of what is not of that form all between the outer brackets (Istio)."""
    inner = brackets.removeprefix("[").removesuffix("]")
    names = inner.split("][")
    return [inner] if any("[" in name or "]" in name for name in names) else names
