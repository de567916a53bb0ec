"""gRPC servers with the limits and keepalive that long-lived xDS streams need."""

from collections.abc import Iterable

import grpc

from proxyless.control_plane.sockets import listen
from proxyless.model.address import join_address
from proxyless.model.errors import ConfigurationError

_OPTIONS = (
    # Istio's values: a peer that vanished without a word is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without it a ping has a minute, whatever the keepalive says.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # By default only two pings go out on a stream that has nothing to say: a registration, most of the time.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1_000),
    # Two control planes must not share a port unnoticed.
    ("grpc.so_reuseport", 0),
)


async def start_grpc_server(
    handlers: Iterable[grpc.GenericRpcHandler], host: str, port: int, option: str
) -> tuple[grpc.aio.Server, int]:
    """A started plaintext server and its port (chosen if ``port`` is 0). ``option`` names the setting in errors."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(tuple(handlers))
    # gRPC's own message about a port in use does not say so; a socket's does.
    listen(host, port, option).close()
    address = join_address(host, port)
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigurationError(f"cannot listen on {address}: {error}; choose another {option}") from None
    await server.start()
    return server, bound
