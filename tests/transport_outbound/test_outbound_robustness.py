"""Surprising and malformed responses, row by row: what the application gets, and that the next request is right.

An outcome is ``STATUS BODY``; ``STATUS FLAG`` for an answer that the mesh made; or the name of httpx's exception.
``plain`` is what httpx does without us, where we differ on purpose:

- What is wrong before the end of a response's head is an answer of the mesh, 503 with the flag UC, as Envoy's: no
  part of it has reached the application, and a policy may ask for a retry. Plain httpx raises an exception.
- We refuse what two readers may read in two ways (two lengths, length and chunks, bare line feeds, folded lines, ...),
  also where h11 takes it.
"""

import asyncio
import dataclasses
from typing import Any

import pytest
from outbound_support import CLIENTS, URL, Client, FakeRuntime, Peer, Server, cluster, eventually, snapshot, stream_of

from proxyless.engine.steps import FailureKind

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
HELLO, BROKEN, PROTOCOL, READ = "200 hello", "503 UC", "RemoteProtocolError", "ReadError"
TIMEOUT = "ReadTimeout"
# Beside bytes, what a script does: close our side, close, reset, wait for the client to close, one byte at a time.
EOF, CLOSE, RESET, HANG = "eof", "close", "reset", "hang"


@dataclasses.dataclass(frozen=True)
class Drip:
    data: bytes


@dataclasses.dataclass(frozen=True)
class Row:
    """kept: the next request finds the connection usable. plain: the outcome of plain httpx, if another."""

    name: str
    script: tuple[Any, ...]
    outcome: str
    kept: bool = False
    plain: str = ""
    method: str = "GET"
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    read_request: bool = True


def get(name: str, *script: Any, to: str, **more: Any) -> Row:
    return Row(name, script, to, **more)


def refused(name: str, *script: Any, plain: str = PROTOCOL, **more: Any) -> Row:
    return Row(name, script, BROKEN, plain=plain, **more)


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"HTTP/" + version + b" " + status, *lines, b"", b""))


