"""A real Envoy as a client: it accepts what it is sent, and never waits for an answer that does not come."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_control_plane import RunningControlPlane, registered, until
from running_envoy import Envoy, running_envoy

CLUSTER = "outbound|80||reviews.default.svc.cluster.local"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  selector: {app: %s}
  ports: [{name: http, port: 80, targetPort: http}]
"""
# Without TLS: the certificates of a sidecar come from its agent, which is not what is tested here.
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s}
spec:
  host: %s
  trafficPolicy: {tls: {mode: DISABLE}, connectionPool: {tcp: {connectTimeout: %ds}}}
"""


def rule(name: str, seconds: int) -> str:
    return RULE % (name, name, seconds)


@pytest.fixture(params=[False, True], ids=["state-of-the-world", "delta"])
def envoy(request: pytest.FixtureRequest, running: RunningControlPlane, tmp_path: Path) -> Iterator[Envoy]:
    with running_envoy(tmp_path, running.at["xds"], delta=request.param, node=f"envoy-{request.param}") as made:
        yield made


def test_envoy_follows_clusters_and_endpoints(running: RunningControlPlane, envoy: Envoy) -> None:
    for name in ("reviews", "ratings"):
        running.apply(f"{SERVICE % (name, name)}---{rule(name, 9)}")
    until("the first clusters", lambda: envoy.connect_timeout(CLUSTER) == "9s")

    # The cluster changes and its endpoints do not: Envoy asks for them again before it uses the change.
    for seconds in (1, 2, 3):
        running.apply(rule("reviews", seconds))
        until("the warmed cluster", lambda expected=f"{seconds}s": envoy.connect_timeout(CLUSTER) == expected)

    async def scenario() -> None:
        async with registered(running, "reviews-1"):
            # Cluster and endpoints at once.
            await asyncio.to_thread(running.apply, rule("reviews", 4))
            await asyncio.to_thread(until, "the endpoint", lambda: "127.0.0.1:8080" in envoy.get("/clusters"))
            await asyncio.to_thread(until, "the cluster", lambda: envoy.connect_timeout(CLUSTER) == "4s")
        await asyncio.to_thread(until, "its end", lambda: "127.0.0.1:8080" not in envoy.get("/clusters"))

    asyncio.run(scenario())
    running.api("DELETE", "resources/svc/default/ratings")
    until("the removal", lambda: not any("ratings" in name for name in envoy.clusters()))
    until("SYNCED", lambda: {each["state"] for each in running.types(envoy.node).values()} == {"SYNCED"})
    found = running.client(envoy.node)
    assert found is not None
    assert (found["kind"], found["service"], found["namespace"]) == ("envoy", "gateway", "default")
    assert found["delta"] is envoy.node.endswith("True")
    assert "update_rejected: 0" in envoy.get("/stats?filter=cluster_manager.cds.update_rejected")
    # The control plane's health service, as Envoy sees it.
    until("a health check", lambda: envoy.counter("cluster.xds.health_check.success"))
    assert envoy.counter("cluster.xds.health_check.failure") == 0
