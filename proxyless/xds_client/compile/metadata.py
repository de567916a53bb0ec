"""What control planes say about a resource in its metadata, for people and telemetry: Istio's keys, and ours."""

from collections.abc import Mapping
from typing import Any

from proxyless.xds_client.compile.decode import text_map

# Istio: "name;namespace;canonical name;canonical revision;cluster" of the workload behind an endpoint.
_WORKLOAD = ("workload", "namespace", "canonical_service", "canonical_revision", "cluster")
TRANSPORT_SOCKET_MATCH = "envoy.transport_socket_match"


def origin(metadata: Any) -> str:
    """Where a route was written: ours names the rule, Istio's ``config`` the resource: ``VirtualService NS/NAME``."""
    fields = metadata.filter_metadata
    if "proxyless" in fields and fields["proxyless"].fields["origin"].string_value:
        return str(fields["proxyless"].fields["origin"].string_value)
    if "istio" not in fields or "config" not in fields["istio"].fields:
        return ""
    path: str = fields["istio"].fields["config"].string_value
    parts = path.split("/")
    if len(parts) < 4 or parts[-4] != "namespaces":
        return path
    kind = "".join(word.capitalize() for word in parts[-2].split("-"))
    return f"{kind} {parts[-3]}/{parts[-1]}"


def service(metadata: Any) -> tuple[str, str, str]:
    """(host, name, namespace) of the first service that Istio says a cluster stands for."""
    fields = metadata.filter_metadata
    if "istio" not in fields or not fields["istio"].fields["services"].list_value.values:
        return "", "", ""
    first = text_map(fields["istio"].fields["services"].list_value.values[0].struct_value)
    return first.get("host", ""), first.get("name", ""), first.get("namespace", "")


def problem(metadata: Any) -> str:
    """Why our control plane knows that a cluster cannot serve (its service does not exist), or nothing."""
    fields = metadata.filter_metadata
    return str(fields["proxyless"].fields["problem"].string_value) if "proxyless" in fields else ""


def endpoint_labels(metadata: Any) -> dict[str, str]:
    """Labels of the workload behind an endpoint, under the names that telemetry reads."""
    fields = metadata.filter_metadata
    labels: dict[str, str] = {}
    if "proxyless" in fields:
        labels |= text_map(fields["proxyless"])
        if "labels" in fields["proxyless"].fields:
            labels |= text_map(fields["proxyless"].fields["labels"].struct_value)
    if "istio" in fields and "workload" in fields["istio"].fields:
        parts = fields["istio"].fields["workload"].string_value.split(";")
        labels |= {key: value for key, value in zip(_WORKLOAD, parts, strict=False) if value}
    return labels


def socket_match(metadata: Any) -> Mapping[str, str]:
    """What an endpoint says about the transport socket it needs (Envoy: transport_socket_matches)."""
    fields = metadata.filter_metadata
    return text_map(fields[TRANSPORT_SOCKET_MATCH]) if TRANSPORT_SOCKET_MATCH in fields else {}
