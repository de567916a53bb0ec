"""The state of one subscription: what is answered, what is an ACK or NACK, and what is sent again."""

import pytest

from proxyless.control_plane.ads.status import SyncState, type_status
from proxyless.control_plane.ads.subscription import Subscription, version_of
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

A, B, A2 = {"a": b"1"}, {"b": b"1"}, {"a": b"2"}
AB = A | B


class Client:
    """Drives a subscription as an xDS client would."""

    def __init__(self, type_url: str, *names: str) -> None:
        self.state = Subscription(type_url)
        self.names = names
        self.generation = 0
        self.version = ""
        self.nonce = ""
        self.sent = 0

    def ask(self, *names: str) -> None:
        self.names = names or self.names
        self.state.request(self.names, self.version, self.nonce, None)

    def world(self, resources: dict[str, bytes]) -> dict[str, bytes] | None:
        """A new world; what it makes the server send."""
        self.generation += 1
        return self.look(resources)

    def look(self, resources: dict[str, bytes]) -> dict[str, bytes] | None:
        if not self.state.due(self.generation):
            return None
        self.sent += 1
        update = self.state.offer(resources, self.generation, str(self.sent))
        if update is None:
            return None
        self.offered = update
        return dict(update.resources)

    def ack(self) -> None:
        self.version, self.nonce = self.offered.version, self.offered.nonce
        self.state.request(self.names, self.version, self.nonce, None)

    def nack(self, text: str = "no") -> None:
        self.nonce = self.offered.nonce
        self.state.request(self.names, self.version, self.nonce, text)


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER, ROUTE, ENDPOINT])
def test_the_first_request_is_answered_and_an_unchanged_world_is_not(type_url: str) -> None:
    client = Client(type_url, "a")
    client.ask()
    assert client.look(A) == A
    client.ack()
    assert client.look(A) is None
    assert client.world(A) is None
    assert client.world(A2) == A2


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_a_name_that_does_not_exist_is_answered_by_absence(type_url: str) -> None:
    client = Client(type_url, "missing")
    client.ask()
    assert client.look({}) == {}


@pytest.mark.parametrize(
    ("type_url", "expected"), [(CLUSTER, True), (LISTENER, True), (ROUTE, False), (ENDPOINT, False)]
)
def test_an_empty_first_request_is_a_wildcard_only_where_the_protocol_has_one(type_url: str, expected: bool) -> None:
    client = Client(type_url)
    client.ask()
    assert ("*" in client.state.names) is expected
    assert client.look(AB if expected else {}) == (AB if expected else None)


def test_names_and_then_none_ends_the_subscription() -> None:
    client = Client(CLUSTER, "a")
    client.ask()
    client.look(A)
    client.ack()
    client.state.request((), client.version, client.nonce, None)
    assert client.state.names == frozenset()
    assert client.look({}) is None


def test_one_response_is_outstanding_and_changes_in_between_become_one() -> None:
    client = Client(CLUSTER, "a")
    client.ask()
    client.look(A)
    assert client.world({"a": b"2"}) is None
    assert client.world({"a": b"3"}) is None
    client.ack()
    assert client.look({"a": b"3"}) == {"a": b"3"}


def test_what_was_refused_is_not_sent_again_and_new_content_is() -> None:
    client = Client(CLUSTER, "a")
    client.ask()
    client.look(A)
    client.ack()
    client.world(A2)
    client.nack("bad cluster")
    status = type_status(client.state)
    assert (status.state, status.error) == (SyncState.NACKED, "bad cluster")
    assert (status.accepted_version, status.sent_version) == (version_of(A), version_of(A2))
    assert client.state.accepted == A
    assert client.world(A2) is None
    assert client.world({"a": b"3"}) == {"a": b"3"}
    client.ack()
    assert type_status(client.state).state is SyncState.SYNCED


def test_going_back_to_what_was_accepted_is_sent() -> None:
    client = Client(CLUSTER, "a")
    client.ask()
    client.look(A)
    client.ack()
    client.world(A2)
    client.nack()
    assert client.world(A) == A


