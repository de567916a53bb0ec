"""Ports of ``mesh.grpc_server``: TLS and plaintext, who is let in, what servicers and telemetry know of it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import uvloop
from grpc_support import SERVICE, Echo, GrpcTestRuntime, SyncEcho, call, mutual_tls, plaintext, started, status
from inbound_support import CLIENT, SERVER, Authority

from proxyless.mesh import Mesh
from proxyless.model.authorization import Action, Anything, Authenticated, Header, Policy, Rbac
from proxyless.model.errors import ConfigurationError
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import HeaderMatcher, StringKind, StringMatcher

WHO = str(CLIENT)


@contextlib.asynccontextmanager
async def running(runtime: GrpcTestRuntime, echo: Any = None, **arguments: Any) -> AsyncIterator[int]:
    server = started(runtime, echo or Echo(), **arguments)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def metrics(runtime: GrpcTestRuntime) -> list[str]:
    return [line for line in runtime.telemetry.prometheus().decode().splitlines() if line.startswith("istio_requests")]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_port_serves_mutual_tls_and_plaintext(runtime: GrpcTestRuntime, authority: Authority, loop: str) -> None:
    async def main() -> None:
        async with running(runtime) as port:
            async with mutual_tls(authority, port, WHO) as channel:
                known = await call(channel)
            async with mutual_tls(authority, port) as channel:
                nameless = await call(channel)
            async with plaintext(port) as channel:
                open_ = await call(channel)
        assert known["identities"] == [WHO]
        assert known["security"] == nameless["security"] == "ssl"
        assert nameless["identities"] == open_["identities"] == []
        assert open_["security"] == "insecure"
        assert all(one["peer"].startswith("ipv4:127.0.0.1:") for one in (known, nameless, open_))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(main())


async def _strict(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async with running(runtime) as port:
        runtime.require(port, MutualTls.STRICT)
        async with mutual_tls(authority, port, WHO) as channel:
            assert (await call(channel))["identities"] == [WHO]
        for refused in (plaintext(port), mutual_tls(authority, port)):
            async with refused as channel:
                assert (await status(channel)).code() is grpc.StatusCode.UNAVAILABLE


def test_strict_takes_only_the_mesh(runtime: GrpcTestRuntime, authority: Authority) -> None:
    asyncio.run(_strict(runtime, authority))


def test_a_certificate_of_strangers_is_refused(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async def main() -> None:
        async with running(runtime) as port:
            chain, key = Authority().leaf(WHO)
            credentials = grpc.ssl_channel_credentials(authority.roots_pem, key, chain)
            override = [("grpc.ssl_target_name_override", "hello.default.sa.cluster.local")]
            channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, override)
            async with channel:
                assert (await status(channel)).code() is grpc.StatusCode.UNAVAILABLE
            async with mutual_tls(authority, port, "spiffe://elsewhere/ns/default/sa/x") as channel:
                assert (await status(channel)).code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_a_port_that_becomes_strict_refuses_open_plaintext_connections(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with running(runtime) as port, plaintext(port) as channel:
            await call(channel)
            runtime.require(port, MutualTls.STRICT)
            error = await status(channel)
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error.details() == "mutual TLS required"
            told = dict(error.trailing_metadata() or ())
            assert "plaintext" in str(told["x-proxyless-reason"])
            assert told["x-envoy-response-flags"] == "NR"
            # A method that nobody serves tells a refused caller nothing.
            assert (await status(channel, "Nothing")).code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(main())
    assert any('grpc_response_status="7"' in line and 'response_flags="NR"' in line for line in metrics(runtime))


def test_a_port_may_be_for_certain_identities_only(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async def main() -> None:
        async with running(runtime) as port:
            only = (StringMatcher(StringKind.EXACT, WHO),)
            runtime.require(port, MutualTls.STRICT, san=only)
            async with mutual_tls(authority, port, WHO) as channel:
                await call(channel)
            async with mutual_tls(authority, port, str(SERVER)) as channel:
                assert (await status(channel)).code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


FORGED = (
    ("x-forwarded-client-cert", "By=a;URI=spiffe://forged"),
    ("x-envoy-peer-metadata", "forged"),
    ("x-envoy-attempt-count", "9"),
    ("x_forwarded_client_cert", "URI=spiffe://forged"),
    ("x-proxyless-anything", "forged"),
    ("x-request-id", "2f1d6a3c-0000-4000-8000-000000000001"),
    ("mine", "kept"),
    ("mine-bin", b"\x00\xff"),
)


def test_only_an_authenticated_caller_may_speak_for_the_mesh(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async def main() -> tuple[dict[str, str], dict[str, str]]:
        async with running(runtime) as port:
            async with plaintext(port) as channel:
                stranger = await call(channel, metadata=FORGED)
            async with mutual_tls(authority, port, WHO) as channel:
                known = await call(channel, metadata=FORGED)
            assert known["deadline"] and not stranger["deadline"]
            assert known["request_id"] == dict(known["metadata"])["x-request-id"] == dict(FORGED)["x-request-id"]
            return dict(stranger["metadata"]), dict(known["metadata"])

    stranger, known = asyncio.run(main())
    for one in (stranger, known):
        assert one["mine"] == "kept" and one["mine-bin"] == str(b"\x00\xff")
        assert "traceparent" in one
        assert "x-envoy-peer-metadata" not in one and "x_forwarded_client_cert" not in one
    assert not [name for name in stranger if name.startswith(("x-forwarded", "x-envoy", "x-proxyless"))]
    forwarded = known["x-forwarded-client-cert"]
    assert forwarded.startswith("By=a;URI=spiffe://forged,By=spiffe://cluster.local/ns/default/sa/hello;Hash=")
    assert forwarded.endswith(f";URI={WHO}")
    assert known["x-envoy-attempt-count"] == "9"


def test_interceptors_of_the_user_see_what_servicers_do(runtime: GrpcTestRuntime, authority: Authority) -> None:
    told: list[Any] = []

    class Mine(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            told.append((details.method, [key for key, _ in details.invocation_metadata]))
            return await continuation(details)

    async def main() -> None:
        async with running(runtime, interceptors=[Mine()]) as port:
            async with mutual_tls(authority, port, WHO) as channel:
                seen = await call(channel, metadata=FORGED)
                assert seen["identities"] == [WHO] and [key for key, _ in seen["metadata"]] == told[0][1]
            async with plaintext(port) as channel:
                await call(channel, metadata=FORGED)
            # Who is refused is not shown to them.
            async with plaintext(port) as channel:
                await call(channel)
                runtime.require(port, MutualTls.STRICT)
                await status(channel)

    asyncio.run(main())
    known, stranger, _ = told
    assert known[0] == f"/{SERVICE}/Call" and "x-envoy-attempt-count" in known[1]
    assert "mine" in stranger[1] and not [
        key for key in stranger[1] if key.startswith(("x-forwarded", "x-envoy", "x_"))
    ]


class _ByMetadata(grpc.GenericRpcHandler):
    """Who serves is told by more than the method."""

    def service(self, details: Any) -> Any:
        name = dict(details.invocation_metadata).get("who", "")

        async def answer(request: bytes, context: Any) -> bytes:
            return name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class _Chooser(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return _ByMetadata().service(details)


@pytest.mark.parametrize("arguments", [{"handlers": [_ByMetadata()]}, {"interceptors": [_Chooser()]}])
def test_a_handler_is_chosen_anew_where_it_may_be_another(
    runtime: GrpcTestRuntime, authority: Authority, arguments: Any
) -> None:
    async def main() -> None:
        async with running(runtime, **arguments) as port, mutual_tls(authority, port, WHO) as channel:
            method: Any = channel.unary_unary("/test.Other/Who")
            for who in ("a", "b", "a"):
                assert await method(b"", metadata=(("who", who),)) == who.encode()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Echo, SyncEcho])
def test_every_kind_of_method(runtime: GrpcTestRuntime, authority: Authority, kind: Any) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(4) as pool:
            async with (
                running(runtime, kind(), migration_thread_pool=pool) as port,
                mutual_tls(authority, port, WHO) as channel,
            ):

                async def requests() -> AsyncIterator[bytes]:
                    for one in (b"a", b"b", b"c"):
                        yield one

                answers = [await channel.unary_unary(f"/{SERVICE}/Call")(b"hi")]
                answers.append(await channel.stream_unary(f"/{SERVICE}/Sum")(requests()))
                answers += [one async for one in channel.unary_stream(f"/{SERVICE}/List")(b"hi")]
                answers += [one async for one in channel.stream_stream(f"/{SERVICE}/Chat")(requests())]
                if kind is Echo:
                    answers += [one async for one in channel.unary_stream(f"/{SERVICE}/Write")(b"hi")]
                assert b"a+b+c" in answers[1]
                assert len(answers) == (11 if kind is Echo else 8)
                assert all(WHO.encode() in one and b'"request_id": null' not in one for one in answers)
                for request, code in ((b"abort", "NOT_FOUND"), (b"code", "ABORTED"), (b"raise", "UNKNOWN")):
                    assert (await status(channel, "Fail", request)).code().name == code
                assert (await status(channel, "Nothing")).code().name == "UNIMPLEMENTED"

    asyncio.run(main())
    lines = "\n".join(metrics(runtime))
    for code in (0, 2, 5, 10, 12):
        assert f'grpc_response_status="{code}"' in lines
    assert lines.count('request_protocol="grpc"') == len(metrics(runtime))
    assert f'source_principal="{WHO}"' in lines and 'connection_security_policy="mutual_tls"' in lines


def test_message_sizes_are_counted(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with running(runtime) as port, plaintext(port) as channel:
            await status(channel, "Fail", b"x" * 1000)

    asyncio.run(main())
    text = runtime.telemetry.prometheus().decode()
    assert any(line.startswith("istio_request_bytes_sum") and line.endswith(" 1000.0") for line in text.splitlines()), (
        text
    )


def test_a_caller_that_goes_is_no_failure_of_the_servicer(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        echo = Echo()
        async with running(runtime, echo) as port, plaintext(port) as channel:
            going = channel.unary_unary(f"/{SERVICE}/Wait")(b"")
            await asyncio.wait_for(echo.waiting.wait(), 60)
            going.cancel()
            while not metrics(runtime):
                await asyncio.sleep(0.01)

    asyncio.run(main())
    (line,) = metrics(runtime)
    assert 'response_flags="DC"' in line and 'response_code="0"' in line


def test_an_unknown_peer_names_nobody(runtime: GrpcTestRuntime, authority: Authority) -> None:
    class Context:
        def peer_identities(self) -> list[bytes]:
            return [b"example.com"]

    assert Mesh.peer(Context()) is None


def test_what_is_no_address_is_said_clearly(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        server = started(runtime, Echo())
        with pytest.raises(ConfigurationError, match="HOST:PORT"):
            server.add_insecure_port("unix:/tmp/x")
        with pytest.raises(ConfigurationError, match="no port"):
            await server.start()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ConfigurationError, match=f"cannot listen on {where}.*choose another port"):
                server.add_insecure_port(where)
        await server.stop(None)

    asyncio.run(main())


def test_stop_drains(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async def main() -> None:
        echo = Echo()
        server = started(runtime, echo)
        port = server.add_insecure_port("127.0.0.1:0")
        second = server.add_insecure_port("127.0.0.1:0")
        assert port != second
        await server.start()
        async with mutual_tls(authority, port, WHO) as channel:
            waiting = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(b"", timeout=60))
            await asyncio.wait_for(echo.waiting.wait(), 60)
            stopping = asyncio.create_task(server.stop(60))
            while "drain" not in runtime.told:
                await asyncio.sleep(0.01)
            # While clients hear of it, they are still served.
            await call(channel)
            assert not stopping.done()
            echo.release.set()
            assert await waiting == b"released"
            await stopping
            assert not await server.wait_for_termination(60)
        async with plaintext(port) as channel:
            assert (await status(channel)).code() is grpc.StatusCode.UNAVAILABLE
        assert not server._core.connections and not server._core.calls

    asyncio.run(main())
    assert runtime.told == ["join grpc,grpc-2 127.0.0.1", "drain", "leave"]


def test_an_expired_identity_is_served_no_more(
    runtime: GrpcTestRuntime, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(runtime) as port, mutual_tls(authority, port, WHO) as channel:
            await call(channel)
            import proxyless.transport.grpc_server.rpc as rpc

            moment = rpc.time.time() + 10_000
            with monkeypatch.context() as patched:
                patched.setattr(rpc.time, "time", lambda: moment)
                error = await status(channel)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "expired" in str(error.details())

    asyncio.run(main())


def test_authorization_policies(runtime: GrpcTestRuntime, authority: Authority) -> None:
    frontend = Authenticated(StringMatcher(StringKind.EXACT, WHO))
    other = Header(HeaderMatcher(":authority", StringMatcher(StringKind.EXACT, "other")))
    asked = Header(HeaderMatcher(":authority", StringMatcher(StringKind.PREFIX, "hello.default.sa.")))

    async def main() -> None:
        async with running(runtime) as port:
            allow = Rbac(Action.ALLOW, (Policy("frontend", Anything(), frontend),))
            runtime.require(port, MutualTls.PERMISSIVE, filters=(allow,))
            async with mutual_tls(authority, port, WHO) as channel:
                assert (await call(channel))["identities"] == [WHO]
                deny = Rbac(Action.DENY, (Policy("other", other, Anything()),))
                runtime.require(port, MutualTls.PERMISSIVE, filters=(deny,))
                await call(channel)
                deny = Rbac(Action.DENY, (Policy("asked", asked, Anything()),))
                runtime.require(port, MutualTls.PERMISSIVE, filters=(deny,))
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
                assert refused.value.details() == "RBAC: access denied"
            runtime.require(port, MutualTls.PERMISSIVE, filters=(allow,))
            async with plaintext(port) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(main())
