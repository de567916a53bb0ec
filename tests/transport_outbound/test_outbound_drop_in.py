"""What applications and their tools do with a client, and may go on doing when the client is on the mesh."""

import asyncio
from typing import Any

import httpx
import httpx2
import pytest
from outbound_support import CLIENTS, Client, echo, eventually, mesh, run

from proxyless import Mesh

every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
Which = tuple[str, str]


@every_client
@pytest.mark.parametrize("body", [b"new", b"longer than it was", b""], ids=["as long", "longer", "empty"])
def test_a_hook_may_put_another_body_in_place(which: Which, body: bytes) -> None:
    """One that compresses or signs: what is sent is the stream, not what the request was made with."""

    def replace(request: Any) -> None:
        request.stream = client.module.ByteStream(body)
        request.headers["content-length"] = str(len(body))

    async def replace_later(request: Any) -> None:
        replace(request)

    async def scenario() -> None:
        nonlocal client
        with mesh(echo) as (_, runtime):
            hook = replace_later if which[1] == "async" else replace
            async with Client(*which, runtime, event_hooks={"request": [hook]}) as client:
                assert (await client.post(content=b"old")).text == f"POST / HTTP/1.1|{body.decode()}"

    client: Client
    run(scenario())


@every_client
def test_a_timeout_of_a_month(which: Which) -> None:
    """More milliseconds than poll() counts."""

    async def scenario() -> None:
        with mesh(echo) as (_, runtime):
            async with Client(*which, runtime, timeout=40 * 86_400) as client:
                assert (await client.post(content=[b"a", b"b"])).text == "POST / HTTP/1.1|ab"

    run(scenario())


@every_client
def test_no_answer_in_time_about_a_host_is_a_connect_timeout(which: Which) -> None:
    async def scenario() -> None:
        with mesh(echo) as (_, runtime):
            async with Client(*which, runtime, timeout=0.5) as client:
                with pytest.raises(client.module.ConnectTimeout, match=r"no answer about late:80 in 0\.5 s"):
                    await client.get("http://late/")

    run(scenario())


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
def test_tools_that_ask_whether_it_is_a_transport(library: Any) -> None:
    """httpx-retries does."""
    made = Mesh(service="shop")
    try:
        assert isinstance(made.transport(), library.BaseTransport)
        assert not isinstance(made.transport(), library.AsyncBaseTransport)
        assert isinstance(made.async_transport(), library.AsyncBaseTransport)
        assert type(made.transport()) is type(made.transport())
    finally:
        made.close()


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_body_that_is_cancelled_is_not_the_servers_failure(library: str) -> None:
    async def scenario() -> None:
        cancelled = asyncio.get_running_loop().create_future()

        async def body():  # type: ignore[no-untyped-def]
            yield b"a"
            cancelled.cancel()
            await cancelled

        with mesh(echo) as (server, runtime):
            async with Client(library, "async", runtime) as client:
                with pytest.raises(asyncio.CancelledError):
                    await client.post(content=body())
                assert (await client.get()).status_code == 200
            await eventually(lambda: server.open == 0)

    run(scenario())


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("host", ["reviews", "stranger"])
def test_without_asyncio_it_is_said_what_is_needed(library: str, host: str) -> None:
    """As within trio's loop, where asyncio has none."""
    with mesh(echo) as (_, runtime):
        client = Client(library, "async", runtime)
        request = client.module.Request("GET", f"http://{host}/")
        with pytest.raises(RuntimeError, match=r"event loop of asyncio or uvloop; trio has none.*mesh\.transport\(\)"):
            client.transport.handle_async_request(request).send(None)  # type: ignore[union-attr]
