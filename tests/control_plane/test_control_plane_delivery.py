"""Is it live everywhere, and if not, who refused what and why: asked of real clients, where the user looks."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from free_ports import free_port
from in_process_control_plane import InProcessControlPlane
from running_control_plane import RunningControlPlane, until
from running_envoy import Envoy, running_envoy

import proxyless
from proxyless.cli.main import main
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.generated import Notes, generated
from proxyless.control_plane.translate.sidecar_ports import OUTBOUND_PORT
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.type_urls import ROUTE

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}], selector: {app: reviews}}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {ports: [{name: http, port: 80}], selector: {app: ratings}}
---
# Without TLS: the certificates of a sidecar come from its agent, which is not what is tested here.
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plaintext}
spec: {host: "*.default.svc.cluster.local", trafficPolicy: {tls: {mode: DISABLE}}}
---
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %s, annotations: {note: "%s"}}
spec:
  hosts: [%s]
  http: [{match: [{uri: {regex: "%s"}}], route: [{destination: {host: %s}}]}]
---
"""
GOOD = "/a.*"
# A program of more than 100 instructions, which is all that an Envoy takes that was not told otherwise. We take it.
LARGE = "/object/[a-z0-9]{64}/action"
# Refused by our own client, once the test has made it so.
POISON = "/poison.*"


def rule(name: str, regex: str, note: str = "") -> str:
    return RULE % (name, note, name, regex, name)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[InProcessControlPlane]:
    with InProcessControlPlane(tmp_path / "state") as made:
        made.apply(SERVICES + rule("reviews", GOOD) + rule("ratings", GOOD))
        yield made


@pytest.fixture(params=[True, False], ids=["delta", "state-of-the-world"])
def envoy(request: pytest.FixtureRequest, running: InProcessControlPlane, tmp_path: Path) -> Iterator[Envoy]:
    with sidecar(tmp_path, running, delta=request.param) as made:
        yield made


@contextlib.contextmanager
def sidecar(folder: Path, running: RunningControlPlane, *, delta: bool) -> Iterator[Envoy]:
    """An Envoy with the routes of one."""
    metadata = {OUTBOUND_PORT: free_port()}
    with running_envoy(folder, running.at["xds"], delta=delta, node="envoy", metadata=metadata) as made:
        until_synced(running, "envoy", "routes")
        yield made


def until_synced(running: RunningControlPlane, node: str, *types: str) -> None:
    def synced() -> bool:
        found = running.types(node)
        return found.keys() >= set(types) and {each["state"] for each in found.values()} == {"SYNCED"}

    until("SYNCED", synced)


