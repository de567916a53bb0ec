"""The ADS server: admits streams, wakes them when the world changes, and answers for their state."""

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from proxyless.control_plane.ads.changes import Changes
from proxyless.control_plane.ads.counters import AdsCounters
from proxyless.control_plane.ads.debounce import Debounce
from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.ports import Client, Generator, MakeGenerator, ReadNode
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.state import Update
from proxyless.control_plane.ads.status import ClientStatus, TypeConfig
from proxyless.control_plane.ads.stream import Stream
from proxyless.control_plane.ads.watchers import Watchers
from proxyless.control_plane.type_urls import PUSH_ORDER
from proxyless.control_plane.world import World
from proxyless.model.errors import NotReadyError
from proxyless.model.spiffe import SpiffeId

MAX_STREAMS = 10_000


class AdsServer:
    """All streams of one control plane. Belongs to one event loop.

    make_generator: builds the resources of a world, once for each world that is asked about. read_node: who asks.
    A change wakes the sessions that watch something it touches, and costs the others nothing.
    Until the first ``publish`` every stream is refused: a control plane that has not read its stores knows nothing, and
    must not say so to clients that know better.

    changes: of what clients were sent and said, and of who is connected.
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
        self.changes = Changes()
        self._make_generator = make_generator
        self._clock = clock
        self._max_streams = max_streams
        self._sessions: dict[Session, None] = {}
        self._world: Callable[[], World] | None = None
        self._generator: tuple[Generator, int] | None = None
        self._watchers = Watchers()
        # To be woken: something of theirs changed.
        self._concerned: set[Session] = set()
        self._debounce = Debounce(self.tell)
        # When the world first became another than the one that streams were told of.
        self._changed_at: float | None = None

    @property
    def ready(self) -> bool:
        return self._world is not None

    def publish(self, world: World) -> None:
        """Serve this world from now on; streams are told once changes have been quiet for a moment."""
        self.announce(lambda: world)

    def announce(self, world: Callable[[], World]) -> None:
        """The same for a world that is still in the making: it is asked for when it is needed."""
        self._world = world
        if self._changed_at is None:
            self._changed_at = time.monotonic()
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

    def open(self, client: Client, service: str, identity: SpiffeId | None, stream: Stream | DeltaStream) -> Session:
        """A session for a client that was admitted; ``close`` it. NotReadyError before the first world or when full."""
        if not self.ready:
            raise NotReadyError("the control plane is starting: its stores are not read yet")
        if len(self._sessions) >= self._max_streams:
            raise NotReadyError(f"the control plane already serves {self._max_streams} streams")
        session = Session(client, service, identity, since=self._clock(), current=self.current, stream=stream)
        self._sessions[session] = None
        self.changes()
        return session

    def close(self, session: Session) -> None:
        self._sessions.pop(session, None)
        self._watchers.remove(session)
        self._concerned.discard(session)
        self.changes()

    def watch(self, session: Session, type_url: str, names: AbstractSet[str]) -> None:
        """The session subscribes to these names of a type, and to no others."""
        self._watchers.watch(session, type_url, names)

    def stop(self) -> None:
        self._debounce.cancel()

    def current(self) -> tuple[Generator, int]:
        assert self._world is not None
        world, before = self._world(), self._generator
        if before is not None and before[1] == world.generation:
            return before
        generator = self._make_generator(world, before[0] if before else None)
        self._generator = generator, world.generation
        if generator.changed is None:
            for session in self._sessions:
                session.touched.update(PUSH_ORDER)
            self._concerned.update(self._sessions)
        else:
            for type_url, name in generator.changed:
                for session in self._watchers.of(type_url, name):
                    session.touched.add(type_url)
                    self._concerned.add(session)
        return self._generator

    def sending(self, session: Session, updates: Sequence[Update]) -> None:
        """These responses go to the client, all that are due."""
        self.counters.pushes.update(update.type_url for update in updates)
        if not updates and session.settled(self.current()[1]):
            # This change of the world was none for this client.
            session.behind_since = None
        self.changes()

    def answered(self, session: Session, type_url: str, *, accepted: bool) -> None:
        """The client accepted or refused a response."""
        if type_url in PUSH_ORDER:
            (self.counters.acks if accepted else self.counters.nacks)[type_url] += 1
        if session.behind_since is not None and session.settled(self.current()[1]):
            if not session.refusals:
                self.counters.convergence.observe(time.monotonic() - session.behind_since)
            session.behind_since = None

    def tell(self) -> None:
        """Wake those whom the newest world concerns, now."""
        self.current()
        concerned, self._concerned = self._concerned, set()
        for session in concerned:
            if session.behind_since is None:
                session.behind_since = self._changed_at
            session.wake.set()
        self._changed_at = None
        self.changes()