UPLOAD = [b"u" * 65536] * 200
ROWS = (
    # Right, if unusual
    get("plain", OK, to=HELLO, kept=True),
    get("byte by byte", Drip(OK), to=HELLO, kept=True),
    get("chunks byte by byte", Drip(CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), to=HELLO, kept=True),
    get("no reason phrase", b"HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhello", to=HELLO, kept=True),
    get("no space for a reason", b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", to=HELLO, kept=True),
    get("reason of latin-1", b"HTTP/1.1 200 caf\xe9\r\ncontent-length: 5\r\n\r\nhello", to=HELLO, kept=True),
    get("unknown status", head(b"content-length: 5", status=b"299 Odd") + b"hello", to="299 hello", kept=True),
    get("upper case", head(b"CONTENT-LENGTH: 5") + b"hello", to=HELLO, kept=True),
    get("spaces around a value", head(b"content-length:  5 \t") + b"hello", to=HELLO, kept=True),
    get("no space after a colon", head(b"content-length:5") + b"hello", to=HELLO, kept=True),
    get("empty body", head(b"content-length: 0"), to="200 ", kept=True),
    get("empty chunked body", CHUNKED + b"0\r\n\r\n", to="200 ", kept=True),
    get("chunk sizes with zeros", CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", to=HELLO, kept=True),
    get("chunk sizes in capitals", CHUNKED + b"A\r\nhellohello\r\n0\r\n\r\n", to="200 hellohello", kept=True),
    get("chunk extension", CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0\r\n\r\n', to=HELLO, kept=True),
    get("trailers", CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", to=HELLO, kept=True),
    get("100, then the answer", head(status=b"100 Continue") + OK, to=HELLO, kept=True),
    get("103 with headers", head(b"link: </a>; rel=preload", status=b"103 Early Hints") + OK, to=HELLO, kept=True),
    get("many interims", *[head(status=b"102 Processing")] * 20, OK, to=HELLO, kept=True),
    get("until the end", head(b"connection: close") + b"hello", CLOSE, to=HELLO),
    get("until the end, half-closed", head() + b"hello", EOF, to=HELLO),
    get("HTTP/1.0", head(b"content-length: 5", version=b"1.0") + b"hello", CLOSE, to=HELLO),
    get(
        "HTTP/1.0 that stays",
        head(b"content-length: 5", b"connection: keep-alive", version=b"1.0") + b"hello",
        to=HELLO,
        kept=True,
    ),
    get("said to close, left open", head(b"connection: close", b"content-length: 5") + b"hello", to=HELLO),
    get("close among others", head(b"connection: x, Close", b"content-length: 5") + b"hello", to=HELLO),
    get("204", head(status=b"204 No Content"), to="204 ", kept=True),
    get("204 with a length", head(b"content-length: 5", status=b"204 No Content"), to="204 ", kept=True),
    get("304 with a length", head(b"content-length: 5", status=b"304 Not Modified"), to="304 ", kept=True),
    get("HEAD with a length", head(b"content-length: 5"), to="200 ", kept=True, method="HEAD"),
    get("HEAD with chunks", head(b"transfer-encoding: chunked"), to="200 ", kept=True, method="HEAD"),
    get("HEAD without anything", head(), to="200 ", kept=True, method="HEAD"),
    get("answered, then closed", OK, CLOSE, to=HELLO),
    get("answered, then reset", OK, RESET, to=HELLO, kept=False, plain=f"{HELLO}|{READ}"),
    get("200 headers", head(b"content-length: 5", *[b"x: y"] * 190) + b"hello", to=HELLO, kept=True),
    get("60 KiB of head", head(b"content-length: 5", b"x: " + b"y" * 60000) + b"hello", to=HELLO, kept=True),
    get("a value of latin-1", head(b"content-length: 5", b"x: caf\xe9") + b"hello", to=HELLO, kept=True),
    get("an empty value", head(b"content-length: 5", b"x:") + b"hello", to=HELLO, kept=True),
    # Bytes after the end: never the next response
    get("text after the end", OK + b"more", to=HELLO),
    get("a second response", OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL", to=HELLO),
    get("after the last chunk", CHUNKED + b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", to=HELLO),
    get("a body for a HEAD", head(b"content-length: 5") + b"hello", to="200 ", method="HEAD"),
    get("a body for a 204", head(status=b"204 No Content") + b"hello", to="204 "),
    get("a body for a 304", head(b"content-length: 5", status=b"304 Not Modified") + b"hello", to="304 "),
    # Cut off
    refused("nothing, closed", CLOSE),
    refused("nothing, half-closed", EOF),
    refused("reset at once", RESET, plain=READ),
    refused("reset before the request", RESET, plain=READ, read_request=False),
    refused("closed before the request", CLOSE, plain=f"{PROTOCOL}|{READ}", read_request=False),
    refused("half a status line", b"HTTP/1.1 20", CLOSE),
    refused("half a head", b"HTTP/1.1 200 OK\r\ncontent-le", CLOSE),
    refused("reset in the head", b"HTTP/1.1 200 OK\r\ncontent-le", RESET, plain=READ),
    refused("only a 100", head(status=b"100 Continue"), CLOSE),
    get("no byte of the body", LENGTH % 5, CLOSE, to=PROTOCOL),
    get("a body too short", LENGTH % 5 + b"hell", CLOSE, to=PROTOCOL),
    get("a body too short, half-closed", LENGTH % 5 + b"hell", EOF, to=PROTOCOL),
    get("reset in the body", LENGTH % 5 + b"hell", RESET, to=READ),
    get("reset after the head", LENGTH % 5, RESET, to=READ),
    get("no chunk", CHUNKED, CLOSE, to=PROTOCOL),
    get("half a chunk size", CHUNKED + b"1", CLOSE, to=PROTOCOL),
    get("half a chunk", CHUNKED + b"5\r\nhe", CLOSE, to=PROTOCOL),
    get("no last chunk", CHUNKED + b"5\r\nhello\r\n", CLOSE, to=PROTOCOL),
    get("half a last chunk", CHUNKED + b"5\r\nhello\r\n0\r\n", CLOSE, to=PROTOCOL),
    get("reset in a chunk", CHUNKED + b"5\r\nhe", RESET, to=READ),
    get("reset in the body until the end", head() + b"hello", RESET, to=READ),
    # Never ends
    get("silence", HANG, to=TIMEOUT),
    get("silence in the head", b"HTTP/1.1 200 OK\r\nx", HANG, to=TIMEOUT),
    get("silence after a 100", head(status=b"100 Continue"), HANG, to=TIMEOUT),
    get("silence in the body", LENGTH % 5 + b"he", HANG, to=TIMEOUT),
    get("silence in a chunk", CHUNKED + b"5\r\nhe", HANG, to=TIMEOUT),
    # Not HTTP
    refused("garbage", b"GARBAGE\r\n\r\n", HANG),
    refused("a request", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", HANG),
    refused("a greeting", b"220 smtp ready\r\n", HANG, plain=TIMEOUT),
    refused("a TLS alert", b"\x15\x03\x01\x00\x02\x02\x50", HANG, CLOSE),
    refused("HTTP/2 frames", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", HANG),
    refused("HTTP/2.0", head(b"content-length: 5", version=b"2.0") + b"hello", HANG, plain=HELLO),
    refused("HTTP/0.9", b"hello\r\n\r\n", CLOSE),
    refused("a status of two digits", head(status=b"20 OK"), HANG),
    refused("a status of four digits", head(status=b"2000 OK"), HANG),
    refused("a status of zero", head(status=b"000 OK"), HANG),
    refused("a bare LF", b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", HANG, plain=HELLO),
    # Two readers could differ
    refused("two lengths", head(b"content-length: 5", b"content-length: 4") + b"hello", HANG),
    refused("the same length twice", head(b"content-length: 5", b"content-length: 5") + b"hello", HANG, plain=HELLO),
    refused("a list of lengths", head(b"content-length: 5, 5") + b"hello", HANG, plain=HELLO),
    refused("a negative length", head(b"content-length: -5") + b"hello", HANG),
    refused("a length with a plus", head(b"content-length: +5") + b"hello", HANG),
    refused("a length in hex", head(b"content-length: 0x5") + b"hello", HANG),
    refused("a huge length", head(b"content-length: 99999999999999999999999") + b"hello", HANG),
    refused("an empty length", head(b"content-length:") + b"hello", HANG),
    refused(
        "length and chunks",
        head(b"content-length: 5", b"transfer-encoding: chunked") + b"0\r\n\r\n",
        HANG,
        plain="200 ",
    ),
    refused("gzip as a transfer coding", head(b"transfer-encoding: gzip") + b"hello", HANG),
    refused("chunked twice", head(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n", HANG),
    refused("chunked, then gzip", head(b"transfer-encoding: chunked, gzip") + b"0\r\n\r\n", HANG),
    refused("a folded line", head(b"x: a", b" b", b"content-length: 5") + b"hello", HANG, plain=HELLO),
    refused("a space in a name", head(b"x y: 1"), HANG),
    refused("a space before a colon", head(b"content-length : 5") + b"hello", HANG),
    refused("no colon", head(b"nothing"), HANG),
    refused("no name", head(b": 1"), HANG),
    refused("NUL in a value", head(b"x: \0"), HANG),
    refused("a CR in a value", head(b"x: a\rb"), HANG),
    refused("101 unasked", head(b"connection: upgrade", b"upgrade: websocket", status=b"101 S"), HANG),
    # Too much
    refused("an endless status line", b"HTTP/1.1 200 " + b"y" * 200_000, HANG),
    refused("an endless header", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, HANG),
    refused("20,000 headers", head(*[b"x: y"] * 20_000), HANG, plain=TIMEOUT),
    refused("endless interims", head(status=b"100 Continue") * 10_000, HANG, plain="ReadTimeout"),
    # Chunk errors
    get("a chunk size that is none", CHUNKED + b"z\r\nhello\r\n0\r\n\r\n", HANG, to=PROTOCOL),
    get("a negative chunk size", CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", HANG, to=PROTOCOL),
    get("an empty chunk size", CHUNKED + b"\r\nhello\r\n0\r\n\r\n", HANG, to=PROTOCOL),
    get(
        "a huge chunk size",
        CHUNKED + b"fffffffffffffffff\r\nhello\r\n",
        HANG,
        to=PROTOCOL,
        plain=TIMEOUT,
    ),
    get("a chunk too long", CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", HANG, to=PROTOCOL),
    get("a chunk too short", CHUNKED + b"6\r\nhello\r\n0\r\n\r\n", HANG, to=PROTOCOL),
    get("chunks with bare LFs", CHUNKED + b"5\nhello\n0\n\n", HANG, to=PROTOCOL, plain=TIMEOUT),
    get("an endless extension", CHUNKED + b"5;" + b"y" * 200_000, HANG, to=PROTOCOL),
    get("endless trailers", CHUNKED + b"0\r\n" + b"x: y\r\n" * 40_000, HANG, to=PROTOCOL),
    get("a malformed trailer", CHUNKED + b"5\r\nhello\r\n0\r\nno colon\r\n\r\n", HANG, to=PROTOCOL),
    get("framing in a trailer", CHUNKED + b"0\r\ncontent-length: 9\r\n\r\n", to=PROTOCOL, plain="200 "),
    # Beside a request's body
    get("small body", OK, to=HELLO, kept=True, method="POST", body=b"small"),
    get("streamed body", OK, to=HELLO, kept=True, method="POST", body=[b"a", b"b"]),
    get(
        "answered before the body",
        head(b"content-length: 5", b"connection: close", status=b"413 Large") + b"hello",
        HANG,
        to="413 hello",
        method="POST",
        body=UPLOAD,
        read_request=False,
        plain="413 hello|WriteTimeout",
    ),
    refused(
        "reset in the request's body",
        RESET,
        plain="ReadError|WriteError",
        method="POST",
        body=UPLOAD,
        read_request=False,
    ),
    get(
        "Expect, continued",
        head(status=b"100 Continue"),
        "body",
        OK,
        to=HELLO,
        kept=True,
        method="POST",
        body=b"small",
        headers=(("expect", "100-continue"),),
        read_request=False,
    ),
    get(
        "Expect, refused",
        head(b"content-length: 5", status=b"417 No") + b"hello",
        to="417 hello",
        method="POST",
        body=b"small",
        headers=(("expect", "100-continue"),),
        read_request=False,
        plain="417 hello",
    ),
    get(
        "Expect, ignored",
        "body",
        OK,
        to=HELLO,
        kept=True,
        method="POST",
        body=[b"a", b"b"],
        headers=(("expect", "100-continue"),),
        read_request=False,
    ),
)


class Script:
    """The server: plays a row for its path, and answers any other request by its path."""

    def __init__(self) -> None:
        self.row: Row | None = None
        self.once = False
        self.served: list[tuple[int, str]] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            row = self.row
            if row is not None and not row.read_request and row.method == "GET" and not peer.exchanges:
                self.row = None  # acts before it reads anything
                await self._play(peer, row, {})
                return
            line, headers = await peer.head()
            path, row = line.split()[1], self.row
            self.served.append((peer.number, path))
            if path != "/row" or row is None:
                await peer.body(headers)
                await peer.ok(path.encode())
                continue
            if self.once:
                self.row = None
            if row.read_request:
                await peer.body(headers)
            if not await self._play(peer, row, headers):
                return

    async def _play(self, peer: Peer, row: Row, headers: dict[str, str]) -> bool:
        for act in row.script:
            match act:
                case bytes():
                    await peer.send(act)
                case Drip():
                    for number in act.data:
                        await peer.send(bytes([number]))
                        await asyncio.sleep(0)
                case "body":
                    await peer.body(headers)
                case "eof":
                    peer.writer.write_eof()
                    await peer.reader.read()
                    return False
                case "reset":
                    await asyncio.sleep(0.02)  # a reset overtakes what was sent: let that be read first
                    peer.reset()
                    return False
                case "hang":
                    while await peer.reader.read(65536):
                        pass
                    return False
                case _:
                    return False
        return True


async def outcome(client: Client, row: Row, url: str, expected: str) -> str:
    content = row.body
    options: dict[str, Any] = {}
    if isinstance(content, list):
        options["content"] = stream_of(content) if client.is_async else iter(content)
    elif content is not None:
        options["content"] = content
    patience = 0.3 if TIMEOUT in expected else 20
    try:
        made = client.client.request(row.method, url + "row", headers=list(row.headers), timeout=patience, **options)
        response = await made if client.is_async else made
    except client.module.HTTPError as error:
        return type(error).__name__
    flags = response.headers.get("x-envoy-response-flags")
    return f"{response.status_code} {flags or response.text}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_outcome_and_the_next_request(row: Row) -> None:
    async def ours(which: tuple[str, str]) -> None:
        script = Script()
        with Server(script) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port), retry=None))
            tasks = len(asyncio.all_tasks())
            async with Client(*which, runtime) as client:
                if row.read_request or row.method != "GET":
                    assert (await client.get(URL + "before")).text == "/before"
                script.row = row
                seen = await outcome(client, row, URL, row.outcome)
                assert seen == row.outcome
                script.row = None
                if row.script[0] == OK and row.script[-1] in (CLOSE, RESET):
                    await eventually(lambda: server.open == 0)  # what comes later, the next request meets
                    for _ in range(3):  # the loop hears of it before the next request asks
                        await asyncio.sleep(0)
                for number in range(2):
                    assert (await client.get(f"{URL}good/{number}")).text == f"/good/{number}"
                if row.read_request:
                    connections = [connection for connection, path in script.served if path in ("/row", "/good/0")]
                    assert (connections[0] == connections[1]) == row.kept
                assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0
                assert len(runtime.ended) == len({id(record) for record, _ in runtime.ended})
                # One connection is idle; what was given up is closed, and no task is left behind.
                await eventually(lambda: server.open == 1)
                await eventually(lambda: len(asyncio.all_tasks()) == tasks)
            await eventually(lambda: server.open == 0)

    for which in CLIENTS[:2]:
        asyncio.run(asyncio.wait_for(ours(which), 60))


RETRIED = [row for row in ROWS if row.outcome == BROKEN and row.method == "GET" and row.read_request]


@pytest.mark.parametrize("row", RETRIED, ids=lambda row: row.name.replace(" ", "-"))
def test_a_policy_asks_again(row: Row) -> None:
    """What is broken before the application has seen any of it is asked for again: it sees the second answer only."""

    async def ours(which: tuple[str, str]) -> None:
        script = Script()
        script.once = True
        with Server(script) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port)))
            async with Client(*which, runtime) as client:
                script.row = row
                response = await client.get(f"{URL}row")
                assert (response.status_code, response.text) == (200, "/row")
                first, second = response.extensions["proxyless"].attempts
                assert (first.failure.kind, second.status) == (FailureKind.RESET, 200)

    for which in CLIENTS[:2]:
        asyncio.run(asyncio.wait_for(ours(which), 60))


@pytest.mark.parametrize("where", ["head", "body", "chunk"])
def test_a_drip_that_never_ends_meets_the_routes_timeout(where: str) -> None:
    """Each byte comes in time for the application's read timeout; the whole never would."""
    begin = {"head": b"HTTP/1.1 200 OK\r\nx: ", "body": LENGTH % 9999, "chunk": CHUNKED + b"ffff\r\n"}[where]

    async def drip(peer: Peer) -> None:
        line, _ = await peer.head()
        while "/good" in line:
            await peer.ok()
            line, _ = await peer.head()
        await peer.send(begin)
        while True:
            await peer.send(b"a")
            await asyncio.sleep(0.01)

    async def ours(which: tuple[str, str]) -> None:
        with Server(drip) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port), retry=None, timeout=0.7))
            async with Client(*which, runtime) as client:
                if where == "head":
                    response = await client.get()
                    assert (response.status_code, response.headers["x-envoy-response-flags"]) == (504, "UT")
                else:
                    with pytest.raises(client.module.ReadTimeout):
                        await client.get()
                await eventually(lambda: server.open == 0)
                runtime.world = snapshot(cluster(server.port), retry=None)
                assert (await client.get(f"{URL}good")).text == "hello"

    for which in CLIENTS[:2]:
        asyncio.run(asyncio.wait_for(ours(which), 60))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_what_plain_httpx_does(row: Row) -> None:
    """So that the differences above stay true, and chosen."""
    import httpx

    script, expected = Script(), row.plain or row.outcome
    with Server(script) as server:
        script.row = row

        async def plain() -> str:
            client = Client.__new__(Client)
            client.module, client.is_async = httpx, True
            client.client = httpx.AsyncClient()
            async with client.client:
                return await outcome(client, row, f"http://127.0.0.1:{server.port}/", expected)

        assert asyncio.run(asyncio.wait_for(plain(), 60)) in expected.split("|")
