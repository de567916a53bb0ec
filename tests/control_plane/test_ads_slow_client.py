"""A client that does not read: it holds up nobody, is sent the newest state once it reads, and costs no memory."""

import asyncio
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from running_control_plane import DEADLINE, DeltaStream, node

from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.service import DELTA_METHOD, SERVICE, AdsService
from proxyless.control_plane.ads.status import SyncState
from proxyless.control_plane.grpc_server import start_grpc_server
from proxyless.control_plane.server import read_node
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.generated import GeneratedResource, Notes, generated
from proxyless.control_plane.type_urls import CLUSTER
from proxyless.control_plane.world import World

CHANGES = 30
SIZE = 500_000


class Generator:
    """One large cluster, whose content is the world's generation."""

    changed = None

    def __init__(self, world: World, before: "Generator | None") -> None:
        name = str(world.generation).rjust(SIZE)
        self.found = {"c": generated(cluster_pb2.Cluster(name="c", alt_stat_name=name), Notes())}

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> dict[str, GeneratedResource]:
        return self.found if type_url == CLUSTER else {}


def generation_of(response: Any) -> int:
    message = cluster_pb2.Cluster()
    response.resources[0].resource.Unpack(message)
    return int(message.alt_stat_name)


class Mute:
    """An HTTP/2 client that leaves no room for a single byte of an answer until it is told to ``listen``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
        )
        self.http.initiate_connection()
        self.http.send_headers(
            1,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "control-plane"),
                (":path", f"/{SERVICE}/{DELTA_METHOD}"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ],
        )
        self.data = bytearray()

    async def say(self, **fields: Any) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER, **fields)
        body = request.SerializeToString()
        self.http.send_data(1, struct.pack(">BI", 0, len(body)) + body)
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()

    def listen(self) -> None:
        self.http.increment_flow_control_window(2**30)
        self.http.increment_flow_control_window(2**30, 1)
        self.writer.write(self.http.data_to_send())

    async def read(self) -> Any:
        """The next response."""
        while (message := next(self._messages(), None)) is None:
            received = await asyncio.wait_for(self.reader.read(65536), DEADLINE)
            assert received
            for event in self.http.receive_data(received):
                if isinstance(event, h2.events.DataReceived):
                    self.data += event.data
            self.writer.write(self.http.data_to_send())
        return message

    def _messages(self) -> Iterator[Any]:
        if len(self.data) >= 5:
            length = struct.unpack(">BI", self.data[:5])[1]
            if len(self.data) >= 5 + length:
                body = bytes(self.data[5 : 5 + length])
                del self.data[: 5 + length]
                yield discovery_pb2.DeltaDiscoveryResponse.FromString(body)


@pytest.mark.parametrize("guesses", [False, True], ids=["silent", "acknowledges unseen"])
def test_a_client_that_does_not_read_holds_up_nobody(guesses: bool) -> None:
    async def scenario() -> None:
        ads = AdsServer(Generator, read_node)
        ads.publish(World(generation=1))
        server, port = await start_grpc_server([AdsService(ads, None).handler()], "127.0.0.1", 0, "port")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        try:
            mute = Mute(reader, writer)
            await mute.say(node=node("mute", agent="envoy"))
            await reached("the first push", lambda: ads.counters.pushes.total() == 1)
            from_now = ads.counters.pushes.total()
            await compare(ads, port, mute)
            # Everything that was sent went to the client that reads.
            assert ads.counters.pushes.total() - from_now == CHANGES
            status = next(each for each in ads.clients() if each.node == "mute")
            assert status.types[0].state is (SyncState.SYNCED if guesses else SyncState.STALE)

            mute.listen()
            first = await mute.read()
            if not guesses:
                await mute.say(response_nonce=first.nonce)
            last = await mute.read()
            assert (generation_of(first), generation_of(last)) == (1, CHANGES)
        finally:
            ads.stop()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await server.stop(grace=None)

    async def compare(ads: AdsServer, port: int, mute: Mute) -> None:
        """Change the world; a client that reads gets every change while the other gets none."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            fast = DeltaStream(channel, node("fast", agent="envoy"))
            await fast.ask(CLUSTER)
            for generation in range(1, CHANGES + 1):
                if generation > 1:
                    ads.publish(World(generation=generation))
                response = await fast.read()
                assert generation_of(response) == generation
                await fast.answer(response)
                if guesses:
                    for nonce in range(1, 4):
                        await mute.say(response_nonce=str(nonce))

    asyncio.run(scenario())


async def reached(what: str, condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)
