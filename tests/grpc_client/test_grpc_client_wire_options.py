"""Which of grpcio's options our own connections follow, and what is left to grpcio."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import PATIENCE, TARGET, Authority, Backend, FakeRuntime, cluster, world

from proxyless.engine.steps import Attempt
from proxyless.model.cluster import Cluster, ClusterKind, Endpoint, UpstreamTls
from proxyless.transport.grpc_client import AioMeshChannel
from proxyless.transport.grpc_client.rpc import Asked
from proxyless.transport.grpc_client.wire.head import InvalidMetadata, custom, timeout
from proxyless.transport.grpc_client.wire.options import WireOptions, encoding_of, only_grpcio, read

Start = Callable[..., Backend]
AGENT = WireOptions().user_agent


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((), {}),
        (
            (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 500)),
            {"keepalive": 30.0, "keepalive_timeout": 0.5},
        ),
        (
            (("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0)),
            {"keepalive_idle": True, "quiet_pings": 0},
        ),
        ((("grpc.keepalive_time_ms", 2**31 - 1),), {}),
        (
            (("grpc.max_send_message_length", 7), ("grpc.max_receive_message_length", -1)),
            {"most_sent": 7, "most_received": None},
        ),
        ((("grpc.max_receive_message_length", 1), ("grpc.max_receive_message_length", 2)), {"most_received": 2}),
        ((("grpc.client_idle_timeout_ms", 5000),), {"idle_timeout": 5.0}),
        ((("grpc.min_reconnect_backoff_ms", 5000),), {"connect_timeout": 5.0}),
        (
            (("grpc.initial_reconnect_backoff_ms", 5), ("grpc.max_reconnect_backoff_ms", 50)),
            {"back_off": 0.005, "most_back_off": 0.05},
        ),
        ((("grpc.primary_user_agent", "a"), ("grpc.secondary_user_agent", "b")), {"user_agent": f"a {AGENT} b"}),
        ((("grpc.default_compression_algorithm", 2),), {"encoding": "gzip"}),
        # The mesh's own, whatever the application says.
        ((("grpc.default_authority", "forged"), ("grpc.service_config", "{}")), {}),
    ],
)
def test_options_that_we_follow(asked: Any, expected: dict[str, Any]) -> None:
    assert read(asked) == WireOptions(**expected)


@pytest.mark.parametrize(
    "asked",
    [
        (("grpc.max_metadata_size", 100),),
        (("grpc.keepalive_time_ms", "30"),),
        (("grpc.primary_user_agent", "a\n"),),
        (("grpc.default_compression_algorithm", 9),),
    ],
)
def test_options_that_are_grpcios(asked: Any) -> None:
    assert read(asked) is None


def test_compression_of_channel_and_call() -> None:
    options = read((), grpc.Compression.Gzip)
    assert options is not None
    assert (
        encoding_of(Asked(), options)
        == encoding_of(Asked(compression=grpc.Compression.NoCompression), options)
        == "gzip"
    )
    assert encoding_of(Asked(compression=grpc.Compression.Deflate), options) == "deflate"


def test_calls_that_are_grpcios() -> None:
    mesh, outside = (
        Attempt(Endpoint("h", 1), Cluster("c", kind=kind), 1, None, "POST", "/", "h", [])
        for kind in (ClusterKind.ENDPOINTS, ClusterKind.PASSTHROUGH)
    )
    proxy = {"http_proxy": "http://proxy:3128"}
    secret = Asked(credentials=grpc.access_token_call_credentials("token"))
    assert only_grpcio(mesh, secret, environ={})
    assert [only_grpcio(step, Asked(), environ=proxy) for step in (mesh, outside)] == [False, True]
    assert not only_grpcio(outside, Asked(), environ={})


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (0.0, b"1u"),
        (0.0000015, b"2u"),
        (1.5, b"1500000u"),
        (99.999999, b"99999999u"),
        (100.0, b"100000m"),
        (1e6, b"1000000S"),
        (1e12, b"99999999S"),
    ],
)
def test_timeouts(seconds: float, line: bytes) -> None:
    assert timeout(seconds).endswith(bytes([len(line)]) + line)


def test_heads() -> None:
    assert custom([("te", "x"), ("grpc-timeout", "1S"), ("x-y", "a  b")]) == b"\0\3x-y\4a  b"
    for name, value in (("X-Y", "a"), ("x y", "a"), ("", "a"), (":path", "a"), ("x-y", "\x7f"), ("x-y", "é")):
        with pytest.raises(InvalidMetadata):
            custom([(name, value)])


@pytest.mark.parametrize("how", ["option", "credentials"])
def test_what_only_grpcio_can_do_is_done_by_it(backend: Start, authority: Authority, how: str) -> None:
    async def scenario() -> None:
        options = (("grpc.max_metadata_size", 100_000),) if how == "option" else ()
        asked = {} if how == "option" else {"credentials": grpc.access_token_call_credentials("token")}
        async with AioMeshChannel(runtime, TARGET, options) as channel:
            method: Any = channel.unary_unary("/test.Echo/Unary")
            assert await method(b"x", timeout=PATIENCE, **asked) == b"x"
            call = method(b"y", timeout=PATIENCE, **asked)
            assert await call.code() is grpc.StatusCode.OK and await call == b"y"
            stream: Any = channel.stream_stream("/test.Echo/Ping")(iter([b"1", b"2"]), timeout=PATIENCE, **asked)
            assert [one async for one in stream] == [b"1", b"2"]
            assert len(channel.grpcio.channels()) == 1 and not channel.pool.channels()
            assert channel.get_state() is grpc.ChannelConnectivity.READY
        assert how == "option" or [sent["authorization"] for _, sent in server.calls] == ["Bearer token"] * 3

    server = backend("", authority.credentials("ratings"))
    runtime = FakeRuntime(world([cluster(server.port, tls=UpstreamTls())]))
    runtime.identity = authority.source()
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
