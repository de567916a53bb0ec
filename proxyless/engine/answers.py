"""What the mesh answers a call itself: its own answers, and the failures of its attempts in Envoy's words."""

from collections.abc import Callable
from dataclasses import replace

from proxyless.engine import mutations, rate_limit, replies
from proxyless.engine.balance.state import Hold
from proxyless.engine.decision import Decision
from proxyless.engine.hashing import RequestHash
from proxyless.engine.hedging import Hedging
from proxyless.engine.rate_limit import RateLimiter
from proxyless.engine.record import CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Failed, FailureKind, Flag, Respond, Step
from proxyless.model.cluster import Cluster, DropOverload

Headers = list[tuple[str, str]]
WHOLE = "the call's timeout"


class Answers:
    """The part of a ``Call`` that ends it."""

    # What few calls have, or only later: each is one assignment less for the others.
    _hash: RequestHash | None = None
    _hedging: Hedging | None = None
    _hold: Hold | None = None
    _ends_call = False
    out_of_time = False  # the call's own deadline ended it, not an attempt's
    record: CallRecord
    _request: Request
    _decision: Decision
    _clock: Callable[[], float]
    _next: Callable[[], Step | None]

    def response_headers(self, headers: Headers) -> Headers:
        """The response's headers with the mutations of the split's leg, the route and the virtual host applied."""
        if self._hash is not None and self._hash.set_cookie:
            headers = [*headers, ("set-cookie", self._hash.set_cookie)]
        levels = self._decision.response_mutations
        return mutations.apply_all(levels, headers) if levels else headers

    def _refused(self, limiter: RateLimiter) -> Respond | None:
        """The answer to a call for which there is no token."""
        limit = self._decision.rate_limit
        if limit is None or limiter.admits(limit):
            return None
        why, code = rate_limit.reason(limit), rate_limit.grpc_status(limit)
        flag = Flag.RATE_LIMITED
        return self._respond(limit.status, rate_limit.BODY, why, flag, headers=limit.headers, grpc_status=code)

    def _dropped(self, cluster: Cluster, drop: DropOverload) -> Respond:
        why = f"cluster {cluster.name} drops {drop.parts_per_million / 10_000:g}% of requests ({drop.category})"
        if drop.parts_per_million >= 1_000_000:
            headers = (("x-envoy-unconditional-drop-overload", "true"),)
            return self._respond(503, replies.DROPPED_ALL, why, Flag.UNCONDITIONAL_DROP_OVERLOAD, headers=headers)
        headers = (("x-envoy-drop-overload", "true"),)
        return self._respond(503, replies.DROPPED, why, Flag.DROP_OVERLOAD, headers=headers)

    def _overflow(self, cluster: Cluster) -> Respond:
        failed = Failed(FailureKind.OVERFLOW, f"max_requests {cluster.max_requests} in flight")
        why = (
            f"overflow: cluster {cluster.name} has {cluster.max_requests} requests in flight, its limit (max_requests)"
        )
        body = replies.failure_body(failed, bool(self.record.attempts))
        return self._respond(503, body, why, Flag.UPSTREAM_OVERFLOW, headers=replies.OVERLOADED)

    def _failed(self, failed: Failed) -> Step | None:
        if failed.kind is FailureKind.TIMEOUT:
            return self._timed_out(WHOLE if self._ends_call else "the attempt's timeout")
        attempts = self.record.attempts
        endpoint = attempts[-1].endpoint
        why = f"{failed.kind.value}: {endpoint}: {failed.detail}"
        if self.record.reason:
            why += f"; {self.record.reason}"
        headers = replies.OVERLOADED if failed.kind is FailureKind.OVERFLOW else ()
        body = replies.failure_body(failed, len(attempts) > 1)
        return self._respond(503, body, why, replies.FAILURE_FLAG[failed.kind], headers=headers)

    def _timed_out(self, which: str) -> Respond:
        self.out_of_time = which is WHOLE
        attempts = self.record.attempts
        where = f" from {attempts[-1].endpoint}" if attempts else ""
        why = f"upstream request timeout: no response{where} within {which}"
        return self._respond(504, replies.TIMED_OUT, why, Flag.UPSTREAM_REQUEST_TIMEOUT)

    def _of_route(self, what: str) -> str:
        return f"{what} of {self.record.origin}" if self.record.origin else what

    def _respond(
        self,
        status: int,
        body: bytes,
        reason: str,
        *flags: Flag,
        headers: replies.Headers = (),
        grpc_status: int | None = None,
    ) -> Respond:
        for flag in flags:
            self.record.flag(flag)
        every = tuple(self.record.flags)
        reply = replies.respond(self._request, status, body, reason, every, headers=headers, grpc_status=grpc_status)
        if self._decision.response_mutations:
            # Envoy's route has the last word on local replies too.
            reply = replace(reply, headers=tuple(self.response_headers(list(reply.headers))))
        return self._answer(reply)

    def _answer(self, reply: Respond) -> Respond:
        self._release()
        self.record.status = reply.status
        self.record.reason = reply.reason
        self._next = nothing
        if tuple(self.record.flags) != reply.flags:
            return Respond(reply.status, reply.headers, reply.body, reply.reason, tuple(self.record.flags))
        return reply

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        if self._hedging is not None:
            self._hedging.end(self._request, self._clock())


def nothing() -> None:
    return None
