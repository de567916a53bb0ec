"""Istio's AuthorizationPolicy (security.istio.io), field for field.

Source: https://istio.io/latest/docs/reference/config/security/authorization-policy/
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pydantic import Field

from proxyless.control_plane.resources.base import PolicyTargetReference, Spec, Text, WorkloadSelector

# An annotation: "true" asks what the policy would do, and does not enforce it.
DRY_RUN = "istio.io/dry-run"
# What Go's strconv.ParseBool takes for true.
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class Action(StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class Source(Spec):
    """All that is set must hold, each by one of its values. principals: without ``spiffe://``.

    ip_blocks: of who connected. remote_ip_blocks: of the original client, by X-Forwarded-For.
    """

    principals: tuple[Text, ...] = ()
    not_principals: tuple[Text, ...] = ()
    request_principals: tuple[Text, ...] = ()
    not_request_principals: tuple[Text, ...] = ()
    namespaces: tuple[Text, ...] = ()
    not_namespaces: tuple[Text, ...] = ()
    service_accounts: tuple[Text, ...] = ()
    not_service_accounts: tuple[Text, ...] = ()
    ip_blocks: tuple[Text, ...] = ()
    not_ip_blocks: tuple[Text, ...] = ()
    remote_ip_blocks: tuple[Text, ...] = ()
    not_remote_ip_blocks: tuple[Text, ...] = ()


class Operation(Spec):
    hosts: tuple[Text, ...] = ()
    not_hosts: tuple[Text, ...] = ()
    ports: tuple[Text, ...] = ()
    not_ports: tuple[Text, ...] = ()
    methods: tuple[Text, ...] = ()
    not_methods: tuple[Text, ...] = ()
    paths: tuple[Text, ...] = ()
    not_paths: tuple[Text, ...] = ()


class From(Spec):
    source: Source | None = None


class To(Spec):
    operation: Operation | None = None


class Condition(Spec):
    key: Text = ""
    values: tuple[Text, ...] = ()
    not_values: tuple[Text, ...] = ()


class Rule(Spec):
    """Matches if one of ``from``, one of ``to`` and all of ``when`` do; an absent list is no condition."""

    from_: tuple[From, ...] = Field(default=(), alias="from")
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()


class ExtensionProvider(Spec):
    name: Text = ""


class AuthorizationPolicySpec(Spec):
    """Without selector: the namespace; in the root namespace: the mesh. ALLOW without rules lets nobody in."""

    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    rules: tuple[Rule, ...] = ()
    action: Action = Action.ALLOW
    provider: ExtensionProvider | None = None


def is_dry_run(annotations: Mapping[str, str]) -> bool:
    return annotations.get(DRY_RUN, "") in _TRUE


# The attributes of ``when``; those of the next line have a name in brackets.
ATTRIBUTES = frozenset(
    {
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.principal",
        "source.serviceAccount",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
        "connection.sni",
    }
)
HEADERS, CLAIMS, FILTERS = "request.headers", "request.auth.claims", "experimental.envoy.filters."
# Of Istio before 1.5: what stands in their place.
REPLACED = MappingProxyType(
    {
        "destination.namespace": "the policy's own namespace",
        "destination.labels": "the policy's selector",
        "destination.name": "the policy's selector",
        "destination.user": "the policy's selector",
    }
)
