"""apply, get, delete, analyze against a running control plane."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Cli = Callable[..., Any]

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: shop
spec:
  ports:
  - name: http
    port: 80
"""
SPLIT = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
spec:
  hosts: [shop]
  http:
  - timeout: 3s
    route:
    - destination: {host: shop}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(f"{SERVICE}---\n{SPLIT}")
    return path


def test_apply_get_delete_round_trip(cli: Cli, shop: Path, tmp_path: Path) -> None:
    assert cli("apply", "-f", str(shop)).out == "service/shop created\nvirtualservice/shop created\n"
    assert cli("apply", "-f", str(shop)).out == "service/shop unchanged\nvirtualservice/shop unchanged\n"
    shop.write_text(SPLIT.replace("3s", "4s"))
    assert cli("apply", "-f", str(shop)).out == "virtualservice/shop configured\n"

    for kind in ("VirtualService", "virtualservices", "vs"):
        assert cli("get", kind).out.splitlines()[1].split()[:2] == ["default", "shop"]
    one = json.loads(cli("get", "vs", "shop", "-o", "json").out)
    assert one["spec"]["http"][0]["timeout"] == "4s"
    listed = json.loads(cli("get", "vs", "-n", "default", "-o", "json").out)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["shop"]
    assert cli("get", "vs", "-n", "elsewhere").out == ""

    again = tmp_path / "again.yaml"
    again.write_text(cli("get", "vs", "shop", "-o", "yaml").out)
    assert one.pop("status")["state"] == "unused"
    assert yaml.safe_load(again.read_text()) == one
    assert cli("apply", "-f", str(again)).out == "virtualservice/shop unchanged\n"

    assert cli("delete", "vs", "shop").out == "virtualservice/shop deleted\n"
    gone = cli("delete", "vs", "shop")
    assert (gone.status, gone.out, "VirtualService default/shop" in gone.err) == (1, "", True)
    assert cli("delete", "svc", "shop").status == 0


def test_apply_waits_and_speaks_json(cli: Cli, shop: Path) -> None:
    result = cli("apply", "-f", str(shop), "--wait", "--timeout", "5s", "-o", "json")
    answer = json.loads(result.out)
    assert result.status == 0
    assert [(each["kind"], each["name"]) for each in answer["results"]] == [
        ("Service", "shop"),
        ("VirtualService", "shop"),
    ]
    assert answer["rollout"] == {"accepted": [], "refused": [], "lagging": []}


def test_a_bad_file_is_named_with_its_line_and_nothing_is_applied(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"{SERVICE.replace('shop', 'fine')}---\n{SPLIT.replace('shop', 'bad').replace('3s', 'soon')}")
    result = cli("apply", "-f", str(bad))
    assert (result.status, result.out) == (1, "")
    assert f"{bad}:17: Error: VirtualService default/bad: spec.http[0].timeout" in result.err
    assert cli("get", "svc", "fine").status == 1


def test_a_directory_is_applied_whole_or_not_at_all(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(SERVICE.replace("shop", "one"))
    (tmp_path / "2.yaml").write_text("kind: [\n")
    assert cli("apply", "-f", str(tmp_path)).status == 1
    assert cli("get", "svc", "one").status == 1
    (tmp_path / "2.yaml").write_text(SERVICE.replace("shop", "two"))
    assert cli("apply", "-f", str(tmp_path)).out == "service/one created\nservice/two created\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["apply", "-f", "/no/such/file"], "/no/such/file"),
        (["get", "carrots"], "carrots"),
        (["get", "vs", "none"], "VirtualService default/none"),
        (["proxy-config", "nobody"], "proxy-status"),
        (["token", "--service-account", "a b/c"], "namespace"),
    ],
)
def test_an_error_is_one_line_with_the_remedy(cli: Cli, arguments: list[str], says: str) -> None:
    result = cli(*arguments)
    assert (result.status, result.out, len(result.err.splitlines())) == (1, "", 1)
    assert says in result.err


def test_token_and_status(cli: Cli) -> None:
    assert cli("token", "--service-account", "default/shop", "--ttl", "5m").out.count(".") == 2
    assert json.loads(cli("token", "--service-account", "default/shop", "-o", "json").out)["ttl"] == 3600
    assert json.loads(cli("proxy-status", "-o", "json").out) == []
    assert cli("proxy-status").err == "no client is connected\n"


@pytest.mark.parametrize(
    ("text", "status", "codes"),
    [
        (SERVICE + "---\n" + SPLIT, 0, []),
        (SPLIT, 0, ["ReferencedResourceNotFound"]),
        (SERVICE.replace("80", "800000"), 1, ["SchemaValidationError"]),
    ],
)
def test_analyze_reads_files_offline(run: Cli, tmp_path: Path, text: str, status: int, codes: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    result = run("analyze", str(tmp_path), "-o", "json")
    found = json.loads(result.out)
    assert [problem["code"] for problem in found] == codes
    assert all(
        set(problem) == {"code", "level", "message", "kind", "namespace", "name", "file", "line"} for problem in found
    )
    assert result.status == status
    assert run("analyze", str(tmp_path / "none")).status == 2
