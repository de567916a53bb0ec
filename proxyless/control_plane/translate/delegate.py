"""VirtualService delegation: a root rule hands a part of its paths to a rule without hosts."""

from collections.abc import Iterator

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.resources.base import StringMatch
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.virtual_service import HTTPMatchRequest, HTTPRoute, VirtualServiceSpec
from proxyless.control_plane.translate.generated import Notes

# What a delegate's route takes from the root's when it does not say it itself (Istio).
_INHERITED = (
    "rewrite", "timeout", "retries", "fault", "cors_policy", "headers",
    "mirror", "mirrors", "mirror_percent", "mirror_percent_camel", "mirror_percentage",
)  # fmt: skip


def expanded(
    catalog: Catalog, rule: Resource[VirtualServiceSpec], notes: Notes
) -> Iterator[tuple[HTTPRoute, Resource[VirtualServiceSpec], str]]:
    """The rule's routes in order, delegated ones in place, each with the rule it is written in and its origin."""
    for index, http in enumerate(rule.spec.http):
        origin = f"VirtualService {rule.namespace}/{rule.name} http[{index}]"
        if http.delegate is None:
            yield http, rule, origin
            continue
        namespace = http.delegate.namespace or rule.namespace
        found = catalog.virtual_services.delegate(namespace, http.delegate.name, rule.namespace)
        if found is None:
            notes.add(f"{origin}: no VirtualService {namespace}/{http.delegate.name} without hosts to delegate to")
            continue
        for inner_index, inner in enumerate(found.spec.http):
            # One level only, as in Istio.
            if inner.delegate is None and (merged := _merge(http, inner)) is not None:
                yield merged, found, f"VirtualService {found.namespace}/{found.name} http[{inner_index}]"


def _merge(root: HTTPRoute, inner: HTTPRoute) -> HTTPRoute | None:
    matches = inner.match or root.match
    if root.match and inner.match:
        found = [[_merge_match(outer, one) for outer in root.match] for one in inner.match]
        # One alternative that the root's conditions exclude makes the whole route a conflict (Istio).
        if not all(any(pairs) for pairs in found):
            return None
        matches = tuple(pair for pairs in found for pair in pairs if pair is not None)
    inherited = {field: getattr(root, field) for field in _INHERITED if getattr(inner, field) in (None, ())}
    name = "-".join(part for part in (root.name, inner.name) if part)
    return inner.model_copy(update={**inherited, "match": matches, "name": name})


def _merge_match(root: HTTPMatchRequest, inner: HTTPMatchRequest) -> HTTPMatchRequest | None:
    """Both conditions at once, None when nothing can meet them (Istio calls that a conflict and drops the route)."""
    for field in ("headers", "without_headers", "query_params", "source_labels"):
        ours, theirs = getattr(root, field), getattr(inner, field)
        if any(name in theirs and theirs[name] != value for name, value in ours.items()):
            return None
    for field in ("scheme", "method", "authority", "uri"):
        if not _narrows(getattr(root, field), getattr(inner, field)):
            return None
    for field in ("port", "source_namespace"):
        ours, theirs = getattr(root, field), getattr(inner, field)
        if ours and theirs and ours != theirs:
            return None
    joined = {
        field: {**getattr(root, field), **getattr(inner, field)}
        for field in ("headers", "without_headers", "query_params", "source_labels")
    }
    chosen = {
        field: getattr(inner, field) or getattr(root, field)
        for field in ("uri", "scheme", "method", "authority", "port", "gateways", "source_namespace", "stat_prefix")
    }
    name = "-".join(part for part in (root.name, inner.name) if part)
    return inner.model_copy(update={**joined, **chosen, "name": name})


def _narrows(root: StringMatch | None, inner: StringMatch | None) -> bool:
    """Whether ``inner`` matches nothing that ``root`` does not, as far as can be said; a regex says nothing."""
    if root is None or inner is None or root.is_presence or root == inner:
        return True
    if root.prefix is None:
        return False
    narrower = inner.exact if inner.exact is not None else inner.prefix
    return narrower is not None and narrower.startswith(root.prefix)
