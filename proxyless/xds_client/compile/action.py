"""What a route does: forward, redirect, answer. An action that we cannot perform becomes ``Refused``."""

from dataclasses import dataclass
from typing import Any

from proxyless.model.route import (
    Action,
    DirectResponse,
    Forward,
    HashCookie,
    HashHeader,
    HashPolicy,
    HashQuery,
    Mirror,
    Redirect,
    Refused,
    RegexRewrite,
    RetryPolicy,
    WeightedCluster,
)
from proxyless.xds_client.compile.decode import FieldError, has_unknown, parts_per_million, seconds, set_fields
from proxyless.xds_client.compile.headers import mutations
from proxyless.xds_client.compile.matching import regex, substitution
from proxyless.xds_client.compile.overrides import overrides
from proxyless.xds_client.compile.retry import retry

# Envoy: RouteAction.timeout when it is absent.
_DEFAULT_TIMEOUT = 15.0
# Envoy: RouteConfiguration.max_direct_response_body_size_bytes when it is absent.
MAX_BODY = 4096
# RouteAction.ClusterNotFoundResponseCode.
_CLUSTER_NOT_FOUND = {0: 503, 1: 404, 2: 500}
_REDIRECT_STATUS = (301, 302, 303, 307, 308)

# Fields of RouteAction that we do not act on. Without them a call is still sent where the rule says.
_IGNORED = (
    "rate_limits", "upgrade_configs",
    "metadata_match", "cors", "internal_redirect_policy", "early_data_policy", "idle_timeout",
    "flush_timeout", "retry_policy_typed_config", "max_grpc_timeout", "grpc_timeout_offset", "include_vh_rate_limits",
)  # fmt: skip

# Fields of a RequestMirrorPolicy that change where a copy goes or what it says.
_NOT_MIRRORED = ("cluster_header", "request_headers_mutations", "host_rewrite_literal")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a virtual host and its route configuration say for routes that do not say it themselves. within: the name of
    the route configuration.
    """

    retry: RetryPolicy | None = None
    hedge: bool = False
    mirrors: tuple[Mirror, ...] = ()
    max_body: int = MAX_BODY
    within: str = ""


def action(route: Any, inherited: Inherited, ignored: list[str], what: str) -> Action:
    match route.WhichOneof("action"):
        case "route":
            return _forward(route.route, inherited, ignored, f"{what}.route")
        case "redirect":
            return _redirect(route.redirect, f"{what}.redirect")
        case "direct_response":
            return _direct(route.direct_response, inherited.max_body, f"{what}.direct_response")
        case kind:
            return Refused(f"{what}: action {kind or '(unknown)'} is not supported")


def _forward(action: Any, inherited: Inherited, ignored: list[str], what: str) -> Action:
    ignored += set_fields(action, _IGNORED, what)
    clusters: tuple[WeightedCluster, ...]
    match action.WhichOneof("cluster_specifier"):
        case "cluster":
            if not action.cluster:
                raise FieldError(f"{what}.cluster is empty")
            clusters = (WeightedCluster(action.cluster),)
        case "weighted_clusters":
            split = _split(action.weighted_clusters, ignored, f"{what}.weighted_clusters", inherited.within)
            if isinstance(split, Refused):
                return split
            clusters = split
        case kind:
            return Refused(f"{what}: cluster specifier {kind or '(unknown)'} is not supported")
    host: str | None = None
    match action.WhichOneof("host_rewrite_specifier"):
        case None | "auto_host_rewrite":
            pass
        case "host_rewrite_literal":
            host = action.host_rewrite_literal
        case kind:
            return Refused(f"{what}: {kind} is not supported")
    if action.HasField("path_rewrite_policy") or action.path_rewrite:
        return Refused(f"{what}: path_rewrite_policy and path_rewrite are not supported")
    return Forward(
        clusters,
        timeout=_timeout(action, what),
        retry=retry(action.retry_policy, ignored, f"{what}.retry_policy")
        if action.HasField("retry_policy")
        else inherited.retry,
        prefix_rewrite=action.prefix_rewrite or None,
        regex_rewrite=regex_rewrite(action.regex_rewrite, f"{what}.regex_rewrite")
        if action.HasField("regex_rewrite")
        else None,
        host_rewrite=host,
        auto_host_rewrite=action.WhichOneof("host_rewrite_specifier") == "auto_host_rewrite"
        and action.auto_host_rewrite.value,
        hash_policies=_hash_policies(action.hash_policy, ignored, f"{what}.hash_policy"),
        cluster_not_found_status=_CLUSTER_NOT_FOUND.get(int(action.cluster_not_found_response_code), 503),
        mirrors=mirrors(action, ignored, what) or inherited.mirrors,
        hedge=hedges(action, ignored, what) if action.HasField("hedge_policy") else inherited.hedge,
    )


def hedges(message: Any, ignored: list[str], what: str) -> bool:
    """The ``hedge_policy`` of a route's action or a virtual host. Envoy implements no other part of it either."""
    policy = message.hedge_policy
    if policy.initial_requests.value > 1:
        ignored.append(f"{what}.hedge_policy.initial_requests")
    ignored += set_fields(policy, ("additional_request_chance",), f"{what}.hedge_policy")
    return bool(policy.hedge_on_per_try_timeout)


