"""The protocol without a network: a virtual clock, requests and responses as data."""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from xds_resources import assignment, cluster, listener, packed, route_configuration

from proxyless.xds_client.compile.endpoint import LoadAssignment
from proxyless.xds_client.entry import Entry
from proxyless.xds_client.kinds import Kind
from proxyless.xds_client.protocol import (
    DOES_NOT_EXIST_AFTER,
    SETTLE,
    SETTLE_UNANSWERED,
    WIPE_WINDOW,
    Protocol,
    Request,
    Response,
)


class Wire:
    """A protocol with its clock in hand and the server's nonces counted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.protocol = Protocol(lambda: self.now)
        self.nonce = 0

    def open(self) -> list[Request]:
        self.protocol.stream_opened()
        self.nonce = 0
        return self.flush()

    def flush(self) -> list[Request]:
        """Write what is to be written."""
        requests = self.protocol.requests()
        for request in requests:
            self.protocol.written(request)
        return requests

    def answer(self, kind: Kind, version: str, *messages: Any) -> Request:
        """A response, and the ACK or NACK it gets."""
        self.nonce += 1
        resources = [one if isinstance(one, AnyMessage) else packed(one) for one in messages]
        self.protocol.received(Response(kind.type_url, version, str(self.nonce), resources))
        return self.flush()[0]

    def entry(self, kind: Kind, name: str) -> Entry:
        return self.protocol.entries[kind][name]

    def endpoints(self, name: str) -> int:
        value = self.entry(Kind.ENDPOINT, name).value
        assert isinstance(value, LoadAssignment)
        return value.usable

    def pass_time(self, seconds: float) -> bool:
        self.now += seconds
        return self.protocol.tick()


BROKEN = packed(listener("bad:80"))
BROKEN.value = packed(listener("bad:80", filters=[])).value


def test_requests_name_what_is_wanted_and_the_node_once() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["b:80", "a:80"])
    wire.protocol.want(Kind.CLUSTER, ["c"])
    assert wire.protocol.requests() == []  # nobody to write to yet
    assert wire.open() == [
        Request(Kind.LISTENER, ("a:80", "b:80"), "", "", first=True),
        Request(Kind.CLUSTER, ("c",), "", ""),
    ]
    assert wire.flush() == []
    wire.protocol.want(Kind.CLUSTER, ["c", "d"])
    assert wire.flush() == [Request(Kind.CLUSTER, ("c", "d"), "", "")]


def test_ack_and_nack() -> None:
    wire = Wire()
    wire.protocol.want(Kind.CLUSTER, ["c"])
    wire.open()
    assert wire.answer(Kind.CLUSTER, "1", cluster("c")) == Request(Kind.CLUSTER, ("c",), "1", "1")
    bad = cluster("c", lb_policy=0)
    bad.connect_timeout.seconds = -1
    nack = wire.answer(Kind.CLUSTER, "2", bad)
    assert (nack.version, nack.nonce) == ("1", "2")
    assert nack.error == "c: connect_timeout must not be negative, not -1 s"
    assert wire.entry(Kind.CLUSTER, "c").value is not None
    assert wire.entry(Kind.CLUSTER, "c").refused
    assert wire.protocol.types[Kind.CLUSTER].nacks == 1
    # The same good version again takes the refusal back.
    assert wire.answer(Kind.CLUSTER, "3", cluster("c")) == Request(Kind.CLUSTER, ("c",), "3", "3")
    assert not wire.entry(Kind.CLUSTER, "c").refused


def test_the_valid_resources_of_a_bad_response_are_used() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["good:80", "bad:80"])
    wire.open()
    nack = wire.answer(Kind.LISTENER, "1", BROKEN, listener("good:80", "r"))
    assert nack.version == ""
    assert nack.error.startswith("bad:80: http_filters is empty")
    assert wire.entry(Kind.LISTENER, "good:80").value is not None
    # Refused is not the same as absent (grpc-java#8657).
    assert not wire.entry(Kind.LISTENER, "bad:80").absent
    assert wire.entry(Kind.LISTENER, "bad:80").known


def test_garbage_in_a_response_is_named_and_deletes_nothing() -> None:
    wire = Wire()
    wire.protocol.want(Kind.CLUSTER, ["c"])
    wire.open()
    wire.answer(Kind.CLUSTER, "1", cluster("c"))
    for garbage, error in (
        (
            AnyMessage(type_url=Kind.CLUSTER.type_url, value=b"\xff\xff"),
            "is not a valid envoy.config.cluster.v3.Cluster",
        ),
        (AnyMessage(type_url="type.googleapis.com/x.Y"), "a type.googleapis.com/x.Y in a response of"),
        (AnyMessage(), "a message without type_url in a response of"),
        (packed(cluster("")), "has no name"),
    ):
        nack = wire.answer(Kind.CLUSTER, "2", garbage)
        assert error in nack.error
        assert wire.entry(Kind.CLUSTER, "c").value is not None
    assert "is in the response twice" in wire.answer(Kind.CLUSTER, "3", cluster("c"), cluster("c")).error


def test_a_response_of_an_unknown_type_is_not_answered() -> None:
    wire = Wire()
    wire.open()
    assert not wire.protocol.received(Response("type.googleapis.com/envoy.Secret", "1", "1", ()))
    assert wire.flush() == []


def test_resources_nobody_asked_for_are_not_kept() -> None:
    wire = Wire()
    wire.protocol.want(Kind.CLUSTER, ["c"])
    wire.open()
    wire.answer(Kind.CLUSTER, "1", cluster("c"), cluster("other"))
    assert list(wire.protocol.entries[Kind.CLUSTER]) == ["c"]


def test_absence_from_the_answer_to_the_first_request_is_nonexistence() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["a:80", "b:80"])
    wire.open()
    wire.answer(Kind.LISTENER, "1", listener("a:80", "r"))
    assert wire.entry(Kind.LISTENER, "b:80").absent
    wire.answer(Kind.LISTENER, "2")
    assert wire.entry(Kind.LISTENER, "a:80").absent
    wire.answer(Kind.LISTENER, "3", listener("b:80", "r"))
    assert wire.entry(Kind.LISTENER, "b:80").value is not None


def test_absence_from_a_response_that_may_have_been_under_way_is_not() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["a:80"])
    wire.open()
    wire.answer(Kind.LISTENER, "1", listener("a:80", "r"))
    wire.protocol.want(Kind.LISTENER, ["a:80", "b:80"])
    wire.protocol.received(Response(Kind.LISTENER.type_url, "2", "2", [packed(listener("a:80", "r"))]))
    wire.flush()  # only here is b:80 asked for
    assert wire.entry(Kind.LISTENER, "b:80").deadline is None
    wire.answer(Kind.LISTENER, "3", listener("a:80", "r"))
    assert not wire.entry(Kind.LISTENER, "b:80").absent
    assert not wire.pass_time(SETTLE / 2)
    wire.answer(Kind.LISTENER, "4", listener("a:80", "r"), listener("b:80", "r"))
    assert wire.protocol.next_deadline() is None
    wire.protocol.want(Kind.LISTENER, ["a:80", "b:80", "c:80"])
    wire.flush()
    wire.answer(Kind.LISTENER, "5", listener("a:80", "r"), listener("b:80", "r"))
    assert wire.pass_time(SETTLE)
    assert wire.entry(Kind.LISTENER, "c:80").absent


def test_a_response_that_must_have_been_under_way_gives_more_time() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["a:80"])
    wire.open()
    wire.protocol.want(Kind.LISTENER, ["a:80", "b:80"])
    wire.flush()
    wire.answer(Kind.LISTENER, "1", listener("a:80", "r"))  # two were asked for, this is the first answer
    assert not wire.pass_time(SETTLE)
    assert not wire.entry(Kind.LISTENER, "b:80").absent
    assert wire.pass_time(SETTLE_UNANSWERED)
    assert wire.entry(Kind.LISTENER, "b:80").absent


def test_silence_about_routes_and_endpoints_is_nonexistence_after_15_s_of_a_written_request() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["a:80"])
    wire.protocol.want(Kind.ROUTE, ["r"])
    assert wire.protocol.next_deadline() is None
    wire.protocol.stream_opened()
    requests = wire.protocol.requests()
    wire.now += 100  # the request waits for the transport: no timer yet (gRFC A57)
    assert wire.protocol.next_deadline() is None
    for request in requests:
        wire.protocol.written(request)
    assert wire.protocol.next_deadline() == wire.now + DOES_NOT_EXIST_AFTER
    assert not wire.pass_time(DOES_NOT_EXIST_AFTER - 1)
    wire.protocol.stream_closed()  # nobody can answer: the timer does not run on
    assert not wire.pass_time(100)
    wire.open()
    assert wire.pass_time(DOES_NOT_EXIST_AFTER)
    assert wire.entry(Kind.ROUTE, "r").absent
    # Silence never makes a host one outside the mesh.
    assert not wire.entry(Kind.LISTENER, "a:80").absent
    wire.answer(Kind.ROUTE, "1", route_configuration("r", "c"))
    assert wire.entry(Kind.ROUTE, "r").value is not None


def test_a_reconnect_sends_every_subscription_with_its_version_and_no_nonce() -> None:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["a:80"])
    wire.protocol.want(Kind.ROUTE, ["r"])
    wire.open()
    wire.answer(Kind.LISTENER, "7", listener("a:80", "r"))
    wire.protocol.stream_closed()
    wire.protocol.want(Kind.ROUTE, ["r", "s"])
    assert wire.open() == [
        Request(Kind.LISTENER, ("a:80",), "7", "", first=True),
        Request(Kind.ROUTE, ("r", "s"), "", ""),
    ]


def test_what_is_no_longer_wanted_is_forgotten() -> None:
    wire = Wire()
    wire.protocol.want(Kind.CLUSTER, ["c", "d"])
    wire.open()
    wire.answer(Kind.CLUSTER, "1", cluster("c"), cluster("d"))
    wire.protocol.want(Kind.CLUSTER, ["d"])
    assert list(wire.protocol.entries[Kind.CLUSTER]) == ["d"]
    assert wire.flush() == [Request(Kind.CLUSTER, ("d",), "1", "1")]
    wire.protocol.want(Kind.CLUSTER, [])
    # The last unsubscription is said too; but a stream never begins with an empty list, which would mean "everything".
    assert wire.flush() == [Request(Kind.CLUSTER, (), "1", "1")]
    wire.protocol.stream_closed()
    assert wire.open() == []


def reconnected() -> Wire:
    wire = Wire()
    wire.protocol.want(Kind.LISTENER, ["a:80"])
    wire.protocol.want(Kind.CLUSTER, ["c"])
    wire.protocol.want(Kind.ENDPOINT, ["c"])
    wire.open()
    wire.answer(Kind.LISTENER, "1", listener("a:80", "r"))
    wire.answer(Kind.CLUSTER, "1", cluster("c"))
    wire.answer(Kind.ENDPOINT, "1", assignment("c", "10.0.0.1:80", "10.0.0.2:80"))
    wire.protocol.stream_closed()
    wire.open()
    return wire


def test_a_wipe_right_after_a_reconnect_is_held_and_then_believed() -> None:
    for emptied in (assignment("c"), assignment("c", "10.0.0.1:80", healthy=False)):
        wire = reconnected()
        ack = wire.answer(Kind.ENDPOINT, "2", emptied)
        assert (ack.version, ack.error) == ("2", "")
        assert wire.endpoints("c") == 2
        assert wire.protocol.wipes_held == 1
        wire.now += WIPE_WINDOW / 2
        wire.answer(Kind.ENDPOINT, "3", emptied)  # said again, from the same half-started control plane
        assert wire.endpoints("c") == 2
        assert not wire.pass_time(WIPE_WINDOW / 2 - 1)
        assert wire.pass_time(1)
        assert wire.endpoints("c") == 0
        assert wire.protocol.wipes_confirmed == 1


def test_a_held_wipe_is_dropped_by_an_update_with_endpoints() -> None:
    wire = reconnected()
    wire.answer(Kind.ENDPOINT, "2", assignment("c"))
    wire.answer(Kind.ENDPOINT, "3", assignment("c", "10.0.0.9:80"))
    assert wire.endpoints("c") == 1
    assert not wire.pass_time(2 * WIPE_WINDOW)
    assert wire.endpoints("c") == 1


def test_fewer_endpoints_are_no_wipe() -> None:
    wire = reconnected()
    wire.answer(Kind.ENDPOINT, "2", assignment("c", "10.0.0.1:80"))
    assert wire.endpoints("c") == 1


def test_a_wipe_later_on_or_on_the_first_connection_is_believed_at_once() -> None:
    wire = reconnected()
    wire.now += WIPE_WINDOW
    wire.answer(Kind.ENDPOINT, "2", assignment("c"))
    assert wire.endpoints("c") == 0
    wire = Wire()
    wire.protocol.want(Kind.ENDPOINT, ["c"])
    wire.open()
    wire.answer(Kind.ENDPOINT, "1", assignment("c", "10.0.0.1:80"))
    wire.answer(Kind.ENDPOINT, "2", assignment("c"))
    assert wire.endpoints("c") == 0


def test_listeners_and_clusters_that_vanish_after_a_reconnect_are_held() -> None:
    wire = reconnected()
    wire.answer(Kind.LISTENER, "2")
    wire.answer(Kind.CLUSTER, "2")
    assert wire.entry(Kind.LISTENER, "a:80").value is not None
    assert wire.entry(Kind.CLUSTER, "c").value is not None
    wire.answer(Kind.CLUSTER, "3", cluster("c"))
    assert wire.pass_time(WIPE_WINDOW)
    assert wire.entry(Kind.LISTENER, "a:80").absent
    assert wire.entry(Kind.CLUSTER, "c").value is not None


def test_a_doubt_does_not_outlive_its_stream() -> None:
    wire = reconnected()
    wire.answer(Kind.ENDPOINT, "2", assignment("c"))
    wire.protocol.stream_closed()
    assert not wire.pass_time(2 * WIPE_WINDOW)
    assert wire.endpoints("c") == 2


def test_answers_do_not_pile_up_for_a_server_that_does_not_read() -> None:
    wire = Wire()
    wire.protocol.want(Kind.CLUSTER, ["c"])
    wire.open()
    for number in range(1000):
        wire.protocol.received(Response(Kind.CLUSTER.type_url, str(number), str(number), [packed(cluster("c"))]))
    waiting = wire.protocol.requests()
    assert len(waiting) <= 16
    assert waiting[-1].nonce == "999"
