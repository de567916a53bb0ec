"""A real mesh of processes for one test: a control plane, services, and clients in the test's own process."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import httpx2
from free_ports import free_port

import proxyless
from proxyless.cli.demo.processes import Processes

APPS = Path(__file__).parent / "apps"
Found = TypeVar("Found")


def until(what: str, condition: Callable[[], Found | None], timeout: float = 60.0) -> Found:
    """Poll ``condition`` until it gives something."""
    end = time.monotonic() + timeout
    while (found := condition()) is None:
        assert time.monotonic() < end, f"waited {timeout} s in vain for {what}"
        time.sleep(0.02)
    return found


def answer(client: httpx.Client | httpx2.Client, url: str = "http://hello/") -> httpx.Response | httpx2.Response | None:
    """A good answer, or None: a service that has not registered yet is a host nobody knows."""
    try:
        response = client.get(url)
    except (httpx.TransportError, httpx2.TransportError):
        return None
    return response if response.status_code == 200 else None


class LocalMesh:
    """Starts what a test asks for, with a state dir of its own."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.processes = Processes(self.state_dir)
        self.addresses: dict[str, Any] = {}
        self._meshes: list[proxyless.Mesh] = []

    def start_control_plane(self, *arguments: str) -> None:
        """On free ports the first time; a restart takes the same ports, as a real one would."""
        names = ("xds", "xds_tls", "http")
        at = {name: str(self.addresses.get(name) or f"127.0.0.1:{free_port()}") for name in names}
        (self.state_dir / "control-plane.json").unlink(missing_ok=True)
        self.processes.start(
            "control-plane",
            "control-plane",
            "--dev",
            "--xds-address",
            at["xds"],
            "--xds-tls-address",
            at["xds_tls"],
            "--http-address",
            at["http"],
            *arguments,
        )
        self.addresses = until("the control plane", self.processes.control_plane_addresses)

    def serve(self, name: str, app: str, service: str, *arguments: str, **environment: str) -> None:
        self.processes.start(name, "serve", app, "--service", service, *arguments, cwd=APPS, **environment)

    def run(self, *arguments: str) -> str:
        return self.processes.command(*arguments)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json"))

    def mesh(self, **settings: Any) -> proxyless.Mesh:
        """A client's mesh in this process, closed with the test."""
        settings = {
            "control_plane": self.addresses["xds_tls"],
            "service": "client",
            "state_dir": self.state_dir,
            **settings,
        }
        made = proxyless.Mesh(**settings)
        self._meshes.append(made)
        return made

    def close(self) -> None:
        for mesh in self._meshes:
            mesh.close()
        for name in [name for name in self.processes._running if name != "control-plane"]:
            self.processes.kill(name)  # a drain would take its time, and has tests of its own
        self.processes.stop_all()
