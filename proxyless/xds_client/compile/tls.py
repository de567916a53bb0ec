"""TLS contexts (gRFC A29): identity and roots come from the mesh, whom to accept from the resource."""

from typing import Any

from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from proxyless.model.cluster import UpstreamTls
from proxyless.model.matching import NEVER, StringMatcher
from proxyless.xds_client.compile.decode import FieldError, is_a, unpack
from proxyless.xds_client.compile.matching import string

# Names under which Istio's agent serves them over SDS.
_ISTIO_IDENTITY, _ISTIO_ROOTS, _SYSTEM_ROOTS = "default", "ROOTCA", "file-root:system"
_DNS, _URI = 2, 3

# What restricts which peers are accepted: to leave one out would accept more than the rule says.
_RESTRICTIONS = ("verify_certificate_spki", "verify_certificate_hash")


def upstream(socket: Any, ignored: list[str], what: str) -> UpstreamTls | None:
    """A core.v3.TransportSocket of a cluster; None is plaintext."""
    config = socket.typed_config
    if is_a(config, raw_buffer_pb2.RawBuffer) or (not config.type_url and socket.name.endswith("raw_buffer")):
        return None
    context = unpack(config, tls_pb2.UpstreamTlsContext, what)
    common = context.common_tls_context
    validation = validation_context(common, what)
    if context.auto_host_sni:
        ignored.append(f"{what}.auto_host_sni")
    return UpstreamTls(
        san=peer_names(validation, what) if validation is not None else (),
        sni=context.sni,
        identity=has_identity(common, what),
        mesh_trust=_mesh_trust(common, validation, what),
        alpn=tuple(common.alpn_protocols),
    )


def has_identity(common: Any, what: str) -> bool:
    """Whether the workload's own certificate is to be presented."""
    for reference in common.tls_certificate_sds_secret_configs:
        if reference.name != _ISTIO_IDENTITY:
            raise FieldError(f"{what}: certificate {reference.name!r} is not served here, only {_ISTIO_IDENTITY!r} is")
    if common.tls_certificates:
        raise FieldError(f"{what}.tls_certificates: certificates come from a certificate provider instance (gRFC A29)")
    return bool(
        common.tls_certificate_sds_secret_configs
        or common.HasField("tls_certificate_provider_instance")
        or common.HasField("tls_certificate_certificate_provider_instance")
    )


def validation_context(common: Any, what: str) -> Any:
    """The CertificateValidationContext, wherever it stands, or None. Refuses one whose restrictions we cannot keep."""
    kind = common.WhichOneof("validation_context_type")
    found = None
    if kind == "validation_context":
        found = common.validation_context
    elif kind == "combined_validation_context":
        found = common.combined_validation_context.default_validation_context
    elif kind == "validation_context_sds_secret_config":
        _sds_roots(common.validation_context_sds_secret_config, what)
    elif kind not in (None, "validation_context_certificate_provider_instance"):
        raise FieldError(f"{what}.{kind} is not supported")
    if found is None:
        return None
    for field in _RESTRICTIONS:
        if getattr(found, field):
            raise FieldError(f"{what}: {field} is not supported (gRFC A29)")
    for field in ("crl", "custom_validator_config"):
        if found.HasField(field):
            raise FieldError(f"{what}: {field} is not supported (gRFC A29)")
    if found.HasField("require_signed_certificate_timestamp") and found.require_signed_certificate_timestamp.value:
        raise FieldError(f"{what}: require_signed_certificate_timestamp is not supported (gRFC A29)")
    if found.HasField("trusted_ca"):
        raise FieldError(
            f"{what}: trusted_ca is not supported, use ca_certificate_provider_instance or system_root_certs"
        )
    if found.allow_expired_certificate or found.trust_chain_verification:
        raise FieldError(
            f"{what}: certificates are always verified; allow_expired_certificate and ACCEPT_UNTRUSTED are refused"
        )
    return found


def _sds_roots(reference: Any, what: str) -> bool:
    """True for the mesh's roots, False for the system's."""
    if reference.name not in (_ISTIO_ROOTS, _SYSTEM_ROOTS):
        raise FieldError(
            f"{what}: roots {reference.name!r} are not served here, only {_ISTIO_ROOTS!r} and {_SYSTEM_ROOTS!r} are"
        )
    return bool(reference.name == _ISTIO_ROOTS)


def _mesh_trust(common: Any, validation: Any, what: str) -> bool:
    kind = common.WhichOneof("validation_context_type")
    if kind == "validation_context_certificate_provider_instance":
        return True
    if kind == "validation_context_sds_secret_config":
        return _sds_roots(common.validation_context_sds_secret_config, what)
    if kind == "combined_validation_context":
        combined = common.combined_validation_context
        if combined.HasField("validation_context_sds_secret_config"):
            return _sds_roots(combined.validation_context_sds_secret_config, what)
        if combined.HasField("validation_context_certificate_provider_instance"):
            return True
    # No roots named at all: Envoy would accept anyone; we verify against the system's, as TLS to the world does.
    return validation is not None and bool(validation.HasField("ca_certificate_provider_instance"))


def peer_names(validation: Any, what: str) -> tuple[StringMatcher, ...]:
    """Who the peer may be: any of them. A kind of name that we do not verify matches nobody."""
    names = []
    for index, typed in enumerate(validation.match_typed_subject_alt_names):
        known = typed.san_type in (_DNS, _URI)
        names.append(string(typed.matcher, f"{what}.match_typed_subject_alt_names[{index}]") if known else NEVER)
    if not names:
        names = [
            string(matcher, f"{what}.match_subject_alt_names[{index}]")
            for index, matcher in enumerate(validation.match_subject_alt_names)
        ]
    return tuple(names)
