"""Bad days that come together, or last longer."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
from local_mesh import LocalMesh, answer, until
from traffic import Traffic, start_two


def test_a_control_plane_that_lost_its_state_gets_its_mesh_back(local: LocalMesh) -> None:
    """Another root, another token, an empty registry: everybody enrols anew, without being restarted."""
    mesh = start_two(local)
    former = mesh.runtime.identity.bundle
    local.processes.kill("control-plane")
    for name in ("ca", "store.sqlite", "store.sqlite-wal", "store.sqlite-shm", "dev-token", "admin-token"):
        path = local.state_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    local.start_control_plane()
    local.serve("three", "hello:app", "hello")
    everybody = {local.processes.pid(name) for name in ("one", "two", "three")}
    with httpx2.Client(transport=mesh.transport()) as client:

        def back() -> bool | None:
            answers = [answer(client) for _ in range(9)]
            return True if {a.json()["pid"] for a in answers if a and a.json()["peer"]} == everybody else None

        until("all three over mutual TLS", back, timeout=60)
    assert former is not None
    assert mesh.runtime.identity.bundle is not None
    assert not former.same_roots(mesh.runtime.identity.bundle)


RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: hello}}
spec:
  host: hello
  subsets: [{{name: {one}, labels: {{app: hello}}}}, {{name: {two}, labels: {{app: hello}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: hello}}
spec:
  hosts: [hello]
  http:
    - headers: {{response: {{set: {{x-rule: "{number}"}}}}}}
      route:
        - {{destination: {{host: hello, subset: {one}}}, weight: {weight}}}
        - {{destination: {{host: hello, subset: {two}}}, weight: {rest}}}
"""


def test_no_request_sees_half_of_a_change(local: LocalMesh, tmp_path: Path) -> None:
    """Weights change, and the very subsets under the routes, while requests run."""
    config = tmp_path / "config"
    config.mkdir()

    def change(number: int) -> None:
        weight = (0, 10, 50, 100)[number % 4]
        names = {"one": f"one-{number // 2}", "two": f"two-{number // 2}"}
        new = tmp_path / "new.yaml"
        new.write_text(RULES.format(number=number, weight=weight, rest=100 - weight, **names))
        new.rename(config / "rules.yaml")

    change(0)
    mesh = start_two(local, "--config", str(config))
    with Traffic(mesh, "http://hello/") as traffic, httpx2.Client(transport=mesh.transport()) as client:

        def in_effect(number: int) -> bool | None:
            return True if client.get("http://hello/").headers.get("x-rule") == str(number) else None

        for number in range(1, 11):
            change(number)
            until(f"rule {number}", lambda number=number: in_effect(number))
            traffic.more(20)
    assert traffic.failures == []


def test_requests_that_never_end_do_not_hold_up_the_end(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    apps = ("thread", "task")
    for app in apps:
        local.serve(app, f"endless:{app}", app, BEGUN=str(tmp_path / app))
    with httpx2.Client(transport=local.mesh().transport(), timeout=30) as client:
        for app in apps:
            until(app, lambda app=app: answer(client, f"http://{app}/"))
        hanging = [threading.Thread(target=client.get, args=(f"http://{app}/hang",)) for app in apps]
        for thread in hanging:
            thread.start()
        for app in apps:
            until("the request", lambda app=app: True if (tmp_path / app).exists() else None)
        ending = [local.processes._running.pop(app) for app in apps]
        try:
            for process in ending:
                process.terminate()
            assert [process.wait(60) for process in ending] == [0, 0]
        finally:
            for process in ending:
                process.kill()
                process.wait()
        for thread in hanging:
            thread.join()


OWNER = """
import os, sys, time, proxyless
with proxyless.Mesh(service="owner").register(port=int(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(3600)
"""


def test_a_forked_child_does_not_keep_its_dead_parent_registered(local: LocalMesh) -> None:
    local.start_control_plane()

    def registered() -> int:
        return len(local.json("get", "workloads")["items"])

    with subprocess.Popen(
        [sys.executable, "-c", OWNER, "9"], env=local.processes.environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        try:
            until("the registration", lambda: True if registered() else None)
            owner.kill()
            until("its end", lambda: True if not registered() else None, timeout=60)
            os.kill(child, 0)
        finally:
            owner.kill()
            os.kill(child, signal.SIGKILL)
