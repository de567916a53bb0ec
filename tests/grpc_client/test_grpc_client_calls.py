"""The four kinds of call, and gRPC's interop cases (doc/interop-test-descriptions.md), with messages of bytes."""

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import PATIENCE, TARGET, Backend, FakeRuntime, cluster, perform, until, world

from proxyless.model.errors import ConfigurationError
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel

Start = Callable[..., Backend]
OK = grpc.StatusCode.OK
BIG = 271828


def runtime_of(*servers: Backend) -> FakeRuntime:
    return FakeRuntime(world([cluster(*(server.port for server in servers))]))


def test_unary_calls(api: str, backend: Start) -> None:
    """empty_unary and large_unary."""
    runtime = runtime_of(backend())
    for request in (b"", b"x" * BIG):
        found = perform(api, runtime, "unary_unary", "Unary", request)
        assert (found.code, found.messages) == (OK, [request])


def test_streams(api: str, backend: Start) -> None:
    """client_streaming, server_streaming, ping_pong, empty_stream."""
    runtime = runtime_of(backend())
    assert perform(api, runtime, "stream_unary", "Join", b"a", b"b", b"c").messages == [b"a,b,c"]
    assert perform(api, runtime, "stream_unary", "Join").messages == [b""]
    assert perform(api, runtime, "unary_stream", "Many", b"100").messages == [b"%d" % n for n in range(100)]
    assert perform(api, runtime, "unary_stream", "Many", b"0").messages == []
    sent = [b"x" * size for size in (27182, 8, 1828, 45904)]
    assert perform(api, runtime, "stream_stream", "Ping", *sent).messages == sent
    found = perform(api, runtime, "stream_stream", "Ping")
    assert (found.code, found.messages) == (OK, [])


def test_large_messages_with_the_options_of_grpcio(api: str, backend: Start) -> None:
    runtime, large = runtime_of(backend()), b"x" * (8 << 20)
    options = (("grpc.max_receive_message_length", -1),)
    assert perform(api, runtime, "unary_unary", "Unary", large, options=options).messages == [large]
    found = perform(api, runtime, "unary_unary", "Unary", large)
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_much_longer_than_what_is_kept_for_replay(api: str, backend: Start) -> None:
    runtime, sent = runtime_of(backend()), [bytes([n]) * 100_000 for n in range(100)]
    assert perform(api, runtime, "stream_stream", "Ping", *sent).messages == sent


@pytest.mark.parametrize("code", [one for one in grpc.StatusCode if one is not OK])
def test_status_code_and_message(api: str, backend: Start, code: grpc.StatusCode) -> None:
    text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
    found = perform(api, runtime_of(backend()), "unary_unary", "Status", f"{code.value[0]} {text}".encode())
    assert (found.code, found.details) == (code, text)


def test_custom_metadata(api: str, backend: Start) -> None:
    server = backend()
    sent = (("x-initial", "one"), ("x-trailing-bin", b"\xab\xab\xab"))
    found = perform(api, runtime_of(server), "unary_unary", "Unary", b"x", metadata=sent)
    assert found.initial["x-initial"] == "one"
    assert found.trailing["x-trailing-bin"] == b"\xab\xab\xab"
    received = server.calls[0][1]
    assert received["x-trailing-bin"] == b"\xab\xab\xab"
    assert received["x-envoy-attempt-count"] == "1"
    assert received["traceparent"] and received["x-request-id"]


def test_unimplemented(api: str, backend: Start) -> None:
    runtime = runtime_of(backend())
    for method in ("/test.Echo/Nothing", "/test.Nothing/Unary"):
        assert perform(api, runtime, "unary_unary", method, b"").code is grpc.StatusCode.UNIMPLEMENTED


