"""What a newcomer does by hand: the README's sixty seconds."""

import json
from pathlib import Path

import httpx
import httpx2
from local_mesh import LocalMesh, answer, until

from proxyless.cli.demo.statistics import share_is_right

RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello}
spec:
  host: hello
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http:
    - route:
        - {destination: {host: hello, subset: v1}, weight: 90}
        - {destination: {host: hello, subset: v2}, weight: 10}
"""
# Attached to the service, it comes before the rule for the host.
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hello}
spec:
  parentRefs: [{group: "", kind: Service, name: hello}]
  rules:
    - matches: [{path: {value: /only}}]
      filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {set: [{name: x-route, value: taken}]}
      backendRefs: [{name: hello, port: 80}]
"""


def two_versions(local: LocalMesh) -> None:
    local.start_control_plane()
    local.serve("hello-v1", "hello:app", "hello", "--label", "version=v1", VERSION="v1")
    local.serve("hello-v2", "hello:app", "hello", "--label", "version=v2", VERSION="v2")


def both_answer(client: httpx2.Client) -> bool | None:
    answers = [answer(client) for _ in range(8)]
    return True if {a.json()["version"] for a in answers if a} == {"v1", "v2"} else None


def test_ten_percent_land_on_v2_and_explain_says_why(local: LocalMesh, tmp_path: Path) -> None:
    two_versions(local)
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("both versions", lambda: both_answer(client))
    rules = tmp_path / "hello.yaml"
    rules.write_text(RULES)
    local.run("apply", "--wait", "-f", str(rules))

    seen = local.json("request", "GET", "http://hello/", "--repeat", "1000")
    versions = [json.loads(one["body"])["version"] for one in seen["requests"]]
    assert len(versions) == 1000
    assert seen["summary"]["statuses"] == {"200": 1000}
    assert share_is_right(versions.count("v2"), 1000, 0.1)
    assert all(one["peer"] == "spiffe://cluster.local/ns/default/sa/default" for one in seen["requests"])

    why = local.json("explain", "GET", "http://hello/")
    text = local.run("explain", "GET", "http://hello/")
    assert "VirtualService default/hello" in json.dumps(why)
    assert "90" in text
    assert "10" in text

    rules.write_text(ROUTE)
    local.run("apply", "--wait", "-f", str(rules))
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("the route", lambda: client.get("http://hello/").status_code == 404 or None)
        assert client.get("http://hello/only/this").headers["x-route"] == "taken"
    assert local.json("request", "GET", "http://hello/only")["status"] == 200
    assert "HTTPRoute default/hello rules[0]" in local.run("explain", "GET", "http://hello/only")
    assert "hello" in local.run("get", "httproutes")


def test_httpx_and_httpx2_sync_and_async(local: LocalMesh) -> None:
    import asyncio

    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    mesh = local.mesh()

    async def both_async() -> None:
        async with (
            httpx.AsyncClient(transport=mesh.async_transport()) as one,
            httpx2.AsyncClient(transport=mesh.async_transport()) as two,
        ):
            assert (await one.get("http://hello/")).json()["version"] == "v1"
            assert (await two.get("http://hello/")).json()["version"] == "v1"

    with httpx.Client(transport=mesh.transport()) as one, httpx2.Client(transport=mesh.transport()) as two:
        until("hello", lambda: answer(one))
        assert two.get("http://hello.default.svc.cluster.local/").json()["version"] == "v1"
        asyncio.run(both_async())


def test_a_host_the_mesh_does_not_know_goes_out_plain(local: LocalMesh) -> None:
    local.start_control_plane()
    with httpx2.Client(transport=local.mesh().transport()) as client:
        assert client.get(f"http://{local.addresses['http']}/healthz").status_code == 200


def test_context_flows_without_user_code(local: LocalMesh) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    local.serve("relay", "relay:app", "relay", "--service-account", "relay")
    with httpx2.Client(transport=local.mesh().transport()) as client:

        def relayed() -> httpx.Response | httpx2.Response | None:
            found = answer(client, "http://relay/")
            return found if found and isinstance(found.json()["hello"], dict) else None

        body = until("the relay", relayed).json()
    assert body["hello"]["peer"] == "spiffe://cluster.local/ns/default/sa/relay"
    assert body["hello"]["request_id"] == body["seen"]["request_id"]
    trace_id = body["seen"]["traceparent"].split("-")[1]
    assert body["hello"]["traceparent"].split("-")[1] == trace_id


def test_plaintext_is_taken_until_strict_and_xfcc_cannot_be_forged(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client))
        meshed = client.get("http://hello/", headers={"x-forwarded-client-cert": "URI=spiffe://forged"}).json()
    port = local.json("request", "GET", "http://hello/")["endpoint"].rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/"
    forged = httpx2.get(url, headers={"x-forwarded-client-cert": "URI=spiffe://forged"}).json()
    assert forged["peer"] is None
    assert forged["xfcc"] is None
    assert meshed["peer"] == "spiffe://cluster.local/ns/default/sa/default"
    assert "URI=spiffe://cluster.local/ns/default/sa/default" in meshed["xfcc"]

    strict = tmp_path / "strict.yaml"
    strict.write_text(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\n"
        "spec: {mtls: {mode: STRICT}}\n"
    )
    local.run("apply", "--wait", "-f", str(strict))

    def refused() -> bool | None:
        try:
            return True if httpx2.get(url).status_code == 403 else None
        except httpx2.TransportError:
            return True

    until("STRICT", refused)
    with httpx2.Client(transport=local.mesh().transport()) as client:
        assert client.get("http://hello/").status_code == 200
