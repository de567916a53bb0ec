"""How long connections to a gRPC server live: idleness, age, keepalive; with clients that answer and that do not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc_support import SERVICE, Echo, GrpcTestRuntime, plaintext
from test_grpc_server_hostile import CODE, PATIENCE, changed, served
from wire_client import Call, Client, client, until

from proxyless.transport.grpc_server import connection as connections
from proxyless.transport.grpc_server.connection import MeshConnection
from proxyless.transport.grpc_server.server import MeshGrpcServer
from proxyless.transport.grpc_wire.errors import Code

WAIT = changed(":path", f"/{SERVICE}/Wait")


@contextlib.asynccontextmanager
async def waiting(port: int, echo: Echo, *, answers: bool) -> AsyncIterator[tuple[Client, Call]]:
    """A call whose handler waits: on a slow machine not before some connections were too old to take it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client(port, answers=answers) as one:
                call = one.ask(WAIT)
                while not (call.over.is_set() or echo.waiting.is_set()):
                    await asyncio.sleep(0.01)
                if echo.waiting.is_set():
                    yield one, call
                    return


def limited(
    runtime: GrpcTestRuntime, *options: tuple[str, int], echo: Echo | None = None
) -> contextlib.AbstractAsyncContextManager[tuple[int, MeshGrpcServer]]:
    return served(runtime, echo, options=options)


async def ended(one: Client) -> None:
    await asyncio.wait_for(asyncio.shield(one.ended), PATIENCE)


IDLE, AGE, GRACE = "grpc.max_connection_idle_ms", "grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms"
KEEPALIVE, TIMEOUT = "grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms"
WITHOUT_CALLS = "grpc.keepalive_permit_without_calls"


@pytest.mark.parametrize("option", [IDLE, AGE])
@pytest.mark.parametrize("answers", [True, False])
def test_a_connection_without_calls_ends(
    runtime: GrpcTestRuntime, monkeypatch: pytest.MonkeyPatch, option: str, answers: bool
) -> None:
    # Who answers needs none of it.
    monkeypatch.setattr(connections, "DRAIN_TIMEOUT", 600.0 if answers else 0.1)

    async def main() -> None:
        async with limited(runtime, (option, 50)) as (port, server), client(port, answers=answers) as one:
            await ended(one)
            assert one.goaway == Code.NO_ERROR and one.pings == 1
            await until(lambda: not server._core.connections)

    asyncio.run(main())


def test_a_connection_with_a_call_is_not_idle(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        echo = Echo()
        async with limited(runtime, (IDLE, 50), echo=echo) as (port, _), client(port) as one:
            call = one.ask(WAIT)
            await asyncio.wait_for(echo.waiting.wait(), PATIENCE)
            async with client(port) as other:
                await ended(other)  # for as long as it takes another to be idle
            assert not one.draining
            echo.release.set()
            await asyncio.wait_for(call.over.wait(), PATIENCE)
            assert call.found[CODE] == "0"
            await ended(one)

    asyncio.run(main())


@pytest.mark.parametrize("answers", [True, False])
def test_calls_outlive_the_age_of_their_connection(
    runtime: GrpcTestRuntime, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(connections, "DRAIN_TIMEOUT", 600.0 if answers else 0.1)

    async def main() -> None:
        echo = Echo()
        async with (
            limited(runtime, (AGE, 200), echo=echo) as (port, server),
            waiting(port, echo, answers=answers) as (one, call),
        ):
            await until(lambda: all(made.wire.draining for made in server._core.connections) and one.draining)
            assert not one.over and not call.over.is_set()
            echo.release.set()
            await asyncio.wait_for(call.over.wait(), PATIENCE)
            assert call.found[CODE] == "0"
            await ended(one)

    asyncio.run(main())


@pytest.mark.parametrize("answers", [True, False])
def test_calls_end_with_the_grace_after_the_age(runtime: GrpcTestRuntime, answers: bool) -> None:
    async def main() -> None:
        echo = Echo()
        async with (
            limited(runtime, (AGE, 200), (GRACE, 100), echo=echo) as (port, server),
            waiting(port, echo, answers=answers) as (one, call),
        ):
            await ended(one)
            assert call.code is not None and CODE not in call.found
            await until(lambda: not server._core.calls and not server._core.connections)

    asyncio.run(main())


def test_callers_do_not_notice_that_connections_grow_old(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with limited(runtime, (AGE, 100)) as (port, server), plaintext(port) as channel:
            seen: set[MeshConnection] = set()
            async with asyncio.timeout(PATIENCE):
                while len(seen) < 3:
                    # A connection that is too old before it has begun is one that failed.
                    await channel.unary_unary(f"/{SERVICE}/Call")(b"", timeout=PATIENCE, wait_for_ready=True)
                    seen |= server._core.connections

    asyncio.run(main())


@pytest.mark.parametrize(("calls", "options"), [(True, ()), (False, ((WITHOUT_CALLS, 1),))])
def test_who_answers_no_ping_is_let_go(runtime: GrpcTestRuntime, calls: bool, options: Any) -> None:
    async def main() -> None:
        async with (
            limited(runtime, (KEEPALIVE, 50), (TIMEOUT, 100), *options) as (port, server),
            client(port, answers=False) as one,
        ):
            if calls:
                one.ask(WAIT)
            await ended(one)
            assert one.pings
            await until(lambda: not server._core.calls and not server._core.connections)

    asyncio.run(main())


@pytest.mark.parametrize(("calls", "options"), [(True, ()), (False, ((WITHOUT_CALLS, 1),))])
def test_who_answers_pings_stays(runtime: GrpcTestRuntime, calls: bool, options: Any) -> None:
    async def main() -> None:
        echo = Echo()
        async with limited(runtime, (KEEPALIVE, 20), *options, echo=echo) as (port, _), client(port) as one:
            call = one.ask(WAIT) if calls else None
            await until(lambda: one.pings >= 3)
            echo.release.set()
            call = call or one.ask()
            await asyncio.wait_for(call.over.wait(), PATIENCE)
            assert call.found[CODE] == "0"

    asyncio.run(main())


def test_connections_without_calls_are_not_pinged(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with limited(runtime, (KEEPALIVE, 20)) as (port, _), client(port) as quiet, client(port) as busy:
            busy.ask(WAIT)
            await until(lambda: busy.pings >= 3)
            assert not quiet.pings and not quiet.over

    asyncio.run(main())
