"""A change is for the clients that watch what it touches, and they are sent what they would be if all were asked."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.state import Update
from proxyless.control_plane.ads.stream import Stream
from proxyless.control_plane.delivery.delivery import Delivery
from proxyless.control_plane.server import read_node
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.generated import GeneratedResource
from proxyless.control_plane.translate.sidecar_ports import SidecarPorts
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, PUSH_ORDER, ROUTE
from proxyless.control_plane.world import MeshSettings, World
from proxyless.model.workload import Workload

Content = dict[tuple[str, str], bytes]


def workload(service: str, number: int) -> Workload:
    return Workload(f"{service}-{number}", "default", service, service, f"10.0.0.{number}", {"http": 8080})


def world(generation: int, *workloads: Workload) -> World:
    return World(workloads={one.id: one for one in workloads}, generation=generation)


def subscribe(ads: AdsServer, session: Session, type_url: str, *names: str) -> None:
    assert isinstance(session.stream, Stream)
    subscription = session.stream.receive(type_url, names, "", "", None)
    ads.watch(session, type_url, subscription.names)


def drain(session: Session) -> list[Update]:
    """Accept everything until nothing is due."""
    assert isinstance(session.stream, Stream)
    seen = []
    while updates := list(session.responses()):
        for update in updates:
            names = session.subscriptions[update.type_url].names
            session.stream.receive(update.type_url, names, update.version, update.nonce, None)
        seen += updates
    session.wake.clear()
    return seen


def test_a_change_of_endpoints_wakes_those_who_watch_them_and_sends_nothing_else() -> None:
    async def scenario() -> None:
        ads = AdsServer(Translator, read_node)
        ads.publish(world(1, workload("reviews", 1), workload("ratings", 2)))
        sessions: dict[str, Session] = {}
        for service in ("reviews", "ratings"):
            host = f"{service}.default.svc.cluster.local"
            session = sessions[service] = ads.open(Client(ClientKind.GRPC, service), "", None, Stream())
            subscribe(ads, session, LISTENER, f"{service}:80")
            subscribe(ads, session, ROUTE, f"{host}:80")
            subscribe(ads, session, CLUSTER, f"outbound|80||{host}")
            subscribe(ads, session, ENDPOINT, f"outbound|80||{host}")
        envoy = sessions["envoy"] = ads.open(Client(ClientKind.ENVOY, "envoy"), "", None, Stream())
        subscribe(ads, envoy, CLUSTER)
        assert all(drain(session) for session in sessions.values())
        ads.tell()
        assert not any(drain(session) for session in sessions.values())

        ads.publish(world(2, workload("reviews", 1), workload("reviews", 3), workload("ratings", 2)))
        ads.tell()
        assert sessions["reviews"].wake.is_set()
        assert not sessions["ratings"].wake.is_set()
        assert not envoy.wake.is_set()
        assert drain(envoy) == []
        assert sessions["ratings"].settled(2)
        assert not sessions["reviews"].settled(2)
        assert [update.type_url for update in drain(sessions["reviews"])] == [ENDPOINT]
        assert (await Delivery(ads).rollout(2, 30)).lagging == ()

        # A new service is news for the one that wants all of them.
        ads.publish(world(3, workload("reviews", 1), workload("ratings", 2), workload("details", 4)))
        ads.tell()
        assert not sessions["ratings"].wake.is_set()
        assert [update.type_url for update in drain(envoy)] == [CLUSTER]
        for session in sessions.values():
            ads.close(session)
        ads.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["outbound|80||reviews.default.svc.cluster.local", "*"])
@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_whoever_named_something_once_and_names_nothing_now_gets_nothing(first: str, type_url: str) -> None:
    # xDS protocol: only a client that never named any resource of the type asks for all of them by naming none.
    async def scenario() -> None:
        ads = AdsServer(Translator, read_node)
        ads.publish(world(1, workload("reviews", 1)))
        ports = SidecarPorts(15001)
        streams: list[Stream | DeltaStream] = [Stream(), DeltaStream()]
        sessions = [ads.open(Client(ClientKind.ENVOY, "e", ports=ports), "", None, stream) for stream in streams]

        def ask(session: Session, wanted: list[str], unwanted: list[str]) -> None:
            if isinstance(session.stream, Stream):
                names = session.stream.receive(type_url, wanted, "", "", None).names
            else:
                names = session.stream.receive(type_url, wanted, unwanted, known={}, nonce="", error=None).names
            ads.watch(session, type_url, names)

        for session in sessions:
            ask(session, [first], [])
            list(session.responses())
            nonce = session.subscriptions[type_url].nonce
            if isinstance(session.stream, Stream):
                session.stream.receive(type_url, [first], session.subscriptions[type_url].sent_version, nonce, None)
            else:
                session.stream.receive(type_url, [], [], known={}, nonce=nonce, error=None)
            ask(session, [], [first])
            assert not [update for update in session.responses() if update.resources]
        # Other settings may change anything, so that every subscription is looked at.
        ads.publish(replace(world(2, workload("reviews", 1)), settings=MeshSettings(outbound_allow_any=False)))
        ads.tell()
        for session in sessions:
            assert not [update for update in session.responses() if update.resources]
            ads.close(session)
        ads.stop()

    asyncio.run(scenario())


class Stub:
    """Resources as they are in ``content``, and what differs from the stub before."""

    content: Content

    def __init__(self, world: World, before: "Stub | None") -> None:
        self.had = dict(self.content)
        self.changed: set[tuple[str, str]] | None = None
        if before is not None:
            keys = self.had.keys() | before.had.keys()
            self.changed = {key for key in keys if self.had.get(key) != before.had.get(key)}

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> Mapping[str, GeneratedResource]:
        return {
            name: GeneratedResource(kind, body, body.hex())
            for (kind, name), body in self.had.items()
            if kind == type_url and name in names
        }


class Driver:
    """A server with two clients, state of the world and incremental, which are looked at only when woken."""

    def __init__(self) -> None:
        self.content: Content = {}
        self.ads = AdsServer(type("Made", (Stub,), {"content": self.content}), read_node)
        self.generation = 0
        self.waiting: list[tuple[Session, Update]] = []
        self.publish()
        streams: list[Stream | DeltaStream] = [Stream(), DeltaStream()]
        self.sessions = [self.ads.open(Client(node_id=str(n)), "", None, s) for n, s in enumerate(streams)]

    def publish(self) -> None:
        self.generation += 1
        self.ads.publish(World(generation=self.generation))

    def receive(
        self, session: Session, type_url: str, names: Iterable[str], version: str = "", nonce: str = ""
    ) -> None:
        subscription: Any
        if isinstance(session.stream, Stream):
            subscription = session.stream.receive(type_url, names, version, nonce, None)
        else:
            subscription = session.stream.receive(type_url, list(names), [], known={}, nonce=nonce, error=None)
        self.ads.watch(session, type_url, subscription.names)
        session.wake.set()

    def accept(self) -> None:
        """The oldest response that a client has not answered."""
        if self.waiting:
            session, update = self.waiting.pop(0)
            names = session.subscriptions[update.type_url].names if isinstance(session.stream, Stream) else ()
            self.receive(session, update.type_url, names, update.version, update.nonce)

    def run(self) -> None:
        self.ads.tell()
        for session in self.sessions:
            if session.wake.is_set():
                session.wake.clear()
                self.waiting += [(session, update) for update in list(session.responses())]


_NAMES = st.sampled_from(["a", "b", "c"])
_PUT = st.tuples(st.just("put"), st.sampled_from(PUSH_ORDER), _NAMES, st.sampled_from([b"1", b"2", b""]))
_ASK = st.tuples(st.just("ask"), st.sampled_from(PUSH_ORDER), st.sets(_NAMES, min_size=1), st.integers(0, 1))
_ACCEPT = st.tuples(st.just("accept"))
_RUN = st.tuples(st.just("run"))


@settings(max_examples=200, deadline=None)
@given(st.lists(_ASK, max_size=6), st.lists(st.one_of(_PUT, _PUT, _ASK, _ACCEPT, _ACCEPT, _RUN), max_size=30))
def test_clients_that_are_asked_only_when_concerned_end_up_with_everything(start: list[Any], steps: list[Any]) -> None:
    async def scenario() -> None:
        driver = Driver()
        for what, *rest in [*start, *steps]:
            if what == "put":
                kind, name, body = rest
                driver.content.pop((kind, name), None)
                if body:
                    driver.content[kind, name] = body
                driver.publish()
            elif what == "ask":
                kind, names, number = rest
                driver.receive(driver.sessions[number], kind, names)
            elif what == "accept":
                driver.accept()
            else:
                driver.run()
        driver.run()
        while driver.waiting:
            driver.accept()
            driver.run()
        for session in driver.sessions:
            assert session.settled(driver.generation)
            for kind, subscription in session.subscriptions.items():
                there = {name: driver.content.get((kind, name)) for name in subscription.names}
                assert subscription.accepted == {name: body for name, body in there.items() if body is not None}
        driver.ads.stop()

    asyncio.run(scenario())
