"""A library client sends a key to the endpoint that a real Envoy with the same configuration sends it to."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_pb2
from envoy_mesh import plain_server, until
from google.protobuf import json_format

from proxyless.engine.engine import Engine
from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt
from proxyless.envoy.binary import find_envoy
from proxyless.model.cluster import Cluster
from proxyless.model.route import Listener, VirtualHost
from proxyless.model.snapshot import Snapshot
from proxyless.xds_client.compile.cluster import compile_cluster
from proxyless.xds_client.compile.route import compile_route_configuration

TARGET = "hashed:80"
POLICIES: dict[str, list[dict[str, Any]]] = {
    "header": [{"header": {"header_name": "x-user"}}],
    "rewritten": [
        {"header": {"header_name": "x-user", "regex_rewrite": {"pattern": {"regex": "[0-9]"}, "substitution": "n"}}}
    ],
    "query": [{"query_parameter": {"name": "q"}}],
    "cookie": [{"cookie": {"name": "c"}}],
    "made": [{"cookie": {"name": "c", "ttl": "60s", "path": "/made", "attributes": [{"name": "A", "value": "b"}]}}],
    "two": [{"header": {"header_name": "x-user"}}, {"query_parameter": {"name": "q"}}],
    "first": [{"header": {"header_name": "x-user"}, "terminal": True}, {"query_parameter": {"name": "q"}}],
}
BALANCERS: dict[str, dict[str, Any]] = {
    "ring": {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 100}},
    "large": {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}},
    "maglev": {"lb_policy": "MAGLEV"},
    "prime": {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 251}},
}


def cluster(name: str, ports: list[int], more: dict[str, Any]) -> dict[str, Any]:
    endpoints = [
        {
            "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}},
            "load_balancing_weight": 1 + index % 2,
        }
        for index, port in enumerate(ports)
    ]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **more,
    }


def routes() -> dict[str, Any]:
    found = [
        {"match": {"prefix": f"/{policy}/{name}"}, "route": {"cluster": name, "hash_policy": POLICIES[policy]}}
        for policy in POLICIES
        for name in BALANCERS
    ]
    return {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": found}]}


@contextlib.contextmanager
def running(folder: Path, clusters: list[dict[str, Any]], configuration: dict[str, Any] | None = None) -> Iterator[str]:
    """A real Envoy with this configuration, or other routes; gives the URL of its listener."""
    prefix = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": configuration or routes(),
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}}],
    }
    here = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    listener = {
        "name": "l",
        "address": here,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    written = folder / "envoy.json"
    written.write_text(
        json.dumps({"admin": {"address": here}, "static_resources": {"listeners": [listener], "clusters": clusters}})
    )
    admin = folder / "admin"
    command = [str(find_envoy()), "-c", str(written), "--admin-address-path", str(admin), "--concurrency", "1"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*command, "--use-dynamic-base-id"], stdout=log, stderr=log)
    try:

        def address() -> str | None:
            assert process.poll() is None, (folder / "envoy.log").read_text()[-3000:]
            if not admin.exists() or not (where := admin.read_text()):
                return None
            with contextlib.suppress(httpx2.HTTPError):
                told = httpx2.get(f"http://{where}/listeners?format=json", trust_env=False).json()
                for one in told.get("listener_statuses", ()):
                    port = one["local_address"]["socket_address"]["port_value"]
                    return f"http://127.0.0.1:{port}"
            return None

        yield until("Envoy's listener", address, timeout=60.0)
    finally:
        process.kill()
        process.wait()


def snapshot(clusters: list[dict[str, Any]]) -> Snapshot:
    """The same configuration, compiled for a library client."""
    found: dict[str, Cluster] = {}
    for one in clusters:
        spec = compile_cluster(json_format.ParseDict(one, cluster_pb2.Cluster()))
        found[spec.cluster.name] = spec.join(None)
    compiled = compile_route_configuration(json_format.ParseDict(routes(), route_pb2.RouteConfiguration()))
    host: VirtualHost = compiled.virtual_hosts[0]
    return Snapshot(listeners={TARGET: Listener(TARGET, "r", host)}, clusters=found)


@pytest.mark.timeout(180)
def test_a_key_goes_where_envoy_sends_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(plain_server(str(number))) for number in range(5)]
        by_name = {str(number): port for number, port in enumerate(ports)}
        clusters = [cluster(name, ports, more) for name, more in BALANCERS.items()]
        url = stack.enter_context(running(tmp_path, clusters))
        client = stack.enter_context(httpx2.Client(trust_env=False, timeout=60.0))
        known, mesh = snapshot(clusters), Engine()
        differ, used = [], set()
        for policy in POLICIES:
            for name in BALANCERS:
                for key in range(8):
                    path = f"/{policy}/{name}?q=k{key % 5}"
                    headers = [("x-user", f"user-{key}"), ("cookie", f"x=y; c=c{key}")]
                    if key % 2:
                        headers.insert(0, ("x-user", f"another-{key}"))
                    envoy = by_name[client.get(url + path, headers=headers).json()["name"]]
                    call = mesh.call(known, Request("GET", TARGET, path, headers=headers))
                    step = call.next_step()
                    assert isinstance(step, Attempt)
                    call.report(Answered(200, []))
                    call.finish()
                    used.add(envoy)
                    if step.endpoint.port != envoy:
                        differ.append((policy, name, key))
        assert differ == []
        assert len(used) == 5


@pytest.mark.timeout(180)
def test_a_new_cookie_looks_as_envoys(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(plain_server(str(number))) for number in range(2)]
        clusters = [cluster(name, ports, more) for name, more in BALANCERS.items()]
        url = stack.enter_context(running(tmp_path, clusters))
        theirs = httpx2.get(f"{url}/made/ring", trust_env=False, timeout=60.0).headers["set-cookie"]
        call = Engine().call(snapshot(clusters), Request("GET", TARGET, "/made/ring"))
        assert isinstance(call.next_step(), Attempt)
        ((_, ours),) = call.response_headers([])

        def shape(line: str) -> str:
            value = line.split('"')[1]
            assert len(value) == 16
            assert int(value, 16) > 0
            return line.replace(value, "VALUE")

        assert shape(ours) == shape(theirs)
