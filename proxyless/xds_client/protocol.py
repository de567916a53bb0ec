"""The state-of-the-world xDS transport protocol of one client, without I/O: events in, requests and entries out.

Sources: Envoy's "xDS REST and gRPC protocol", gRFCs A46 (use the valid resources), A53 (deletion), A57 (timers).
The clock is injected; every method may be called at any time, in one thread.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage

from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.endpoint import LoadAssignment
from proxyless.xds_client.compile.resource import Compiled, Decoded, compile_decoded, decode
from proxyless.xds_client.entry import Entry, Held, empty
from proxyless.xds_client.kinds import BY_TYPE_URL, Kind

logger = logging.getLogger("proxyless.xds")

# gRFC A57: a resource that was asked for and did not come within this many seconds does not exist.
DOES_NOT_EXIST_AFTER = 15.0
# For so long after a reconnect an update that takes everything away is not believed (istio#25100: an istiod that had
# just started pushed empty endpoints for every cluster).
WIPE_WINDOW = 15.0
# A response without a newly asked listener or cluster may have been under way before the server read the request. If it
# was, the server answers once more at once; only after this many seconds without such an answer does the resource not
# exist. The longer time is for when not even as many responses came as were asked for (a server may answer several
# requests with one).
SETTLE = 0.2
SETTLE_UNANSWERED = 1.0
_MAX_ERROR = 4096
_MAX_PENDING_ACKS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest. first: the first of its stream, which carries the node. error: a NACK's detail."""

    kind: Kind
    names: tuple[str, ...]
    version: str
    nonce: str
    error: str = ""
    first: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """A DiscoveryResponse."""

    type_url: str
    version: str
    nonce: str
    resources: Sequence[AnyMessage]


@dataclass(slots=True)
class TypeState:
    """version: last accepted. error: of the last response. dirty: the names changed since the last request.

    asks, answers: requests for something new, and responses, on this stream.
    """

    names: frozenset[str] = frozenset()
    version: str = ""
    nonce: str = ""
    error: str = ""
    nacks: int = 0
    dirty: bool = False
    requested: bool = False
    asks: int = 0
    answers: int = 0


