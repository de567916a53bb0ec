"""Istio's ServerTLSSettings, which a Sidecar's ingress listener has in common with a Gateway's server.

Source: https://istio.io/latest/docs/reference/config/networking/gateway/#ServerTLSSettings
"""

from enum import StrEnum

from proxyless.control_plane.resources.base import Boolean, Spec, Text


class ServerTLSMode(StrEnum):
    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


class TLSProtocol(StrEnum):
    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TLSCertificate(Spec):
    server_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""


class ServerTLSSettings(Spec):
    """server_certificate, private_key, ca_certificates, ca_crl: paths on the proxy's machine."""

    https_redirect: Boolean = False
    mode: ServerTLSMode = ServerTLSMode.PASSTHROUGH
    server_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""
    ca_crl: Text = ""
    credential_name: Text = ""
    credential_names: tuple[Text, ...] = ()
    tls_certificates: tuple[TLSCertificate, ...] = ()
    subject_alt_names: tuple[Text, ...] = ()
    verify_certificate_spki: tuple[Text, ...] = ()
    verify_certificate_hash: tuple[Text, ...] = ()
    min_protocol_version: TLSProtocol = TLSProtocol.TLS_AUTO
    max_protocol_version: TLSProtocol = TLSProtocol.TLS_AUTO
    cipher_suites: tuple[Text, ...] = ()
