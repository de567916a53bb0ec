"""What a client may cost us, and what an application may not make of its answer."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbound_support import SERVER, Authority, TestRuntime
from uvicorn.config import Config

from proxyless.telemetry.observation import Ending
from proxyless.transport.inbound import cycle
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.protocol import MAX_PIPELINED, MeshProtocol
from proxyless.transport.inbound.server_state import MeshServerState

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

# Much more than one read of a socket brings, much less than a client can send.
PATIENCE = 1024 * 1024


class Wire(asyncio.Transport):
    """The client's end of a connection: what the server wrote, and whether it wants to hear more."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 1000)})
        self.written = b""
        self.closing = self.aborted = self.paused = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.aborted:
            self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.lost)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def lost(self) -> None:
        self.closing = True
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Client:
    """A connection to ``app``. ``ended``: what telemetry was told, one entry for each request."""

    def __init__(self, app: App) -> None:
        self.runtime = TestRuntime(SOURCE)
        self.admitted: list[object] = []
        self.ended: list[object] = []
        telemetry = self.runtime.telemetry
        begin, end = telemetry.begin_server, telemetry.end_server

        def counted_begin(*arguments: Any, **named: Any) -> Any:
            seen = begin(*arguments, **named)
            self.admitted.append(seen)
            return seen

        def counted_end(seen: Any, *ending: Any) -> None:
            self.ended.append(seen)
            end(seen, *ending)

        telemetry.begin_server, telemetry.end_server = counted_begin, counted_end  # type: ignore[method-assign]
        self.state = MeshServerState()
        config = Config(MeshASGI(app, self.runtime), interface="asgi3", log_config=None, access_log=False)
        self.protocol = MeshProtocol(self.runtime, config, self.state, {}, asyncio.get_running_loop())
        self.wire = Wire()
        self.wire.protocol = self.protocol
        self.protocol.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        if self.wire.protocol is not None and not self.wire.closing:
            self.wire.protocol.data_received(data)  # type: ignore[attr-defined]

    async def flood(self, part: bytes) -> int:
        """Send until the server stops reading or closes; how many bytes it took."""
        taken = 0
        while not (self.wire.paused or self.wire.closing) and taken < PATIENCE:
            self.send(part)
            taken += len(part)
            await settle()
        return taken

    async def end(self) -> None:
        """The client leaves; everything must come to its end."""
        self.wire.lost()
        async with asyncio.timeout(30):
            while self.state.tasks:
                await asyncio.sleep(0)


SOURCE = Authority().source(SERVER)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def hangs(scope: Scope, receive: Any, send: Any) -> None:
    """Reads nothing, and ends with its client."""
    await asyncio.sleep(0)
    while (await receive())["type"] != "http.disconnect":
        pass


