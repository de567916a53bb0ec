"""LDS of a server (gRFC A36): its filter chains say whether callers must speak TLS, and who may do what."""

from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from proxyless.model.inbound import InboundListener, MutualTls, ServerFilter
from proxyless.model.matching import StringMatcher
from proxyless.xds_client.compile import tls
from proxyless.xds_client.compile.decode import FieldError, InvalidResource, is_a, unpack
from proxyless.xds_client.compile.endpoint import socket_address
from proxyless.xds_client.compile.server_filters import server_filters

# FilterChainMatch fields by which a chain serves only some connections.
_NARROWING_LISTS = (
    "prefix_ranges",
    "source_prefix_ranges",
    "direct_source_prefix_ranges",
    "source_ports",
    "server_names",
)


def compile_inbound(message: listener_pb2.Listener) -> InboundListener:
    try:
        return _inbound(message)
    except FieldError as error:
        raise InvalidResource(message.name, str(error)) from error


def _inbound(message: Any) -> InboundListener:
    if message.HasField("api_listener"):
        raise FieldError("api_listener must not be set on a server's listener (gRFC A36)")
    _, port = socket_address(message.address, False, "address")
    if not port:
        raise FieldError("address has no port")
    ignored: list[str] = []
    plain = False
    names: list[tuple[StringMatcher, ...]] = []
    chains = list(message.filter_chains) + (
        [message.default_filter_chain] if message.HasField("default_filter_chain") else []
    )
    filters: list[tuple[ServerFilter, ...]] = []
    for index, chain in enumerate(chains):
        what = f"filter_chains[{chain.name or index}]"
        match = chain.filter_chain_match
        # Also those of a chain that is left out: its connections are another's then.
        filters.append(server_filters(chain, ignored, what, message.name))
        if any(getattr(match, field) for field in _NARROWING_LISTS) or (
            match.HasField("destination_port") and match.destination_port.value not in (0, port)
        ):
            # It serves only some callers: taken for all it would let in more than it should, left out it lets in fewer.
            ignored.append(f"{what}.filter_chain_match: chains for some connections only")
            continue
        context = _downstream(chain, what)
        if context is None and match.transport_protocol in ("", "raw_buffer"):
            plain = True
        elif context is not None and match.transport_protocol in ("", "tls"):
            names.append(context)
        else:
            ignored.append(
                f"{what}: transport_protocol {match.transport_protocol!r} with this transport socket serves nobody"
            )
    if not plain and not names:
        raise FieldError("no filter chain serves this port")
    if len(set(names)) > 1:
        raise FieldError("the TLS filter chains accept different peers: only one is supported")
    mode = MutualTls.DISABLE if not names else MutualTls.PERMISSIVE if plain else MutualTls.STRICT
    san = names[0] if names else ()
    let_in = _of_all(filters, ignored)
    return InboundListener(port, mode, san, tuple(dict.fromkeys(ignored)), let_in)


def _of_all(chains: list[tuple[ServerFilter, ...]], ignored: list[str]) -> tuple[ServerFilter, ...]:
    """The filters of chains that have the same, as ours and Istio's do; of others a request must pass all."""
    if all(one == chains[0] for one in chains):
        return chains[0]
    ignored.append("filter_chains: their filters differ, each applies to every connection")
    return tuple(one for chain in chains for one in chain)


def _downstream(chain: Any, what: str) -> tuple[StringMatcher, ...] | None:
    """The names that a TLS chain accepts, or None for a plaintext chain."""
    if not chain.HasField("transport_socket"):
        return None
    config = chain.transport_socket.typed_config
    if is_a(config, raw_buffer_pb2.RawBuffer):
        return None
    context = unpack(config, tls_pb2.DownstreamTlsContext, f"{what}.transport_socket")
    common = context.common_tls_context
    if not tls.has_identity(common, what):
        raise FieldError(f"{what}: a server needs a certificate provider instance (gRFC A29)")
    if not context.require_client_certificate.value:
        raise FieldError(f"{what}: TLS without require_client_certificate is not supported, only mutual TLS is")
    validation = tls.validation_context(common, what)
    return tls.peer_names(validation, what) if validation is not None else ()