def test_a_stale_nonce_settles_nothing_but_its_names_count() -> None:
    client = Client(CLUSTER, "a")
    client.ask()
    client.look(A)
    client.ack()
    client.world(A2)
    client.state.request(("a", "b"), client.version, "0", None)
    assert client.state.outstanding
    client.names = ("a", "b")
    client.ack()
    assert client.look(A2 | B) == A2 | B


def test_a_stale_error_refuses_nothing() -> None:
    client = Client(CLUSTER, "a")
    client.ask()
    client.look(A)
    client.state.request(("a",), "", "0", "late")
    assert client.state.outstanding
    assert client.state.error == ""


def test_adding_a_name_is_answered_and_giving_one_up_is_not() -> None:
    client = Client(ROUTE, "a")
    client.ask()
    client.look(A)
    client.ack()
    client.ask("a", "b")
    assert client.look(AB) == AB
    client.ack()
    client.ask("b")
    assert client.look(B) is None
    client.ask("a", "b")
    assert client.look(AB) == AB


def test_a_change_of_one_endpoint_set_sends_that_one_alone() -> None:
    client = Client(ENDPOINT, "a", "b")
    client.ask()
    client.look(AB)
    client.ack()
    assert client.world(A2 | B) == A2


def test_after_a_refused_part_everything_not_accepted_is_sent() -> None:
    client = Client(ENDPOINT, "a", "b")
    client.ask()
    client.look(AB)
    client.ack()
    client.world(A2 | B)
    client.nack()
    assert client.world(A2 | {"b": b"2"}) == A2 | {"b": b"2"}


def test_a_resource_that_comes_back_is_sent_again() -> None:
    client = Client(ENDPOINT, "a", "b")
    client.ask()
    client.look(AB)
    client.ack()
    assert client.world(A) is None
    assert client.world(AB) is not None


def test_a_reconnect_is_answered_with_the_same_version() -> None:
    client = Client(CLUSTER, "a")
    client.state.request(("a",), version_of(A), "old-nonce", None)
    assert client.look(A) == A
    assert client.offered.version == version_of(A)


def test_a_cluster_that_warms_gets_its_unchanged_endpoints_again() -> None:
    client = Client(ENDPOINT, "a", "b")
    client.ask()
    client.look(AB)
    client.ack()
    client.state.warming = True
    client.ask("a")  # the other cluster is gone: only removals, and still an answer is needed
    assert client.look(A) == A


@pytest.mark.parametrize(
    ("left", "right"),
    [({"a": b"bc"}, {"ab": b"c"}), ({"a": b""}, {}), ({"a": b"1", "b": b"2"}, {"a": b"2", "b": b"1"})],
)
def test_versions_tell_contents_apart(left: dict[str, bytes], right: dict[str, bytes]) -> None:
    assert version_of(left) != version_of(right)


def test_versions_do_not_depend_on_order() -> None:
    assert version_of({"a": b"1", "b": b"2"}) == version_of({"b": b"2", "a": b"1"})


def test_a_refusal_ends_with_the_subscription_to_what_was_refused() -> None:
    client = Client(ROUTE, "a", "b")
    client.ask()
    client.look(AB)
    client.ack()
    client.world(A2 | B)
    client.nack()
    assert type_status(client.state).refused == {"a": "no"}
    client.ask("b")
    status = type_status(client.state)
    assert (status.state, status.error, status.refused) == (SyncState.SYNCED, "", {})
    assert client.state.settled(client.generation)


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_what_was_never_answered_is_sent_again_as_it_is_by_then(type_url: str) -> None:
    client = Client(type_url, "a")
    client.ask()
    client.look(A)
    client.ack()
    assert client.world(A2) == A2
    assert client.world(A) is None
    client.state.unanswered()
    assert client.look(A) == A
    client.ack()
    assert client.look(A) is None
    assert client.state.settled(client.generation)
    assert client.state.accepted == A
