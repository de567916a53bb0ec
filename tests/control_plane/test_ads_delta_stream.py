"""A whole incremental stream: order of responses, make before break, warming, limits."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import pytest

from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.ordering import MAX_NAMES, MAX_TYPES, StreamError
from proxyless.control_plane.ads.state import Update
from proxyless.control_plane.ads.stream import Stream
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, PUSH_ORDER, ROUTE

World = dict[str, dict[str, bytes]]
URLS = {"clusters": CLUSTER, "endpoints": ENDPOINT, "listeners": LISTENER, "routes": ROUTE}
FIRST: World = {
    CLUSTER: {"old": b"c1"},
    ENDPOINT: {"old": b"e1"},
    LISTENER: {"l": b"l1 to r"},
    ROUTE: {"r": b"r to old"},
}


class Driver:
    """A client that subscribes as Envoy does: to all clusters and listeners, and to endpoints and routes by name."""

    def __init__(self, world: World) -> None:
        self.stream = DeltaStream()
        self.world = world
        self.generation = 1
        for type_url in (CLUSTER, ENDPOINT, LISTENER, ROUTE):
            self.say(type_url, () if type_url in (CLUSTER, LISTENER) else tuple(world[type_url]))
        self.drain()

    def say(self, type_url: str, subscribe: tuple[str, ...] = (), nonce: str = "", error: str | None = None) -> None:
        self.stream.receive(type_url, subscribe, (), known={}, nonce=nonce, error=error)

    def change(self, **types: dict[str, bytes]) -> None:
        self.generation += 1
        self.world = self.world | {URLS[name]: value for name, value in types.items()}

    def generate(self, type_url: str, names: AbstractSet[str]) -> Mapping[str, bytes]:
        return {name: body for name, body in self.world[type_url].items() if name in names or "*" in names}

    def due(self) -> list[Update]:
        return list(self.stream.responses(self.generate, self.generation))

    def answer(self, update: Update, error: str | None = None) -> None:
        self.say(update.type_url, nonce=update.nonce, error=error)

    def drain(self) -> list[Update]:
        """Accept everything until nothing is due."""
        seen: list[Update] = []
        while updates := self.due():
            for update in updates:
                self.answer(update)
            seen += updates
        return seen


def summary(updates: list[Update]) -> list[tuple[str, set[str], tuple[str, ...]]]:
    return [(update.type_url, set(update.resources), update.removed) for update in updates]


def test_changes_leave_in_make_before_break_order() -> None:
    driver = Driver(FIRST)
    driver.change(clusters={"old": b"2"}, endpoints={"old": b"2"}, listeners={"l": b"2"}, routes={"r": b"2"})
    assert [update.type_url for update in driver.due()] == list(PUSH_ORDER)


def test_replacing_a_service_adds_first_and_removes_last() -> None:
    driver = Driver(FIRST)
    driver.change(clusters={"new": b"c"}, endpoints={"new": b"e"}, routes={"r": b"r to new"})
    driver.say(ENDPOINT, ("new",))
    assert summary(driver.drain()) == [
        (CLUSTER, {"new"}, ()),
        (ENDPOINT, {"new"}, ()),
        (ROUTE, {"r"}, ()),
        (CLUSTER, set(), ("old",)),
        (ENDPOINT, set(), ("old",)),
    ]
    assert driver.stream.settled(driver.generation)


def test_a_route_goes_after_the_listener_that_used_it() -> None:
    driver = Driver(FIRST)
    driver.change(listeners={}, routes={})
    (first,) = driver.due()
    assert summary([first]) == [(LISTENER, set(), ("l",))]
    driver.answer(first)
    assert summary(driver.drain()) == [(ROUTE, set(), ("r",))]


def test_nothing_is_removed_while_the_new_route_is_refused() -> None:
    driver = Driver(FIRST)
    driver.change(clusters={}, endpoints={}, routes={"r": b"bad"})
    (route,) = driver.due()
    driver.answer(route, "cannot")
    assert driver.due() == []
    assert not driver.stream.settled(driver.generation)
    driver.change(routes={"r": b"good"})
    assert summary(driver.drain()) == [
        (ROUTE, {"r"}, ()),
        (CLUSTER, set(), ("old",)),
        (ENDPOINT, set(), ("old",)),
    ]


def test_what_no_route_changed_for_is_removed_at_once() -> None:
    driver = Driver(FIRST)
    driver.change(clusters={}, endpoints={})
    assert summary(driver.due()) == [(CLUSTER, set(), ("old",))]


def test_a_changed_cluster_gets_its_unchanged_endpoints_after_it_and_no_others() -> None:
    driver = Driver(FIRST | {CLUSTER: {"old": b"1", "other": b"1"}, ENDPOINT: {"old": b"1", "other": b"1"}})
    driver.change(clusters={"old": b"2", "other": b"1"})
    assert summary(driver.due()) == [(CLUSTER, {"old"}, ()), (ENDPOINT, {"old"}, ())]


def test_a_changed_listener_gets_the_unchanged_routes_it_names() -> None:
    driver = Driver(FIRST | {ROUTE: {"r": b"1", "other": b"1"}})
    driver.change(listeners={"l": b"l2 to r"})
    assert summary(driver.due()) == [(LISTENER, {"l"}, ()), (ROUTE, {"r"}, ())]


@pytest.mark.parametrize("delta", [False, True])
def test_what_only_says_that_there_is_nothing_takes_the_place_of_what_was_there_last(delta: bool) -> None:
    """A client that asks by name is told of a missing cluster with one that has no endpoints."""
    stream: Stream | DeltaStream = DeltaStream() if delta else Stream()
    world: World = {CLUSTER: {"old": b"c"}, ENDPOINT: {"old": b"e"}, ROUTE: {"r": b"r to old"}}
    stand_ins: set[tuple[str, str]] = set()

    def say(type_url: str, update: Update | None = None) -> None:
        nonce = update.nonce if update else ""
        if isinstance(stream, DeltaStream):
            stream.receive(type_url, () if update else world[type_url].keys(), (), known={}, nonce=nonce, error=None)
        else:
            stream.receive(type_url, world[type_url], update.version if update else "", nonce, None)

    def sent(generation: int) -> list[tuple[str, dict[str, bytes]]]:
        """What is due, accepted at once."""
        updates = list(stream.responses(lambda type_url, names: world[type_url], generation, stand_ins))
        for update in updates:
            say(update.type_url, update)
        return [(update.type_url, dict(update.resources)) for update in updates]

    for type_url in world:
        say(type_url)
    assert len(sent(1)) == 3
    assert sent(1) == []
    stand_ins |= {(CLUSTER, "old"), (ENDPOINT, "old")}
    world |= {CLUSTER: {"old": b"no c"}, ENDPOINT: {"old": b"no e"}, ROUTE: {"r": b"r"}}
    assert sent(2) == [(ROUTE, {"r": b"r"})]
    # With a changed cluster an incremental client gets its endpoints again: those that it has.
    warming = [(ENDPOINT, {"old": b"e"})] if delta else []
    assert sent(2) == [(CLUSTER, {"old": b"no c"}), *warming]
    assert not stream.settled(2)
    assert sent(2) == [(ENDPOINT, {"old": b"no e"})]
    assert sent(2) == []
    assert stream.settled(2)
    # And back: clusters first.
    stand_ins.clear()
    world |= {CLUSTER: {"old": b"c"}, ENDPOINT: {"old": b"e"}, ROUTE: {"r": b"r to old"}}
    assert [type_url for type_url, _ in sent(3)] == [CLUSTER, ENDPOINT, ROUTE]


@pytest.mark.parametrize("delta", [False, True])
def test_a_route_waits_for_clusters_that_wait_for_an_answer(delta: bool) -> None:
    driver = Driver(FIRST)
    if not delta:
        stream = Stream()
        for type_url, names in ((CLUSTER, ()), (ROUTE, ("r",))):
            stream.receive(type_url, names, "", "", None)
        for update in list(stream.responses(driver.generate, 1)):
            names = stream.subscriptions[update.type_url].names
            stream.receive(update.type_url, names, update.version, update.nonce, None)
    else:
        stream = driver.stream  # type: ignore[assignment]
    driver.change(clusters={"old": b"c2"})
    slow = next(iter(stream.responses(driver.generate, driver.generation)))
    driver.change(clusters={"old": b"c2", "new": b"c"}, routes={"r": b"r to new"})
    # The new cluster is not sent before the answer, and so the route that needs it is not either.
    held = list(stream.responses(driver.generate, driver.generation))
    assert [update.type_url for update in held if update.type_url != ENDPOINT] == []
    if delta:
        driver.answer(slow)
    else:
        stream.receive(CLUSTER, ("*",), slow.version, slow.nonce, None)
    rest = list(stream.responses(driver.generate, driver.generation))
    assert [update.type_url for update in rest] == [CLUSTER, ROUTE]


def test_a_route_that_is_asked_for_does_not_wait() -> None:
    driver = Driver(FIRST)
    driver.change(clusters={"old": b"c2"})
    driver.due()
    driver.change(clusters={"old": b"c3"}, routes={"r": b"r", "r2": b"r2"})
    driver.say(ROUTE, ("r2",))
    assert [update.type_url for update in driver.due()] == [ROUTE]


@pytest.mark.parametrize(
    ("type_url", "names"),
    [("", ["a"]), (CLUSTER, [str(number) for number in range(MAX_NAMES + 1)]), (CLUSTER, ["x" * 1001])],
)
def test_requests_beyond_the_limits_end_the_stream(type_url: str, names: list[str]) -> None:
    with pytest.raises(StreamError):
        DeltaStream().receive(type_url, names, (), known={}, nonce="", error=None)


def test_subscriptions_that_add_up_beyond_the_limits_end_the_stream() -> None:
    stream = DeltaStream()
    stream.receive(ENDPOINT, [f"a{number}" for number in range(MAX_NAMES)], (), known={}, nonce="", error=None)
    with pytest.raises(StreamError):
        stream.receive(ENDPOINT, ["one-more"], (), known={}, nonce="", error=None)


def test_types_per_stream_are_bounded() -> None:
    stream = DeltaStream()
    for number in range(MAX_TYPES):
        stream.receive(f"type/{number}", (), (), known={}, nonce="", error=None)
    with pytest.raises(StreamError):
        stream.receive("type/one-more", (), (), known={}, nonce="", error=None)
