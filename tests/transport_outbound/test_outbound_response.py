"""A response read the short way is what the library makes of one it reads itself."""

import asyncio
import gzip
import importlib
import pickle
import threading
from typing import Any

import pytest
from outbound_support import URL, FakeRuntime, Peer, cluster, echo, eventually, mesh, run, snapshot

from proxyless.transport.httpx_adapter import AsyncMeshTransport

pytestmark = pytest.mark.parametrize("library", ["httpx", "httpx2"])

ANSWERS = {
    "a few bytes": b"content-length: 5\r\n\r\nhello",
    "nothing": b"content-length: 0\r\n\r\n",
    "chunks": b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "gzip": b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
    % (len(gzip.compress(b"hello")), gzip.compress(b"hello")),
    "a charset": "content-type: text/plain; charset=latin-1\r\ncontent-length: 3\r\n\r\nd\xe9j".encode("latin-1"),
    "a header beyond ASCII": "x-name: J\xfcrgen\r\ncontent-length: 2\r\n\r\nhi".encode("latin-1"),
}


def serving(answer: bytes) -> Any:
    async def serve(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\n" + answer)

    return serve


def using(module: Any, runtime: Any) -> Any:
    return module.AsyncClient(transport=AsyncMeshTransport(runtime), trust_env=False)


async def arrived(response: Any) -> None:
    connection = response.mesh_body._exchange.connection
    await eventually(lambda: connection.reader.complete)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_it_is_as_the_library_reads_it(library: str, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(library)
    theirs = module.Response.aread

    async def forbidden(_: Any) -> bytes:
        raise AssertionError("the long way")

    async def scenario() -> None:
        with mesh(serving(answer)) as (server, runtime):
            async with using(module, runtime) as client:
                read = []
                for short in (False, True):
                    async with client.stream("GET", URL) as response:
                        await arrived(response)
                        if short:
                            monkeypatch.setattr(module.Response, "aread", forbidden)
                            assert await response.aread() == response.content
                        else:
                            assert await theirs(response) == response.content
                        read.append(response)
                        assert response.is_closed and response.is_stream_consumed
                        assert response.elapsed.total_seconds() > 0
                        with pytest.raises(module.StreamConsumed):
                            _ = [chunk async for chunk in response.aiter_raw()]
                        assert b"".join([chunk async for chunk in response.aiter_bytes()]) == response.content
                    copy = pickle.loads(pickle.dumps(response))
                    assert type(copy) is module.Response
                    assert (copy.content, copy.text, copy.headers) == (
                        response.content,
                        response.text,
                        response.headers,
                    )
                    assert "mesh_body" not in vars(copy)
                first, second = read
                for name in ("content", "text", "headers", "num_bytes_downloaded", "encoding", "http_version"):
                    assert getattr(first, name) == getattr(second, name), name
                assert first.headers.encoding == second.headers.encoding
                assert list(first.headers.multi_items()) == list(second.headers.multi_items())
            assert server.connections == 1  # both were read to their ends
            assert [how["response_bytes"] for _, how in runtime.ended] == [first.num_bytes_downloaded] * 2

    run(scenario())


def test_what_cannot_be_decoded_is_the_librarys_error_and_ends_the_call(library: str) -> None:
    module = importlib.import_module(library)

    async def scenario() -> None:
        with mesh(serving(b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello")) as (_, runtime):
            async with using(module, runtime) as client:
                async with client.stream("GET", URL) as response:
                    await arrived(response)
                    with pytest.raises(module.DecodingError) as raised:
                        await response.aread()
                    assert raised.value.request is response.request
                    assert len(runtime.ended) == 1
                assert response.is_closed

    run(scenario())


def test_a_body_still_on_its_way_is_waited_for(library: str) -> None:
    module = importlib.import_module(library)

    async def scenario() -> None:
        more = threading.Event()

        async def slow(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
            while not more.is_set():  # of another loop
                await asyncio.sleep(0.002)
            await peer.send(b"llo")
            await echo(peer)

        with mesh(slow) as (_, runtime):
            async with using(module, runtime) as client, client.stream("GET", URL) as response:
                reading = asyncio.ensure_future(response.aread())
                await asyncio.sleep(0)
                assert not reading.done()
                more.set()
                assert await reading == b"hello"

    run(scenario())


def test_a_body_partly_taken_goes_on(library: str) -> None:
    module = importlib.import_module(library)

    async def scenario() -> None:
        with mesh(serving(ANSWERS["a few bytes"])) as (_, runtime):
            async with using(module, runtime) as client, client.stream("GET", URL) as response:
                chunks = response.aiter_raw()
                assert await anext(chunks) == b"hello"
                with pytest.raises(module.StreamConsumed):
                    await response.aread()

    run(scenario())


@pytest.mark.parametrize("where", ["transport", "hook"])
def test_a_stream_that_another_has_put_in_front_is_read(library: str, where: str) -> None:
    module = importlib.import_module(library)

    class Loud(module.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> Any:
            async for chunk in self._stream:
                yield chunk.upper()

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def wrap(response: Any) -> None:
        await arrived(response)
        response.stream = Loud(response.stream)

    class Around(AsyncMeshTransport):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            if where == "transport":
                await wrap(response)
            return response

    async def scenario() -> None:
        with mesh(serving(ANSWERS["a few bytes"])) as (_, runtime):
            hooks = {"response": [wrap] if where == "hook" else []}
            async with module.AsyncClient(transport=Around(runtime), trust_env=False, event_hooks=hooks) as client:
                assert (await client.get(URL)).content == b"HELLO"
            assert len(runtime.ended) == 1

    run(scenario())


def test_the_meshs_own_answer_is_read_too(library: str) -> None:
    module = importlib.import_module(library)

    async def scenario() -> None:
        runtime = FakeRuntime(snapshot(cluster()))
        async with using(module, runtime) as client:
            assert (await client.get(URL)).text == "no healthy upstream"

    run(scenario())
