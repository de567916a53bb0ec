"""Sidecar: what Istio's ValidateSidecar checks."""

import ipaddress

from proxyless.control_plane.resources.names import is_dns_label, is_host, is_ip
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.server_tls import ServerTLSMode, ServerTLSSettings
from proxyless.control_plane.resources.sidecar import (
    UNIX,
    CaptureMode,
    IstioEgressListener,
    IstioIngressListener,
    SidecarOutboundTrafficPolicy,
    SidecarOutboundTrafficPolicyMode,
    SidecarPort,
    SidecarSpec,
)
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.validation.destination_rule import check_connection_pool
from proxyless.control_plane.resources.validation.service_entry import PROTOCOLS
from proxyless.control_plane.resources.validation.virtual_service import check_destination
from proxyless.model.domains import split_port

_LOCAL = ("127.0.0.1", "0.0.0.0", "[::1]", "[::]")  # noqa: S104  what an application may listen on


def check_sidecar(checks: Checks, spec: SidecarSpec) -> None:
    acting = (spec.egress, spec.ingress, spec.outbound_traffic_policy, spec.inbound_connection_pool)
    if not any(value not in ((), None) for value in acting):
        checks.error("spec", "one of egress, ingress, outboundTrafficPolicy, inboundConnectionPool is required")
    if spec.workload_selector is not None:
        checks.labels("spec.workloadSelector.labels", spec.workload_selector.labels)
    seen: set[int] = set()
    for index, ingress in enumerate(spec.ingress):
        path = child("spec.ingress", index)
        _ingress(checks, path, ingress)
        if ingress.port.number in seen:
            checks.error(f"{path}.port.number", f"another ingress listener has the port {ingress.port.number}")
        seen.add(ingress.port.number)
    check_connection_pool(checks, "spec.inboundConnectionPool", spec.inbound_connection_pool)
    _egress_listeners(checks, spec.egress)
    _outbound(checks, spec.outbound_traffic_policy)


def _ingress(checks: Checks, path: str, listener: IstioIngressListener) -> None:
    _port(checks, f"{path}.port", listener.port)
    if not 1 <= listener.port.number <= 65535:
        checks.error(f"{path}.port.number", "must be from 1 to 65535")
    if listener.bind and not is_ip(listener.bind):
        checks.error(f"{path}.bind", f"{listener.bind!r} is not an IP address")
    endpoint = listener.default_endpoint
    if endpoint.startswith(UNIX):
        _unix(checks, f"{path}.defaultEndpoint", endpoint)
    elif endpoint:
        host, port = split_port(endpoint)
        if host not in _LOCAL or not port or not 0 < port < 65536:
            checks.error(
                f"{path}.defaultEndpoint",
                f"{endpoint!r} must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///PATH",
            )
    if listener.tls is not None:
        _tls(checks, f"{path}.tls", listener.tls, listener.port.protocol)
    check_connection_pool(checks, f"{path}.connectionPool", listener.connection_pool)


def _tls(checks: Checks, path: str, tls: ServerTLSSettings, protocol: str) -> None:
    if protocol.upper() not in ("HTTPS", "TLS"):
        checks.error(path, f"is only allowed for the protocols HTTPS and TLS, not {protocol}")
    if tls.mode in (ServerTLSMode.ISTIO_MUTUAL, ServerTLSMode.AUTO_PASSTHROUGH):
        checks.error(f"{path}.mode", f"{tls.mode} is not allowed here; use SIMPLE or MUTUAL")
    for field, value in (
        ("subjectAltNames", tls.subject_alt_names),
        ("httpsRedirect", tls.https_redirect),
        ("credentialName", tls.credential_name),
        ("credentialNames", tls.credential_names),
        ("tlsCertificates", tls.tls_certificates),
    ):
        if value:
            checks.error(f"{path}.{field}", "is not allowed in a Sidecar; name files with serverCertificate")
    if tls.mode in (ServerTLSMode.SIMPLE, ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL):
        if not tls.server_certificate:
            checks.error(f"{path}.serverCertificate", f"is required with mode {tls.mode}")
        if not tls.private_key:
            checks.error(f"{path}.privateKey", f"is required with mode {tls.mode}")
    if tls.mode in (ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL) and not tls.ca_certificates:
        checks.error(f"{path}.caCertificates", f"is required with mode {tls.mode}")


