"""Istio's labels for one finished request: a hashable key to find its series by, and the labels for when it is new.

Source: https://istio.io/latest/docs/reference/config/metrics/ and Istio's stats filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyless.engine.identity_cache import IdentityCache
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag
from proxyless.model.cluster import Endpoint
from proxyless.telemetry.metrics import Labelled
from proxyless.telemetry.workload import NOBODY, UNKNOWN, WorkloadLabels, describe

if TYPE_CHECKING:
    from proxyless.engine.record import CallRecord
    from proxyless.telemetry.observation import Connection, Ending

code_text = lru_cache(maxsize=1024)(str)


@dataclass(frozen=True, slots=True)
class Own:
    """This workload. principal: its SPIFFE ID as text. service: its name in the mesh, "" when it has none."""

    labels: WorkloadLabels
    principal: str
    service: str


class _Described:
    """An endpoint's labels as part of a key: hashed once, as each request looks a key up."""

    __slots__ = ("_hash", "_items")

    def __init__(self, endpoint: Endpoint) -> None:
        self._items = tuple(endpoint.labels.items())
        self._hash = hash(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Described) and self._items == other._items


_described: IdentityCache[Endpoint, _Described] = IdentityCache(_Described)


def flag_letters(flags: Sequence[Flag]) -> str:
    """As Envoy's %RESPONSE_FLAGS%: joined by a comma, "-" when there are none."""
    return ",".join([flag.value for flag in flags]) if flags else "-"


def protocol(head: Request) -> str:
    """Istio's request_protocol: ``grpc`` by content type, else ``http``."""
    content_type = head.content_type
    if not content_type:
        return "http"
    return "grpc" if content_type.startswith("application/grpc") and content_type[16:17] in ("", "+", ";") else "http"


def client(own: Own, target: str, kind: str, record: CallRecord, ending: Ending) -> Labelled:
    """What the caller reports (``reporter="source"``). target: ``host:port`` that was dialled. kind: the protocol."""
    last = record.attempts[-1] if record.attempts else None
    peer = (last.peer or "") if last is not None else ""
    there = last.endpoint.labels if last is not None else {}
    cluster = record.cluster
    # No cluster: nothing matched, or the mesh answered itself; then the host that was asked for names the service.
    host = (cluster.service_host if cluster is not None else "") or target.rpartition(":")[0]
    service = (cluster.service or cluster.name) if cluster is not None else UNKNOWN
    service_namespace = (cluster.service_namespace if cluster is not None else "") or UNKNOWN
    code, flags, grpc_status = code_text(ending.status), flag_letters(ending.flags), ending.grpc_status
    key = (
        "source",
        own.principal,
        host,
        service,
        service_namespace,
        peer,
        kind,
        code,
        grpc_status,
        flags,
        _described.get(last.endpoint) if last is not None and there else None,
    )

    def labels() -> dict[str, str]:
        destination = describe(there) if there else NOBODY
        return {
            "reporter": "source",
            **_side("source", own.labels, own.principal if peer else UNKNOWN),
            **_side("destination", destination, peer or UNKNOWN),
            **_service(host, service, service_namespace),
            # Istio's client side reports "unknown" always: only the server knows what it required.
            **_outcome(kind, code, grpc_status, flags, UNKNOWN),
        }

    return key, labels


def server(  # noqa: PLR0917  the fields of its key
    own: Own, kind: str, connection: Connection, status: int, flags: tuple[Flag, ...], grpc_status: str
) -> dict[str, str]:
    """What the server reports (``reporter="destination"``). Of the caller it knows what its certificate says."""
    peer = connection.peer
    # The peer's labels travel in no header, but its certificate names its namespace (Istio falls back to it too).
    source = NOBODY if peer is None else WorkloadLabels(namespace=peer.namespace)
    name, namespace = own.service or own.labels.canonical_service, own.labels.namespace
    security = "none" if peer is None else "mutual_tls"
    return {
        "reporter": "destination",
        **_side("source", source, connection.principal or UNKNOWN),
        **_side("destination", own.labels, UNKNOWN if peer is None else own.principal),
        **_service(f"{name}.{namespace}.svc.cluster.local", name, namespace),
        **_outcome(kind, code_text(status), grpc_status, flag_letters(flags), security),
    }


def _side(side: str, who: WorkloadLabels, principal: str) -> dict[str, str]:
    return {
        f"{side}_workload": who.workload,
        f"{side}_workload_namespace": who.namespace,
        f"{side}_principal": principal,
        f"{side}_app": who.app,
        f"{side}_version": who.version,
        f"{side}_cluster": who.cluster,
        f"{side}_canonical_service": who.canonical_service,
        f"{side}_canonical_revision": who.canonical_revision,
    }


def _service(host: str, name: str, namespace: str) -> dict[str, str]:
    return {
        "destination_service": host,
        "destination_service_name": name,
        "destination_service_namespace": namespace,
    }


def _outcome(kind: str, code: str, grpc_status: str, flags: str, security: str) -> dict[str, str]:
    return {
        "request_protocol": kind,
        "response_code": code,
        "grpc_response_status": grpc_status,
        "response_flags": flags,
        "connection_security_policy": security,
    }
