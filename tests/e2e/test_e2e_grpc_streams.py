"""Long gRPC streams over mutual TLS: certificates, routes and the control plane come and go, and the stream stays."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from local_mesh import LocalMesh

import proxyless

RULES = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings}
spec:
  host: ratings
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {selector: {app: ratings}, ports: [{name: grpc, port: 50051}]}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec: {hosts: [ratings], http: [{route: [{destination: {host: ratings, %s}}]}]}
"""
PATIENCE = 60.0
CLIENT = b"spiffe://cluster.local/ns/default/sa/client"


async def until(what: str, condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := condition()):
            await asyncio.sleep(0.02)
    return found


class Ratings:
    """Answers with its name, to the caller that mutual TLS proved."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    async def who(self, request: bytes, context: Any) -> bytes:
        assert list(context.peer_identities()) == [CLIENT]
        return self.name

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        assert list(context.peer_identities()) == [CLIENT]
        async for request in requests:
            yield self.name + request


async def serve(mesh: proxyless.Mesh, name: bytes) -> Any:
    server, ratings = mesh.grpc_server(), Ratings(name)
    methods = {
        "Who": grpc.unary_unary_rpc_method_handler(ratings.who),
        "Chat": grpc.stream_stream_rpc_method_handler(ratings.chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Ratings", methods),))
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server


class Stream:
    """A conversation through both of our channels at once. ``say`` is answered on each."""

    def __init__(self, channel: grpc.aio.Channel, blocking: grpc.Channel) -> None:
        self.aio: Any = channel.stream_stream("/test.Ratings/Chat")()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.blocking: Any = blocking.stream_stream("/test.Ratings/Chat")(iter(self._requests.get, None))

    async def say(self, word: bytes) -> set[bytes]:
        async with asyncio.timeout(PATIENCE):
            await self.aio.write(word)
            self._requests.put(word)
            return {await self.aio.read(), await asyncio.to_thread(next, self.blocking)}

    async def finish(self) -> None:
        """The blocking one stays."""
        await self.aio.done_writing()
        assert await self.aio.read() is grpc.aio.EOF
        assert await self.aio.code() is grpc.StatusCode.OK

    def release(self) -> None:
        self._requests.put(None)


async def renewed(mesh: proxyless.Mesh) -> None:
    """As at half of a certificate's life."""
    agent, source = mesh.runtime.agent, mesh.runtime.identity
    before = source.svid
    agent._thread.call_soon(agent._rotation.renew)
    await until("a new certificate", lambda: source.svid is not before)


async def scenario(local: LocalMesh, folder: Path) -> None:
    async def apply(text: str) -> None:
        (folder / "rules.yaml").write_text(text)
        await asyncio.to_thread(local.run, "apply", "--wait", "-f", str(folder / "rules.yaml"))

    await apply(RULES + "---" + ROUTE % "subset: v1")
    servers = [
        local.mesh(service="ratings", service_account=name, labels={"app": "ratings", "version": name})
        for name in ("v1", "v2")
    ]
    first, second = await serve(servers[0], b"v1"), await serve(servers[1], b"v2")
    client = local.mesh(service_account="client")
    blocking = client.grpc_channel_sync("ratings:50051")
    async with client.grpc_channel("ratings:50051") as channel:
        who = channel.unary_unary("/test.Ratings/Who")

        async def answers() -> set[bytes]:
            return {await who(b"", timeout=PATIENCE, wait_for_ready=True) for _ in range(4)}

        assert await answers() == {b"v1"}
        stream = Stream(channel, blocking)
        try:
            assert await stream.say(b" begins") == {b"v1 begins"}
            (connection,) = channel.pool.channels()

            for mesh in (client, servers[0]):
                await renewed(mesh)
            assert await answers() == {b"v1"}
            assert connection not in channel.pool.channels()
            assert await stream.say(b" after a rotation") == {b"v1 after a rotation"}

            await apply(ROUTE % "subset: v2")
            assert await answers() == {b"v2"}
            assert await stream.say(b" after a change") == {b"v1 after a change"}

            local.processes.kill("control-plane")
            assert await answers() == {b"v2"}
            assert await stream.say(b" alone") == {b"v1 alone"}
            await asyncio.to_thread(local.start_control_plane)
            await apply(ROUTE % "port: {number: 50051}")
            found: set[bytes] = set()
            async with asyncio.timeout(PATIENCE):
                while found != {b"v1", b"v2"}:
                    found |= await answers()
            assert await stream.say(b" after its return") == {b"v1 after its return"}

            stopping = asyncio.create_task(first.stop(2 * PATIENCE))
            # GOAWAY: the connection takes nothing new; streams on it go on.
            await until("GOAWAY", lambda: connection.get_state() is not grpc.ChannelConnectivity.READY)
            assert await stream.say(b" drains") == {b"v1 drains"}
            assert await answers() == {b"v2"}
            await stream.finish()
            # Whoever does not end is ended with the time for the drain.
            assert not stopping.done()
            await first.stop(0.1)
            assert await asyncio.to_thread(stream.blocking.code) is grpc.StatusCode.UNAVAILABLE
            await stopping
            assert await answers() == {b"v2"}
        finally:
            stream.release()
            blocking.close()
            await first.stop(None)
            await second.stop(None)


def test_a_stream_ends_only_with_its_endpoint(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    asyncio.run(scenario(local, tmp_path))
