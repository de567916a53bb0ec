"""The state of one incremental subscription: what is answered, removed, taken over on reconnect, and sent again."""

from collections.abc import Iterable, Mapping

import pytest

from proxyless.control_plane.ads.delta_subscription import DeltaSubscription, resource_version
from proxyless.control_plane.ads.status import SyncState, type_status
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

A, B, A2 = {"a": b"1"}, {"b": b"1"}, {"a": b"2"}
AB = A | B
# Resources and removed names.
Answer = tuple[dict[str, bytes], set[str]]


class Client:
    """Drives a subscription as an xDS client would; the world holds ``world``."""

    def __init__(self, type_url: str, world: Mapping[str, bytes]) -> None:
        self.state = DeltaSubscription(type_url)
        self.world = dict(world)
        self.on_demand: set[str] = set()
        self.generation = 1
        self.sent = 0

    def say(
        self,
        *subscribe: str,
        unsubscribe: Iterable[str] = (),
        known: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
    ) -> None:
        self.state.request(subscribe, unsubscribe, known=known or {}, nonce=nonce, error=error)

    def change(self, world: Mapping[str, bytes]) -> None:
        self.world = dict(world)
        self.generation += 1

    def look(self, keep: Iterable[str] = ()) -> Answer | None:
        """What the server sends now, if it sends."""
        if not self.state.due(self.generation):
            return None
        names = self.state.names
        current = {
            name: body
            for name, body in self.world.items()
            if name in names or ("*" in names and name not in self.on_demand)
        }
        self.sent += 1
        update = self.state.offer(current, self.generation, str(self.sent), keep)
        if update is None:
            return None
        self.offered = update
        return dict(update.resources), set(update.removed)

    def ack(self) -> None:
        self.say(nonce=self.offered.nonce)

    def nack(self, text: str = "no") -> None:
        self.say(nonce=self.offered.nonce, error=text)

    def accepts(self, *names: str, world: Mapping[str, bytes] | None = None) -> None:
        self.say(*names)
        if world is not None:
            self.change(world)
        self.look()
        self.ack()


@pytest.mark.parametrize(
    ("type_url", "subscribe", "expected"),
    [
        (CLUSTER, (), (AB, set())),
        (LISTENER, (), (AB, set())),
        (CLUSTER, ("*",), (AB, set())),
        (CLUSTER, ("a",), (A, set())),
        (CLUSTER, ("a", "none"), (A, {"none"})),
        (ENDPOINT, ("none",), ({}, {"none"})),
        (ROUTE, (), None),
        (ENDPOINT, (), None),
    ],
)
def test_the_first_request_is_answered_name_by_name(
    type_url: str, subscribe: tuple[str, ...], expected: Answer | None
) -> None:
    client = Client(type_url, AB)
    client.say(*subscribe)
    assert client.look() == expected
    if expected is not None:
        client.ack()
        assert client.look() is None
        assert client.state.settled(client.generation)


def test_an_empty_wildcard_is_answered_once() -> None:
    client = Client(LISTENER, {})
    client.say()
    assert client.look() == ({}, set())
    client.ack()
    client.change({})
    assert client.look() is None
    assert type_status(client.state).state is SyncState.SYNCED


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (AB, None),
        (A2 | B, (A2, set())),
        (A, ({}, {"b"})),
        (A2 | {"c": b"1"}, (A2 | {"c": b"1"}, {"b"})),
    ],
)
def test_only_what_changed_is_sent(world: dict[str, bytes], expected: Answer | None) -> None:
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.change(world)
    assert client.look() == expected


def test_a_missing_resource_is_sent_when_it_appears_and_removed_when_it_goes() -> None:
    client = Client(ENDPOINT, {})
    client.accepts("a")
    client.change({})
    assert client.look() is None
    client.change(A)
    assert client.look() == (A, set())
    client.ack()
    client.change({})
    assert client.look() == ({}, {"a"})
    client.ack()
    client.change({})
    assert client.look() is None


def test_what_is_subscribed_to_again_is_answered_again() -> None:
    client = Client(ENDPOINT, AB)
    client.accepts("a", "b", "none")
    client.say("a", "none")
    assert client.look() == (A, {"none"})


def test_the_wildcard_again_is_answered_with_everything() -> None:
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.say("*")
    assert client.look() == (AB, set())


