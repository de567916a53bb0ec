"""RequestAuthentication as Envoy's jwt_authn filter: a token that is there must be valid; none is no fault.

Source: Istio's pilot/pkg/security/authn (convertToEnvoyJwtConfig). Keys are those in the rule, else those that the
control plane has fetched. They are never made up: an issuer without known keys has none, and its tokens are refused.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.core.v3 import http_uri_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.resources import key_sets
from proxyless.control_plane.resources.request_authentication import JWTRule
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import BLACK_HOLE
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.rbac_matchers import JWT_FILTER, JWT_PAYLOAD

# Istio's.
_SPACE_DELIMITED = frozenset({"permission", "scope"})
# Envoy refuses a set without keys. Nothing answers there, and a token whose keys are not to be had is refused.
_NOWHERE = "http://no-keys.invalid/"

_Requirement = config_pb2.JwtRequirement


def jwt_filters(
    catalog: Catalog, scope: Scope, policies: Iterable[Resource[Any]], notes: Notes
) -> Iterator[hcm_pb2.HttpFilter]:
    """One or none."""
    rules: list[tuple[Key, JWTRule]] = [(policy.key, rule) for policy in policies for rule in policy.spec.jwt_rules]
    if scope.kind is ClientKind.GRPC:
        for key in dict.fromkeys(key for key, _ in rules):
            notes.add(f"{key}: gRPC servers do not verify tokens, and rules that ask for one let nobody in")
        return
    if not rules:
        return
    # Of several for one issuer the first that a policy has; sorting is stable.
    rules.sort(key=lambda rule: rule[1].issuer)
    config = config_pb2.JwtAuthentication(bypass_cors_preflight=True)
    names = [f"origins-{index}" for index in range(len(rules))]
    for name, (key, rule) in zip(names, rules, strict=True):
        provider = config.providers[name]
        provider.CopyFrom(_provider(rule))
        if keys := rule.jwks or _fetched(catalog, key, rule, notes):
            provider.local_jwks.inline_string = key_sets.as_set(keys)
        else:
            provider.remote_jwks.CopyFrom(_no_keys())
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


def _provider(rule: JWTRule) -> config_pb2.JwtProvider:
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
    return provider


def _fetched(catalog: Catalog, key: Key, rule: JWTRule, notes: Notes) -> str:
    """Empty while there are none."""
    source = key_sets.source(rule)
    found = catalog.key_set(source) if source else None
    if found is not None and found.text:
        return found.text
    why = f"from {source}: {found.problem if found else 'not fetched yet'}" if source else "for it"
    notes.add(f"{key}: there are no keys {why}; every token of {rule.issuer or 'its issuer'} is refused")
    return ""


def _no_keys() -> config_pb2.RemoteJwks:
    uri = http_uri_pb2.HttpUri(uri=_NOWHERE, cluster=BLACK_HOLE, timeout=duration(5.0))
    return config_pb2.RemoteJwks(http_uri=uri, cache_duration=duration(300.0))