def test_timeout_on_sleeping_server(api: str, backend: Start) -> None:
    server = backend()
    found = perform(api, runtime_of(server), "unary_unary", "Sleep", b"", timeout=0.3)
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
    runtime = runtime_of(server)
    found = perform(api, runtime, "stream_stream", "Ping", timeout=0.000001)
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_server_knows_the_deadline(api: str, backend: Start) -> None:
    found = perform(api, runtime_of(backend()), "unary_unary", "Left", b"", timeout=40)
    assert 0 < float(found.messages[0]) <= 40


def test_compression(api: str, backend: Start) -> None:
    found = perform(api, runtime_of(backend()), "unary_unary", "Unary", b"x" * BIG, compression=grpc.Compression.Gzip)
    assert found.messages == [b"x" * BIG]


def test_cancel_after_begin_aio(backend: Start) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server), TARGET) as channel:
            call: Any = channel.stream_unary("/test.Echo/Join")()
            await call.write(b"one")
            assert call.cancel() and call.cancelled()
            assert not call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.code() is grpc.StatusCode.CANCELLED

    server = backend()
    asyncio.run(scenario())


def test_cancel_after_first_response_aio(backend: Start) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server), TARGET) as channel:
            call: Any = channel.stream_stream("/test.Echo/Ping")()
            await call.write(b"one")
            assert await call.read() == b"one"
            ended: list[Any] = []
            call.add_done_callback(ended.append)
            call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert await asyncio.to_thread(server.gone.wait, PATIENCE)
            assert ended == [call]

    server = backend()
    asyncio.run(scenario())


def test_whoever_gives_up_waiting_cancels_the_call(backend: Start) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server), TARGET) as channel:
            task = asyncio.ensure_future(_awaited(channel.unary_unary("/test.Echo/Sleep")(b"")))
            while not server.calls:
                await asyncio.sleep(0.01)
            task.cancel()
            assert await asyncio.to_thread(server.gone.wait, PATIENCE)

    server = backend()
    asyncio.run(scenario())


async def _awaited(call: Any) -> Any:
    return await call


def test_read_write_and_empty_head_aio(backend: Start) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server), TARGET) as channel:
            call: Any = channel.stream_stream("/test.Echo/HeadOnly")()
            await call.wait_for_connection()
            assert tuple(await call.initial_metadata()) == ()
            for message in (b"1", b"2"):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is OK and call.done() and not call.cancelled()
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"3")

    server = backend()
    asyncio.run(scenario())


def test_an_async_iterator_of_requests(backend: Start) -> None:
    async def requests() -> Any:
        yield b"1"
        yield b"2"

    async def broken() -> Any:
        yield b"1"
        raise ValueError("no more")

    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server), TARGET) as channel:
            assert await channel.stream_unary("/test.Echo/Join")(requests()) == b"1,2"
            call: Any = channel.stream_unary("/test.Echo/Join")(broken())
            assert await call.code() is grpc.StatusCode.CANCELLED

    server = backend()
    asyncio.run(scenario())


def test_channel_ready_and_close_aio(backend: Start) -> None:
    async def scenario() -> None:
        channel = AioMeshChannel(runtime_of(server), TARGET)
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        call: Any = channel.unary_unary("/test.Echo/Sleep")(b"")
        await channel.close()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        with pytest.raises(grpc.aio.UsageError):
            channel.unary_unary("/test.Echo/Unary")(b"")

    server = backend()
    asyncio.run(scenario())


def test_futures_and_cancellation_sync(backend: Start) -> None:
    server = backend()
    with MeshChannel(runtime_of(server), TARGET) as channel:
        future: Any = channel.unary_unary("/test.Echo/Unary").future(b"x", timeout=PATIENCE)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert future.result(PATIENCE) == b"x" and future.done() and future.exception() is None
        assert done.wait(PATIENCE)
        assert channel.stream_unary("/test.Echo/Join").future(iter([b"a", b"b"])).result(PATIENCE) == b"a,b"

        sleeping: Any = channel.unary_unary("/test.Echo/Sleep").future(b"")
        until("the call", lambda: any(method == "Sleep" for method, _ in server.calls))
        assert sleeping.cancel() and sleeping.cancelled()
        assert sleeping.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.FutureCancelledError):
            sleeping.result(PATIENCE)
        assert server.gone.wait(PATIENCE)


