"""HTTP clients balance by the load that servers tell in their responses."""

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from outbound_support import CLIENTS, Client, FakeRuntime, Peer, Server, cluster, run, snapshot

from proxyless.model.cluster import LoadBalancer, LoadWeighting
from proxyless.model.load_report import LoadReport


def telling(load: float) -> Callable[[Peer], Awaitable[None]]:
    header = f"Endpoint-Load-Metrics: {LoadReport(load, qps=10).header()}\r\n".encode()

    async def handler(peer: Peer) -> None:
        while True:
            await peer.head()
            body = str(load).encode()
            await peer.send(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (header, len(body), body))

    return handler


@pytest.mark.parametrize("which", CLIENTS, ids="-".join)
def test_the_idle_server_gets_more(which: tuple[str, str]) -> None:
    async def scenario() -> None:
        with Server(telling(0.1)) as idle, Server(telling(0.3)) as busy:
            what = cluster(
                idle.port,
                busy.port,
                load_balancer=LoadBalancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN,
                load_weighting=LoadWeighting(blackout_period=0, update_period=0),
            )
            async with Client(*which, FakeRuntime(snapshot(what))) as client:
                # Until both have told.
                assert {(await client.get()).text for _ in range(2)} == {"0.1", "0.3"}
                found = Counter([(await client.get()).text for _ in range(80)])
        assert found["0.1"] == pytest.approx(60, abs=2)

    run(scenario())
