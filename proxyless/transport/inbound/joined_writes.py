"""A connection that sends what is written to it in one turn of the event loop as one piece."""

from __future__ import annotations

import asyncio
from typing import Any

# What is longer goes out at once: a copy would cost more, and the loop must see it to make the application wait.
MAX_HELD = 64 * 1024


class JoinedWrites:
    """``transport`` with another ``write``; in all else it is that transport.

    uvicorn writes the head of a response and its body apart. A process killed in between leaves a client with a head:
    too much to ask another endpoint, too little to use. Together they arrive whole or not at all, and cost one TLS
    record and one system call less.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._size + len(data) > MAX_HELD:
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(bytes(data))
        self._size += len(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.write(b"".join(lines))

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._flush()
        self._transport.set_protocol(protocol)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        if self._held:
            data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            self._held, self._size = [], 0
            # Closing: the client has left, or been cut off.
            if not self._transport.is_closing():
                self._transport.write(data)
