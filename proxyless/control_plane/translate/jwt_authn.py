"""RequestAuthentication as Envoy's jwt_authn filter: a token that is there must be valid; none is no fault.

Source: Istio's pilot/pkg/security/authn (convertToEnvoyJwtConfig). Keys are never made up: an issuer without known keys
has none, and its tokens are refused.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from envoy.config.core.v3 import http_uri_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.resources.request_authentication import JWTRule
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import BLACK_HOLE, ClusterName
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.rbac_matchers import JWT_FILTER, JWT_PAYLOAD

# Istio's.
_FETCH_TIMEOUT, _KEYS_LAST = 5.0, 300.0
_SPACE_DELIMITED = frozenset({"permission", "scope"})
# Envoy refuses a set without keys. Nothing answers there, and a token whose keys are not to be had is refused.
_NOWHERE = "http://no-keys.invalid/"

_Requirement = config_pb2.JwtRequirement


def jwt_filters(
    catalog: Catalog, scope: Scope, policies: Iterable[Resource[Any]], notes: Notes
) -> Iterator[hcm_pb2.HttpFilter]:
    """One or none."""
    rules: list[JWTRule] = [rule for policy in policies for rule in policy.spec.jwt_rules]
    if not rules:
        return
    if scope.kind is ClientKind.GRPC:
        notes.add("RequestAuthentication: gRPC servers do not verify tokens, and rules that ask for one let nobody in")
        return
    # Of several for one issuer the first that a policy has; sorting is stable.
    rules.sort(key=lambda rule: rule.issuer)
    config = config_pb2.JwtAuthentication(bypass_cors_preflight=True)
    names = [f"origins-{index}" for index in range(len(rules))]
    for name, rule in zip(names, rules, strict=True):
        config.providers[name].CopyFrom(_provider(catalog, scope, rule, notes))
    requirement = config.rules.add(match=rc.RouteMatch(prefix="/")).requires
    requirement.CopyFrom(_requirement(names))
    yield hcm_pb2.HttpFilter(name=JWT_FILTER, typed_config=pack(config))


def _requirement(names: list[str]) -> config_pb2.JwtRequirement:
    """Each token that is there is valid; or one is, for providers that look in the same place each see one token."""
    by_name = [_Requirement(provider_name=name) for name in names]
    missing = _Requirement()
    missing.allow_missing.SetInParent()
    each = [_any([one, missing]) for one in by_name]
    if len(each) == 1:
        return each[0]
    return _any([*by_name, _Requirement(requires_all=config_pb2.JwtRequirementAndList(requirements=each))])


def _any(requirements: list[config_pb2.JwtRequirement]) -> config_pb2.JwtRequirement:
    return _Requirement(requires_any=config_pb2.JwtRequirementOrList(requirements=requirements))


def _provider(catalog: Catalog, scope: Scope, rule: JWTRule, notes: Notes) -> config_pb2.JwtProvider:
    provider = config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header,
        payload_in_metadata=JWT_PAYLOAD,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
    )
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(
        sorted(_SPACE_DELIMITED.union(rule.space_delimited_claims))
    )
    for header in rule.from_headers:
        provider.from_headers.add(name=header.name, value_prefix=header.prefix)
    for claim in rule.output_claim_to_headers:
        provider.claim_to_headers.add(header_name=claim.header, claim_name=claim.claim)
    if rule.jwks:
        provider.local_jwks.inline_string = _key_set(rule.jwks)
    else:
        provider.remote_jwks.CopyFrom(_remote(catalog, scope, rule, notes))
    return provider


def _key_set(text: str) -> str:
    """Istio takes a single key too, Envoy a set only."""
    return text if "keys" in json.loads(text) else f'{{"keys": [{text}]}}'


def _remote(catalog: Catalog, scope: Scope, rule: JWTRule, notes: Notes) -> config_pb2.RemoteJwks:
    """Through the cluster of the URL's host (Istio without fetching of its own: PILOT_JWT_ENABLE_REMOTE_JWKS=envoy)."""
    if not rule.jwks_uri:
        return _fetched(_NOWHERE, BLACK_HOLE, _FETCH_TIMEOUT)
    url = urlsplit(rule.jwks_uri)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    resolved = catalog.resolve(host, scope.namespace)
    service = resolved[1] if resolved else None
    if service is None or service.port(port) is None:
        notes.add(f"jwksUri {rule.jwks_uri}: no service is known as {host}:{port}; its tokens are refused until one is")
    name = ClusterName(port, "", resolved[0] if resolved else host)
    return _fetched(rule.jwks_uri, str(name), _FETCH_TIMEOUT if rule.timeout is None else rule.timeout)


def _fetched(uri: str, cluster: str, timeout: float) -> config_pb2.RemoteJwks:
    return config_pb2.RemoteJwks(
        http_uri=http_uri_pb2.HttpUri(uri=uri, cluster=cluster, timeout=duration(timeout)),
        cache_duration=duration(_KEYS_LAST),
    )
