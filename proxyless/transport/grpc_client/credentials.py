"""grpcio's address, credentials and options for a subchannel."""

import ssl
from functools import lru_cache
from typing import Any

import grpc

from proxyless.identity.source import IdentitySource
from proxyless.model.cluster import Cluster, ClusterKind, Endpoint, UpstreamTls
from proxyless.model.errors import NotReadyError
from proxyless.transport.grpc_client.peer_name import Peer
from proxyless.transport.grpc_client.target import address, host_of

Options = tuple[tuple[str, Any], ...]
# Seconds, Envoy's default for upstream connections.
IDLE_TIMEOUT = 3600.0


def connecting(
    identity: IdentitySource, endpoint: Endpoint, cluster: Cluster, authority: str, peer: Peer | None, *, asked: Options
) -> tuple[str, grpc.ChannelCredentials | None, Options]:
    """What a channel of grpcio's is made with. peer: None in plaintext only. Raises NotReadyError without trust."""
    tls = endpoint.tls
    assert (tls is None) == (peer is None)
    secret = credentials(identity, tls) if tls is not None else None
    return address(endpoint), secret, options(cluster, authority, peer.name if peer is not None else None, asked)


def credentials(identity: IdentitySource, tls: UpstreamTls) -> grpc.ChannelCredentials:
    """Of the identity and the trust of this moment; a rotation makes new ones. Raises NotReadyError without trust."""
    svid, bundle = identity.svid, identity.bundle
    if not tls.mesh_trust:
        roots = _system_roots()
    elif bundle is not None:
        roots = bundle.roots_pem
    else:
        raise NotReadyError("no trust bundle yet: the control plane has not been reached since this process started")
    if tls.identity and svid is not None:
        return grpc.ssl_channel_credentials(roots, svid.key_pem, svid.chain_pem)
    return grpc.ssl_channel_credentials(roots)


def options(cluster: Cluster, authority: str, name: str | None, asked: Options) -> Options:
    """name: what the peer must prove, None in plaintext. asked: the application's own, which come last and win,
    except over what identity and routing rest on.
    """
    found: list[tuple[str, Any]] = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        # grpcio's name for how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", max(1, int(cluster.connect_timeout * 1000))),
        # As long without a call; grpcio knows no less than a second.
        ("grpc.client_idle_timeout_ms", int((cluster.idle_timeout or IDLE_TIMEOUT) * 1000)),
        # grpcio 1.85 gives a ping a minute, whatever the keepalive's own timeout says.
        *(("grpc.http2.ping_timeout_ms", value) for key, value in asked if key == "grpc.keepalive_timeout_ms"),
        *((key, value) for key, value in asked if key not in OURS),
        # Not shared with other channels: who retires one must know that it was the only one.
        ("grpc.use_local_subchannel_pool", 1),
        # Retries and timeouts are the mesh's, not a TXT record's.
        ("grpc.service_config_disable_resolution", 1),
    ]
    if cluster.kind is not ClusterKind.PASSTHROUGH:
        found.append(("grpc.enable_http_proxy", 0))
    if name is None:
        found.append(("grpc.default_authority", authority))
    else:
        found.append(("grpc.ssl_target_name_override", name))
        # grpcio checks each call's authority against the channel's, and knows that one without its port only.
        found.append(("grpc.default_authority", host_of(authority)))
    return tuple(found)


OURS = frozenset(
    {
        "grpc.default_authority",
        "grpc.enable_http_proxy",
        "grpc.service_config",
        "grpc.service_config_disable_resolution",
        "grpc.ssl_target_name_override",
        "grpc.use_local_subchannel_pool",
    }
)


@lru_cache(maxsize=1)
def _system_roots() -> bytes:
    """As Python's ssl finds them; grpcio brings its own, which a machine's owner cannot change."""
    ders = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in ders).encode()
