"""One call: from the request's head to the answer, step by step, without I/O. The steps are told in ``engine.steps``.

Used by one task at a time; different calls share nothing but the balancers' state, which needs no lock.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from proxyless.engine import fault, hygiene, load_reports, mutations, replies, retry, rewrite
from proxyless.engine.balance.state import ClusterState, ClusterStates, Hold
from proxyless.engine.decision import Decision
from proxyless.engine.hashing import NO_HASH, RequestHash, request_hash
from proxyless.engine.record import AttemptRecord, CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, FailureKind, Flag, Outcome, Respond, Step
from proxyless.engine.timeouts import NO_LIMITS, Limits, expected_ms
from proxyless.model.cluster import Cluster, ClusterKind, DropOverload, Endpoint
from proxyless.model.route import DirectResponse, Fault, Forward, Redirect, Refused, RetryPolicy

Headers = list[tuple[str, str]]
_WHOLE = "the call's timeout"
# Looking a member up in an enum's class costs Python 3.11 more than comparing with it.
_PASSTHROUGH = ClusterKind.PASSTHROUGH


class Call:
    """``next_step`` and ``report`` in turns until ``next_step`` gives None, then ``finish``.

    deadline: monotonic seconds before which the response's body must have ended, None for no limit.
    """

    # What few calls have, or only later: each is one assignment less for the others.
    _hash: RequestHash | None = None
    _retry_hold: Hold | None = None
    out_of_time = False  # the call's own deadline ended it, not an attempt's
    _state: ClusterState | None = None
    _hold: Hold | None = None
    _head: tuple[Headers, str, str] | None = None
    _retry: RetryPolicy | None = None
    _tried: frozenset[tuple[str, int]] = frozenset()
    _fault: Fault | None = None
    _ends_call = False
    _limits = NO_LIMITS
    _concerned = True

    def __init__(
        self,
        request: Request,
        decision: Decision,
        states: ClusterStates,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._request = request
        self._decision = decision
        self._states = states
        self._clock = clock
        self._rng = rng
        now = clock()
        record = self.record = CallRecord(request.target, now)
        if request.deadline is not None:
            self._limits = Limits(request.deadline, None)
        if any(decision.faults) and (found := fault.applicable(request, *decision.faults)) is not None:
            self._fault = found
            self._next: Callable[[], Step | None] = self._delay_fault
        else:
            self._next = self._act
        route = decision.route
        if decision.virtual_host is not None:
            record.virtual_host = decision.virtual_host.name
        if route is not None:
            record.route, record.origin = route.name, route.origin

    @property
    def deadline(self) -> float | None:
        return self._limits.deadline

    @property
    def mirrored(self) -> bool:
        """Whether copies of such requests go elsewhere."""
        return bool(self._decision.mirrors)

    def copies(self) -> "list[Copy]":
        """Draws which copies are made of this request: to be asked once, at the first Attempt. None of what cannot be
        read twice, nor of CONNECT and upgrades (Envoy: RouteAction.request_mirror_policies).
        """
        request, head = self._request, self._head
        if head is None or not request.replayable or request.method == "CONNECT" or request.header("upgrade"):
            return []
        found = []
        for mirror, decision in self._decision.mirrors:
            if fault.happens(mirror.parts_per_million, self._rng):
                headers, path, authority = head
                if mirror.shadow_host:
                    authority = rewrite.shadow_host(authority)
                copy = Request(request.method, request.target, path, authority, request.scheme, list(headers))
                call = Call(copy, decision, self._states, self._clock, self._rng)
                call._head = copy.headers, path, authority
                call.record.cluster = decision.cluster
                found.append(Copy(call, copy, mirror.traced))
        return found

    def drop(self, reason: str) -> Respond:
        """Instead of the first step of a copy, when there are too many."""
        return self._respond(503, b"", reason, Flag.UPSTREAM_OVERFLOW)

    def next_step(self) -> Step | None:
        """What to do now; None once the call has its answer."""
        return self._next()

    def report(self, outcome: Outcome) -> None:
        """What became of the last Attempt. Decides whether there is another."""
        now = self._clock()
        record = self.record
        attempt = record.attempts[-1]
        attempt.ended = now
        if isinstance(outcome, Answered):
            attempt.status = record.status = outcome.status
        else:
            attempt.failure = outcome
        cluster = record.cluster
        if cluster is not None and cluster.outlier_detection is not None and self._state is not None:
            self._state.report(cluster, attempt.endpoint, outcome, now, grpc=replies.is_grpc(self._request))
        if cluster is not None and cluster.load_weighting is not None and isinstance(outcome, Answered):
            self.loaded(outcome.headers)
        if self._retry_hold is not None:
            self._retry_hold.release()
        if self._retries(outcome, now):
            return
        if isinstance(outcome, Answered):
            self._next = _nothing
            return
        self._release()
        self._next = lambda: self._failed(outcome)

    def loaded(self, headers: Headers) -> None:
        """What the headers or trailers of the last attempt's answer say of its endpoint's load.

        May be asked of any answer, and again: only clusters that balance by load listen.
        """
        record, state = self.record, self._state
        cluster = record.cluster
        if cluster is None or cluster.load_weighting is None or state is None or not record.attempts:
            return
        if (report := load_reports.read(headers)) is not None:
            state.loaded(cluster, record.attempts[-1].endpoint, report, self._clock())

    @property
    def listens(self) -> bool:
        """Whether ``loaded`` makes a difference: before trailers are made into lines for it."""
        return self.record.cluster is not None and self.record.cluster.load_weighting is not None

    def response_headers(self, headers: Headers) -> Headers:
        """The response's headers with the mutations of the split's leg, the route and the virtual host applied."""
        if self._hash is not None and self._hash.set_cookie:
            headers = [*headers, ("set-cookie", self._hash.set_cookie)]
        levels = self._decision.response_mutations
        return mutations.apply_all(levels, headers) if levels else headers

    def finish(self) -> None:
        """Ends the accounting: the response body has ended, or nobody wants it any more. May be called again."""
        self._release()
        if self._retry_hold is not None:
            self._retry_hold.release()
        record = self.record
        if record.ended is not None:
            return
        record.ended = self._clock()
        if self._next is not _nothing and record.status is None:
            record.flag(Flag.DOWNSTREAM_CONNECTION_TERMINATION)
            record.reason = record.reason or "the caller gave up before there was a response"
        self._next = _nothing

    # ---- before the first attempt

    def _delay_fault(self) -> Step | None:
        self._next = self._abort_fault
        seconds = fault.draw_delay(self._fault, self._rng) if self._fault is not None else None
        if seconds is None:
            return self._abort_fault()
        self.record.flag(Flag.DELAY_INJECTED)
        limits = self._limits
        if limits.deadline is not None:
            seconds = max(0.0, min(seconds, limits.deadline - self._clock()))
        return Delay(seconds, "fault")

    def _abort_fault(self) -> Step | None:
        if Flag.DELAY_INJECTED in self.record.flags and self._limits.expired(self._clock()):
            return self._timed_out(_WHOLE)  # the caller has gone meanwhile
        abort = fault.draw_abort(self._fault, self._rng) if self._fault is not None else None
        if abort is None:
            return self._act()
        status = abort.http_status if abort.http_status is not None else 200
        origin = f" by {self.record.origin}" if self.record.origin else ""
        return self._respond(
            status,
            replies.FAULT_ABORT,
            f"fault injected{origin}",
            Flag.FAULT_INJECTED,
            # Envoy's filter: an HTTP status wins, and a gRPC status makes the HTTP one 200.
            grpc_status=abort.grpc_status if abort.http_status is None else None,
        )

    def _act(self) -> Step | None:
        decision, request = self._decision, self._request
        if decision.route is None:
            if decision.passthrough is not None:
                return self._attempt()
            flags = (Flag.NO_ROUTE,) if decision.no_route_status == 404 else ()
            return self._respond(decision.no_route_status, b"", decision.problem, *flags)
        action = decision.route.action
        match action:
            case Forward():
                return self._forward(action)
            case Redirect():
                location = rewrite.redirect_location(request, decision.route.match.path, action)
                headers = self.response_headers([("location", location)])
                reply = Respond(action.status, tuple(headers), b"", replies.printable(f"redirect to {location}"))
                return self._answer(reply)
            case DirectResponse():
                return self._respond(action.status, action.body, self._of_route("direct response"))
            case Refused():
                return self._respond(action.status, b"", f"the route cannot be followed: {action.reason}")

    def _forward(self, action: Forward) -> Step | None:
        decision, request = self._decision, self._request
        cluster = decision.cluster
        self.record.cluster = cluster
        if cluster is None or cluster.problem:
            reason = cluster.problem if cluster is not None else decision.problem
            # A 500 is what a route gives for a backend that does not exist, in the words of the Gateway API.
            return self._respond(decision.no_cluster_status, b"", reason, Flag.NO_CLUSTER_FOUND)
        for drop in cluster.drops:
            if fault.happens(drop.parts_per_million, self._rng):
                return self._dropped(cluster, drop)
        self._concerned = hygiene.concerned(request.headers)
        timeout, per_try, self._retry = hygiene.effort(request, action, concerned=self._concerned)
        self._limits = Limits.start(self._clock(), timeout, per_try, request.deadline)
        return self._attempt()

    def _dropped(self, cluster: Cluster, drop: DropOverload) -> Respond:
        why = f"cluster {cluster.name} drops {drop.parts_per_million / 10_000:g}% of requests ({drop.category})"
        if drop.parts_per_million >= 1_000_000:
            headers = (("x-envoy-unconditional-drop-overload", "true"),)
            return self._respond(503, replies.DROPPED_ALL, why, Flag.UNCONDITIONAL_DROP_OVERLOAD, headers=headers)
        headers = (("x-envoy-drop-overload", "true"),)
        return self._respond(503, replies.DROPPED, why, Flag.DROP_OVERLOAD, headers=headers)

    # ---- attempts

    def _attempt(self) -> Step | None:
        now = self._clock()
        limits, decision = self._limits, self._decision
        if limits.expired(now):
            return self._timed_out(_WHOLE)
        record = self.record
        cluster = record.cluster = decision.passthrough or decision.cluster
        assert cluster is not None
        endpoint = self._pick(cluster, now)
        if endpoint is None:
            usable = (
                f"0 of its {len(cluster.endpoints)} endpoints can be used"
                if cluster.endpoints
                else "it has no endpoint"
            )
            why = f"no healthy upstream: cluster {cluster.name}: {usable}"
            return self._respond(503, replies.NO_HEALTHY_UPSTREAM, why, Flag.NO_HEALTHY_UPSTREAM)
        if self._hold is None and self._state is not None:
            return self._overflow(cluster)
        timeout, self._ends_call = limits.attempt(now)
        number = len(record.attempts) + 1
        record.attempts.append(AttemptRecord(number, endpoint, now))
        request = self._request
        if decision.passthrough is not None:
            # A host the mesh does not know gets the request as it is.
            path, authority, headers = request.path, request.authority, list(request.headers)
        else:
            base, path, authority = self._head = self._head or self._build_head()
            headers = [*base, ("x-envoy-attempt-count", str(number))]
            if timeout is not None:
                headers.append(("x-envoy-expected-rq-timeout-ms", expected_ms(timeout)))
            if endpoint.hostname and decision.auto_host_rewrite:
                authority = endpoint.hostname
        return Attempt(endpoint, cluster, number, timeout, request.method, path, authority, headers)

    def _pick(self, cluster: Cluster, now: float) -> Endpoint | None:
        if cluster.kind is _PASSTHROUGH:
            return self._decision.dialled
        state = self._state
        if state is None:
            state = self._state = self._states.get(cluster.name, now)
        value = self._hash_value() if cluster.hashing is not None else None
        policy = self._retry
        if self._tried and policy is not None and policy.retry_other_host:
            endpoint = state.pick(cluster, self._tried, policy.host_selection_attempts, value, now)
        else:
            endpoint = state.pick(cluster, value=value, now=now)
        if endpoint is not None and not state.full(cluster):
            counted = cluster.max_requests is not None or cluster.retry_budget is not None
            self._hold = state.hold(endpoint, counted=counted)
        return endpoint

    def _hash_value(self) -> int | None:
        """The hash of the request as it is sent, the same for all attempts."""
        if self._hash is None:
            self._hash = NO_HASH
            route = self._decision.route
            if route is not None and isinstance(route.action, Forward) and route.action.hash_policies:
                headers, path, authority = self._head = self._head or self._build_head()
                sent = replace(self._request, headers=headers, path=path, authority=authority)
                self._hash = request_hash(route.action.hash_policies, sent, self._new_cookie)
        return self._hash.value

    def _new_cookie(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _overflow(self, cluster: Cluster) -> Respond:
        failed = Failed(FailureKind.OVERFLOW, f"max_requests {cluster.max_requests} in flight")
        why = (
            f"overflow: cluster {cluster.name} has {cluster.max_requests} requests in flight, its limit (max_requests)"
        )
        body = replies.failure_body(failed, bool(self.record.attempts))
        return self._respond(503, body, why, Flag.UPSTREAM_OVERFLOW, headers=replies.OVERLOADED)

    def _build_head(self) -> tuple[Headers, str, str]:
        request, decision = self._request, self._decision
        headers = hygiene.sendable(request.headers) if self._concerned else request.headers
        if decision.request_mutations:
            headers = mutations.apply_all(decision.request_mutations, headers)
        route = decision.route
        path = request.path
        action = route.action if route is not None else None
        if isinstance(action, Forward) and (action.prefix_rewrite or action.regex_rewrite is not None):
            assert route is not None
            path = rewrite.forwarded_path(request, route.match.path, action)
            # Also where the rewrite changes nothing, as Envoy does.
            headers = [*headers, ("x-envoy-original-path", request.path)]
        return headers, path, decision.host_rewrite or request.authority

    # ---- after an attempt

    def _retries(self, outcome: Outcome, now: float) -> bool:
        policy = self._retry
        if policy is None or (isinstance(outcome, Failed) and self._is_call_timeout(outcome)):
            return False
        condition = retry.wants_retry(policy, self._request, outcome)
        if condition is None:
            return False
        retries = len(self.record.attempts)
        if retries > policy.num_retries:
            self.record.flag(Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
            return False
        if not retry.replayable(self._request, outcome):
            self.record.reason = f"not retried ({condition}): the request body cannot be sent a second time"
            return False
        asked = retry.pushback(self._request, outcome)
        if asked is not None and asked < 0:
            self.record.reason = f"not retried ({condition}): the server forbids it (grpc-retry-pushback-ms)"
            return False
        wait = asked if asked is not None else retry.back_off(policy, retries, self._rng)
        if not self._limits.allows(now, wait):
            self.record.reason = f"not retried ({condition}): the call's deadline comes first"
            return False
        if not self._may_retry():
            self.record.flag(Flag.UPSTREAM_OVERFLOW)
            self.record.reason = f"not retried ({condition}): the cluster has its limit of retries in flight"
            return False
        self._tried |= {self.record.attempts[-1].endpoint.key}
        self._release()
        self.record.status = None
        self._next = lambda: self._back_off(wait)
        return True

    def _may_retry(self) -> bool:
        state, cluster = self._state, self.record.cluster
        if state is not None and cluster is not None:
            self._retry_hold = state.hold_retry(cluster)
            return self._retry_hold is not None
        return True

    def _back_off(self, wait: float) -> Step | None:
        self._next = self._attempt
        return Delay(wait, "back-off") if wait > 0 else self._attempt()

    def _is_call_timeout(self, failed: Failed) -> bool:
        return failed.kind is FailureKind.TIMEOUT and self._ends_call

    def _failed(self, failed: Failed) -> Step | None:
        if failed.kind is FailureKind.TIMEOUT:
            return self._timed_out(_WHOLE if self._ends_call else "the attempt's timeout")
        attempts = self.record.attempts
        endpoint = attempts[-1].endpoint
        why = f"{failed.kind.value}: {endpoint}: {failed.detail}"
        if self.record.reason:
            why += f"; {self.record.reason}"
        headers = replies.OVERLOADED if failed.kind is FailureKind.OVERFLOW else ()
        body = replies.failure_body(failed, len(attempts) > 1)
        return self._respond(503, body, why, replies.FAILURE_FLAG[failed.kind], headers=headers)

    def _timed_out(self, which: str) -> Respond:
        self.out_of_time = which is _WHOLE
        attempts = self.record.attempts
        where = f" from {attempts[-1].endpoint}" if attempts else ""
        why = f"upstream request timeout: no response{where} within {which}"
        return self._respond(504, replies.TIMED_OUT, why, Flag.UPSTREAM_REQUEST_TIMEOUT)

    # ---- answers of our own

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
        self._next = _nothing
        if tuple(self.record.flags) != reply.flags:
            return Respond(reply.status, reply.headers, reply.body, reply.reason, tuple(self.record.flags))
        return reply

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None


class Copy(NamedTuple):
    """A call that nobody waits for. traced: it is in the trace of the request it copies."""

    call: Call
    request: Request
    traced: bool


def _nothing() -> None:
    return None
