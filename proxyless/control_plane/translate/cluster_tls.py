"""TLS of a cluster: DestinationRule.trafficPolicy.tls, or mutual TLS wherever the endpoints can (Istio's auto mTLS)."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3 import string_pb2

from proxyless.control_plane.discovery.catalog import Share
from proxyless.control_plane.discovery.endpoints import TLS_MODE_LABEL
from proxyless.control_plane.discovery.service import Resolution, Service
from proxyless.control_plane.resources.destination_rule import ClientTLSSettings, TLSMode
from proxyless.control_plane.translate import tls
from proxyless.control_plane.translate.client import ClientKind
from proxyless.control_plane.translate.cluster_build import ClusterBuild
from proxyless.control_plane.translate.forward_proxy import is_by_host_header
from proxyless.control_plane.translate.metadata import struct


def apply_tls(cluster: cluster_pb2.Cluster, build: ClusterBuild, options: HttpProtocolOptions | None) -> str | None:
    """Set the transport sockets; what cannot be done as asked is a problem, never plaintext instead.

    options: the cluster's HTTP options, which carry a part of TLS origination in Envoy and may be added to.
    """
    asked = build.policy.effective.tls
    http2 = options is not None and options.explicit_http_config.HasField("http2_protocol_options")
    follow = options is not None and options.HasField("use_downstream_protocol_config")
    # What is no HTTP does not say that it is.
    follow = follow or (build.kind is ClientKind.ENVOY and not build.port.protocol.is_http)
    if asked is None:
        passed_through = cluster.type == cluster_pb2.Cluster.ORIGINAL_DST or is_by_host_header(cluster)
        if not build.service.external and not passed_through:
            _automatic(cluster, build, http2=http2, follow=follow)
        return None
    match asked.mode:
        case TLSMode.DISABLE:
            return None
        case TLSMode.ISTIO_MUTUAL:
            san = [tls.exactly(one) for one in asked.subject_alt_names] or _identities(build)
            sni = asked.sni or (build.name.sni if build.kind is ClientKind.ENVOY else "")
            cluster.transport_socket.CopyFrom(tls.mutual(build.kind, san, sni=sni, http2=http2, follow=follow))
            return None
        case _:
            return _originate(cluster, build, asked, http2=http2, follow=follow)


def apply_proxy_protocol(cluster: cluster_pb2.Cluster, build: ClusterBuild) -> None:
    """DestinationRule.trafficPolicy.proxyProtocol: around whatever socket the cluster has."""
    asked = build.policy.effective.proxy_protocol
    if asked is None:
        return
    if build.kind is not ClientKind.ENVOY:
        build.notes.add(f"{build.name}: trafficPolicy.proxyProtocol left out, only Envoy clients send it")
        return
    for one in cluster.transport_socket_matches:
        one.transport_socket.CopyFrom(tls.after_proxy_protocol(one.transport_socket, asked.version))
    if cluster.HasField("transport_socket") or not cluster.transport_socket_matches:
        inner = cluster.transport_socket if cluster.HasField("transport_socket") else tls.raw_buffer()
        cluster.transport_socket.CopyFrom(tls.after_proxy_protocol(inner, asked.version))


def auto_sni(build: ClusterBuild) -> bool:
    """Whether Envoy must take the server's name from the Host header, as Istio has it when a rule names none."""
    asked = build.policy.effective.tls
    return (
        build.kind is ClientKind.ENVOY
        and asked is not None
        and asked.mode in {TLSMode.SIMPLE, TLSMode.MUTUAL}
        and not asked.sni
    )


def add_auto_sni(options: HttpProtocolOptions, build: ClusterBuild) -> None:
    asked = build.policy.effective.tls
    if options.WhichOneof("upstream_protocol_options") is None:
        options.explicit_http_config.http_protocol_options.SetInParent()
    options.upstream_http_protocol_options.auto_sni = True
    # The certificate must be for that name, unless a rule says which names it is for.
    named = bool(asked and asked.subject_alt_names) or bool(build.service.subject_alt_names)
    options.upstream_http_protocol_options.auto_san_validation = not named


