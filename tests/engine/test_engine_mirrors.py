"""Copies of requests: what is copied, to where, and how often."""

from typing import Any

import pytest
from engine_world import (
    OK,
    REFUSED,
    TARGET,
    Clock,
    attempts,
    binomial_bound,
    cluster,
    endpoints,
    engine,
    forward,
    reply,
    request,
    run,
    world,
)

from proxyless.engine.call import Call, Copy
from proxyless.engine.explain import explain
from proxyless.engine.rewrite import shadow_host
from proxyless.engine.steps import Attempt, Flag
from proxyless.model.cluster import Cluster, ClusterKind
from proxyless.model.route import Fault, FaultAbort, HeaderAction, HeaderMutations, HeaderSet, Mirror, RetryPolicy
from proxyless.model.snapshot import Snapshot

V2 = cluster("v2", endpoints(1, first=2))
ALL = Mirror("v2")


def mesh(*mirrors: Mirror, route: dict[str, Any] | None = None, clusters: tuple[Cluster, ...] = (), **action: Any):  # type: ignore[no-untyped-def]
    return world(forward(route=route, mirrors=mirrors, **action), clusters=(cluster(), V2, *clusters))


def copies(snapshot: Snapshot, clock: Clock | None = None, **asked: Any) -> tuple[Call, Attempt, list[Copy]]:
    call = engine(clock=clock).call(snapshot, request(**asked))
    step = call.next_step()
    assert isinstance(step, Attempt)
    return call, step, call.copies()


def test_a_copy_is_the_request_as_it_is_sent() -> None:
    changes = HeaderMutations((HeaderSet("x-a", "b", HeaderAction.OVERWRITE),))
    snapshot = mesh(ALL, timeout=3.0, route={"request_headers": changes}, prefix_rewrite="/new/", host_rewrite="h:80")
    call, step, (copy,) = copies(snapshot, path="/x?q", headers=[("x-envoy-max-retries", "9"), ("k", "v")])
    assert call.mirrored
    (sent,) = attempts(run(copy.call, OK))
    assert (step.endpoint.port, sent.endpoint.port, sent.cluster.name) == (8001, 8002, "v2")
    assert (sent.method, sent.path, sent.authority, sent.timeout) == ("GET", step.path, "h-shadow:80", 3.0)
    lines = [("k", "v"), ("x-a", "b"), ("x-envoy-original-path", "/x?q"), ("x-envoy-attempt-count", "1")]
    assert sent.headers == [*lines, ("x-envoy-expected-rq-timeout-ms", "3000")]
    assert (copy.request.target, copy.traced) == (TARGET, True)
    assert copy.call.record.cluster is V2


@pytest.mark.parametrize(
    ("authority", "expected"),
    [("a", "a-shadow"), ("a:80", "a-shadow:80"), ("[::1]", "[::1]-shadow"), ("[::1]:80", "[::1]-shadow:80")],
)
def test_the_host_of_a_copy(authority: str, expected: str) -> None:
    assert shadow_host(authority) == expected
    _, _, (copy,) = copies(mesh(Mirror("v2", shadow_host=False)), authority=authority)
    assert copy.request.authority == authority


def test_a_copy_neither_retries_nor_fails_by_a_fault_nor_is_copied() -> None:
    fault = Fault(abort=FaultAbort(1_000_000, http_status=418), headers=())
    retry = RetryPolicy(frozenset({"connect-failure"}), 3, back_off_base=0.001)
    call, _, (copy,) = copies(mesh(ALL, retry=retry))
    assert not copy.call.mirrored
    assert len(attempts(run(copy.call, REFUSED))) == 1
    call.report(REFUSED)
    aborted = engine().call(mesh(ALL, route={"fault": fault}), request())
    assert reply(run(aborted)).status == 418
    assert aborted.copies() == []


def test_a_copy_always_has_a_timeout_and_the_request_keeps_none() -> None:
    _, step, (copy,) = copies(mesh(ALL))
    assert step.timeout is None
    (sent,) = attempts(run(copy.call, OK))
    assert sent.timeout == 15.0


@pytest.mark.parametrize(
    "asked",
    [{"replayable": False}, {"method": "CONNECT"}, {"headers": [("upgrade", "websocket")]}],
    ids=lambda one: next(iter(one)),
)
def test_what_is_not_copied(asked: dict[str, Any]) -> None:
    assert copies(mesh(ALL), **asked)[2] == []


def test_where_no_copy_can_go() -> None:
    passes = cluster("pass", kind=ClusterKind.PASSTHROUGH)
    wrong = Cluster("wrong", problem="certificate is missing")
    snapshot = mesh(Mirror("nobody"), Mirror("pass"), Mirror("wrong"), clusters=(passes, wrong))
    _, _, (copy,) = copies(snapshot)
    assert reply(run(copy.call)).flags == (Flag.NO_CLUSTER_FOUND,)
    told = explain(snapshot, request())
    assert [(one.cluster, one.percent, bool(one.problem)) for one in told.mirrors] == [
        ("nobody", 100.0, True),
        ("pass", 100.0, False),
        ("wrong", 100.0, True),
    ]
    assert "  mirrored: 100% to cluster nobody (cluster nobody is not known)" in told.to_text()


def test_there_is_no_copy_of_what_is_not_sent() -> None:
    snapshot = world(forward(mirrors=(ALL,)), clusters=(Cluster("v1"), V2))
    call = engine().call(snapshot, request())
    assert reply(run(call)).flags == (Flag.NO_HEALTHY_UPSTREAM,)
    assert call.copies() == []


@pytest.mark.parametrize("share", [0, 100_000, 500_000, 1_000_000])
def test_shares(share: int) -> None:
    mirror, draws, made = engine(), 2000, 0
    snapshot = mesh(Mirror("v2", share))
    for _ in range(draws):
        call = mirror.call(snapshot, request())
        call.next_step()
        made += len(call.copies())
        call.report(OK)
        call.finish()
    wanted = draws * share / 1_000_000
    assert abs(made - wanted) <= (0 if share in (0, 1_000_000) else binomial_bound(share / 1_000_000, draws))


def test_a_copy_that_is_dropped_says_so() -> None:
    _, _, (copy,) = copies(mesh(ALL), headers=[("content-type", "application/grpc")])
    answer = copy.call.drop("too many")
    assert answer.flags == (Flag.UPSTREAM_OVERFLOW,)
    assert ("grpc-status", "14") in answer.headers
    assert copy.call.next_step() is None
