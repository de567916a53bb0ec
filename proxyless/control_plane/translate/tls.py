"""TLS contexts: library clients name certificate providers (gRFC A29), Envoy SDS secrets, as Istio's sidecars do."""

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2, proxy_protocol_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2

from proxyless.control_plane.resources.destination_rule import ProxyProtocolVersion
from proxyless.control_plane.translate.client import ClientKind
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import pack

TLS_SOCKET = "envoy.transport_sockets.tls"
PROXY_PROTOCOL_SOCKET = "envoy.transport_sockets.upstream_proxy_protocol"
RAW_BUFFER_SOCKET = "envoy.transport_sockets.raw_buffer"
# The certificate provider of the client's bootstrap that holds its SVID and the mesh's roots.
_PROVIDER = "default"
# Istio's names for the same over SDS, and the cluster of the bootstrap that serves them.
_SDS_IDENTITY, _SDS_ROOTS, _SDS_CLUSTER = "default", "ROOTCA", "sds-grpc"
_FILE_TIMEOUT = 2.0
_URI, _DNS = common_pb2.SubjectAltNameMatcher.URI, common_pb2.SubjectAltNameMatcher.DNS

# Endpoint metadata and cluster match of Istio's automatic mutual TLS.
TLS_MODE = {"tlsMode": "istio"}

Names = Iterable[string_pb2.StringMatcher]


def exactly(name: str) -> string_pb2.StringMatcher:
    return string_pb2.StringMatcher(exact=name)


def mutual(
    kind: ClientKind, san: Names, *, sni: str = "", http2: bool = False, follow: bool = False
) -> base_pb2.TransportSocket:
    """Mutual TLS with a workload of the mesh, whose identity must match one of ``san``.

    follow: the HTTP version is the caller's, so Envoy must offer the ALPN of the one it is about to speak; it does when
    none is configured.
    """
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    _add_identity(context.common_tls_context, kind)
    _add_roots(context.common_tls_context, kind, san)
    _add_client_side(context.common_tls_context, kind, http2=http2)
    if http2 and kind is ClientKind.PROXYLESS:
        # A library server is its own sidecar and speaks HTTP/1.1 only; a client of ours speaks what the peer chooses.
        context.common_tls_context.alpn_protocols.append("http/1.1")
    if follow:
        context.common_tls_context.ClearField("alpn_protocols")
    return _socket(context)


def simple(kind: ClientKind, san: Names, *, sni: str, http2: bool = False) -> base_pb2.TransportSocket:
    """TLS with a server outside the mesh, verified against the system's roots, for library clients."""
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    common = context.common_tls_context
    common.validation_context.system_root_certs.SetInParent()
    common.validation_context.match_subject_alt_names.extend(san)
    _add_client_side(common, kind, http2=http2)
    return _socket(context)


@dataclass(frozen=True, slots=True)
class Files:
    """Paths on the client's machine; "" for none, and for the system's roots."""

    certificate: str = ""
    key: str = ""
    roots: str = ""


def from_files(
    files: Files, san: Names, *, sni: str, http2: bool = False, follow: bool = False
) -> base_pb2.TransportSocket:
    """TLS with files on the client's machine, for Envoy: Istio's agent serves them over SDS under these names.

    follow: as for ``mutual``.
    """
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    common = context.common_tls_context
    if files.certificate:
        common.tls_certificate_sds_secret_configs.append(_sds(f"file-cert:{files.certificate}~{files.key}"))
    combined = common.combined_validation_context
    _match_names(combined.default_validation_context, san, _DNS, _URI)
    combined.validation_context_sds_secret_config.CopyFrom(_sds(f"file-root:{files.roots or 'system'}"))
    _add_client_side(common, ClientKind.ENVOY, http2=http2)
    if follow:
        common.ClearField("alpn_protocols")
    return _socket(context)


def server(kind: ClientKind) -> base_pb2.TransportSocket:
    """The serving side: a client certificate of the mesh is required."""
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    _add_identity(context.common_tls_context, kind)
    _add_roots(context.common_tls_context, kind, ())
    return _socket(context)


