"""What a mesh must survive from the start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from local_mesh import APPS, LocalMesh, answer, until
from traffic import Traffic, start_two

import proxyless


def test_control_plane_killed_and_restarted_under_traffic(local: LocalMesh) -> None:
    mesh = start_two(local)
    with Traffic(mesh, "http://hello/") as traffic:
        local.processes.kill("control-plane")
        traffic.more(200)
        local.start_control_plane()
        traffic.more(200)
        # Everyone is back: a change made now arrives.
        local.serve("three", "hello:app", "hello")
        pid = local.processes.pid("three")
        until("the third instance in use", lambda: True if pid in traffic.pids else None)
    assert traffic.failures == []
    assert {local.processes.pid("one"), local.processes.pid("two")} <= set(traffic.pids[-200:])


def test_workload_killed_under_traffic_costs_nothing(local: LocalMesh) -> None:
    mesh = start_two(local)
    with Traffic(mesh, "http://hello/") as traffic:
        local.processes.kill("one")
        traffic.more(200)
    assert traffic.failures == []
    assert set(traffic.pids[-100:]) == {local.processes.pid("two")}


def test_workload_terminated_under_traffic_drains(local: LocalMesh) -> None:
    mesh = start_two(local)
    with Traffic(mesh, "http://hello/") as traffic:
        os.kill(local.processes.pid("one"), signal.SIGTERM)
        status = until("its end", local.processes._running["one"].poll, timeout=60)
        traffic.more(100)
    local.processes._running.pop("one")
    assert status == 0
    assert traffic.failures == []


def test_bad_yaml_is_refused_by_name_and_changes_nothing(local: LocalMesh, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    rules = config / "rules.yaml"
    good = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http:
    - directResponse: {status: 299, body: {string: good}}
"""
    rules.write_text(good)
    local.start_control_plane("--config", str(config))
    local.serve("hello", "hello:app", "hello")
    with httpx2.Client(transport=local.mesh().transport()) as client:

        def status(wanted: int, host: str = "hello") -> bool | None:
            try:
                return True if client.get(f"http://{host}/").status_code == wanted else None
            except httpx2.TransportError:
                return None

        until("the good rule", lambda: status(299))
        rules.write_text(good.replace("status: 299", "status: many"))
        (config / "other.yaml").write_text(good.replace("name: hello", "name: other").replace("[hello]", "[other]"))
        log = local.state_dir / "logs" / "control-plane.log"
        until("the refusal", lambda: True if "rules.yaml:8" in log.read_text() else None)
        # The other file of the same moment is in effect: one faulty resource blocks no other.
        until("the other rule", lambda: status(299, "other"))
        assert status(299)
        rules.write_text(good.replace("status: 299", "status: 298"))
        until("the mended rule", lambda: status(298))

    with pytest.raises(Exception, match=r"bad\.yaml:7"):
        bad = tmp_path / "bad.yaml"
        bad.write_text(good.lstrip().replace("status: 299", "status: many"))
        local.run("apply", "-f", str(bad))


def test_start_while_the_control_plane_is_away(local: LocalMesh) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    first = local.mesh()
    with httpx2.Client(transport=first.transport()) as client:
        until("hello", lambda: answer(client))
    memory = local.state_dir
    until("the memory", lambda: True if list(memory.rglob("*client*")) else None)
    first.close()
    local.processes.kill("control-plane")

    again = local.mesh()
    again.wait_ready(10)
    with httpx2.Client(transport=again.transport()) as client:
        found = client.get("http://hello/")
    assert found.status_code == 200
    assert found.json()["peer"] is None  # no certificate without a control plane; PERMISSIVE takes the call

    stranger = local.mesh(service="stranger")
    started = time.monotonic()
    with pytest.raises(proxyless.NotReadyError, match="cannot reach the control plane"):
        stranger.wait_ready(1.0)
    with httpx2.Client(transport=stranger.transport()) as client, pytest.raises(httpx2.ConnectTimeout):
        client.get("http://hello/", timeout=2)
    assert time.monotonic() - started < 30  # an error, not a hang


FORK = """
import asyncio, os, sys
import httpx2, proxyless

mesh = proxyless.Mesh(service="forker")
client = httpx2.Client(transport=mesh.transport())
another = httpx2.AsyncClient(transport=mesh.async_transport())

async def ask():
    return (await another.get("http://hello/")).status_code

if sys.argv[1] == "used":
    assert client.get("http://hello/").status_code == 200
    assert asyncio.run(ask()) == 200
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        try:
            assert [client.get("http://hello/").status_code for _ in range(3)] == [200] * 3
            assert asyncio.run(ask()) == 200
            # The parent never asked for this one: the child follows the control plane itself.
            assert client.get("http://hello.default.svc.cluster.local/").status_code == 200
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    children.append(pid)
assert client.get("http://hello/").status_code == 200
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


@pytest.mark.parametrize("before", ["unused", "used"])
def test_forked_workers(local: LocalMesh, tmp_path: Path, before: str) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client))
    script = tmp_path / "forker.py"
    script.write_text(FORK)
    done = subprocess.run(
        [sys.executable, str(script), before],
        env=local.processes.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr


FOLLOWER = """
import os, sys
import httpx2, proxyless

client = httpx2.Client(transport=proxyless.Mesh(service="forker").transport())
assert client.get("http://hello/").status_code == 200
if os.fork() == 0:
    for _ in sys.stdin:
        print(client.get("http://hello/").headers.get("x-rule"), flush=True)
    os._exit(0)
os.wait()
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec: {hosts: [hello], http: [{headers: {response: {set: {x-rule: new}}}, route: [{destination: {host: hello}}]}]}
"""


def test_a_forked_child_follows_what_its_parent_has_asked_for(local: LocalMesh, tmp_path: Path) -> None:
    """Such as a worker of a preloaded application that has called somebody before it was forked."""
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client))
    rule = tmp_path / "rule.yaml"
    rule.write_text(RULE)
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWER],
        env=local.processes.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None

        def seen() -> str:
            print("now", file=parent.stdin, flush=True)
            assert parent.stdout is not None
            return parent.stdout.readline().strip()

        assert seen() == "None"
        local.run("apply", "-f", str(rule))
        until("the rule in the child", lambda: True if seen() == "new" else None)
        parent.stdin.close()
        assert parent.wait(30) == 0


def test_gunicorn_preloaded_workers_call_through_the_mesh(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client))
    socket = tmp_path / "web.sock"
    worker = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "web:app", "--preload", "--workers", "2", "--bind", f"unix:{socket}"],
        cwd=APPS,
        env=local.processes.environment,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "gunicorn.log").open("wb"),
    )
    try:
        until("gunicorn", lambda: True if socket.exists() else None)
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket))) as client:
            answers = [client.get("http://web/", timeout=60) for _ in range(10)]
    finally:
        worker.terminate()
        worker.wait(60)
    assert [a.status_code for a in answers] == [200] * 10, answers[0].text