def mirrors(message: Any, ignored: list[str], what: str) -> tuple[Mirror, ...]:
    """The ``request_mirror_policies`` of a route's action, a virtual host or a route configuration."""
    found = []
    for index, policy in enumerate(message.request_mirror_policies):
        where = f"{what}.request_mirror_policies[{index}]"
        strange = set_fields(policy, _NOT_MIRRORED, where)
        if not policy.cluster or strange:
            # A copy that is not what was asked for is worse than none.
            ignored += strange or [where]
            continue
        share = policy.runtime_fraction
        found.append(
            Mirror(
                policy.cluster,
                parts_per_million(share.default_value) if policy.HasField("runtime_fraction") else 1_000_000,
                shadow_host=not policy.disable_shadow_host_suffix_append,
                traced=policy.trace_sampled.value if policy.HasField("trace_sampled") else True,
            )
        )
    return tuple(found)


def _hash_policies(policies: Any, ignored: list[str], what: str) -> tuple[HashPolicy, ...]:
    """gRFC A42: a policy that we do not know is left out, which is what Envoy does where one finds nothing to hash."""
    found: list[HashPolicy] = []
    for index, policy in enumerate(policies):
        where, terminal = f"{what}[{index}]", bool(policy.terminal)
        match policy.WhichOneof("policy_specifier"):
            case "header":
                header = policy.header
                rewrite = (
                    regex_rewrite(header.regex_rewrite, f"{where}.header.regex_rewrite")
                    if header.HasField("regex_rewrite")
                    else None
                )
                found.append(HashHeader(header.header_name.lower(), rewrite, terminal))
            case "cookie":
                cookie = policy.cookie
                found.append(
                    HashCookie(
                        cookie.name,
                        seconds(cookie.ttl, f"{where}.cookie.ttl") if cookie.HasField("ttl") else None,
                        cookie.path,
                        tuple((one.name, one.value) for one in cookie.attributes),
                        terminal,
                    )
                )
            case "query_parameter":
                found.append(HashQuery(policy.query_parameter.name, terminal))
            case kind:
                ignored.append(f"{where}.{kind or '(unknown)'}")
    return tuple(found)


