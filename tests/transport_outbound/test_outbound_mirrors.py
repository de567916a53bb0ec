"""Copies of requests: sent beside the request, for nobody to wait for."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from outbound_support import (
    CLIENTS,
    URL,
    Client,
    FakeRuntime,
    Handler,
    Peer,
    Server,
    cluster,
    echo,
    eventually,
    run,
    snapshot,
)

from proxyless.model.route import Mirror
from proxyless.model.snapshot import Snapshot
from proxyless.transport import mirrors

pytestmark = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
Which = tuple[str, str]


@contextlib.contextmanager
def mirrored(to: Handler) -> Iterator[tuple[Server, Server, FakeRuntime]]:
    with Server(echo) as server, Server(to) as other:
        world = snapshot(cluster(server.port))
        listener = next(iter(world.listeners.values()))
        assert listener is not None and listener.virtual_host is not None
        (route,) = listener.virtual_host.routes
        action = replace(route.action, mirrors=(Mirror("next"),))  # type: ignore[call-arg]
        host = replace(listener.virtual_host, routes=(replace(route, action=action),))
        listeners = {listener.name: replace(listener, virtual_host=host)}
        clusters = {**world.clusters, "next": replace(cluster(other.port), name="next")}
        yield server, other, FakeRuntime(Snapshot(listeners=listeners, clusters=clusters))


def series(runtime: FakeRuntime) -> str:
    return "\n".join(
        line
        for line in runtime.telemetry.prometheus().decode().splitlines()
        if line.startswith("istio_requests_total{") and 'destination_service_name="next"' in line
    )


async def silent(peer: Peer) -> None:
    await peer.head()
    await peer.reader.read()


def test_a_copy_goes_elsewhere(which: Which) -> None:
    async def scenario() -> None:
        with mirrored(echo) as (server, other, runtime):
            async with Client(*which, runtime) as client:
                for number in range(3):
                    answer = await client.post(f"{URL}a", content=b"%d" % number, extensions={"timeout": {}})
                    assert answer.text == f"POST /a HTTP/1.1|{number}"
                    await eventually(lambda done=number + 1: series(runtime).endswith(f" {done}.0"))  # type: ignore[misc]
            ((_, line, headers), *_) = other.requests
            assert (line, headers["host"], headers["content-length"]) == ("POST /a HTTP/1.1", "reviews-shadow", "1")
            assert headers["x-request-id"] == server.requests[0][2]["x-request-id"]
            assert (len(server.requests), len(other.requests), other.connections) == (3, 3, 1)
            assert 'response_code="200"' in series(runtime)

    run(scenario())


def test_what_is_streamed_is_not_copied(which: Which) -> None:
    async def scenario() -> None:
        with mirrored(echo) as (_, other, runtime):
            async with Client(*which, runtime) as client:
                assert (await client.post(content=[b"a", b"b"])).text.endswith("|ab")
            assert other.requests == []

    run(scenario())


def test_copies_are_bounded_and_hold_nobody_up(which: Which, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "MOST", 1)

    async def scenario() -> None:
        with mirrored(silent) as (_, other, runtime):
            async with Client(*which, runtime) as client:
                for _ in range(3):
                    assert (await client.get()).status_code == 200
                await eventually(lambda: 'response_flags="UO"' in series(runtime))
            assert series(runtime).splitlines()[0].endswith(" 2.0")
            assert len(other.requests) <= 1

    run(scenario())
