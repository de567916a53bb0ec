"""Whatever happens on an incremental stream, the client ends with what the world holds for it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.control_plane.ads.delta_subscription import DeltaSubscription, resource_version
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT

NAMES = ("a", "b", "c", "d")
BAD = b"bad"


class Model:
    """A correct client, the world, and the server's state machine between them.

    partial: of a response that it refuses it takes what is good, as Envoy does, or nothing.
    """

    def __init__(self, type_url: str, partial: bool) -> None:
        self.type_url = type_url
        self.partial = partial
        self.world: dict[str, bytes] = {}
        self.generation = 1
        self.nonce = 0
        self.has: dict[str, bytes] = {}
        self.names: set[str] = set()
        self.in_flight: Any = None
        self.connect()

    def connect(self) -> None:
        """A new stream, also the first: all names, and the versions of what it has."""
        self.server = DeltaSubscription(self.type_url)
        self.in_flight = None
        known = {name: resource_version(body) for name, body in self.has.items()}
        self.server.request(sorted(self.names), (), known=known, nonce="", error=None)
        if not self.names and self.type_url == CLUSTER:
            self.names = {"*"}

    def change(self, world: dict[str, bytes]) -> None:
        self.world = world
        self.generation += 1

    def subscribe(self, names: set[str]) -> None:
        self.names |= names
        self.server.request(sorted(names), (), known={}, nonce="", error=None)

    def give_up(self, names: set[str]) -> None:
        self.names -= names
        if "*" not in self.names:
            self.has = {name: body for name, body in self.has.items() if name in self.names}
        self.server.request((), sorted(names), known={}, nonce="", error=None)

    def current(self) -> dict[str, bytes]:
        return {name: body for name, body in self.world.items() if name in self.names or "*" in self.names}

    def send(self) -> bool:
        if self.in_flight is None and self.server.due(self.generation):
            self.nonce += 1
            self.in_flight = self.server.offer(self.current(), self.generation, str(self.nonce))
        return self.in_flight is not None

    def answer(self) -> None:
        update, self.in_flight = self.in_flight, None
        if update is None:
            return
        bad = {name for name, body in update.resources.items() if body == BAD}
        if not bad or self.partial:
            for name in update.removed:
                self.has.pop(name, None)
            taken = {name: body for name, body in update.resources.items() if name not in bad}
            # It may have given up a name that was under way.
            self.has |= {name: body for name, body in taken.items() if name in self.names or "*" in self.names}
        self.server.request((), (), known={}, nonce=update.nonce, error=f"bad: {sorted(bad)}" if bad else None)


bodies = st.sampled_from([b"1", b"2", BAD])
worlds = st.dictionaries(st.sampled_from(NAMES), bodies)
subsets = st.sets(st.sampled_from((*NAMES, "*")), min_size=1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), worlds),
        st.tuples(st.just("subscribe"), subsets),
        st.tuples(st.just("give_up"), subsets),
        st.tuples(st.sampled_from(["send", "answer", "connect"])),
    ),
    max_size=25,
)


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
@pytest.mark.parametrize("partial", [False, True])
@settings(max_examples=150, deadline=None)
@given(steps=steps, last=worlds)
def test_the_client_ends_with_what_the_world_holds(type_url: str, partial: bool, steps: list[Any], last: Any) -> None:
    model = Model(type_url, partial)
    for name, *arguments in steps:
        cleaned = list(arguments)
        if type_url == ENDPOINT:
            cleaned = [each - {"*"} if isinstance(each, set) else each for each in arguments]
        getattr(model, name)(*cleaned)
    model.change(last)
    rounds = 0
    while True:
        model.answer()
        if not model.send():
            break
        rounds += 1
        assert rounds < 60, "it never comes to rest"
    current = model.current()
    good = {name: body for name, body in current.items() if body != BAD}
    assert {name: body for name, body in model.has.items() if current.get(name) != BAD} == good
    assert model.server.settled(model.generation)
    refused = {name for name, body in current.items() if body == BAD}
    assert set(model.server.refused) == refused
    assert bool(model.server.error) == bool(refused)
    # What the server believes the client to use is what it uses. Of what it refuses now that cannot be known: it may
    # have taken an earlier content out of a response that it refused as a whole.
    assert {name: body for name, body in model.server.accepted.items() if name not in refused} == good
