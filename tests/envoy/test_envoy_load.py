"""A real Envoy balances by the header that our servers tell their load with."""

import contextlib
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from envoy_mesh import plain_server, until
from google.protobuf import json_format
from test_envoy_hash import cluster, running

from proxyless.control_plane.translate import load_balancing
from proxyless.control_plane.translate.client import ClientKind
from proxyless.model.load_report import HEADER, LoadReport


@pytest.mark.timeout(180)
def test_the_idle_server_gets_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ours, but for the seconds that the first reports wait.
    monkeypatch.setattr(load_balancing, "BY_LOAD_CONFIG", type(load_balancing.BY_LOAD_CONFIG)())
    load_balancing.BY_LOAD_CONFIG.blackout_period.FromMilliseconds(1)
    load_balancing.BY_LOAD_CONFIG.weight_update_period.FromMilliseconds(100)
    policy = json_format.MessageToDict(load_balancing.by_load(ClientKind.ENVOY), preserving_proto_field_name=True)
    loads = {"idle": 0.1, "busy": 0.9}
    with contextlib.ExitStack() as stack:
        # Every metric there is: what Envoy does not know of must not keep it from the rest.
        ports = [
            stack.enter_context(
                plain_server(
                    name, {HEADER: LoadReport(load, 0.5, 0.0, 10, 0, {"a b": 1}, {"q": 0.5}, {"ä": -1}).header()}
                )
            )
            for name, load in loads.items()
        ]
        routes = {
            "name": "r",
            "virtual_hosts": [
                {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}
            ],
        }
        url = stack.enter_context(running(tmp_path, [cluster("c", ports, {"load_balancing_policy": policy})], routes))
        client = stack.enter_context(httpx2.Client(trust_env=False, timeout=60.0))

        def shares() -> bool:
            found = Counter(client.get(url).json()["name"] for _ in range(40))
            return found["idle"] >= 33  # of 36; round robin with the endpoints' own weights gives 14

        until("nine of ten", shares)
