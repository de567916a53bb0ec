"""What a real Envoy tells the control plane: that it refused a resource, and how much load it sent."""

import functools
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from in_process_control_plane import InProcessControlPlane
from running_control_plane import until
from running_envoy import running_envoy

from proxyless.control_plane.load_reports.service import LoadReportingService
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.generated import Notes, generated
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.type_urls import CLUSTER

POISON = 7  # seconds
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {ports: [{name: http, port: 80}], selector: {app: %s}}
---
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s}
spec: {host: %s, trafficPolicy: {tls: {mode: DISABLE}, connectionPool: {tcp: {connectTimeout: %ds}}}}
---
"""
NAMES = ("reviews", "ratings", "details")


def cluster(name: str) -> str:
    return f"outbound|80||{name}.default.svc.cluster.local"


def rules(**seconds: int) -> str:
    return "".join(RULE % (name, name, each) for name, each in seconds.items())


class Poisoner(Translator):
    """Makes clusters with a certain timeout such that no Envoy takes them."""

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> Any:
        found = super().resources(client, type_url, names)
        if type_url == CLUSTER:
            for name, resource in found.items():
                message = cluster_pb2.Cluster()
                resource.any.Unpack(message)
                if message.connect_timeout.seconds == POISON:
                    message.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
                    found[name] = generated(message, Notes())
        return found


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessControlPlane]:
    monkeypatch.setattr("proxyless.control_plane.server.Translator", Poisoner)
    with InProcessControlPlane(tmp_path / "state") as made:
        made.apply("".join(SERVICE % (name, name) for name in NAMES))
        yield made


def nacks(running: InProcessControlPlane) -> float:
    lines = running.http("GET", "/metrics")[1].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("pilot_xds_cds_reject "))


def test_a_cluster_that_envoy_refuses_is_named_and_the_old_one_stays(
    poisoned: InProcessControlPlane, tmp_path: Path
) -> None:
    poisoned.apply(rules(reviews=1, ratings=1, details=1))
    with running_envoy(tmp_path, poisoned.at["xds"], delta=True, node="envoy") as envoy:
        until("the clusters", lambda: all(envoy.connect_timeout(cluster(name)) == "1s" for name in NAMES))
        assert nacks(poisoned) == 0

        # All three change at once and come in one response.
        generation = poisoned.apply(rules(reviews=POISON, ratings=2, details=2))["generation"]
        until("the refusal", lambda: poisoned.types("envoy")["clusters"]["refused"])
        until("the others", lambda: envoy.connect_timeout(cluster("details")) == "2s")
        assert envoy.connect_timeout(cluster("ratings")) == "2s"
        assert envoy.connect_timeout(cluster("reviews")) == "1s"
        until("the end of the search", lambda: poisoned.types("envoy")["clusters"]["state"] == "NACKED")
        status = poisoned.types("envoy")["clusters"]
        assert set(status["refused"]) == {cluster("reviews")}
        assert "cluster provided LB" in status["error"]
        assert nacks(poisoned) >= 2
        rollout = poisoned.api("GET", f"rollout?generation={generation}&timeout=1")
        assert [each["node"] for each in rollout["refused"]] == ["envoy"]
        types = poisoned.api("GET", "proxy-config/envoy")["types"]
        config = next(each for each in types if each["type"] == "clusters")
        assert config["accepted"][cluster("reviews")]["connectTimeout"] == "1s"
        assert config["sent"][cluster("reviews")]["connectTimeout"] == f"{POISON}s"

        # Others still get through, and so does the one that is mended.
        before = nacks(poisoned)
        poisoned.apply(rules(ratings=3))
        until("another", lambda: envoy.connect_timeout(cluster("ratings")) == "3s")
        assert nacks(poisoned) == before
        poisoned.apply(rules(reviews=4))
        until("the mended one", lambda: envoy.connect_timeout(cluster("reviews")) == "4s")
        until("SYNCED", lambda: poisoned.types("envoy")["clusters"]["state"] == "SYNCED")


def test_an_envoy_that_starts_with_a_poisoned_cluster_gets_all_others(
    poisoned: InProcessControlPlane, tmp_path: Path
) -> None:
    poisoned.apply(rules(reviews=1, ratings=POISON, details=1))
    with running_envoy(tmp_path, poisoned.at["xds"], delta=True, node="envoy") as envoy:
        until("the clusters", lambda: envoy.connect_timeout(cluster("details")) == "1s")
        until("its name", lambda: set(poisoned.types("envoy")["clusters"]["refused"]) == {cluster("ratings")})
        assert envoy.connect_timeout(cluster("reviews")) == "1s"
        assert cluster("ratings") not in envoy.clusters()


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state-of-the-world"])
def test_a_restart_of_the_control_plane_changes_nothing_in_envoy(tmp_path: Path, delta: bool) -> None:
    with InProcessControlPlane(tmp_path / "state") as running:
        running.apply("".join(SERVICE % (name, name) for name in NAMES) + rules(reviews=1, ratings=1, details=1))
        with running_envoy(tmp_path, running.at["xds"], delta=delta, node="envoy") as envoy:
            until("the clusters", lambda: all(envoy.connect_timeout(cluster(name)) == "1s" for name in NAMES))
            counters = [f"cluster_manager.cluster_{what}" for what in ("added", "modified", "removed")]
            until("SYNCED", lambda: {each["state"] for each in running.types("envoy").values()} == {"SYNCED"})
            before = [envoy.counter(name) for name in counters]
            running.stop()
            running.start()
            until("its return", lambda: running.client("envoy"))
            until("SYNCED again", lambda: {each["state"] for each in running.types("envoy").values()} == {"SYNCED"})
            assert [envoy.counter(name) for name in counters] == before
            running.apply(rules(reviews=2))
            until("the next change", lambda: envoy.connect_timeout(cluster("reviews")) == "2s")


class _Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/fail" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def upstream() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def gateway(name: str) -> dict[str, Any]:
    """A static listener, on a port of its own choice, that sends everything to one cluster."""
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    configuration = {
        "@type": f"type.googleapis.com/{manager}",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
            "validate_clusters": False,
        },
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    return {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": configuration}]}],
    }


EXTERNAL = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: external}
spec:
  hosts: [external.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %d}}]
"""


