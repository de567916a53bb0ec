"""One call: from the request's head to the answer, step by step, without I/O. The steps are told in ``engine.steps``.

Used by one task at a time; different calls share nothing but the balancers' state, which needs no lock.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from proxyless.engine import fault, hygiene, load_reports, replies, retry, rewrite, sent
from proxyless.engine.answers import WHOLE, Answers, Headers, nothing
from proxyless.engine.balance.state import ClusterState, ClusterStates, Hold
from proxyless.engine.decision import Decision
from proxyless.engine.hashing import NO_HASH, request_hash
from proxyless.engine.hedging import Hedging
from proxyless.engine.rate_limit import RateLimiter
from proxyless.engine.record import AttemptRecord, CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt, Delay, FailureKind, Flag, Outcome, Respond, Step
from proxyless.engine.timeouts import NO_LIMITS, Limits, expected_ms
from proxyless.model.cluster import Cluster, ClusterKind, Endpoint
from proxyless.model.route import DirectResponse, Fault, Forward, Redirect, Refused, RetryPolicy

# Looking a member up in an enum's class costs Python 3.11 more than comparing with it.
_PASSTHROUGH = ClusterKind.PASSTHROUGH


class Call(Answers):
    """``next_step`` and ``report`` in turns until ``next_step`` gives None, then ``finish``.

    deadline: monotonic seconds before which the response's body must have ended, None for no limit.
    """

    # What few calls have, or only later: each is one assignment less for the others.
    _retry_hold: Hold | None = None
    _state: ClusterState | None = None
    _head: tuple[Headers, str, str] | None = None
    _retry: RetryPolicy | None = None
    _tried: frozenset[tuple[str, int]] = frozenset()
    _fault: Fault | None = None
    _limits = NO_LIMITS
    _concerned = True
    _limiter: RateLimiter | None = None

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

    def limited(self, limiter: RateLimiter) -> None:
        """Before the first step: the call needs a token of its decision's limit. It is asked for after faults, as the
        control plane orders the filters of an Envoy, and once, whatever number of attempts there are.
        """
        self._limiter = limiter

    def next_step(self) -> Step | None:
        """What to do now; None once the call has its answer."""
        return self._next()

    def report(self, outcome: Outcome, number: int = 0) -> None:
        """What became of the last Attempt, or of the hedged one of that number. Decides whether there is another."""
        now = self._clock()
        record = self.record
        hedging = self._hedging
        flight = None if hedging is None else hedging.ended(number)
        attempt = record.attempts[-1] if flight is None else flight.record
        attempt.ended = now
        whole = False
        if isinstance(outcome, Answered):
            attempt.status = record.status = outcome.status
        else:
            attempt.failure = outcome
            whole = self._ends_call and outcome.kind is FailureKind.TIMEOUT
        cluster = record.cluster
        if cluster is not None and cluster.outlier_detection is not None and not (whole and flight and flight.late):
            self._judge(attempt.endpoint, outcome, now)
        if cluster is not None and cluster.load_weighting is not None and isinstance(outcome, Answered):
            self._loaded(attempt.endpoint, outcome.headers)
        policy = self._retry
        condition = None if policy is None or whole else retry.wants_retry(policy, self._request, outcome)
        if hedging is not None and flight is not None:
            if not hedging.settles(flight, condition, outcome, now, whole=whole):
                record.status = None
                return
            self._hold = flight.hold
            hedging.end(self._request, now)
        if self._retry_hold is not None:
            self._retry_hold.release()
        if hedging is None and condition is not None:
            wait = self._retry_after(condition, outcome, now)
            if wait is not None:
                self._release()
                self._next = lambda: self._back_off(wait)
                return
        if isinstance(outcome, Answered):
            self._next = nothing
            return
        self._release()
        self._next = lambda: self._failed(outcome)

    def loaded(self, headers: Headers) -> None:
        """What the headers or trailers of the answer that the call ended with say of its endpoint's load.

        May be asked of any answer, and again: only clusters that balance by load listen.
        """
        if self.record.attempts:
            self._loaded(self.record.attempts[-1].endpoint, headers)

    def _loaded(self, endpoint: Endpoint, headers: Headers) -> None:
        cluster, state = self.record.cluster, self._state
        if cluster is None or cluster.load_weighting is None or state is None:
            return
        if (report := load_reports.read(headers)) is not None:
            state.loaded(cluster, endpoint, report, self._clock())

    @property
    def listens(self) -> bool:
        """Whether ``loaded`` makes a difference: before trailers are made into lines for it."""
        return self.record.cluster is not None and self.record.cluster.load_weighting is not None

    def finish(self) -> None:
        """Ends the accounting: the response body has ended, or nobody wants it any more. May be called again."""
        self._release()
        if self._retry_hold is not None:
            self._retry_hold.release()
        record = self.record
        if record.ended is not None:
            return
        record.ended = self._clock()
        if self._next is not nothing and record.status is None:
            record.flag(Flag.DOWNSTREAM_CONNECTION_TERMINATION)
            record.reason = record.reason or "the caller gave up before there was a response"
        self._next = nothing

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
            return self._timed_out(WHOLE)  # the caller has gone meanwhile
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
        if self._limiter is not None and (refused := self._refused(self._limiter)) is not None:
            return refused
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
        timeout, per_try, self._retry, hedge = hygiene.effort(request, action, concerned=self._concerned)
        limits = self._limits = Limits.start(self._clock(), timeout, per_try, request.deadline)
        if hedge and limits.per_try is not None and (request.hedgeable or not request.replayable):
            # Nothing ends an attempt but the call's own deadline, also where there cannot be another (Envoy).
            self._limits = limits._replace(per_try=None)
            if self._retry is not None and request.replayable:
                self._hedging = Hedging(
                    limits.per_try,
                    self.record,
                    self._clock,
                    attempt=self._attempt,
                    retry_after=self._retry_after,
                    judge=self._judge,
                )
        return self._attempt()

    # ---- attempts

    def _attempt(self) -> Step | None:
        now = self._clock()
        limits, decision = self._limits, self._decision
        if limits.expired(now):
            return self._timed_out(WHOLE)
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
        hedging = self._hedging
        if self._hold is None and self._state is not None:
            if hedging is not None and hedging.busy:
                return hedging.give_up()
            return self._overflow(cluster)
        timeout, self._ends_call = limits.attempt(now)
        number = len(record.attempts) + 1
        record.attempts.append(AttemptRecord(number, endpoint, now))
        if hedging is not None:
            hedging.begin(record.attempts[-1], self._hold, now)
            self._hold, self._next = None, hedging.step
        request = self._request
        if decision.passthrough is not None:
            # A host the mesh does not know gets the request as it is.
            path, authority, headers = request.path, request.authority, list(request.headers)
        else:
            base, path, authority = self._head or self._sent_head()
            headers = [*base, ("x-envoy-attempt-count", str(number))]
            if timeout is not None:
                headers.append(("x-envoy-expected-rq-timeout-ms", expected_ms(timeout)))
            if endpoint.hostname and decision.auto_host_rewrite:
                authority = endpoint.hostname
        hedged = hedging is not None
        return Attempt(endpoint, cluster, number, timeout, request.method, path, authority, headers, hedged)

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
                headers, path, authority = self._sent_head()
                sent = replace(self._request, headers=headers, path=path, authority=authority)
                self._hash = request_hash(route.action.hash_policies, sent, self._new_cookie)
        return self._hash.value

    def _new_cookie(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _sent_head(self) -> tuple[Headers, str, str]:
        if self._head is None:
            self._head = sent.head(self._request, self._decision, concerned=self._concerned)
        return self._head

    # ---- after an attempt

    def _retry_after(self, condition: str, outcome: Outcome, now: float) -> float | None:
        """Seconds until the next attempt, which then is certain; None if there must not be one."""
        policy, record = self._retry, self.record
        assert policy is not None
        retries = len(record.attempts)
        if retries > policy.num_retries:
            record.flag(Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
            return None
        if not retry.replayable(self._request, outcome):
            record.reason = f"not retried ({condition}): the request body cannot be sent a second time"
            return None
        asked = retry.pushback(self._request, outcome)
        if asked is not None and asked < 0:
            record.reason = f"not retried ({condition}): the server forbids it (grpc-retry-pushback-ms)"
            return None
        wait = asked if asked is not None else retry.back_off(policy, retries, self._rng)
        if not self._limits.allows(now, wait):
            record.reason = f"not retried ({condition}): the call's deadline comes first"
            return None
        if not self._may_retry():
            record.flag(Flag.UPSTREAM_OVERFLOW)
            record.reason = f"not retried ({condition}): the cluster has its limit of retries in flight"
            return None
        self._tried |= {record.attempts[-1].endpoint.key}
        record.status = None
        return wait

    def _may_retry(self) -> bool:
        state, cluster = self._state, self.record.cluster
        if state is not None and cluster is not None:
            if self._retry_hold is not None:
                self._retry_hold.release()
            self._retry_hold = state.hold_retry(cluster)
            return self._retry_hold is not None
        return True

    def _back_off(self, wait: float) -> Step | None:
        self._next = self._attempt
        return Delay(wait, "back-off") if wait > 0 else self._attempt()

    def _judge(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """Tells outlier detection."""
        cluster, state = self.record.cluster, self._state
        if cluster is not None and state is not None:
            state.report(cluster, endpoint, outcome, now, grpc=replies.is_grpc(self._request))


class Copy(NamedTuple):
    """A call that nobody waits for. traced: it is in the trace of the request it copies."""

    call: Call
    request: Request
    traced: bool