def status(running: RunningControlPlane, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = running.api("GET", f"resources/{kind}/default/{name}")["status"]
    return found


def metric(running: RunningControlPlane, name: str) -> float:
    lines = running.http("GET", "/metrics")[1].splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def cli(running: RunningControlPlane, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    result = main([*arguments, "--state-dir", str(running.state_dir)])
    return (result, *capsys.readouterr())


def test_a_route_that_envoy_refuses_is_shown_on_its_rule(
    running: InProcessControlPlane, envoy: Envoy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(running, capsys, "wait", "vs/reviews", "vs/ratings")[0] == 0
    assert status(running, "vs", "reviews")["state"] == "accepted"
    running.apply(rule("reviews", LARGE))

    result, out, err = cli(running, capsys, "wait", "vs/reviews", "-o", "json")
    (refused,) = json.loads(out)["refused"]
    assert (result, refused["node"]) == (1, "envoy")
    (resource,) = refused["resources"]
    assert (resource["type"], resource["name"]) == ("routes", "http_proxy")
    assert "program size" in resource["reason"]
    assert resource["madeFrom"] == [
        {"kind": "VirtualService", "namespace": "default", "name": "reviews", "source": "api"}
    ]
    assert "envoy refused routes http_proxy, made from VirtualService default/reviews (api): " in err

    # The rule beside it in the same RouteConfiguration did not change, and is live.
    assert cli(running, capsys, "wait", "vs/ratings")[0] == 0
    assert cli(running, capsys, "wait")[0] == 1
    shown = status(running, "vs", "reviews")
    assert (shown["state"], shown["accepted"], shown["refused"]) == ("refused", 0, 1)
    assert [(each["node"], each["type"], each["name"]) for each in shown["refusals"]] == [
        ("envoy", "routes", "http_proxy")
    ]
    assert status(running, "vs", "ratings")["state"] == "accepted"
    _, out, err = cli(running, capsys, "get", "vs")
    rows = {line.split()[1]: line.split()[2:4] for line in out.splitlines()[1:]}
    assert (rows["reviews"], rows["ratings"][0]) == (["refused", "1/1"], "accepted")
    assert "api: VirtualService default/reviews: envoy refused routes http_proxy: " in err
    found = json.loads(cli(running, capsys, "get", "vs", "reviews", "-o", "json")[1])["status"]
    assert (found["source"], found["refusals"]) == ("api", shown["refusals"])
    _, out, err = cli(running, capsys, "proxy-status")
    assert "NACKED" in out
    assert "envoy refused routes http_proxy: " in err
    assert metric(running, "pilot_xds_rds_reject") == metric(running, 'pilot_total_xds_rejects{type="rds"}') >= 1
    assert metric(running, "pilot_xds_cds_reject") == 0

    # A change of the other rule comes in the same RouteConfiguration, and is refused with it.
    running.apply(rule("ratings", "/b.*"))
    assert cli(running, capsys, "wait", "vs/ratings")[0] == 1
    assert status(running, "vs", "ratings")["state"] == "refused"

    running.apply(rule("reviews", "/mended"))
    assert cli(running, capsys, "wait")[0] == 0
    assert cli(running, capsys, "wait", "vs/reviews", "vs/ratings")[0] == 0
    assert [status(running, "vs", name)["state"] for name in ("reviews", "ratings")] == ["accepted"] * 2
    until_synced(running, "envoy", "routes")
    assert {each["error"] for each in running.types("envoy").values()} == {""}
    assert cli(running, capsys, "get", "vs")[2] == cli(running, capsys, "proxy-status")[2] == ""
    version = running.client("envoy")["version"]
    assert metric(running, f'pilot_xds{{type="envoy",version="{version}"}}') == 1
    assert metric(running, "pilot_proxy_convergence_time_count") >= 1


class Poisoner(Translator):
    """Makes a regex such that no client takes it."""

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> Any:
        found = super().resources(client, type_url, names)
        for name, resource in found.items() if type_url == ROUTE else ():
            message = route_pb2.RouteConfiguration()
            resource.any.Unpack(message)
            for host in message.virtual_hosts:
                for route in host.routes:
                    if route.match.safe_regex.regex == POISON:
                        route.match.safe_regex.regex = "("
            found[name] = generated(message, Notes())
        return found


@pytest.fixture
def python_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[InProcessControlPlane, proxyless.Mesh]]:
    """Our own client, which has asked for both services, and a control plane that can poison it."""
    monkeypatch.setattr("proxyless.control_plane.server.Translator", Poisoner)
    with InProcessControlPlane(tmp_path / "state") as running:
        running.apply(SERVICES + rule("reviews", GOOD) + rule("ratings", GOOD))
        token = tmp_path / "token"
        body = json.dumps({"namespace": "default", "serviceAccount": "web"}).encode()
        token.write_text(running.api("POST", "tokens", body)["token"])
        with contextlib.closing(
            proxyless.Mesh(
                control_plane=running.at["xds_tls"],
                service="web",
                service_account="web",
                token_file=token,
                state_dir=tmp_path / "client",
            )
        ) as mesh:
            for target in ("reviews:80", "ratings:80"):
                mesh.runtime.resolve(target).result(30)
            yield running, mesh


def test_a_route_that_our_client_refuses_is_shown_on_its_rule(
    python_client: tuple[InProcessControlPlane, proxyless.Mesh], capsys: pytest.CaptureFixture[str]
) -> None:
    running, _ = python_client
    assert cli(running, capsys, "wait", "vs/reviews", "vs/ratings", "svc/reviews")[0] == 0
    running.apply(rule("reviews", POISON))
    result, _, err = cli(running, capsys, "wait", "vs/reviews")
    assert result == 1
    assert "refused routes reviews.default.svc.cluster.local:80, made from VirtualService default/reviews" in err
    assert status(running, "vs", "reviews")["state"] == "refused"
    assert status(running, "vs", "ratings")["state"] == "accepted"
    running.apply(rule("reviews", "/mended"))
    assert cli(running, capsys, "wait", "vs/reviews")[0] == 0
    assert status(running, "vs", "reviews")["state"] == "accepted"


def pushes(running: RunningControlPlane) -> float:
    return sum(metric(running, f'pilot_xds_pushes{{type="{short}"}}') for short in ("cds", "eds", "lds", "rds"))


def test_nothing_is_pushed_when_only_an_annotation_changes(running: InProcessControlPlane, envoy: Envoy) -> None:
    assert running.api("GET", "rollout")["accepted"] == ["envoy"]
    before = pushes(running)
    applied = running.apply(rule("reviews", GOOD, "changed"))
    assert applied["results"][0]["action"] == "configured"
    assert running.api("GET", f"rollout?generation={applied['generation']}")["accepted"] == ["envoy"]
    assert pushes(running) == before


def test_nothing_is_pushed_to_our_client_when_only_an_annotation_changes(
    python_client: tuple[InProcessControlPlane, proxyless.Mesh],
) -> None:
    running, _ = python_client
    assert len(running.api("GET", "rollout")["accepted"]) == 1
    before = pushes(running)
    generation = running.apply(rule("reviews", GOOD, "changed"))["generation"]
    assert len(running.api("GET", f"rollout?generation={generation}")["accepted"]) == 1
    assert pushes(running) == before


def test_a_restart_pushes_nothing_to_envoy(running: InProcessControlPlane, envoy: Envoy) -> None:
    """The first request of a stream is answered, and answered with what Envoy has: it finds nothing to do."""
    changes = [
        *(f"cluster_manager.cluster_{what}" for what in ("added", "modified", "removed")),
        *(f"listener_manager.listener_{what}" for what in ("added", "modified", "removed")),
        "http.outbound.rds.http_proxy.config_reload",
    ]
    before = [envoy.counter(name) for name in changes]
    assert before[-1] > 0
    running.stop()
    running.start()
    until("its return", lambda: running.client("envoy"))
    until_synced(running, "envoy", "clusters", "listeners", "routes")
    assert [envoy.counter(name) for name in changes] == before
    if running.client("envoy")["delta"]:
        # What it brought along is compared, and not sent again: the two wildcards are answered with nothing.
        assert pushes(running) == 2


def test_a_restart_changes_nothing_in_our_client(
    python_client: tuple[InProcessControlPlane, proxyless.Mesh],
) -> None:
    running, mesh = python_client
    (node,) = running.api("GET", "rollout")["accepted"]
    before = mesh.runtime.snapshot()
    running.stop()
    running.start()
    until("its return", lambda: running.client(node))
    until_synced(running, node, "listeners", "routes", "clusters", "endpoints")
    assert mesh.runtime.snapshot() is before


def test_a_refusal_names_the_file_and_line_and_a_comment_pushes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    file = config / "mesh.yaml"
    file.write_text(SERVICES + rule("reviews", GOOD))
    with (
        RunningControlPlane(tmp_path / "state", "--config", str(config)) as running,
        sidecar(tmp_path, running, delta=True) as envoy,
    ):
        assert cli(running, capsys, "wait")[0] == 0
        before, first = pushes(running), line_of_rule(running)
        file.write_text("# moves every line\n" + file.read_text())
        until("the new line", lambda: line_of_rule(running) == first + 1)
        assert cli(running, capsys, "wait")[0] == 0
        assert pushes(running) == before
        file.write_text("# once more\n" + file.read_text().replace(GOOD, LARGE))
        until("the next", lambda: line_of_rule(running) == first + 2)
        result, _, err = cli(running, capsys, "wait", "vs/reviews")
        assert result == 1
        line = first + 2
        assert (
            f"{envoy.node} refused routes http_proxy, made from VirtualService default/reviews ({file}:{line}): " in err
        )
        assert (
            f"{file}:{line}: VirtualService default/reviews: {envoy.node} refused "
            in cli(running, capsys, "get", "vs")[2]
        )


def line_of_rule(running: RunningControlPlane) -> int:
    source = running.api("GET", "resources/vs/default/reviews")["source"]
    return int(source.rpartition(":")[2])
