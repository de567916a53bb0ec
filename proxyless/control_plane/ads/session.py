"""One connected client: who it is, its stream, and what the world holds for it."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.ports import Client, Generator
from proxyless.control_plane.ads.state import SubscriptionState, Update
from proxyless.control_plane.ads.status import ClientStatus, SyncState, TypeConfig, sync_state, type_status
from proxyless.control_plane.ads.stream import Stream
from proxyless.control_plane.type_urls import PUSH_ORDER, SHORT_NAMES, short_name
from proxyless.model.errors import ProxylessError
from proxyless.model.spiffe import SpiffeId

logger = logging.getLogger("proxyless.ads")

# Seconds to wait for the answer to a response before a newer world is sent regardless, as long as Istio waits
# (PILOT_FLOW_CONTROL_TIMEOUT). An Envoy answers clusters only once all of them are warm; one that never will be must
# not keep the rule that repairs it away.
PATIENCE = 15.0

# The latest world's resources, and its generation.
Current = Callable[[], tuple[Generator, int]]


class TranslationError(ProxylessError):
    """A defect of ours, met while making resources for a client that has none yet."""


class Session:
    """``wake`` is set whenever responses may be due; the servicer that writes them clears it.

    touched: the types of which something it watches may have changed since it was last up to date.
    """

    def __init__(
        self,
        client: Client,
        service: str,
        identity: SpiffeId | None,
        *,
        since: float,
        current: Current,
        stream: Stream | DeltaStream,
    ) -> None:
        self.client = client
        self.service = service
        self.identity = identity
        self.stream = stream
        self.wake = asyncio.Event()
        # Since when (monotonic seconds) the world is newer than what the client has accepted; None when it is not.
        self.behind_since: float | None = None
        self.touched: set[str] = set()
        self._seen: int | None = None
        self._since = since
        self._current = current
        self._notes: dict[str, tuple[str, ...]] = {}
        # By type: when (monotonic seconds) a response was last made, and of which generation.
        self._made: dict[str, tuple[float, int]] = {}

    def responses(self) -> Iterator[Update]:
        """What is due to be sent now."""
        generator, generation = self._catch_up()
        stand_ins: set[tuple[str, str]] = set()

        def generate(type_url: str, names: AbstractSet[str]) -> Mapping[str, bytes]:
            try:
                found = generator.resources(self.client, type_url, names)
            except Exception as error:
                # A fault in one translation must not take away what the client runs on; without anything, it must fail.
                logger.exception("cannot translate %s for %s", SHORT_NAMES[type_url], self.client.node_id)
                if kept := dict(self.subscriptions[type_url].sent):
                    return kept
                raise TranslationError(f"cannot translate {SHORT_NAMES[type_url]}: {type(error).__name__}") from error
            self._notes[type_url] = tuple(sorted({note for resource in found.values() for note in resource.notes}))
            stand_ins.update((type_url, name) for name, resource in found.items() if resource.stand_in)
            return {name: resource.body for name, resource in found.items()}

        self._stop_waiting(generation)
        for update in self.stream.responses(generate, generation, stand_ins):
            self._made[update.type_url] = time.monotonic(), generation
            yield update

    def patience(self) -> float | None:
        """Seconds until ``responses`` is worth another call though nothing happens; None for never."""
        generation = self._current()[1]
        since = [since for type_url, (since, made) in self._made.items() if self._overtaken(type_url, made, generation)]
        return max(0.0, min(since) + PATIENCE - time.monotonic()) if since else None

    def _stop_waiting(self, generation: int) -> None:
        for type_url, (since, made) in self._made.items():
            if self._overtaken(type_url, made, generation) and time.monotonic() - since >= PATIENCE:
                logger.warning(
                    "%s has not answered %s for %d s: it is sent the newest regardless",
                    self.client.node_id,
                    short_name(type_url),
                    time.monotonic() - since,
                )
                self.subscriptions[type_url].unanswered()

    def _overtaken(self, type_url: str, made: int, generation: int) -> bool:
        """Whether a response is outstanding that was made of an older world."""
        return made < generation and self.subscriptions[type_url].outstanding

    @property
    def subscriptions(self) -> Mapping[str, SubscriptionState]:
        return self.stream.subscriptions

    @property
    def delta(self) -> bool:
        """Whether it speaks the incremental variant."""
        return isinstance(self.stream, DeltaStream)

    def settled(self, generation: int) -> bool:
        self._catch_up()
        return self.stream.settled(generation)

    def _catch_up(self) -> tuple[Generator, int]:
        """The newest generator and its generation; what did not change for this client is up to date with it."""
        generator, generation = self._current()
        if self._seen is not None and self._seen != generation:
            self.stream.carry_over(self._seen, generation, self.touched)
        self.touched.clear()
        self._seen = generation
        return generator, generation

    def status(self) -> ClientStatus:
        return ClientStatus(
            node=self.client.node_id,
            kind=str(self.client.kind.value),
            version=self.client.version,
            namespace=self.client.namespace,
            service_account=self.client.service_account,
            service=self.service,
            identity=str(self.identity) if self.identity else "",
            since=self._since,
            types=tuple(config.status for config in self.configuration()),
            delta=self.delta,
            left_out=tuple(dict.fromkeys(note for notes in self._notes.values() for note in notes)),
        )

    def configuration(self) -> list[TypeConfig]:
        """What it was sent and accepted, by type, in push order; types that we do not serve come last."""
        found = self.subscriptions
        order = [
            *(known for known in PUSH_ORDER if known in found),
            *(other for other in found if other not in PUSH_ORDER),
        ]
        return [
            TypeConfig(
                type_url,
                type_status(found[type_url]),
                found[type_url].sent,
                found[type_url].accepted,
                found[type_url].refusals,
            )
            for type_url in order
        ]

    @property
    def refusals(self) -> list[str]:
        """``type: the client's text`` for each type whose last response it refused."""
        return [
            f"{short_name(type_url)}: {subscription.error}"
            for type_url, subscription in self.subscriptions.items()
            if sync_state(subscription) is SyncState.NACKED
        ]