def test_giving_up_a_name_is_not_answered_and_forgets_it() -> None:
    client = Client(ENDPOINT, AB)
    client.accepts("a", "b")
    client.say(unsubscribe=("a", "never-had"))
    assert client.look() is None
    client.change(A2 | B)
    assert client.look() is None
    assert client.state.accepted == B
    client.say("a")
    assert client.look() == (A2, set())


@pytest.mark.parametrize(("on_demand", "expected"), [(set(), (A, set())), ({"a"}, ({}, {"a"}))])
def test_giving_up_a_name_beside_the_wildcard_tells_whether_that_has_it(on_demand: set[str], expected: Answer) -> None:
    client = Client(CLUSTER, AB)
    client.on_demand = on_demand
    client.accepts("*", "a")
    assert client.state.accepted == AB
    client.say(unsubscribe=("a",))
    assert client.look() == expected


def test_the_legacy_wildcard_goes_on_beside_a_name_and_ends_by_name() -> None:
    client = Client(CLUSTER, AB)
    client.accepts()
    client.say("a")
    assert client.look() == (A, set())
    client.ack()
    assert client.state.names == {"*", "a"}
    client.say(unsubscribe=("*",))
    assert client.look() is None
    assert client.state.accepted == A
    client.say(unsubscribe=("a",))
    client.change(A2 | B)
    assert client.look() is None
    assert client.state.names == set()


def test_a_first_request_that_only_gives_up_is_no_wildcard() -> None:
    client = Client(CLUSTER, AB)
    client.say(unsubscribe=("x",))
    assert client.state.names == set()
    assert client.look() is None


ONE = resource_version(b"1")


@pytest.mark.parametrize(
    ("subscribe", "known", "world", "expected"),
    [
        # A wildcard is answered even if there is nothing new.
        ((), {"a": ONE, "b": ONE}, AB, ({}, set())),
        ((), {"a": ONE, "b": ONE}, A2 | B, (A2, set())),
        ((), {"a": ONE, "gone": ONE}, AB, (B, {"gone"})),
        (("*",), {"a": "else"}, AB, (AB, set())),
        (("a", "b"), {"a": ONE, "b": ONE}, AB, None),
        (("a", "b"), {"a": ONE}, AB, (B, set())),
        (("a", "b"), {"a": ONE, "b": ONE}, A, ({}, {"b"})),
        # What it no longer asks for is none of our business.
        (("a",), {"a": ONE, "b": ONE}, A2, (A2, set())),
    ],
)
def test_a_reconnecting_client_gets_the_difference(
    subscribe: tuple[str, ...], known: dict[str, str], world: dict[str, bytes], expected: Answer | None
) -> None:
    client = Client(CLUSTER, world)
    client.say(*subscribe, known=known)
    assert client.look() == expected
    if expected is not None:
        client.ack()
    assert client.state.accepted == {name: world[name] for name in subscribe or world if name in world} or subscribe
    assert client.state.settled(client.generation)
    assert type_status(client.state).state is SyncState.SYNCED


def test_versions_count_in_the_first_request_only() -> None:
    client = Client(ENDPOINT, AB)
    client.accepts("a")
    client.say("b", known={"b": ONE})
    assert client.look() == (B, set())


def test_one_response_is_outstanding_and_changes_in_between_become_one() -> None:
    client = Client(CLUSTER, A)
    client.say("*")
    client.look()
    client.change(A2)
    assert client.look() is None
    client.change({"b": b"1"})
    assert client.look() is None
    client.ack()
    assert client.look() == (B, {"a"})


def test_names_count_with_any_nonce_and_only_the_right_one_settles() -> None:
    client = Client(ENDPOINT, AB)
    client.say("a")
    client.look()
    client.say("b", nonce="stale")
    client.say(nonce="stale", error="late")
    assert client.state.outstanding
    assert client.state.error == ""
    client.ack()
    assert client.look() == (B, set())


def test_a_name_given_up_while_its_response_is_under_way_is_forgotten() -> None:
    client = Client(ENDPOINT, A)
    client.say("a")
    client.look()
    client.say(unsubscribe=("a",))
    client.ack()
    assert client.state.accepted == client.state.sent == {}
    assert client.state.settled(client.generation)


def test_what_was_refused_is_not_sent_again_and_new_content_is() -> None:
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.change(A2 | B)
    assert client.look() == (A2, set())
    client.nack("bad a")
    status = type_status(client.state)
    assert (status.state, status.error, status.refused) == (SyncState.NACKED, "bad a", {"a": "bad a"})
    assert client.state.accepted == AB
    assert client.look() is None
    client.change(A2 | {"b": b"2"})
    assert client.look() == ({"b": b"2"}, set())
    client.ack()
    assert type_status(client.state).state is SyncState.NACKED
    client.change({"a": b"3", "b": b"2"})
    assert client.look() == ({"a": b"3"}, set())
    client.ack()
    assert type_status(client.state).state is SyncState.SYNCED


