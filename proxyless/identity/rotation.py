"""Keeps a process supplied with a valid certificate: obtains the first, renews at half life, and never gives up."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState

from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.errors import ProxylessError

logger = logging.getLogger("proxyless.identity")

# Istio's pilot-agent: renew at 50% of the lifetime, with 1% jitter so that a fleet started together does not renew
# together.
_GRACE, _JITTER = 0.5, 0.01
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
# Without any certificate a process is useless: it must be there soon after the control plane is.
_LONGEST_FIRST_WAIT = 5.0
# Wall-clock time passes while a machine is suspended, the event loop's does not: look at the clock at least this often.
_LONGEST_SLEEP = 60.0
_SHORTEST_LIFE = 2.0


class CertificateRotation:
    """Runs in the mesh thread (or the control plane's loop).

    request_certificate: gets a new certificate and bundle; raises when it cannot. clock: Unix seconds. sleep:
    asyncio's. on_rotated: called after each swap. on_failure: called with each error; the present certificate stays
    in use.
    """

    def __init__(
        self,
        source: IdentitySource,
        request_certificate: Callable[[], Awaitable[tuple[Svid, TrustBundle]]],
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
        on_rotated: Callable[[Svid], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._source = source
        self._request = request_certificate
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311  jitter, not a secret
        self._on_rotated = on_rotated
        self._on_failure = on_failure
        self._hurry = asyncio.Event()
        self.last_error = ""
        self.renew_at = self._renewal_time(source.svid)

    def renew(self) -> None:
        """Do not wait for half of the life: the control plane is another one now, or refuses our certificate.

        Call it in the loop of ``run``, as often as that is found; while a renewal is under way it changes nothing.
        """
        self.renew_at = self._clock()
        self._hurry.set()

    async def run(self) -> None:
        """Obtain and renew until cancelled."""
        while True:
            while (left := self.renew_at - self._clock()) > 0:
                await self._rest(min(left, _LONGEST_SLEEP))
            retrying = AsyncRetrying(wait=self._wait, sleep=self._sleep, before_sleep=self._failed)
            svid: Svid = await retrying(self._obtain)
            self._hurry.clear()
            self.last_error = ""
            self.renew_at = self._renewal_time(svid)
            logger.info("new certificate for %s, to be renewed in %d s", svid.spiffe_id, self.renew_at - self._clock())
            if self._on_rotated is not None:
                self._on_rotated(svid)

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless ``renew`` comes first."""
        nap, hurry = asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({nap, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if nap.done():
                nap.result()
        finally:
            nap.cancel()
            hurry.cancel()

    async def _obtain(self) -> Svid:
        svid, bundle = await self._request()
        before = self._source.bundle
        if before is not None and not before.same_roots(bundle):
            logger.warning("the roots that the mesh trusts have changed: %d now", len(bundle.fingerprints))
        self._source.set(svid, bundle)
        return svid

    def _renewal_time(self, svid: Svid | None) -> float:
        """Half of what is left of the life: not_before lies back a little, and clocks differ."""
        now = self._clock()
        if svid is None:
            return now
        # A certificate that is born old must not be renewed in a tight loop.
        life = max(svid.not_after - now, _SHORTEST_LIFE)
        return now + life * (_GRACE + self._rng.uniform(-_JITTER, _JITTER))

    def _wait(self, state: RetryCallState) -> float:
        longest = _LONGEST_WAIT if self._source.svid is not None else _LONGEST_FIRST_WAIT
        ceiling: float = min(longest, _FIRST_WAIT * 2 ** min(state.attempt_number - 1, 16))
        return ceiling * self._rng.uniform(0.5, 1.0)

    def _failed(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(error, Exception):
            return
        known, self.last_error = self.last_error, str(error)
        svid = self._source.svid
        left = "none yet" if svid is None else f"the present one ends in {svid.not_after - self._clock():.0f} s"
        # What is not ours is a bug, and its trace is wanted; what is ours says itself what to do.
        trace = None if isinstance(error, ProxylessError) else error
        # Who waits for a first certificate has heard it; who has one must hear again that its end comes nearer.
        level = logging.DEBUG if svid is None and known == self.last_error else logging.WARNING
        logger.log(level, "cannot get a new certificate (%s): %s", left, error, exc_info=trace)
        if self._on_failure is not None:
            self._on_failure(error)
