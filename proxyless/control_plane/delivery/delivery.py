"""Answers "is it live everywhere, and if not, who refused what and why", and waits until it is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.status import SyncState, sync_state
from proxyless.control_plane.delivery.session import Comparison, Standing
from proxyless.control_plane.delivery.status import Refusal, ResourceStatus, Rollout, State, words
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.type_urls import PUSH_ORDER, short_name

# A client is up to date once it has been for this long: accepting routes makes it ask for clusters, and so on.
_QUIET = 0.1
# Looks are at least this far apart, and take at most a part of the time: many clients answer many times.
_PACE = 0.02
_REST = 4


class Delivery:
    """Belongs to the event loop of its ADS server."""

    def __init__(self, ads: AdsServer) -> None:
        self._ads = ads

    async def statuses(self, keys: Collection[Key]) -> dict[Key, ResourceStatus]:
        """What became of these resources, as of now."""
        if not self._ads.ready:
            return {key: ResourceStatus() for key in keys}
        found = [(session, one) async for session, one in self._standings()]
        return {key: _status(key, found) for key in keys}

    async def rollout(self, generation: int, limit: float, keys: Collection[Key] | None = None) -> Rollout:
        """Wait until every client has accepted or refused this generation of the world, at most ``limit`` seconds.

        keys: only what is made from these matters, and only clients that have to do with it.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        quiet_until: float | None = None
        while True:
            seen, began = self._ads.changes.count, loop.time()
            found = self._of_all(generation) if keys is None else await self._of_keys(generation, frozenset(keys))
            now = loop.time()
            if found.lagging:
                quiet_until = None
            elif quiet_until is None:
                quiet_until = now + _QUIET
            until = end if quiet_until is None else min(end, quiet_until)
            if now >= until:
                return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._ads.changes.after(seen)
                    await asyncio.sleep(max(_PACE, _REST * (now - began)))

    def _of_all(self, generation: int) -> Rollout:
        accepted, refused, lagging = [], [], []
        for session in self._ads.sessions:
            node = session.client.node_id
            if refusals := self._refusals(session):
                refused.append((node, words(refusals), refusals))
            elif session.settled(generation):
                accepted.append(node)
            else:
                lagging.append(node)
        return Rollout(tuple(sorted(accepted)), tuple(sorted(refused)), tuple(sorted(lagging)))

    async def _of_keys(self, generation: int, keys: frozenset[Key]) -> Rollout:
        accepted, refused, lagging = [], [], []
        async for session, found in self._standings():
            node = session.client.node_id
            states = {found.states[key] for key in keys & found.states.keys()}
            refusals = tuple(each for each in found.refusals if keys.intersection(each.made_from))
            if State.REFUSED in states:
                refused.append((node, words(refusals), refusals))
            elif State.PENDING in states or (states and not session.settled(generation) and not session.refusals):
                # Accepting one thing makes a client ask for the next: live is what lacks nothing any more.
                lagging.append(node)
            elif states:
                accepted.append(node)
        return Rollout(tuple(sorted(accepted)), tuple(sorted(refused)), tuple(sorted(lagging)))

    def _refusals(self, session: Session) -> tuple[Refusal, ...]:
        """Everything that a client refused last and has not accepted since."""
        if not session.refusals:
            return ()
        found = {(each.type, each.name): each for each in Comparison(self._ads.current()[0]).standing(session).refusals}
        node = session.client.node_id
        for type_url in PUSH_ORDER:
            subscription = session.subscriptions.get(type_url)
            if subscription is None or sync_state(subscription) is not SyncState.NACKED:
                continue
            kind = short_name(type_url)
            for name, reason in (subscription.refusals or {"": subscription.error}).items():
                found.setdefault((kind, name), Refusal(node, kind, name, reason))
        return tuple(found.values())

    async def _standings(self) -> AsyncIterator[tuple[Session, Standing]]:
        comparison = Comparison(self._ads.current()[0])
        for session in self._ads.sessions:
            yield session, comparison.standing(session)
            # There may be thousands, and streams to serve.
            await asyncio.sleep(0)


def _status(key: Key, standings: list[tuple[Session, Standing]]) -> ResourceStatus:
    nodes: dict[State, list[str]] = {state: [] for state in State}
    refusals: list[Refusal] = []
    left_out: dict[tuple[str, str], None] = {}
    for session, found in standings:
        if key in found.states:
            nodes[found.states[key]].append(session.client.node_id)
        refusals += (each for each in found.refusals if key in each.made_from)
        left_out |= dict.fromkeys((str(session.client.kind.value), note) for note in found.notes.get(key, ()))
    return ResourceStatus(
        accepted=tuple(sorted(nodes[State.ACCEPTED])),
        pending=tuple(sorted(nodes[State.PENDING])),
        refused=tuple(sorted(nodes[State.REFUSED])),
        refusals=tuple(sorted(refusals, key=lambda each: (each.node, each.type, each.name))),
        left_out=tuple(sorted(left_out)),
    )