@pytest.mark.parametrize("gone", [False, True])
def test_back_to_what_was_accepted_or_away_ends_a_refusal(gone: bool) -> None:
    client = Client(CLUSTER, A)
    client.accepts("*")
    client.change(A2)
    client.look()
    client.nack()
    client.change({} if gone else A)
    answer = client.look()
    assert answer == (({}, {"a"}) if gone else None)
    if gone:
        client.ack()
    assert client.state.error == ""
    assert client.state.accepted == client.world


def test_a_refused_response_is_taken_apart_until_the_culprit_is_found() -> None:
    names = [f"c{number:02}" for number in range(16)]
    client = Client(CLUSTER, dict.fromkeys(names, b"1"))
    client.say("*")
    bad, rounds = "c11", 0
    while (answer := client.look()) is not None:
        rounds += 1
        client.nack("no c11") if bad in answer[0] else client.ack()
    assert rounds <= 10
    assert client.state.refused == {bad: "no c11"}
    assert set(client.state.accepted) == set(names) - {bad}
    assert client.state.settled(client.generation)


def test_a_change_during_the_search_follows_it() -> None:
    client = Client(CLUSTER, AB)
    client.say("*")
    client.look()
    client.nack()
    client.change(AB | {"c": b"1"})
    assert client.look() == (A, set())
    client.nack("bad a")
    assert client.look() == (B, set())
    client.ack()
    assert not client.state.settled(client.generation)
    assert client.look() == ({"c": b"1"}, set())
    client.ack()
    assert client.state.settled(client.generation)
    assert client.state.error == "bad a"


def test_what_a_client_may_have_taken_of_a_refused_response_is_set_right() -> None:
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.change({"a": b"2", "b": b"2"})
    client.look()
    client.nack("bad b")
    client.change(AB)
    assert client.look() == (AB, set())
    client.ack()
    assert client.state.settled(client.generation)


def test_the_search_for_a_culprit_ends_when_what_it_searches_changes() -> None:
    """An Envoy that took a bad half for unchanged answers no part of the good world, only all of it."""
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.change({"a": b"bad", "b": b"bad"})
    client.look()
    client.nack()
    assert client.look() == ({"a": b"bad"}, set())
    client.ack()
    client.change(AB)
    assert client.look() == (AB, set())
    client.ack()
    assert client.state.settled(client.generation)
    assert client.state.error == ""


def test_what_was_never_answered_is_sent_again_as_it_is_by_then() -> None:
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.change(A2)
    assert client.look() == (A2, {"b"})
    late = client.offered.nonce
    client.change(AB)
    assert client.look() is None
    client.state.unanswered()
    assert client.look() == (AB, set())
    client.say(nonce=late)
    assert client.state.outstanding
    client.ack()
    assert client.state.settled(client.generation)
    assert client.state.accepted == AB


def test_what_must_be_kept_is_not_removed_yet() -> None:
    client = Client(CLUSTER, AB)
    client.accepts("*")
    client.change(A2)
    assert client.state.gone({"a": b"2"}) == {"b"}
    assert client.look(keep=("b",)) == (A2, set())
    client.ack()
    client.change(A2)
    assert client.look() == ({}, {"b"})


@pytest.mark.parametrize(
    ("type_url", "parents", "expected"),
    [
        (ENDPOINT, {"a": b"any", "c": b"any"}, (A, set())),
        (ROUTE, {"listener": b"...rds b..."}, (B, set())),
        (ROUTE, {"listener": b"..."}, None),
    ],
)
def test_what_a_pushed_resource_refers_to_is_sent_again(
    type_url: str, parents: dict[str, bytes], expected: Answer | None
) -> None:
    client = Client(type_url, AB)
    client.accepts("a", "b")
    client.state.warm(parents)
    assert client.look() == expected


def test_versions_depend_on_content_alone() -> None:
    one, other = Client(CLUSTER, AB), Client(CLUSTER, B)
    one.accepts("*")
    other.accepts("*", world=B | {"c": b"1"})
    other.change(AB)
    other.look()
    other.ack()
    assert one.state.accepted_version == one.state.sent_version == other.state.accepted_version
    assert len(one.state.accepted_version) == 16
