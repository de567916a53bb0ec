"""Which workloads are running. In memory, written through to the store so that a restart does not empty the mesh."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from proxyless.control_plane.store.store import Store, StoreError
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.workload import Workload

logger = logging.getLogger("proxyless.registry")

# Seconds a workload of an earlier run is believed in without hearing of it.
GRACE = 15.0
# A control plane that stood still for so many seconds (a stopped process, a paused machine) looked dead to workloads:
# they left it, and are on their way back. Their keepalive gives up after 10.
STALL = 5.0
_BEAT = 1.0
MAX_WORKLOADS = 50_000


@dataclass(eq=False, slots=True)
class Registration:
    """One stream's claim to a workload. Compared by identity: a newer stream for the same workload supersedes it."""

    workload_id: str


class Registry:
    """changed: called after each change of ``workloads``. clock: monotonic seconds. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        changed: Callable[[], None],
        *,
        grace: float = GRACE,
        max_workloads: int = MAX_WORKLOADS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._changed = changed
        self._grace = grace
        self._max_workloads = max_workloads
        self._workloads: dict[str, Workload] = {}
        self._owners: dict[str, Registration] = {}
        self._held: Counter[tuple[str, str]] = Counter()  # how many of them an identity has
        self._frozen = False
        self._grace_timer: asyncio.TimerHandle | None = None
        self._clock = clock
        self._last_beat = float("inf")
        self._doubt_until = float("-inf")

    @property
    def workloads(self) -> Mapping[str, Workload]:
        """By id; a copy that later changes leave alone."""
        return MappingProxyType(dict(self._workloads))

    def restore(self, workloads: Iterable[Workload]) -> None:
        """Take over what an earlier run knew; whoever is not back after the grace time is removed."""
        self._workloads = {workload.id: workload for workload in workloads}
        self._held = Counter(map(_identity, self._workloads.values()))
        if self._workloads:
            self._begin_grace()

    def register(self, workload: Workload, registration: Registration | None = None) -> Registration:
        """Put a workload, or news of it, into the registry; pass the registration of its stream after the first time.

        Raises IdentityError if the id belongs to a workload of another identity, or the stream was superseded, and
        ConfigurationError when the registry is full, or the identity has more than its share of it.
        """
        known = self._workloads.get(workload.id)
        if known is not None and _identity(known) != _identity(workload):
            raise IdentityError(f"workload id {workload.id!r} belongs to another service account")
        if known is None:
            self._check_room(workload)
        if registration is None:
            registration = Registration(workload.id)
            self._owners[workload.id] = registration
        elif self._owners.get(workload.id) is not registration:
            raise IdentityError(f"workload {workload.id!r} is registered by a newer stream")
        if known != workload:
            self._held[_identity(workload)] += known is None
            self._workloads[workload.id] = workload
            self._persist(partial(self._store.put_workload, workload))
            logger.info("%s is %s at %s", workload.id, workload.state.value, workload.address)
            self._changed()
        return registration

    def _check_room(self, workload: Workload) -> None:
        """One identity must not take everybody's room: once half is taken, a tenth is as much as it may have."""
        taken, most = len(self._workloads), self._max_workloads
        if taken >= most:
            raise ConfigurationError(f"the registry is full: it has {most} workloads")
        if 2 * taken >= most and 10 * (held := self._held[_identity(workload)]) >= most:
            who = "/".join(_identity(workload))
            raise ConfigurationError(f"{who} has {held} workloads already, a tenth of a registry that is filling up")

    def end(self, registration: Registration, *, returns: bool = False) -> None:
        """Its stream ended: the workload is gone, at once, unless it had reason to believe that we were.

        returns: we ended it, and it has the grace time to come back.
        """
        if self._frozen or self._owners.get(registration.workload_id) is not registration:
            return
        del self._owners[registration.workload_id]
        self._notice_stall()
        if returns:
            asyncio.get_running_loop().call_later(self._grace, self._end_return, registration.workload_id)
        elif self._clock() < self._doubt_until:
            logger.info(
                "%s left while we stood still; it has %.0f s to come back", registration.workload_id, self._grace
            )
        else:
            self._remove([registration.workload_id])

    def freeze(self) -> None:
        """The control plane is going down: streams that end now say nothing about their workloads."""
        self._frozen = True
        if self._grace_timer is not None:
            self._grace_timer.cancel()

    async def watch(self) -> None:
        """Notice when this process stands still; until cancelled."""
        while True:
            self._notice_stall()
            self._last_beat = self._clock()
            await asyncio.sleep(_BEAT)

    def _notice_stall(self) -> None:
        """Asked before a stream's end is believed, too: it may be heard of before the heartbeat."""
        now = self._clock()
        if now - self._last_beat > STALL + _BEAT:
            logger.warning(
                "this process stood still for %.0f s; workloads that left may come back", now - self._last_beat
            )
            self._last_beat = now
            self._doubt_until = now + self._grace
            self._begin_grace()

    def _begin_grace(self) -> None:
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        self._grace_timer = asyncio.get_running_loop().call_later(self._grace, self._end_grace)

    def _end_grace(self) -> None:
        self._remove([known for known in self._workloads if known not in self._owners])

    def _end_return(self, workload_id: str) -> None:
        if not self._frozen and workload_id in self._workloads and workload_id not in self._owners:
            self._remove([workload_id])

    def _remove(self, ids: list[str]) -> None:
        for workload_id in ids:
            identity = _identity(self._workloads.pop(workload_id))
            self._held[identity] -= 1
            if not self._held[identity]:
                del self._held[identity]
            self._persist(partial(self._store.delete_workload, workload_id))
            logger.info("%s is gone", workload_id)
        if ids:
            self._changed()

    def _persist(self, write: Callable[[], None]) -> None:
        try:
            write()
        except StoreError as error:
            # The running mesh is right without the store; only a restart would miss this.
            logger.error("cannot keep the registry: %s", error)


def _identity(workload: Workload) -> tuple[str, str]:
    return workload.namespace, workload.service_account
