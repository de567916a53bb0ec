"""A real Envoy for tests."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from running_control_plane import until

ENVOY = Path(sys.executable).parent / "envoy"


class Envoy:
    def __init__(self, process: subprocess.Popen[bytes], admin: str, node: str) -> None:
        self.process = process
        self.admin = admin
        self.node = node

    def get(self, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.admin}{path}", timeout=60) as response:
            return str(response.read().decode())

    def clusters(self) -> dict[str, Any]:
        """Active clusters (not those that still warm) by name."""
        dump = json.loads(self.get("/config_dump?resource=dynamic_active_clusters")).get("configs", [])
        return {entry["cluster"]["name"]: entry["cluster"] for entry in dump}

    def connect_timeout(self, cluster: str) -> str:
        return str(self.clusters().get(cluster, {}).get("connect_timeout", ""))

    def counter(self, name: str) -> int:
        """A statistic; 0 if there is none of this name."""
        lines = self.get(f"/stats?filter=^{name.replace('.', '[.]')}$").splitlines()
        return int(lines[0].rpartition(": ")[2]) if lines else 0


@contextlib.contextmanager
def running_envoy(
    directory: Path,
    xds: str,
    *,
    delta: bool,
    node: str,
    listeners: list[Any] | None = None,
    load_reports: bool = False,
    metadata: dict[str, Any] | None = None,
) -> Iterator[Envoy]:
    """Envoy with all clusters and listeners from the plaintext xDS address, beside the static ``listeners``.

    metadata: of its node.
    """
    host, _, port = xds.rpartition(":")
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    address = {"socket_address": {"address": host, "port_value": int(port)}}
    ads = {"ads": {}, "resource_api_version": "V3"}
    services = [{"envoy_grpc": {"cluster_name": "xds"}}]
    bootstrap: dict[str, Any] = {
        "node": {"id": node, "cluster": "gateway.default", "metadata": {"NAMESPACE": "default"} | (metadata or {})},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "grpc_services": services,
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "listeners": listeners or [],
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "typed_extension_protocol_options": http2,
                    "health_checks": [
                        {
                            "grpc_health_check": {},
                            "timeout": "5s",
                            "interval": "1s",
                            "unhealthy_threshold": 1,
                            "healthy_threshold": 1,
                        }
                    ],
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
                    },
                }
            ],
        },
    }
    if load_reports:
        bootstrap["cluster_manager"] = {
            "load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services}
        }
    with started_envoy(directory, bootstrap) as made:
        yield made


@contextlib.contextmanager
def started_envoy(directory: Path, bootstrap: dict[str, Any]) -> Iterator[Envoy]:
    """Envoy with a bootstrap of the test's own, whose admin address has a free port."""
    config, admin = directory / "envoy.json", directory / "admin"
    config.write_text(json.dumps(bootstrap))
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [
                ENVOY,
                "-c",
                config,
                "--admin-address-path",
                admin,
                "--base-id",
                str(time.time_ns() % 10**8),
                "--concurrency",
                "1",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until("Envoy's admin address", lambda: admin.exists() and admin.read_text())
        yield Envoy(process, admin.read_text(), bootstrap["node"]["id"])
    finally:
        process.kill()
        process.wait()
