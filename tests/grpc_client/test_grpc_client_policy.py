"""What routes and clusters say, applied to gRPC calls by the engine."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import (
    PATIENCE,
    TARGET,
    Backend,
    FakeRuntime,
    cluster,
    forward,
    perform,
    retrying,
    until,
    world,
)

from proxyless.model.cluster import OutlierDetection
from proxyless.model.matching import HeaderMatcher, StringKind, StringMatcher
from proxyless.model.route import DirectResponse, Fault, FaultAbort, FaultDelay, WeightedCluster
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel

Start = Callable[..., Backend]
OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ALWAYS = 1_000_000


def with_action(server: Backend, **action: Any) -> FakeRuntime:
    return FakeRuntime(world([cluster(server.port)], forward("ratings", **action)))


def test_a_status_is_retried(api: str, backend: Start) -> None:
    server = backend()
    server.failures = 2
    runtime = with_action(server, retry=retrying("unavailable"))
    found = perform(api, runtime, "unary_unary", "Fail", b"x")
    assert (found.code, found.messages, len(server.calls)) == (OK, [b"x"], 3)
    assert server.calls[2][1]["x-envoy-attempt-count"] == "3"


def test_request_messages_are_sent_again(api: str, backend: Start) -> None:
    server = backend()
    server.failures = 2
    runtime = with_action(server, retry=retrying("unavailable"))
    assert perform(api, runtime, "stream_unary", "FailStream", b"a", b"b").messages == [b"a,b"]
    assert len(server.calls) == 3


def test_more_messages_than_are_kept_are_not_sent_again(api: str, backend: Start) -> None:
    server = backend()
    server.failures = 1
    runtime = with_action(server, retry=retrying("unavailable"))
    found = perform(api, runtime, "stream_unary", "FailStream", *[b"x" * 600_000] * 3)
    assert (found.code, len(server.calls)) == (UNAVAILABLE, 1)


def test_only_the_statuses_of_the_policy_and_only_so_often(api: str, backend: Start) -> None:
    server = backend()
    server.failures = 100
    assert perform(api, with_action(server), "unary_unary", "Fail", b"").code is UNAVAILABLE
    assert len(server.calls) == 1
    runtime = with_action(server, retry=retrying("resource-exhausted"))
    assert perform(api, runtime, "unary_unary", "Fail", b"").details == "try again"
    assert len(server.calls) == 2
    runtime = with_action(server, retry=retrying("unavailable", retries=2))
    assert perform(api, runtime, "unary_unary", "Fail", b"").code is UNAVAILABLE
    assert len(server.calls) == 5


@pytest.mark.parametrize(("pushback", "calls"), [("1", 2), ("-1", 1), ("soon", 1)])
def test_the_server_pushes_back(api: str, backend: Start, pushback: str, calls: int) -> None:
    server = backend()
    server.failures = 1
    runtime = with_action(server, retry=retrying("unavailable"))
    found = perform(api, runtime, "unary_unary", "Fail", b"", metadata=(("pushback", pushback),))
    assert len(server.calls) == calls
    assert found.code is (OK if calls == 2 else UNAVAILABLE)


def test_no_retry_after_the_first_message(api: str, backend: Start) -> None:
    server = backend()
    runtime = with_action(server, retry=retrying("unavailable"))
    if api == "sync":
        with MeshChannel(runtime, TARGET) as channel:
            call: Any = channel.unary_stream("/test.Echo/OneThenFail")(b"")
            assert next(call) == b"one"
            server.go.set()
            with pytest.raises(grpc.RpcError):
                next(call)
            assert call.code() is UNAVAILABLE
    else:

        async def scenario() -> None:
            async with AioMeshChannel(runtime, TARGET) as channel:
                call: Any = channel.unary_stream("/test.Echo/OneThenFail")(b"")
                assert await call.read() == b"one"
                server.go.set()
                with pytest.raises(grpc.aio.AioRpcError, match="in the middle"):
                    await call.read()

        asyncio.run(scenario())
    assert len(server.calls) == 1


def test_a_dead_endpoint_is_left_for_another(api: str, backend: Start) -> None:
    gone, server = backend("gone"), backend("here")
    gone.stop().wait(PATIENCE)
    retry = retrying("connect-failure", retry_other_host=True, host_selection_attempts=5)
    runtime = FakeRuntime(world([cluster(gone.port, server.port)], forward("ratings", retry=retry)))
    for _ in range(4):
        assert perform(api, runtime, "unary_unary", "Who", b"").messages == [b"here"]


def test_a_connection_that_fails_says_so(api: str, backend: Start) -> None:
    gone = backend()
    gone.stop().wait(PATIENCE)
    found = perform(api, FakeRuntime(world([cluster(gone.port)])), "unary_unary", "Who", b"")
    assert found.code is UNAVAILABLE
    assert "Connection refused" in found.details
    assert found.trailing["x-envoy-response-flags"] == "UF"


def test_wait_for_ready(api: str, backend: Start) -> None:
    """First there is no endpoint, then there is one."""
    runtime = FakeRuntime(world([cluster()]))
    assert perform(api, runtime, "unary_unary", "Unary", b"x").code is UNAVAILABLE
    found = perform(api, runtime, "unary_unary", "Unary", b"x", wait_for_ready=True, timeout=0.3)
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED

    server = backend()

    def appear() -> None:
        runtime.world = world([cluster(server.port)])

    timer = threading.Timer(0.2, appear)
    timer.start()
    found = perform(api, runtime, "unary_unary", "Unary", b"x", wait_for_ready=True)
    timer.join()
    assert found.messages == [b"x"]


def test_timeout_of_the_route(api: str, backend: Start) -> None:
    server = backend()
    found = perform(api, with_action(server, timeout=0.3), "unary_unary", "Sleep", b"")
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert found.trailing["x-envoy-response-flags"] == "UT"
    assert server.gone.wait(PATIENCE)
    left = perform(api, with_action(server, timeout=30), "unary_unary", "Left", b"", timeout=50)
    assert 0 < float(left.messages[0]) <= 30


def test_timeout_of_an_attempt(api: str, backend: Start) -> None:
    server = backend()
    runtime = with_action(server, retry=retrying("gateway-error", retries=1, per_try_timeout=0.3))
    found = perform(api, runtime, "unary_unary", "Sleep", b"")
    assert found.code is not grpc.StatusCode.DEADLINE_EXCEEDED or found.messages  # the call had time
    assert len(server.calls) == 2


def test_abort_with_a_grpc_status(api: str, backend: Start) -> None:
    server = backend()
    fault = Fault(abort=FaultAbort(ALWAYS, grpc_status=8))
    runtime = FakeRuntime(world([cluster(server.port)], forward("ratings", route={"fault": fault, "origin": "VS x/y"})))
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        found = perform(api, runtime, kind, "Unary", b"x")
        assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "fault injected by VS x/y" in found.details
        assert found.trailing["x-envoy-response-flags"] == "FI"
    assert not server.calls


def test_delay_and_abort_with_an_http_status(api: str, backend: Start) -> None:
    server = backend()
    fault = Fault(delay=FaultDelay(0.2, ALWAYS), abort=FaultAbort(ALWAYS, http_status=403))
    runtime = FakeRuntime(world([cluster(server.port)], forward("ratings", route={"fault": fault})))
    found = perform(api, runtime, "unary_unary", "Unary", b"x")
    assert found.code is grpc.StatusCode.PERMISSION_DENIED
    assert found.trailing["x-envoy-response-flags"] == "DI,FI"
    found = perform(api, runtime, "unary_unary", "Unary", b"x", timeout=0.05)
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_routes_by_method_and_metadata(api: str, backend: Start) -> None:
    one, two, three = backend("one"), backend("two"), backend("three")
    tester = HeaderMatcher("x-user", StringMatcher(StringKind.EXACT, "tester"))
    runtime = FakeRuntime(
        world(
            [cluster(one.port, name="v1"), cluster(two.port, name="v2"), cluster(three.port, name="v3")],
            forward("v3", prefix="/test.Echo/Unary"),
            forward("v2", route={"match": {"headers": (tester,)}}),
            forward("v1"),
        )
    )
    assert perform(api, runtime, "unary_unary", "Who", b"").messages == [b"one"]
    assert perform(api, runtime, "unary_unary", "Who", b"", metadata=(("x-user", "tester"),)).messages == [b"two"]
    perform(api, runtime, "unary_unary", "Unary", b"")
    assert [method for method, _ in three.calls] == ["Unary"]


def test_a_split_by_weight_over_one_channel(backend: Start) -> None:
    one, two = backend("one"), backend("two")
    split = forward(WeightedCluster("v1", 90), WeightedCluster("v2", 10))
    runtime = FakeRuntime(world([cluster(one.port, name="v1"), cluster(two.port, name="v2")], split))
    with MeshChannel(runtime, TARGET) as channel:
        who = channel.unary_unary("/test.Echo/Who")
        found = [who(b"", timeout=PATIENCE) for _ in range(300)]
    assert 5 <= found.count(b"two") <= 75  # 30 expected; eight deviations away
    assert len(found) == 300


def test_round_robin_over_endpoints(api: str, backend: Start) -> None:
    servers = [backend("a"), backend("b")]
    runtime = FakeRuntime(world([cluster(*(one.port for one in servers))]))
    found = {perform(api, runtime, "unary_unary", "Who", b"").messages[0] for _ in range(4)}
    assert found == {b"a", b"b"}


def test_an_endpoint_with_failing_statuses_is_ejected(api: str, backend: Start) -> None:
    bad, good = backend("bad"), backend("good")
    bad.failures = 1000
    detection = OutlierDetection(consecutive_5xx=2, max_ejection_percent=100)
    runtime = FakeRuntime(world([cluster(bad.port, good.port, outlier_detection=detection)]))
    for _ in range(20):
        perform(api, runtime, "unary_unary", "Fail", b"")
    assert len(bad.calls) == 2


def test_circuit_breaker(backend: Start) -> None:
    server = backend()
    runtime = FakeRuntime(world([cluster(server.port, max_requests=1)]))
    with MeshChannel(runtime, TARGET) as channel:
        sleeping: Any = channel.unary_unary("/test.Echo/Sleep").future(b"")
        until("the first call", lambda: server.calls)
        found = perform("sync", runtime, "unary_unary", "Unary", b"")
        assert found.code is UNAVAILABLE
        assert found.trailing["x-envoy-response-flags"] == "UO"
        sleeping.cancel()
        until("its end", lambda: perform("sync", runtime, "unary_unary", "Unary", b"").code is OK)


def test_requests_per_connection(api: str, backend: Start) -> None:
    """``context.peer()`` tells the connections apart."""
    server = backend()
    server._who = lambda request, context: context.peer().encode()  # type: ignore[method-assign]
    runtime = FakeRuntime(world([cluster(server.port, max_requests_per_connection=2, idle_timeout=60.0)]))
    path, peers = "/test.Echo/Who", []
    if api == "sync":
        with MeshChannel(runtime, TARGET) as channel:
            for _ in range(5):
                peers.append(channel.unary_unary(path)(b"", timeout=PATIENCE))
            assert len(channel.pool.channels()) == 1
    else:

        async def scenario() -> None:
            async with AioMeshChannel(runtime, TARGET) as channel:
                for _ in range(5):
                    peers.append(await channel.unary_unary(path)(b"", timeout=PATIENCE))
                assert len(channel.pool.channels()) == 1

        asyncio.run(scenario())
    assert peers[0] == peers[1] != peers[2] == peers[3] != peers[4]


def test_a_host_that_the_mesh_does_not_know(api: str, backend: Start) -> None:
    server = backend()
    runtime = FakeRuntime(world([cluster()]))
    found = perform(api, runtime, "unary_unary", "Unary", b"x", target=f"localhost:{server.port}")
    assert found.messages == [b"x"]


def test_a_host_that_nobody_answers_about_or_that_is_refused(api: str) -> None:
    runtime = FakeRuntime(world([cluster()]))
    runtime.unknown.add("nobody:1")
    assert perform(api, runtime, "unary_unary", "Unary", b"", target="nobody:1").code is UNAVAILABLE
    blocked = forward("ratings")
    # What a registry-only mesh has for unknown hosts (Istio's BlackHole).
    runtime = FakeRuntime(world([cluster()], type(blocked)(blocked.match, DirectResponse(502, b""))))
    assert perform(api, runtime, "unary_unary", "Unary", b"").code is UNAVAILABLE


def test_routes_and_endpoints_change_under_a_stream(backend: Start) -> None:
    """A stream goes on where it is; what is new goes where the routes say now."""

    async def scenario() -> None:
        async with AioMeshChannel(runtime, TARGET) as channel:
            stream: Any = channel.stream_stream("/test.Echo/Ping")()
            await stream.write(b"1")
            assert await stream.read() == b"1"
            runtime.world = world([cluster(new.port)])
            assert await channel.unary_unary("/test.Echo/Who")(b"", timeout=PATIENCE) == b"new"
            await stream.write(b"2")
            assert await stream.read() == b"2"
            assert len(channel.pool.channels()) == 1  # the old one is retired
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF

    old, new = backend("old"), backend("new")
    runtime = FakeRuntime(world([cluster(old.port)]))
    asyncio.run(scenario())


def test_telemetry(api: str, backend: Start) -> None:
    server = backend()
    runtime = with_action(server)
    perform(api, runtime, "unary_unary", "Unary", b"x")
    perform(api, runtime, "stream_stream", "Ping", b"x", b"y")
    perform(api, runtime, "unary_unary", "Status", b"5 nothing")
    # Ping tells of its end, and may do so after its answer.
    assert server.gone.wait(PATIENCE)
    server.gone.clear()
    perform(api, runtime, "unary_unary", "Sleep", b"", timeout=0.2)
    found: dict[str, float] = {}
    for line in runtime.metrics().splitlines():
        if line.startswith("istio_requests_total{"):
            assert 'request_protocol="grpc"' in line and 'response_code="200"' in line
            assert 'destination_service_name="ratings"' in line
            status = line.partition('grpc_response_status="')[2].partition('"')[0]
            found[status] = found.get(status, 0) + float(line.rpartition(" ")[2])
    assert found == {"0": 2, "5": 1, "4": 1}


def test_endpoints_are_connected_to_before_they_are_needed(api: str, backend: Start) -> None:
    servers = [backend() for _ in range(3)]
    runtime = FakeRuntime(world([cluster(*(server.port for server in servers))]))
    late = backend()
    more = world([cluster(late.port, *(server.port for server in servers))])
    path, ready = "/test.Echo/Unary", grpc.ChannelConnectivity.READY
    if api == "sync":
        with MeshChannel(runtime, TARGET) as channel:

            def connected(count: int) -> bool:
                # Not ``subscribe``, which would connect by itself.
                found: list[Any] = [getattr(one, "_channel") for one in channel.pool.channels()]  # noqa: B009
                return [one.check_connectivity_state(False) for one in found].count(ready.value[0]) == count

            for count in (3, 4):
                channel.unary_unary(path)(b"", timeout=PATIENCE)
                until("connections", lambda count=count: connected(count))  # type: ignore[misc]
                runtime.world = more
    else:

        async def scenario() -> None:
            async with AioMeshChannel(runtime, TARGET) as aio:
                for count in (3, 4):
                    await aio.unary_unary(path)(b"", timeout=PATIENCE)
                    while [one.get_state() for one in aio.pool.channels()].count(ready) < count:
                        await asyncio.sleep(0.01)
                    runtime.world = more

        asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
    assert sum(len(server.calls) for server in (*servers, late)) == 2
