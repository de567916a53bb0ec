"""Who is behind each connection that the relay made to the inner gRPC server."""

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass, field

from proxyless.transport.inbound.connection import Connection

# How gRPC writes the address of a client with an abstract Unix name: ServicerContext.peer().
_PEER = "unix-abstract:"


@dataclass(slots=True)
class Served:
    """One connection of a mesh port. active: the RPCs under way on it."""

    facts: Connection
    port: int
    active: int = 0

    @property
    def expired(self) -> bool:
        """Whether the identity has ended with its certificate."""
        return self.facts.not_after is not None and time.time() >= self.facts.not_after


@dataclass(slots=True)
class Callers:
    """By the name of the relay's own end. Names are never used twice, so no late RPC meets another's identity."""

    _prefix: str = field(default_factory=lambda: f"proxyless-{secrets.token_hex(8)}-")
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _served: dict[str, Served] = field(default_factory=dict)

    def new_name(self) -> str:
        """An abstract Unix address, without its leading zero byte."""
        return f"{self._prefix}{next(self._numbers)}"

    def register(self, name: str, served: Served) -> None:
        """To be called before the first byte is passed on."""
        self._served[name] = served

    def unregister(self, name: str) -> None:
        self._served.pop(name, None)

    def lookup(self, peer: str) -> Served | None:
        """What is known of ``context.peer()``; None unless it came through a mesh port."""
        return self._served.get(peer.removeprefix(_PEER)) if peer.startswith(_PEER) else None
