"""The ADS server: admits streams, wakes them when the world changes, and answers for their state."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from proxyless.control_plane.ads.debounce import Debounce
from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.ports import Client, Generator, MakeGenerator, ReadNode
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.status import ClientStatus, TypeConfig
from proxyless.control_plane.ads.stream import Stream
from proxyless.control_plane.world import World
from proxyless.model.errors import NotReadyError
from proxyless.model.spiffe import SpiffeId

MAX_STREAMS = 10_000
# A client is up to date once it has been for this long: accepting routes makes it ask for clusters, and so on.
_QUIET = 0.1
_LOOK = 0.02


@dataclass(slots=True)
class AdsCounters:
    """Totals since the start, for /metrics."""

    pushes: int = 0
    acks: int = 0
    nacks: int = 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """What became of a generation of the world: nodes that accepted it, refused it (with why), or have not answered."""

    accepted: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    lagging: tuple[str, ...] = ()


class AdsServer:
    """All streams of one control plane. Belongs to one event loop.

    make_generator: builds the resources of a world, once for each world that is asked about. read_node: who asks.
    Until the first ``publish`` every stream is refused: a control plane that has not read its stores knows nothing, and
    must not say so to clients that know better.
    """

    def __init__(
        self,
        make_generator: MakeGenerator,
        read_node: ReadNode,
        *,
        clock: Callable[[], float] = time.time,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self.read_node = read_node
        self.counters = AdsCounters()
        self._make_generator = make_generator
        self._clock = clock
        self._max_streams = max_streams
        self._sessions: dict[Session, None] = {}
        self._world: World | None = None
        self._generator: tuple[Generator, int] | None = None
        self._debounce = Debounce(self._wake_all)

    @property
    def ready(self) -> bool:
        return self._world is not None

    def publish(self, world: World) -> None:
        """Serve this world from now on; streams are told once changes have been quiet for a moment."""
        self._world = world
        self._debounce()

    @property
    def sessions(self) -> list[Session]:
        """Every connected client, the longest connected first."""
        return list(self._sessions)

    def clients(self) -> list[ClientStatus]:
        """Every connected client, by node id."""
        return sorted((session.status() for session in self._sessions), key=lambda status: status.node)

    def configuration(self, node: str) -> list[TypeConfig] | None:
        """What a client was sent and accepted, None if none has this node id. The newest of several counts."""
        for session in reversed(self._sessions):
            if session.client.node_id == node:
                return session.configuration()
        return None

    async def rollout(self, generation: int, limit: float) -> Rollout:
        """Wait until every client has accepted or refused this generation of the world, at most ``limit`` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        quiet_since: float | None = None
        while True:
            now = loop.time()
            waiting = [s for s in self._sessions if not s.settled(generation) and not s.refusals]
            quiet_since = None if waiting else quiet_since if quiet_since is not None else now
            if now >= end or (quiet_since is not None and now - quiet_since >= _QUIET):
                break
            await asyncio.sleep(_LOOK)
        refused = [(s.client.node_id, "; ".join(s.refusals)) for s in self._sessions if s.refusals]
        lagging = [s.client.node_id for s in waiting]
        accepted = [s.client.node_id for s in self._sessions if s not in waiting and not s.refusals]
        return Rollout(tuple(sorted(accepted)), tuple(sorted(refused)), tuple(sorted(lagging)))

    def open(self, client: Client, service: str, identity: SpiffeId | None, stream: Stream | DeltaStream) -> Session:
        """A session for a client that was admitted; ``close`` it. NotReadyError before the first world or when full."""
        if not self.ready:
            raise NotReadyError("the control plane is starting: its stores are not read yet")
        if len(self._sessions) >= self._max_streams:
            raise NotReadyError(f"the control plane already serves {self._max_streams} streams")
        session = Session(client, service, identity, since=self._clock(), current=self.current, stream=stream)
        self._sessions[session] = None
        return session

    def close(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def stop(self) -> None:
        self._debounce.cancel()

    def current(self) -> tuple[Generator, int]:
        assert self._world is not None
        if self._generator is None or self._generator[1] != self._world.generation:
            self._generator = self._make_generator(self._world), self._world.generation
        return self._generator

    def _wake_all(self) -> None:
        for session in self._sessions:
            session.wake.set()