def test_a_conversation_and_its_cancellation_sync(backend: Start) -> None:
    """ping_pong, cancel_after_first_response."""
    server, go = backend(), threading.Semaphore(1)

    def requests() -> Any:
        for number in range(3):
            assert go.acquire(timeout=PATIENCE)
            yield b"%d" % number
        go.acquire(timeout=PATIENCE)

    with MeshChannel(runtime_of(server), TARGET) as channel:
        call: Any = channel.stream_stream("/test.Echo/Ping")(requests())
        for number in range(3):
            assert next(call) == b"%d" % number
            assert call.is_active()
            if number < 2:
                go.release()
        call.cancel()
        go.release()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert server.gone.wait(PATIENCE)


def test_an_empty_head_before_any_message_sync(backend: Start) -> None:
    go = threading.Event()

    def requests() -> Any:
        assert go.wait(PATIENCE)
        yield b"1"

    with MeshChannel(runtime_of(backend()), TARGET) as channel:
        call: Any = channel.stream_stream("/test.Echo/HeadOnly")(requests())
        assert tuple(call.initial_metadata()) == ()
        go.set()
        assert list(call) == [b"1"]
        assert call.code() is OK


def test_a_forgotten_call_is_cancelled(api: str, backend: Start) -> None:
    server = backend()
    if api == "sync":
        with MeshChannel(runtime_of(server), TARGET) as channel:
            call: Any = channel.unary_stream("/test.Echo/Forever")(b"")
            assert next(call) == b"x"
            del call
            until("its end", lambda: gc.collect() is not None and server.gone.is_set())
        return

    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server), TARGET) as channel:
            call: Any = channel.unary_stream("/test.Echo/Forever")(b"")
            assert await call.read() == b"x"
            del call
            gc.collect()
            assert await asyncio.to_thread(server.gone.wait, PATIENCE)

    asyncio.run(scenario())


def test_a_call_forgotten_within_a_lock_that_its_end_needs(backend: Start) -> None:
    """As the garbage collector may end it: anywhere."""
    server = backend()
    with MeshChannel(runtime_of(server), TARGET) as channel:
        call: Any = channel.unary_stream("/test.Echo/Forever")(b"")
        assert next(call) == b"x"
        calls = [call]
        del call

        def forget() -> None:
            with channel.pool._lock:
                calls.clear()
                gc.collect()

        thread = threading.Thread(target=forget, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        until("its end", server.gone.is_set)


def test_channel_ready_future_sync(backend: Start) -> None:
    with MeshChannel(runtime_of(backend()), TARGET) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)


def test_interceptors_of_grpcio_sync(backend: Start) -> None:
    class Adds(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, request + b"!")

    with MeshChannel(runtime_of(backend()), TARGET) as channel:
        intercepted = grpc.intercept_channel(channel, Adds())
        assert intercepted.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE) == b"x!"


def test_serializers(api: str, backend: Start) -> None:
    from google.protobuf.wrappers_pb2 import StringValue

    runtime, message = runtime_of(backend()), StringValue(value="hello")
    coded = {"request_serializer": StringValue.SerializeToString, "response_deserializer": StringValue.FromString}
    if api == "sync":
        with MeshChannel(runtime, TARGET) as channel:
            assert channel.unary_unary("/test.Echo/Unary", **coded)(message) == message
            assert list(channel.stream_stream("/test.Echo/Ping", **coded)(iter([message]))) == [message]
            return

    async def scenario() -> None:
        async with AioMeshChannel(runtime, TARGET) as channel:
            assert await channel.unary_unary("/test.Echo/Unary", **coded, _registered_method=True)(message) == message

    asyncio.run(scenario())


@pytest.mark.parametrize("target", ["ratings", "xds:///ratings:1", "http://ratings:80/", ""])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(ConfigurationError):
        MeshChannel(runtime_of(), target)