async def hello(scope: Scope, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("end", [b"0\r\nx: ", b"0\r\n", b"1;"], ids=["a trailer", "trailers", "a chunk extension"])
def test_what_never_ends_behind_a_body_is_not_kept(end: bytes) -> None:
    async def test() -> None:
        client = Client(hangs)
        client.send(CHUNKED + end)
        part = b"x: a\r\n" * 1000 if end == b"0\r\n" else b"a" * 6000
        assert await client.flood(part) < PATIENCE
        assert client.wire.closing
        await client.end()

    run(test)


def test_a_body_in_tiny_chunks_costs_as_much_as_it_has_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        blocked = asyncio.Event()

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await blocked.wait()

        client = Client(app)
        client.send(CHUNKED + b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n")
        assert not client.wire.paused
        await settle()
        request = client.protocol.cycle
        assert request is not None
        client.send(b"1\r\nx\r\n" * 40_000)  # quadratic, this takes longer than a test may
        assert client.wire.paused
        assert request.received == 0xFFFF + 40_000
        blocked.set()
        await client.end()

    run(test)


def test_pipelined_requests_are_bounded_whatever_the_application_waits_for() -> None:
    async def test() -> None:
        client = Client(hangs)
        request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        client.send(request * 2)
        await settle()
        # The application listens for the end; that must not fetch more requests behind those that wait.
        assert client.wire.paused
        await client.end()
        client = Client(hangs)
        client.send(request * (MAX_PIPELINED + 10))
        assert client.wire.closing
        await client.end()
        client = Client(hello)
        client.send(request * MAX_PIPELINED)
        async with asyncio.timeout(30):
            while client.wire.written.count(b"HTTP/1.1 200") < MAX_PIPELINED:
                await asyncio.sleep(0)
        assert not client.wire.paused
        await client.end()

    run(test)


def test_what_an_application_keeps_for_one_request_is_not_there_in_the_next() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    found = []

    async def remembers(scope: Scope, receive: Any, send: Any) -> None:
        found.append(user.get())
        user.set(scope["path"])
        await hello(scope, receive, send)

    async def test() -> None:
        client = Client(remembers)
        client.send(b"GET /ann HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
        async with asyncio.timeout(30):
            while len(found) < 3:
                await asyncio.sleep(0)
        await client.end()

    run(test)
    assert found == ["nobody"] * 3


WEBSOCKET = (
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_websocket_does_not_begin_inside_an_earlier_answer() -> None:
    async def test() -> None:
        kinds: list[str] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            kinds.append(scope["type"])
            await asyncio.sleep(0)
            await hello(scope, receive, send)

        client = Client(app)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" + WEBSOCKET)
        async with asyncio.timeout(30):
            while not client.wire.closing:
                await asyncio.sleep(0)
        assert kinds == ["http", "http"]
        assert client.wire.written.count(b"HTTP/1.1 200") == 2
        await client.end()

    run(test)


def test_a_refused_head_begins_no_websocket() -> None:
    async def test() -> None:
        client = Client(hello)
        client.send(WEBSOCKET.replace(b"GET / ", b"GET /#a "))
        assert client.wire.written.startswith(b"HTTP/1.1 400")
        await settle()
        assert not client.admitted
        await client.end()

    run(test)


def test_a_websocket_is_not_ended_by_the_timers_of_requests() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await hello(scope, receive, send)
                return
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
            await receive()

        client = Client(app)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await settle()
        assert client.protocol._idle_timer is not None
        client.send(WEBSOCKET)
        assert client.protocol._idle_timer is None
        await settle()
        assert b"HTTP/1.1 101" in client.wire.written
        await client.end()

    run(test)


def test_a_body_that_may_yet_come_is_no_request() -> None:
    """Answered without its 100, the client may send the body or the next request: only an end makes it clear."""

    async def test() -> None:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        client = Client(hello)
        client.send(head)
        await settle()
        assert b"connection: close" in client.wire.written
        assert client.wire.closing
        client = Client(hello)
        client.send(head + b"hello")
        await settle()
        assert not client.wire.closing
        await client.end()

    run(test)


def test_nothing_of_http_1_1_is_said_to_http_1_0() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
            await send({"type": "http.response.body", "body": b"hi"})

        client = Client(app)
        client.send(b"POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n")
        client.send(b"a")
        await settle()
        head, _, body = client.wire.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"transfer-encoding" not in head
        assert body == b"hi"
        client = Client(app)
        client.send(b"GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        await settle()
        assert client.wire.written.endswith(b"\r\n\r\nhi")

    run(test)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (100, []),
        (103, [(b"content-length", b"2")]),
        (1000, []),
        (200, [(b"content-length", b"-2")]),
        (200, [(b"content-length", b"+2")]),
        (200, [(b"content-length", b"0_2")]),
        (200, [(b"content-length", b"2"), (b"content-length", b"0")]),
        (200, [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")]),
        (200, [(b"transfer-encoding", b"gzip")]),
        (200, [(b"x", b"a\r\nset-cookie: b")]),
        (200, [(b"x: y\r\nz", b"a")]),
    ],
)
def test_an_answer_that_could_be_read_in_two_ways_is_an_error(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"hi"})

        client = Client(app)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await settle()
        assert client.wire.written.startswith(b"HTTP/1.1 500")
        assert client.wire.written.count(b"HTTP/1.1") == 1
        assert client.wire.closing

    run(test)


def test_a_head_that_was_refused_leaves_nothing_to_the_next() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            bad = [(b"content-length", b"9"), (b"x", b"\n")]
            with pytest.raises(RuntimeError):
                await send({"type": "http.response.start", "status": 200, "headers": bad})
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hi"})

        client = Client(app)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await settle()
        assert client.wire.written.endswith(b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        await client.end()

    run(test)


def test_half_an_answer_to_http_1_0_is_not_taken_for_the_whole() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await asyncio.sleep(0)
            raise ValueError

        client = Client(app)
        client.send(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
        await settle()
        assert client.wire.aborted

    run(test)


def test_an_application_that_rewrites_its_scope_still_answers_what_was_asked() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            scope["method"] = "GET"
            del scope["http_version"]
            raise ValueError

        client = Client(app)
        client.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
        await settle()
        assert client.wire.written.startswith(b"HTTP/1.1 500")
        assert client.wire.written.endswith(b"\r\n\r\n")

    run(test)


def test_what_an_application_returns_after_its_answer_does_not_cut_the_next() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> object:
            first = scope["path"] == "/1"
            if not first:
                await settle()
            await hello(scope, receive, send)
            return first or None

        client = Client(app)  # type: ignore[arg-type]
        client.send(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        await settle()
        await settle()
        assert client.wire.written.count(b"\r\n\r\nhi") == 2
        await client.end()

    run(test)


def test_telemetry_knows_why_a_request_was_refused() -> None:
    async def test() -> None:
        reasons: list[tuple[int, str]] = []
        client = Client(hello)
        end = client.runtime.telemetry.end_server

        def noted(seen: Any, *fields: Any) -> None:
            ending = Ending(*fields)
            reasons.append((ending.status, ending.reason))
            end(seen, *fields)

        client.runtime.telemetry.end_server = noted  # type: ignore[method-assign]
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        await settle()
        assert reasons == [(400, "the request has more than one Host header")]

    run(test)


@pytest.mark.parametrize(
    ("sent", "seen", "decoded"),
    [
        ("/a/../admin?x=/../y", "/admin?x=/../y", "/admin"),
        ("/a/%2e%2E/admin", "/admin", "/admin"),
        ("/a\\..\\admin", "/admin", "/admin"),
        ("/../../etc/passwd", "/etc/passwd", "/etc/passwd"),
        ("/a%2Fb//c/./d", "/a%2Fb//c/d", "/a/b//c/d"),
        ("/a%2Fb//c", "/a%2Fb//c", "/a/b//c"),
        ("/%C3%A9%2e", "/%C3%A9.", "/\u00e9."),
    ],
)
def test_the_mesh_and_the_application_see_one_spelling_of_a_path(sent: str, seen: str, decoded: str) -> None:
    async def test() -> None:
        scopes: list[Scope] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await hello(scope, receive, send)

        client = Client(app)
        client.send(f"GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        await settle()
        client.send(f"GET {sent} HTTP/1.1\r\nhost: a".encode() + WEBSOCKET[WEBSOCKET.index(b"\r\nconnection") :])
        await settle()
        assert [scope["type"] for scope in scopes] == ["http", "websocket"]
        assert [scope["raw_path"].decode() for scope in scopes] == [seen.partition("?")[0]] * len(scopes)
        assert [scope["path"] for scope in scopes] == [decoded] * len(scopes)
        assert [one.head.path for one in client.admitted] == [seen] * len(scopes)  # type: ignore[attr-defined]
        await client.end()

    run(test)


def test_a_body_that_stops_coming_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        heard: list[str] = []
        ended = asyncio.Event()

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            while not heard or heard[-1] != "http.disconnect":
                heard.append((await receive())["type"])
            ended.set()

        client = Client(app)
        monkeypatch.setattr(cycle, "BODY_TIMEOUT", 3600.0)
        client.send(CHUNKED + b"1\r\na\r\n")
        await settle()
        monkeypatch.setattr(cycle, "BODY_TIMEOUT", 0.001)
        client.send(b"1\r\na\r\n")
        await asyncio.wait_for(ended.wait(), 60)
        assert heard == ["http.request", "http.request", "http.disconnect"]
        assert client.wire.aborted

    run(test)


def test_an_escaped_nul_is_refused() -> None:
    async def test() -> None:
        client = Client(hello)
        client.send(b"GET /a%00b HTTP/1.1\r\nhost: a\r\n\r\n")
        await settle()
        assert client.wire.written.startswith(b"HTTP/1.1 400")
        await client.end()

    run(test)


# Random clients and random applications

_PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"HEAD /x HTTP/1.1\r\nhost: a\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
        CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", WEBSOCKET,
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n", b"abc", b"host: b\r\n", b"\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\n",
    ]
)  # fmt: skip
_STARTS = st.builds(
    lambda status, headers: {"type": "http.response.start", "status": status, "headers": headers},
    st.sampled_from([200, 204, 304, 404, 100, 500]),
    st.lists(
        st.sampled_from(
            [
                (b"content-length", b"3"), (b"content-length", b"0"), (b"transfer-encoding", b"chunked"),
                (b"connection", b"close"), (b"x", b"y"), (b"x", b"\n"), (b"grpc-status", b"0"),
            ]
        ),
        max_size=3,
    ),
)  # fmt: skip
_BODIES = st.builds(
    lambda body, more: {"type": "http.response.body", "body": body, "more_body": more},
    st.sampled_from([b"", b"abc", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]),
    st.booleans(),
)
_STEPS = st.lists(st.sampled_from(["receive", "pause", "fail", "return"]) | _STARTS | _BODIES, max_size=7)


@settings(deadline=None, max_examples=150)
@given(
    pieces=st.lists(_PIECES | st.binary(max_size=8), max_size=12),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    plans=st.lists(_STEPS, min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_no_client_and_no_application_mixes_answers_or_leaves_anything_behind(
    pieces: list[bytes], cuts: list[int], plans: list[list[Any]], seed: int
) -> None:
    data, chance = b"".join(pieces), random.Random(seed)
    asked: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        # Each step is tried, whatever became of the one before: applications catch errors.
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        plan = plans[len(asked) % len(plans)]
        asked.append(scope["method"])
        for step in plan:
            match step:
                case "receive":
                    if (await receive())["type"] == "http.disconnect":
                        return
                case "pause":
                    await asyncio.sleep(0)
                case "fail":
                    raise ValueError
                case "return":
                    return
                case message:
                    try:
                        await send(message)
                    except RuntimeError:
                        if chance.random() < 0.5:
                            raise

    async def test() -> None:
        client = Client(app)
        left, turn = data, 0
        while left:
            cut = cuts[turn % len(cuts)]
            client.send(left[:cut])
            left, turn = left[cut:], turn + 1
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await settle()
        upgraded = client.wire.protocol is not client.protocol and client.wire.protocol is not None
        await client.end()
        assert len(client.admitted) == len({id(one) for one in client.ended}) == len(client.ended)
        assert len(client.admitted) >= len(asked)
        if not (upgraded or b"101 Switching" in client.wire.written or b"403 Forbidden" in client.wire.written):
            whole(client.wire.written, [seen.head.method for seen in client.admitted])  # type: ignore[attr-defined]

    run(test)


def whole(written: bytes, methods: list[str]) -> None:
    """h11 reads answers, one after the other; one more may be a refusal by the server itself, the last may be cut."""
    for method in [*methods, "GET"]:
        if not written:
            return
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(written)
        event = reader.next_event()
        while not isinstance(event, h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return
            event = reader.next_event()
        written = reader.trailing_data[0]
    assert not written, "more answers than requests"
