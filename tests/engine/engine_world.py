"""A small mesh to test the engine in: a clock that moves when told, seeded draws, one target."""

import math
import random
from collections.abc import Iterable
from typing import Any

from proxyless.engine.call import Call
from proxyless.engine.engine import Engine
from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, FailureKind, Outcome, Respond, Step
from proxyless.model.cluster import Cluster, Endpoint, Health, LocalityEndpoints
from proxyless.model.matching import PathKind, PathMatcher, Regex, RouteMatch
from proxyless.model.route import Forward, Listener, Route, VirtualHost, WeightedCluster
from proxyless.model.snapshot import Snapshot

TARGET = "reviews:9080"
ANY = RouteMatch(PathMatcher(PathKind.PREFIX, "/"))
OK = Answered(200, [("content-type", "text/plain")])
REFUSED = Failed(FailureKind.CONNECT, "connection refused")
RESET = Failed(FailureKind.RESET, "connection closed", request_sent=True)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def regex(source: str) -> Regex:
    import re

    compiled = re.compile(source)
    return Regex(
        source,
        lambda text: compiled.fullmatch(text) is not None,
        compiled.sub,
    )


def endpoints(count: int, *, first: int = 1, health: Health = Health.HEALTHY) -> tuple[Endpoint, ...]:
    return tuple(Endpoint("10.0.0.1", 8000 + number, health=health) for number in range(first, first + count))


def cluster(name: str = "v1", hosts: Iterable[Endpoint] = (), **more: Any) -> Cluster:
    hosts = tuple(hosts) or endpoints(1)
    return Cluster(name, localities=(LocalityEndpoints(hosts),), **more)


def world(
    *routes: Route, clusters: Iterable[Cluster] = (), listener: dict[str, Any] | None = None, **virtual_host: Any
) -> Snapshot:
    host = VirtualHost("reviews", ("*",), routes, **virtual_host)
    known = tuple(clusters) or (cluster(),)
    listeners = {TARGET: Listener(TARGET, "9080", host, **(listener or {}))}
    return Snapshot(generation=3, listeners=listeners, clusters={one.name: one for one in known})


def forward(
    *legs: WeightedCluster, match: RouteMatch = ANY, route: dict[str, Any] | None = None, **action: Any
) -> Route:
    return Route(match, Forward(legs or (WeightedCluster("v1"),), **action), **(route or {}))


def request(path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = (), **more: Any) -> Request:
    return Request(method, TARGET, path, headers=list(headers), **more)


def engine(seed: int = 1, clock: Clock | None = None) -> Engine:
    return Engine(clock=clock or Clock(), rng=random.Random(seed))


def run(call: Call, *outcomes: Outcome, clock: Clock | None = None, took: float = 0.0) -> list[Step]:
    """Performs a call: each attempt brings the next outcome, delays and attempts take virtual time. Its steps."""
    steps: list[Step] = []
    waiting = list(outcomes)
    while (step := call.next_step()) is not None:
        steps.append(step)
        if isinstance(step, Delay) and clock is not None:
            clock.now += step.seconds
        if isinstance(step, Attempt):
            if clock is not None:
                clock.now += took if step.timeout is None else min(took, step.timeout)
            call.report(waiting.pop(0))
    call.finish()
    assert not waiting, f"outcomes nobody asked for: {waiting}"
    return steps


def attempts(steps: Iterable[Step]) -> list[Attempt]:
    return [step for step in steps if isinstance(step, Attempt)]


def reply(steps: Iterable[Step]) -> Respond:
    last = list(steps)[-1]
    assert isinstance(last, Respond)
    return last


def binomial_bound(share: float, draws: int) -> float:
    """How far a count may be from ``share * draws`` so that a right sampler exceeds it with probability below 1e-9.

    Bernstein's inequality, both sides: 2 * exp(-t**2 / (2 * variance + 2 * t / 3)) = 1e-9, solved for t.
    """
    log = math.log(2 / 1e-9)
    variance = draws * share * (1 - share)
    return log / 3 + math.sqrt((log / 3) ** 2 + 2 * variance * log)
