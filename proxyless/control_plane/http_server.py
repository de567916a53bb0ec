"""The HTTP API's server: uvicorn in our event loop, on our socket, with our signals."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

# A query may name a thousand targets.
_MAX_HEAD_BYTES = 256 * 1024


class HttpServer:
    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                # It bounds what a stranger can make it keep of a head, before any token is looked at.
                http="h11",
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=2,
            )
        )

    async def run(self) -> None:
        """Serve until cancelled, then end what is open."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self._server.should_exit = True
            await serving
            raise
        finally:
            self._listener.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The control plane ends as a whole: its signals are not the HTTP server's."""
        yield