class Protocol:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outbox: deque[Request] = deque()
        self._first = True
        self._connections = 0
        self._wipe_until = float("-inf")
        self.types = {kind: TypeState() for kind in Kind}
        self.entries: dict[Kind, dict[str, Entry]] = empty()
        self.connected = False
        self.answered_on_stream = False
        self.answered = False
        self.wipes_held = 0
        self.wipes_confirmed = 0

    # ---- what the client wants

    def want(self, kind: Kind, names: Iterable[str]) -> None:
        """Subscribe to exactly these resources of a kind; what is no longer wanted is forgotten."""
        state, wanted = self.types[kind], frozenset(names)
        if wanted == state.names:
            return
        entries = self.entries[kind]
        for name in state.names - wanted:
            entries.pop(name, None)
        for name in wanted - state.names:
            entries.setdefault(name, Entry())
        state.names, state.dirty = wanted, True

    @property
    def wants(self) -> bool:
        """Whether there is anything to ask for."""
        return any(state.names for state in self.types.values())

    # ---- what the stream does

    def stream_opened(self) -> None:
        """All subscriptions are sent again, with the last accepted version and no nonce (nonces belong to a stream)."""
        self.connected, self.answered_on_stream, self._first = True, False, True
        self._connections += 1
        if self._connections > 1:
            self._wipe_until = self._clock() + WIPE_WINDOW
        for state in self.types.values():
            state.nonce, state.dirty, state.requested = "", bool(state.names), False
            state.asks = state.answers = 0

    def stream_closed(self) -> None:
        self.connected = False
        self._outbox.clear()
        for entries in self.entries.values():
            for entry in entries.values():
                # Nothing is decided while nobody can answer: timers start again, and a doubtful update is asked for
                # again.
                entry.asked = entry.deadline = entry.held = None

    def requests(self) -> list[Request]:
        """What is to be written now, in order; each must be handed to ``written`` once it is."""
        if not self.connected:
            return []
        found = list(self._outbox)
        self._outbox.clear()
        for kind, state in self.types.items():
            # An empty first request would mean "everything" (xDS: wildcard).
            if state.dirty and (state.names or state.requested):
                found.append(self._request(kind))
        return found

    def written(self, request: Request) -> None:
        """The request is on the wire: only now do the timers of what it newly asks for start (gRFC A57)."""
        due = self._clock() + DOES_NOT_EXIST_AFTER
        state, entries = self.types[request.kind], self.entries[request.kind]
        fresh = [entry for name in request.names if (entry := entries.get(name)) is not None and entry.asked is None]
        state.asks += bool(fresh)
        for entry in fresh:
            entry.asked = state.asks
            # A listener that does not exist is a host outside the mesh: only a response may say so, never silence.
            if not entry.known and request.kind is not Kind.LISTENER:
                entry.deadline = due

    def received(self, response: Response) -> bool:
        """Take in a response; says whether anything in use changed. The ACK or NACK is among the next ``requests``."""
        kind = BY_TYPE_URL.get(response.type_url)
        if kind is None:
            logger.warning("control plane sent resources of a type nobody asked for: %s", response.type_url[:300])
            return False
        state = self.types[kind]
        self.answered_on_stream = self.answered = True
        state.nonce = response.nonce
        state.answers += 1
        errors: list[str] = []
        decoded: dict[str, Decoded] = {}
        nameless = False
        for index, resource in enumerate(response.resources):
            try:
                one = decode(kind, resource)
            except InvalidResource as error:
                errors.append(f"resource {index}: {error.message}")
                nameless = True
                continue
            if one.name in decoded:
                errors.append(f"{one.name}: is in the response twice")
            decoded.setdefault(one.name, one)
        changed = False
        for name in state.names & decoded.keys():
            changed |= self._take(kind, decoded[name], response.version, errors)
        if kind.full_state and not nameless:
            for name in state.names - decoded.keys():
                changed |= self._missing(self.entries[kind][name], name, kind)
        self._answer(kind, response, errors)
        return changed

    # ---- time

    def next_deadline(self) -> float | None:
        times = [
            when
            for entries in self.entries.values()
            for entry in entries.values()
            for when in (entry.deadline, entry.held.until if entry.held else None)
            if when is not None
        ]
        return min(times, default=None)

    def tick(self) -> bool:
        """Let what is due happen; says whether anything in use changed."""
        now, changed = self._clock(), False
        for kind, entries in self.entries.items():
            for name, entry in entries.items():
                if entry.deadline is not None and entry.deadline <= now:
                    # A host outside the mesh is everyday; a listener without its routes is not.
                    level = logging.INFO if kind is Kind.LISTENER else logging.WARNING
                    logger.log(level, "%s %s does not exist: the control plane did not send it", kind.short, name)
                    entry.remove()
                    changed = True
                elif entry.held is not None and entry.held.until <= now:
                    self._confirm(entry, kind, name)
                    changed = True
        return changed

    # ---- inside

    def _request(self, kind: Kind, error: str = "") -> Request:
        state = self.types[kind]
        first, self._first = self._first, False
        state.dirty, state.requested = False, True
        return Request(kind, tuple(sorted(state.names)), state.version, state.nonce, error, first)

    def _answer(self, kind: Kind, response: Response, errors: list[str]) -> None:
        state = self.types[kind]
        state.error = "; ".join(errors)[:_MAX_ERROR]
        if errors:
            state.nacks += 1
            logger.error("refused %s version %s: %s", kind.short, response.version, state.error)
        else:
            state.version = response.version
        # A control plane that sends faster than it reads gets the latest answers, not an ever longer queue.
        if sum(request.kind is kind for request in self._outbox) >= _MAX_PENDING_ACKS:
            self._outbox.remove(next(request for request in self._outbox if request.kind is kind))
        self._outbox.append(self._request(kind, state.error))
        # Whatever the answer makes the client want is asked for after it, with names of its own.

    def _take(self, kind: Kind, resource: Decoded, version: str, errors: list[str]) -> bool:
        entry = self.entries[kind][resource.name]
        if resource.data == entry.data and entry.value is not None:
            fresh = not entry.live or entry.held is not None or bool(entry.refused)
            entry.accept(entry.value, entry.data, version)
            return fresh
        try:
            value = compile_decoded(resource)
        except InvalidResource as error:
            errors.append(str(error))
            entry.refused, entry.deadline = error.message, None
            entry.live = True
            return True
        if self._is_wipe(entry, value):
            self._hold(entry, kind, resource.name, Held(value, resource.data, version, self._wipe_until))
            return False
        entry.accept(value, resource.data, version)
        return True

    def _missing(self, entry: Entry, name: str, kind: Kind) -> bool:
        if entry.absent:
            return False
        if entry.value is None:
            if entry.asked is None:
                return False  # asked for after this response; its own is still to come
            if entry.asked > 1:
                answers = self.types[kind].answers
                due = self._clock() + (SETTLE if answers >= entry.asked else SETTLE_UNANSWERED)
                entry.deadline = due if entry.deadline is None else min(entry.deadline, due)
                return False
            # Any response of this type was sent after the first request of this type was read.
            entry.remove()
            return True
        if self._doubtful(entry):
            self._hold(entry, kind, name, Held(None, b"", "", self._wipe_until))
            return False
        logger.info("%s %s was removed by the control plane", kind.short, name)
        entry.remove()
        return True

    def _doubtful(self, entry: Entry) -> bool:
        # What only the last known good says is no reason to doubt a control plane that answers.
        return entry.live and self._clock() < self._wipe_until

    def _is_wipe(self, entry: Entry, value: Compiled) -> bool:
        return (
            isinstance(value, LoadAssignment)
            and isinstance(entry.value, LoadAssignment)
            and not value.usable
            and entry.value.usable > 0
            and self._doubtful(entry)
        )

    def _hold(self, entry: Entry, kind: Kind, name: str, held: Held) -> None:
        if entry.held is None:
            self.wipes_held += 1
            logger.warning(
                "%s %s: the control plane took everything away right after a reconnect; "
                "keeping the last version until that is confirmed in %.0f s",
                kind.short,
                name,
                held.until - self._clock(),
            )
        entry.held = held

    def _confirm(self, entry: Entry, kind: Kind, name: str) -> None:
        held = entry.held
        assert held is not None
        self.wipes_confirmed += 1
        logger.warning("%s %s: what the control plane took away stayed away; now believed", kind.short, name)
        if held.value is None:
            entry.remove()
        else:
            entry.accept(held.value, held.data, held.version)