def sidecar_server(trust_domain: str) -> base_pb2.TransportSocket:
    """The serving side of an Envoy sidecar: TLS 1.3, and callers must prove a SPIFFE ID of the trust domain."""
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    common.alpn_protocols.extend(("h2", "http/1.1"))
    _add_identity(common, ClientKind.ENVOY)
    _add_roots(common, ClientKind.ENVOY, [string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/")])
    return _socket(context)


def server_from_files(
    files: Files,
    *,
    verify: bool,
    required: bool,
    oldest: str = "TLS_AUTO",
    newest: str = "TLS_AUTO",
    ciphers: Iterable[str] = (),
    spki: Iterable[str] = (),
    hashes: Iterable[str] = (),
) -> base_pb2.TransportSocket:
    """The serving side of TLS with files on the Envoy's machine.

    verify: callers' certificates, against ``roots``; spki, hashes: these only, if there are any.
    """
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = required
    common = context.common_tls_context
    common.alpn_protocols.extend(("h2", "http/1.1"))
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TlsProtocol.Value(oldest)
    common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TlsProtocol.Value(newest)
    common.tls_params.cipher_suites.extend(ciphers)
    common.tls_certificate_sds_secret_configs.append(_sds(f"file-cert:{files.certificate}~{files.key}"))
    if verify:
        combined = common.combined_validation_context
        combined.default_validation_context.SetInParent()
        combined.default_validation_context.verify_certificate_spki.extend(spki)
        combined.default_validation_context.verify_certificate_hash.extend(hashes)
        combined.validation_context_sds_secret_config.CopyFrom(_sds(f"file-root:{files.roots}"))
    return _socket(context)


def raw_buffer() -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name=RAW_BUFFER_SOCKET, typed_config=pack(raw_buffer_pb2.RawBuffer()))


def after_proxy_protocol(inner: base_pb2.TransportSocket, version: ProxyProtocolVersion) -> base_pb2.TransportSocket:
    """Every connection starts with a PROXY protocol header, and goes on as ``inner``."""
    transport = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(transport_socket=inner)
    transport.config.version = proxy_protocol_pb2.ProxyProtocolConfig.Version.Value(version.value)
    return base_pb2.TransportSocket(name=PROXY_PROTOCOL_SOCKET, typed_config=pack(transport))


def _socket(context: tls_pb2.UpstreamTlsContext | tls_pb2.DownstreamTlsContext) -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name=TLS_SOCKET, typed_config=pack(context))


def _add_identity(common: tls_pb2.CommonTlsContext, kind: ClientKind) -> None:
    if kind is ClientKind.ENVOY:
        common.tls_certificate_sds_secret_configs.append(_sds(_SDS_IDENTITY))
    else:
        common.tls_certificate_provider_instance.instance_name = _PROVIDER


def _add_roots(common: tls_pb2.CommonTlsContext, kind: ClientKind, san: Names) -> None:
    if kind is ClientKind.ENVOY:
        combined = common.combined_validation_context
        _match_names(combined.default_validation_context, san, _URI)
        combined.validation_context_sds_secret_config.CopyFrom(_sds(_SDS_ROOTS))
    else:
        common.validation_context.ca_certificate_provider_instance.instance_name = _PROVIDER
        common.validation_context.match_subject_alt_names.extend(san)


def _match_names(context: common_pb2.CertificateValidationContext, san: Names, *types: int) -> None:
    """Envoy's present form, by type of name; gRPC reads the older one only."""
    context.SetInParent()  # Envoy wants it to be there, empty or not
    for one in san:
        for kind in types:
            context.match_typed_subject_alt_names.add(san_type=kind, matcher=one)


def _add_client_side(common: tls_pb2.CommonTlsContext, kind: ClientKind, *, http2: bool) -> None:
    """What gRPC settles itself: it refuses tls_params and knows its ALPN (gRFC A29)."""
    if kind is ClientKind.GRPC:
        return
    common.alpn_protocols.append("h2" if http2 else "http/1.1")
    if kind is ClientKind.ENVOY:
        # Envoy's clients stop at TLS 1.2 unless told; workloads of the mesh speak nothing below 1.3.
        common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
        common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3


def _sds(name: str) -> secret_pb2.SdsSecretConfig:
    source = config_source_pb2.ConfigSource(
        resource_api_version=config_source_pb2.V3,
        api_config_source=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.GRPC,
            transport_api_version=config_source_pb2.V3,
            set_node_on_first_message_only=True,
            grpc_services=[
                grpc_service_pb2.GrpcService(
                    envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=_SDS_CLUSTER)
                )
            ],
        ),
    )
    if name in {_SDS_IDENTITY, _SDS_ROOTS}:
        source.initial_fetch_timeout.SetInParent()
    else:
        # A file that is missing must not hold back all other clusters; without it no connection is made.
        source.initial_fetch_timeout.CopyFrom(duration(_FILE_TIMEOUT))
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)
