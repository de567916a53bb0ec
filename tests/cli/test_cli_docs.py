"""docs/cli.md promises stable JSON: what it shows is what the commands print."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hello_service import Serving
from running_control_plane import RunningControlPlane, XdsStream, node

from proxyless.cli.main import COMMANDS
from proxyless.control_plane.type_urls import ROUTE

Cli = Callable[..., Any]

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
# By section: its JSON examples.
EXAMPLES: dict[str, list[Any]] = {
    section.partition("\n")[0]: [json.loads(text) for text in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]
    for section in PAGE.split("\n## ")[1:]
}
# Mappings whose keys are data.
DATA = ("statuses", "clusters", "endpoints", "errors", "labels", "ports", "sent", "accepted")
SPLIT = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec: {hosts: [hello], http: [{route: [{destination: {host: hello}}]}]}
"""


def shape(value: Any, name: str = "") -> Any:
    """Keys all the way down; a list is as its first element."""
    if isinstance(value, dict):
        return "data" if name in DATA else {key: shape(one, key) for key, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [shape(value[0])]
    return "value"


def test_every_command_has_a_section() -> None:
    assert set(COMMANDS) <= EXAMPLES.keys()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("request", ["GET", "http://hello/", "-o", "json"]),
        ("explain", ["GET", "http://hello/", "-o", "json"]),
        ("apply", ["-f", "SPLIT", "--wait", "-o", "json"]),
        ("analyze", ["BAD", "-o", "json"]),
        ("proxy-status", ["-o", "json"]),
        ("token", ["--service-account", "default/hello", "-o", "json"]),
    ],
)
def test_the_json_is_as_documented(
    cli: Cli, serving: Serving, tmp_path: Path, command: str, arguments: list[str]
) -> None:
    files = {"SPLIT": tmp_path / "split.yaml", "BAD": tmp_path / "bad.yaml"}
    files["SPLIT"].write_text(SPLIT)
    files["BAD"].write_text(SPLIT.replace("hosts", "host"))
    result = cli(command, *(str(files.get(argument, argument)) for argument in arguments))
    documented, printed = shape(EXAMPLES[command][0]), shape(json.loads(result.out))
    assert printed == documented
    if command == "apply":
        assert cli("delete", "vs", "hello").status == 0


def test_the_json_of_many_requests(cli: Cli, serving: Serving) -> None:
    printed = json.loads(cli("request", "GET", "http://hello/", "--repeat", "3", "-o", "json").out)
    assert printed.keys() == {"summary", "requests"}
    assert shape(printed["summary"]) == shape(EXAMPLES["request"][1])


def test_the_json_of_a_workload(cli: Cli, serving: Serving) -> None:
    printed = json.loads(cli("get", "workloads", "-o", "json").out)
    assert shape(printed["items"][0]) == shape(EXAMPLES["get"][1])


def test_the_json_of_a_refusal(cli: Cli, control_plane: RunningControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "split.yaml"
    file.write_text(SPLIT.replace("[{route", "[{corsPolicy: {}, route"))
    assert cli("apply", "-f", str(file)).status == 0

    async def scenario() -> tuple[Any, Any]:
        async with control_plane.plaintext() as channel:
            stream = XdsStream(channel, node("refuser"))
            await stream.ask(ROUTE, "hello.default.svc.cluster.local:80")
            await stream.ask(
                ROUTE, "hello.default.svc.cluster.local:80", after=await stream.read(), error="not such a route"
            )
            waited = await asyncio.to_thread(cli, "wait", "vs/hello", "-o", "json")
            assert waited.status == 1
            return waited, await asyncio.to_thread(cli, "get", "vs", "hello", "-o", "json")

    waited, got = asyncio.run(scenario())
    assert shape(json.loads(waited.out)) == shape(EXAMPLES["wait"][0])
    assert shape(json.loads(got.out)["status"]) == shape(EXAMPLES["get"][0]["status"])
    assert cli("delete", "vs", "hello").status == 0


def test_the_json_of_a_client(cli: Cli, serving: Serving) -> None:
    (status,) = json.loads(cli("proxy-status", "-o", "json").out)
    printed = json.loads(cli("proxy-config", status["node"], "-o", "json").out)
    assert printed.keys() == {"node", "types"}
    assert printed["types"][0].keys() == status["types"][0].keys() | {"sent", "accepted"}
