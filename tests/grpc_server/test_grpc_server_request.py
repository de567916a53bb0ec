"""``proxyless request grpc://...`` calls a servicer of the mesh by its reflection."""

import json
from pathlib import Path

import pytest
from local_mesh import LocalMesh, until

from proxyless.cli.demo.processes import DemoError

APPS = Path(__file__).parent / "apps"


def test_a_call_from_json_to_json(local: LocalMesh) -> None:
    local.start_control_plane()
    own = ("--service", "greeter", "--service-account", "greeter")
    local.processes.start("greeter", "serve", "--grpc", "greeter:Greeter", *own, cwd=APPS)
    us = ("--service-account", "person")

    def answer() -> str | None:
        try:
            return local.run("request", "grpc://greeter/test.Greeter/Hello", "-d", '{"name": "you"}', *us)
        except DemoError:
            return None

    said = json.loads(until("an answer", answer, 60))
    assert said["message"] == "hello you"
    assert said["peer"] == "spiffe://cluster.local/ns/default/sa/person"
    told = local.json("request", "grpc://greeter/test.Greeter/Hello", *us)
    assert told["status"] == "OK" and told["response"]["message"] == "hello "
    for url, data, problem in (
        ("grpc://greeter/test.Nobody/Hello", "{}", "the server has: .*test.Greeter"),
        ("grpc://greeter/test.Greeter/Nothing", "{}", "it has: Hello, Many, Slow"),
        ("grpc://greeter/test.Greeter/Many", "{}", "streams"),
        ("grpc://greeter/test.Greeter/Hello", '{"nome": 1}', "-d is no test.HelloRequest"),
        ("grpc://greeter", "{}", "is not grpc://HOST"),
    ):
        with pytest.raises(DemoError, match=problem):
            local.run("request", url, "-d", data, *us)
