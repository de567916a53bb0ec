"""A whole stream: order of responses, make before break, limits."""

from collections.abc import Mapping

import pytest

from proxyless.control_plane.ads.stream import MAX_NAMES, MAX_TYPES, Stream, StreamError
from proxyless.control_plane.ads.subscription import Update
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, PUSH_ORDER, ROUTE

World = dict[str, dict[str, bytes]]


def subscribed(world: World) -> "Driver":
    driver = Driver(world)
    for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINT):
        driver.stream.receive(type_url, world[type_url], "", "", None)
    driver.drain()
    return driver


class Driver:
    def __init__(self, world: World) -> None:
        self.stream = Stream()
        self.world = world
        self.generation = 1
        self.stand_ins: set[tuple[str, str]] = set()

    def change(self, **types: dict[str, bytes]) -> None:
        self.generation += 1
        urls = {"clusters": CLUSTER, "endpoints": ENDPOINT, "listeners": LISTENER, "routes": ROUTE}
        self.world = self.world | {urls[name]: value for name, value in types.items()}

    def generate(self, type_url: str, names: frozenset[str]) -> Mapping[str, bytes]:
        return {name: body for name, body in self.world[type_url].items() if name in names or "*" in names}

    def due(self) -> list[Update]:
        return list(self.stream.responses(self.generate, self.generation, self.stand_ins))

    def answer(self, update: Update, error: str | None = None) -> None:
        names = self.stream.subscriptions[update.type_url].names
        version = self.stream.subscriptions[update.type_url].accepted_version if error else update.version
        self.stream.receive(update.type_url, names, version, update.nonce, error)

    def drain(self) -> list[Update]:
        """Accept everything until nothing is due."""
        seen = []
        while updates := self.due():
            for update in updates:
                self.answer(update)
            seen += updates
        return seen


FIRST: World = {
    CLUSTER: {"old": b"c1"},
    ENDPOINT: {"old": b"e1"},
    LISTENER: {"l": b"l1"},
    ROUTE: {"r": b"r->old"},
}


def test_changes_leave_in_make_before_break_order() -> None:
    driver = subscribed(FIRST)
    driver.change(clusters={"old": b"2"}, endpoints={"old": b"2"}, listeners={"l": b"2"}, routes={"r": b"2"})
    assert [update.type_url for update in driver.due()] == list(PUSH_ORDER)


def test_a_cluster_is_kept_until_the_route_that_used_it_is_replaced() -> None:
    driver = Driver(FIRST)
    driver.stream.receive(CLUSTER, (), "", "", None)
    driver.stream.receive(ROUTE, ("r",), "", "", None)
    driver.drain()
    driver.change(clusters={"new": b"c1"}, routes={"r": b"r->new"})
    clusters, routes = driver.due()
    assert set(clusters.resources) == {"old", "new"}
    driver.answer(clusters)
    assert driver.due() == []
    assert not driver.stream.settled(driver.generation)
    driver.answer(routes)
    (final,) = driver.due()
    assert set(final.resources) == {"new"}
    driver.answer(final)
    assert driver.stream.settled(driver.generation)


def test_a_cluster_that_only_says_that_it_is_gone_waits_for_the_route_too() -> None:
    driver = subscribed(FIRST)
    driver.change(clusters={"old": b"gone"}, endpoints={"old": b"none"}, routes={"r": b"r->new"})
    driver.stand_ins = {(CLUSTER, "old"), (ENDPOINT, "old")}
    (routes,) = driver.due()
    assert routes.type_url == ROUTE
    driver.answer(routes)
    assert [(update.type_url, dict(update.resources)) for update in driver.drain()] == [
        (CLUSTER, {"old": b"gone"}),
        (ENDPOINT, {"old": b"none"}),
    ]
    assert driver.stream.settled(driver.generation)


def test_a_cluster_that_is_gone_while_its_route_stays_is_told_at_once() -> None:
    driver = subscribed(FIRST)
    driver.change(clusters={"old": b"gone"}, endpoints={"old": b"none"})
    driver.stand_ins = {(CLUSTER, "old"), (ENDPOINT, "old")}
    assert {update.type_url for update in driver.drain()} == {CLUSTER, ENDPOINT}


def test_a_cluster_is_kept_while_the_new_route_is_refused() -> None:
    driver = Driver(FIRST)
    driver.stream.receive(CLUSTER, (), "", "", None)
    driver.stream.receive(ROUTE, ("r",), "", "", None)
    driver.drain()
    driver.change(clusters={}, routes={"r": b"bad"})
    (routes,) = driver.due()
    driver.answer(routes, "cannot")
    assert driver.due() == []
    assert "old" in driver.stream.subscriptions[CLUSTER].sent


def test_a_cluster_that_no_route_changed_for_is_removed_at_once() -> None:
    driver = subscribed(FIRST)
    driver.change(clusters={})
    (update,) = driver.due()
    assert (update.type_url, update.resources) == (CLUSTER, {})


def test_unserved_types_get_no_answer_and_hold_nothing_up() -> None:
    driver = subscribed(FIRST)
    driver.stream.receive("type.googleapis.com/envoy.service.runtime.v3.Runtime", ("x",), "", "", None)
    assert driver.due() == []
    assert driver.stream.settled(driver.generation)


def test_nonces_never_repeat() -> None:
    driver = subscribed(FIRST)
    nonces = []
    for number in range(5):
        driver.change(clusters={"old": b"%d" % number}, routes={"r": b"%d" % number})
        nonces += [update.nonce for update in driver.drain()]
    assert len(set(nonces)) == len(nonces) == 10


@pytest.mark.parametrize(
    ("type_url", "names"),
    [("", ["a"]), (CLUSTER, [str(number) for number in range(MAX_NAMES + 1)]), (CLUSTER, ["x" * 1001])],
)
def test_requests_beyond_the_limits_end_the_stream(type_url: str, names: list[str]) -> None:
    with pytest.raises(StreamError):
        Stream().receive(type_url, names, "", "", None)


def test_types_per_stream_are_bounded() -> None:
    stream = Stream()
    for number in range(MAX_TYPES):
        stream.receive(f"type/{number}", (), "", "", None)
    with pytest.raises(StreamError):
        stream.receive("type/one-more", (), "", "", None)