def _timeout(action: Any, what: str) -> float | None:
    """Envoy's route timeout and gRPC's max_stream_duration (gRFC A31), the shorter; 0 is no limit."""
    limits = []
    longest = action.max_stream_duration
    if action.HasField("max_stream_duration"):
        if longest.HasField("grpc_timeout_header_max"):
            limits.append(
                seconds(longest.grpc_timeout_header_max, f"{what}.max_stream_duration.grpc_timeout_header_max")
            )
        elif longest.HasField("max_stream_duration"):
            limits.append(seconds(longest.max_stream_duration, f"{what}.max_stream_duration.max_stream_duration"))
    if action.HasField("timeout"):
        limits.append(seconds(action.timeout, f"{what}.timeout"))
    elif not limits:
        # A control plane that speaks gRPC's dialect sets only max_stream_duration; one that sets neither means Envoy's
        # default.
        return _DEFAULT_TIMEOUT
    return min((limit for limit in limits if limit > 0), default=None)


def _split(split: Any, ignored: list[str], what: str, within: str) -> tuple[WeightedCluster, ...] | Refused:
    if split.WhichOneof("random_value_specifier") is not None:
        ignored.append(f"{what}.{split.WhichOneof('random_value_specifier')}")
    legs = []
    for index, leg in enumerate(split.clusters):
        where = f"{what}.clusters[{index}]"
        if leg.cluster_header or has_unknown(leg):
            return Refused(f"{where}: cluster_header is not supported")
        if not leg.name:
            raise FieldError(f"{where} has no name")
        if leg.HasField("metadata_match"):
            ignored.append(f"{where}.metadata_match")
        said = overrides(leg.typed_per_filter_config, ignored, where, within)
        legs.append(
            WeightedCluster(
                leg.name,
                leg.weight.value if leg.HasField("weight") else 0,
                mutations(leg, "request", ignored, where),
                mutations(leg, "response", ignored, where),
                leg.host_rewrite_literal or None,
                said.fault,
                said.rate_limit,
            )
        )
    total = sum(leg.weight for leg in legs)
    # gRFC A28 and Envoy: without a share there is nobody to send to, and the sum must fit a uint32.
    if not 0 < total < 2**32:
        raise FieldError(f"{what}: the weights must add up to more than 0 and less than 2^32, not {total}")
    return tuple(legs)


def regex_rewrite(rewrite: Any, what: str) -> RegexRewrite:
    pattern = regex(rewrite.pattern.regex, f"{what}.pattern")
    return RegexRewrite(pattern, substitution(rewrite.substitution, pattern, f"{what}.substitution"))


def _redirect(redirect: Any, what: str) -> Redirect | Refused:
    if has_unknown(redirect):
        return Refused(f"{what}: a field of a newer API is not supported")
    code = int(redirect.response_code)
    if code >= len(_REDIRECT_STATUS):
        return Refused(f"{what}.response_code {code} is not supported")
    rewrite = redirect.WhichOneof("path_rewrite_specifier")
    port = redirect.port_redirect
    if port > 65535:
        raise FieldError(f"{what}.port_redirect {port} is not a port")
    return Redirect(
        status=_REDIRECT_STATUS[code],
        scheme=redirect.scheme_redirect or None,
        https=bool(redirect.https_redirect),
        host=redirect.host_redirect or None,
        port=port or None,
        path=redirect.path_redirect if rewrite == "path_redirect" else None,
        prefix_rewrite=redirect.prefix_rewrite if rewrite == "prefix_rewrite" else None,
        regex_rewrite=regex_rewrite(redirect.regex_rewrite, f"{what}.regex_rewrite")
        if rewrite == "regex_rewrite"
        else None,
        strip_query=bool(redirect.strip_query),
    )


def _direct(response: Any, max_body: int, what: str) -> DirectResponse | Refused:
    if not 200 <= response.status < 600:
        raise FieldError(f"{what}.status must be from 200 to 599, not {response.status}")
    body = b""
    match response.body.WhichOneof("specifier"):
        case None:
            pass
        case "inline_bytes":
            body = response.body.inline_bytes
        case "inline_string":
            body = response.body.inline_string.encode()
        case kind:
            return Refused(f"{what}.body.{kind} is not supported: only inline bodies are")
    if len(body) > max_body:
        raise FieldError(f"{what}.body has {len(body)} bytes, at most {max_body} are accepted")
    return DirectResponse(response.status, body)