def _automatic(cluster: cluster_pb2.Cluster, build: ClusterBuild, *, http2: bool, follow: bool) -> None:
    san = _identities(build)
    if build.kind is not ClientKind.GRPC:
        secure = cluster.transport_socket_matches.add(name="tlsMode-istio", match=struct(tls.TLS_MODE))
        sni = build.name.sni if build.kind is ClientKind.ENVOY else ""
        secure.transport_socket.CopyFrom(tls.mutual(build.kind, san, sni=sni, http2=http2, follow=follow))
        plain = cluster.transport_socket_matches.add(name="tlsMode-disabled", match=struct({}))
        plain.transport_socket.CopyFrom(tls.raw_buffer())
        return
    _automatic_grpc(cluster, build, san)


def _automatic_grpc(cluster: cluster_pb2.Cluster, build: ClusterBuild, san: list[string_pb2.StringMatcher]) -> None:
    """gRPC has one transport socket for a cluster, so all of its endpoints must agree.

    A gRPC client refuses a cluster that names a certificate provider its bootstrap does not have, so it must have said
    that it has one: with the label by which Istio knows a gRPC server that does.
    """
    able = build.catalog.mutual_tls(build.service, build.port)
    if able is not Share.NONE and build.scope.label_map.get(TLS_MODE_LABEL) != "istio":
        build.notes.add(
            f"{build.name}: sent as plaintext; for mutual TLS the client needs a certificate provider 'default' in "
            f"its bootstrap and the label {TLS_MODE_LABEL}: istio in its node's LABELS"
        )
    elif able is Share.ALL:
        cluster.transport_socket.CopyFrom(tls.mutual(build.kind, san))
    elif able is Share.SOME:
        build.notes.add(f"{build.name}: sent as plaintext, some of its endpoints have no mutual TLS")


def _identities(build: ClusterBuild) -> list[string_pb2.StringMatcher]:
    """Who may answer: the identities of the service's workloads, whatever their subset.

    While it has none, only its namespace is known: an empty list would accept everybody.
    """
    found = {*build.catalog.identities(build.service, build.port), *build.service.subject_alt_names}
    if found:
        return [tls.exactly(one) for one in sorted(found)]
    trust_domain = build.catalog.settings.trust_domain
    return [string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/ns/{build.service.namespace}/sa/")]


def _originate(
    cluster: cluster_pb2.Cluster, build: ClusterBuild, asked: ClientTLSSettings, *, http2: bool, follow: bool
) -> str | None:
    """SIMPLE and MUTUAL: TLS to somebody who is not of the mesh."""
    san = [tls.exactly(one) for one in asked.subject_alt_names or build.service.subject_alt_names]
    if asked.insecure_skip_verify:
        build.notes.add(f"{build.name}: tls.insecureSkipVerify is not followed, certificates are verified")
    if problem := _cannot_originate(build.kind, asked):
        return problem
    if build.kind is not ClientKind.ENVOY:
        sni = asked.sni or _server_name(build.service)
        cluster.transport_socket.CopyFrom(tls.simple(build.kind, san, sni=sni, http2=http2))
        return None
    certificate = asked.client_certificate if asked.mode is TLSMode.MUTUAL else ""
    files = tls.Files(certificate, asked.private_key, asked.ca_certificates)
    sni = asked.sni
    if not build.port.protocol.is_http:
        # There is no Host header to take the name from, or to verify the certificate by.
        sni = sni or _server_name(build.service)
        san = san or [tls.exactly(name) for name in (sni,) if name]
    cluster.transport_socket.CopyFrom(tls.from_files(files, san, sni=sni, http2=http2, follow=follow))
    return None


def _server_name(service: Service) -> str:
    """The name whose certificate a server shows: where an ExternalName points, not the alias; a wildcard has none."""
    if service.resolution is Resolution.DNS and service.external_name:
        return service.external_name
    return "" if service.host.startswith("*") else service.host


def _cannot_originate(kind: ClientKind, asked: ClientTLSSettings) -> str | None:
    if kind is ClientKind.GRPC:
        return "gRPC clients cannot originate TLS to a server outside the mesh"
    if asked.credential_name:
        return "tls.credentialName is read by gateways only"
    if asked.mode is TLSMode.MUTUAL:
        if kind is ClientKind.PROXYLESS:
            return "tls.mode MUTUAL is not supported by proxyless clients"
        if not (asked.client_certificate and asked.private_key):
            return "tls.mode MUTUAL needs clientCertificate and privateKey"
    if kind is ClientKind.PROXYLESS and (asked.ca_certificates not in ("", "system") or asked.ca_crl):
        return "tls.caCertificates: proxyless clients verify against the system's roots only"
    return None