def test_envoy_reports_its_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often = functools.partial(LoadReportingService, interval=0.1)
    monkeypatch.setattr("proxyless.control_plane.xds_services.LoadReportingService", often)
    name = "outbound|80||external.example"
    with (
        upstream() as port,
        InProcessControlPlane(tmp_path / "state") as running,
        running_envoy(
            tmp_path, running.at["xds"], delta=True, node="envoy", listeners=[gateway(name)], load_reports=True
        ) as envoy,
    ):
        running.apply(EXTERNAL % port)
        until("the endpoint", lambda: f"127.0.0.1:{port}::health_flags::healthy" in envoy.get("/clusters"))
        address = until("the listener", lambda: envoy.get("/listeners").strip()).rpartition("::")[2]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask(path: str) -> None:
            with suppress(urllib.error.HTTPError), opener.open(f"http://{address}{path}", timeout=60):
                pass

        def counted(metric: str) -> float:
            wanted = f'proxyless_load_requests_{metric}_total{{cluster="{name}"}} '
            lines = running.http("GET", "/metrics")[1].splitlines()
            return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0)

        def reports() -> bool:
            return "proxyless_load_reports_total 0.0" not in running.http("GET", "/metrics")[1]

        # A cluster is reported from the first time it is asked about, and not for what was before.
        ask("/")
        until("the first report", reports)
        before = {metric: counted(metric) for metric in ("issued", "succeeded", "failed")}
        for path in ("/", "/", "/", "/fail", "/fail"):
            ask(path)
        until("5 requests", lambda: counted("issued") - before["issued"] >= 5)
        until("3 successes", lambda: counted("succeeded") - before["succeeded"] >= 3)
        until("2 failures", lambda: counted("failed") - before["failed"] >= 2)
        assert counted("failed") - before["failed"] == 2