def _egress_listeners(checks: Checks, listeners: tuple[IstioEgressListener, ...]) -> None:
    numbers: set[int] = set()
    sockets: set[str] = set()
    without_port = False
    for index, listener in enumerate(listeners):
        path = child("spec.egress", index)
        port = listener.port
        if port is None:
            if without_port:
                checks.error(path, "only one egress listener may be without a port")
            elif index != len(listeners) - 1:
                checks.error(path, "the egress listener without a port must be the last one")
            without_port = True
        else:
            _port(checks, f"{path}.port", port)
            _bind(checks, path, port, listener)
            if port.number == 0 and listener.bind in sockets:
                checks.error(f"{path}.bind", f"another egress listener has the socket {listener.bind}")
            elif port.number and port.number in numbers:
                checks.error(f"{path}.port.number", f"another egress listener has the port {port.number}")
            (numbers.add(port.number) if port.number else sockets.add(listener.bind))
        _hosts(checks, f"{path}.hosts", listener.hosts)


def _port(checks: Checks, path: str, port: SidecarPort) -> None:
    if port.name and not is_dns_label(port.name):
        checks.error(f"{path}.name", f"{port.name!r} is not a port name (lower case letters, digits, '-')")
    if port.protocol.upper() not in PROTOCOLS:
        checks.error(f"{path}.protocol", f"{port.protocol!r} is not one of {', '.join(sorted(PROTOCOLS))}")
    if port.target_port:
        checks.error(f"{path}.targetPort", "has no meaning in a Sidecar; remove it")


def _bind(checks: Checks, path: str, port: SidecarPort, listener: IstioEgressListener) -> None:
    if port.number > 65535:
        checks.error(f"{path}.port.number", "must be from 1 to 65535, or 0 for a unix socket")
    elif port.number:
        if listener.bind and not is_ip(listener.bind):
            checks.error(f"{path}.bind", f"{listener.bind!r} is not an IP address")
        elif listener.bind and not ipaddress.ip_address(listener.bind).is_loopback:
            checks.warning(f"{path}.bind", "whoever can reach it calls with the workload's identity; is it 127.0.0.1?")
    else:
        if listener.bind.startswith(UNIX):
            _unix(checks, f"{path}.bind", listener.bind)
        else:
            checks.error(f"{path}.bind", "port 0 needs a unix socket: write unix:///PATH")
        if listener.capture_mode is CaptureMode.IPTABLES:
            checks.error(f"{path}.captureMode", "must be DEFAULT or NONE for a unix socket")


def _unix(checks: Checks, path: str, address: str) -> None:
    if not address.removeprefix(UNIX).startswith(("/", "@")):
        checks.error(path, "a unix socket needs an absolute path")


def _hosts(checks: Checks, path: str, hosts: tuple[str, ...]) -> None:
    if not hosts:
        checks.error(path, 'must list at least one host; "*/*" is all of them, "~/*" none')
    own = checks.resource.namespace
    seen: dict[str, set[str]] = {}
    for index, host in enumerate(hosts):
        here = child(path, index)
        namespace, slash, name = host.partition("/")
        if not slash or not name:
            checks.error(here, f"{host!r} must be NAMESPACE/DNS-NAME, such as ./* or */api.example.com")
            continue
        if namespace not in ("*", ".", "~") and not is_dns_label(namespace):
            checks.error(here, f'{namespace!r} is not a namespace; use a name, ".", "*" or "~"')
        if namespace == "~" and name != "*":
            checks.error(here, '"~" (no namespace) goes with "*" only')
        if name != "*" and not is_host(name):
            checks.error(here, f"{name!r} is not a DNS name")
        names = seen.setdefault(own if namespace == "." else namespace, set())
        if name in names or "*" in names or (name == "*" and names):
            checks.warning(here, f"{host} is a duplicate of a host before it")
        names.add(name)
    if "*" in seen.get("*", ()) and len(seen) > 1:
        checks.warning(path, '"*/*" selects everything; the other hosts have no effect')


def _outbound(checks: Checks, policy: SidecarOutboundTrafficPolicy | None) -> None:
    if policy is None or policy.egress_proxy is None:
        return
    path = "spec.outboundTrafficPolicy.egressProxy"
    if policy.mode is not SidecarOutboundTrafficPolicyMode.ALLOW_ANY:
        checks.error(path, "is only allowed with mode ALLOW_ANY")
    if policy.egress_proxy.port is None:
        checks.error(f"{path}.port", "is required")
    check_destination(checks, path, policy.egress_proxy)
