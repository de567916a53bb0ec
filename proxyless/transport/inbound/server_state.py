"""What the connections of one server share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.server import ServerState

if TYPE_CHECKING:
    from proxyless.transport.inbound.cycle import Cycle


class MeshServerState(ServerState):
    """draining: answers carry ``connection: close``, so that clients go elsewhere.

    default_lines: uvicorn's ``default_headers``, which it sets anew each second, as they are sent.
    """

    def __init__(self) -> None:
        self.draining = False
        self.default_lines = b""
        self._unsent: list[Cycle] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._default_headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._default_headers = headers
        self.default_lines = b"".join(b"%b: %b\r\n" % line for line in headers)

    def flush_soon(self, cycle: Cycle, loop: asyncio.AbstractEventLoop) -> None:
        """In the next turn of the loop: one call for the heads of all connections that wait for their bodies."""
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(cycle)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        for cycle in unsent:
            cycle.flush()
