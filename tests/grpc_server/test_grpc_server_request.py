"""``proxyless request grpc://...`` calls a servicer of the mesh by its reflection."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from local_mesh import LocalMesh, until

from proxyless.cli.demo.processes import DemoError

APPS = Path(__file__).parent / "apps"


def messages(text: str) -> list[Any]:
    found = []
    while text := text.lstrip():
        one, end = json.JSONDecoder().raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


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
    assert told["peer"].endswith("/sa/greeter") and len(told["attempts"]) == 1
    told = local.json("request", "grpc://greeter/test.Greeter/Many", "-d", '{"name": "m"}', *us)
    assert [one["message"] for one in told["responses"]] == ["m 0", "m 1", "m 2"]
    # What the command itself asks: the one method here that takes a stream.
    both = ("grpc://greeter/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "-d")
    found = messages(local.run("request", *both, '{"listServices": ""} {"fileContainingSymbol": "test.Greeter"}', *us))
    assert ["listServicesResponse" in found[0], "fileDescriptorResponse" in found[1]] == [True, True]
    told = local.json("request", "grpc://greeter/test.Greeter/Hello", "--repeat", "3", *us)
    assert told["summary"]["statuses"] == {"OK": 3} and len(told["requests"]) == 3
    assert sum(told["summary"]["endpoints"].values()) == 3
    mistakes = (
        ("grpc://greeter/test.Nobody/Hello", "{}", "the server has: .*test.Greeter"),
        ("grpc://greeter/test.Greeter/Nothing", "{}", "it has: Hello, Many, Slow"),
        ("grpc://greeter/test.Greeter/Hello", "{} {}", "-d has 2 messages, but test.Greeter.Hello takes one"),
        ("grpc://greeter/test.Greeter/Hello", '{"nome": 1}', "-d is no test.HelloRequest"),
        ("grpc://greeter", "{}", "is not grpc://HOST"),
    )
    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(local.run, "request", url, "-d", data, *us) for url, data, _ in mistakes]
        for one, (*_, problem) in zip(told, mistakes, strict=True):
            with pytest.raises(DemoError, match=problem):
                one.result()
    watch = ("request", "grpc://greeter/grpc.health.v1.Health/Watch", *us)
    assert interrupted(local, *watch, "-d", '{"service": "test.Greeter"}') == 130


def interrupted(local: LocalMesh, *command: str) -> int:
    """The exit status of a command that is told to stop once it has said something, to a pipe."""
    environment = {**local.processes.environment, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "proxyless", *command], env=environment, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            process.send_signal(signal.SIGINT)
            return process.wait(60)
        finally:
            process.kill()
