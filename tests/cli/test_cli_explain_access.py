"""``explain --from``: what the servers behind a request do with it, and which policy says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from hello_service import Serving

from proxyless.cli.main import main

MESH = """
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {selector: {app: hello}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http:
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /admin/}
    fault: {abort: {httpStatus: 500, percentage: {value: 100}}}
    route: [{destination: {host: hello}}]
  - match: [{uri: {prefix: /gone}}]
    directResponse: {status: 410}
  - route: [{destination: {host: hello}}]
---
"""
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec:
  selector: {matchLabels: {app: hello}}
  action: DENY
  rules: [{to: [{operation: {methods: [PATCH]}}]}, {to: [{operation: {paths: ["/admin/*"]}}]}]
---
"""
ALLOW = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop-only}
spec:
  selector: {matchLabels: {app: hello}}
  rules: [{from: [{source: {principals: ["cluster.local/ns/default/sa/shop"]}}]}]
---
"""
ELSEWHERE = ALLOW.replace("app: hello", "app: other")
ADMIN = "AuthorizationPolicy default/no-admin rules[1] denies it"
SHOP_ONLY = "no rule of AuthorizationPolicy default/shop-only allows it"


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["explain", *arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("policies", "path", "account", "allowed", "reason"),
    [
        ("", "/", "shop", True, "no AuthorizationPolicy is about it"),
        (ELSEWHERE, "/", "shop", True, "no AuthorizationPolicy is about it"),
        (DENY, "/", "shop", True, "its AuthorizationPolicies allow it"),
        (DENY, "/admin/x", "shop", False, ADMIN),
        (DENY, "/old/x", "shop", False, ADMIN),  # as it is when it arrives, and whatever faults there are
        (ALLOW, "/", "shop", True, "its AuthorizationPolicies allow it"),
        (ALLOW, "/", "other", False, SHOP_ONLY),
        (DENY + ALLOW, "/admin/x", "other", False, ADMIN),
    ],
)
def test_from_files(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    policies: str,
    path: str,
    account: str,
    allowed: bool,
    reason: str,
) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH + policies)
    asked = ("GET", f"http://hello{path}", "--from", "default/shop", "--from-account", account)
    (server,) = explained(capsys, *asked, "--config", str(tmp_path))["servers"]
    identity = f"spiffe://cluster.local/ns/default/sa/{account}"
    assert server == {
        "cluster": "outbound|80||hello.default.svc.cluster.local",
        "namespace": "default",
        "labels": {"app": "hello"},
        "port": 8080,
        "caller": identity,
        "allowed": allowed,
        "reason": f"{reason} (as {identity})",
    }
    assert main(["explain", *asked, "--config", str(tmp_path)]) == 0
    verdict = "let in" if allowed else "refused with 403"
    assert f"port 8080 of app=hello in default: {verdict}: {reason}" in capsys.readouterr().out


def test_where_no_server_gets_it_and_where_nobody_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH)
    config = ("--config", str(tmp_path))
    assert explained(capsys, "GET", "http://hello/gone", "--from", "default/shop", *config)["servers"] == []
    assert "servers" not in explained(capsys, "GET", "http://hello/", *config)


def test_from_a_control_plane(cli: Any, serving: Serving, tmp_path: Path) -> None:
    def server() -> Any:
        (found,) = json.loads(cli("explain", "GET", "http://hello/", "--from", "default/shop", "-o", "json").out)[
            "servers"
        ]
        return found

    assert server()["allowed"]
    file = tmp_path / "policy.yaml"
    file.write_text(ALLOW)
    assert cli("apply", "-f", str(file)).status == 0
    try:
        found = server()
        assert (found["allowed"], found["labels"]["app"]) == (False, "hello")
        assert found["reason"].startswith(SHOP_ONLY)
    finally:
        assert cli("delete", "authorizationpolicy", "shop-only").status == 0
