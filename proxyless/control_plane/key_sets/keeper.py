"""Which key sets are wanted, and keeping them fresh. The last good one stays while newer ones cannot be had."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.key_sets.fetch import FetchError, fetch
from proxyless.control_plane.resources import key_sets
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import KeySet

logger = logging.getLogger("proxyless.control_plane")

# Istio's PILOT_JWT_PUB_KEY_REFRESH_INTERVAL, and its default for JWTRule.timeout. Seconds.
REFRESH = 20 * 60.0
_TIMEOUT, _LONGEST_TIMEOUT = 5.0, 30.0
# After a failure: from the first, doubled, to the second; Istio's JwtPubKeyRefreshIntervalOnFailure.
_RETRY, _LONGEST_RETRY = 1.0, 60.0
_AT_ONCE = 8

Fetch = Callable[[str, float], Awaitable[str]]


class KeySets:
    """A task for each URL that a rule names, from ``want`` until no rule names it or ``close``.

    current: by URL. changed: called after each change of it. Belongs to one event loop.
    """

    def __init__(self, changed: Callable[[], None], *, get: Fetch = fetch, refresh: float = REFRESH) -> None:
        self.current: Mapping[str, KeySet] = MappingProxyType({})
        self._changed = changed
        self._get = get
        self._refresh = refresh
        self._timeouts: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tried: dict[str, asyncio.Event] = {}

    def want(self, resources: Iterable[Resource[Any]]) -> None:
        """What all RequestAuthentications name; of one URL the longest timeout counts."""
        wanted: dict[str, float] = {}
        for rule in (rule for resource in resources for rule in resource.spec.jwt_rules):
            if url := key_sets.source(rule):
                timeout = _TIMEOUT if rule.timeout is None else min(rule.timeout, _LONGEST_TIMEOUT)
                wanted[url] = max(timeout, wanted.get(url, 0.0))
        self._timeouts = wanted
        for url in self._tasks.keys() - wanted.keys():
            self._tasks.pop(url).cancel()
            del self._tried[url]
            self.current = MappingProxyType({name: one for name, one in self.current.items() if name != url})
        for url in wanted.keys() - self._tasks.keys():
            self._tried[url] = asyncio.Event()
            self._tasks[url] = asyncio.create_task(self._keep(url, self._tried[url]))

    async def tried(self, within: float) -> None:
        """Return when each has been asked for once, or after ``within`` seconds."""
        waiting = [asyncio.create_task(event.wait()) for event in self._tried.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=within)
            for one in late:
                one.cancel()

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _keep(self, url: str, tried: asyncio.Event) -> None:
        failures = 0
        while True:
            pause = self._refresh
            try:
                async with self._slots:
                    found = KeySet(await self._get(url, self._timeouts[url]))
            except Exception as error:  # whatever it is: a task that ended would never ask again
                reason = str(error) if isinstance(error, FetchError) else f"unexpected {type(error).__name__}"
                pause = min(_RETRY * 2**failures, _LONGEST_RETRY)
                failures = min(failures + 1, 10)
                if failures == 1:
                    kept = "the last good ones stay" if self._text(url) else "tokens that need them are refused"
                    logger.warning("keys of %s: %s; %s, and it is tried again", url, reason, kept)
                found = KeySet(self._text(url), "" if self._text(url) else reason)
            else:
                if failures:
                    logger.info("keys of %s: fetched", url)
                failures = 0
            tried.set()
            if found != self.current.get(url):
                self.current = MappingProxyType({**self.current, url: found})
                self._changed()
            await asyncio.sleep(pause)

    def _text(self, url: str) -> str:
        known = self.current.get(url)
        return known.text if known else ""
