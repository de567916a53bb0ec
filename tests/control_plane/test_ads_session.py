"""A client that never answers: it is sent the newest world after a while, and not more than that."""

import dataclasses
from collections.abc import Iterable

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from proxyless.control_plane.ads import session as module
from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.ports import Generator
from proxyless.control_plane.ads.session import PATIENCE, Session
from proxyless.control_plane.ads.stream import Stream
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.generated import GeneratedResource, Notes, generated
from proxyless.control_plane.type_urls import CLUSTER


@dataclasses.dataclass
class World:
    """One cluster, whose content is the generation."""

    generation: int = 1
    now: float = 1_000.0

    def resources(self, client: object, type_url: str, names: Iterable[str]) -> dict[str, GeneratedResource]:
        return {"c": generated(cluster_pb2.Cluster(name="c", alt_stat_name=str(self.generation)), Notes())}

    def current(self) -> tuple[Generator, int]:
        return self, self.generation


@pytest.mark.parametrize("delta", [True, False])
def test_a_client_that_never_answers_is_sent_what_is_new(monkeypatch: pytest.MonkeyPatch, delta: bool) -> None:
    world = World()
    monkeypatch.setattr(module.time, "monotonic", lambda: world.now)
    stream: Stream | DeltaStream = DeltaStream() if delta else Stream()
    if isinstance(stream, DeltaStream):
        stream.receive(CLUSTER, ("*",), (), known={}, nonce="", error=None)
    else:
        stream.receive(CLUSTER, ("*",), "", "", None)
    client = Client(kind=ClientKind.ENVOY, node_id="mute")
    session = Session(client, "", None, since=0.0, current=world.current, stream=stream)

    def sent() -> list[bytes]:
        return [body for update in session.responses() for body in update.resources.values()]

    assert len(sent()) == 1
    world.now += 10 * PATIENCE
    assert session.patience() is None
    assert sent() == []
    world.now += 1
    world.generation = 2
    (second,) = sent()
    assert cluster_pb2.Cluster.FromString(second).alt_stat_name == "2"
    world.generation = 3
    assert sent() == []
    assert session.patience() == PATIENCE
    world.now += PATIENCE
    assert session.patience() == 0
    (third,) = sent()
    assert cluster_pb2.Cluster.FromString(third).alt_stat_name == "3"
    assert session.patience() is None
