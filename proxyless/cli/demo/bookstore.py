"""The bookstore as processes: who runs with which version and which identity."""

import asyncio
import json
from pathlib import Path

from proxyless.cli.demo.processes import Processes, wait_for

RATINGS_GRPC = "ratings-grpc"
# name of the process, service, version: each is one real process.
SERVICES = (
    ("ratings", "ratings", "v1"),
    (RATINGS_GRPC, RATINGS_GRPC, "v1"),
    ("details", "details", "v1"),
    ("reviews-v1", "reviews", "v1"),
    ("reviews-v2", "reviews", "v2"),
    ("reviews-v3", "reviews", "v3"),
    ("productpage", "productpage", "v1"),
)


def bookinfo_folder() -> Path:
    """``examples/bookinfo``: inside an installed package, or beside it in a checkout."""
    packaged = Path(__file__).parent / "bookinfo"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "examples" / "bookinfo"


class Bookstore:
    """Starts the control plane and the services; all of them end with ``processes.stop_all``."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._folder = bookinfo_folder()

    @property
    def mesh(self) -> Path:
        """What always holds: services, subsets, mutual TLS."""
        return self._folder / "mesh"

    @property
    def rollout(self) -> Path:
        """The steps, of which each replaces the one before."""
        return self._folder / "rollout"

    def start_control_plane(self) -> dict[str, str]:
        """Start it on free loopback ports and wait until it serves; returns its addresses."""
        free = "127.0.0.1:0"
        addresses = ("--xds-address", free, "--xds-tls-address", free, "--http-address", free)
        self.processes.start("control-plane", "control-plane", "--dev", *addresses)
        found = wait_for("the control plane", self.processes.control_plane_addresses)
        return {key: str(value) for key, value in found.items()}

    def start_services(self) -> None:
        """Start all and wait until the control plane knows each."""
        for name, service, version in SERVICES:
            self._serve(name, service, version)
        self._wait_registered(len(SERVICES))

    async def start_second_ratings(self) -> None:
        self._serve("ratings-2", "ratings", "v1")
        await asyncio.to_thread(self._wait_registered, len(SERVICES) + 1)

    def _serve(self, name: str, service: str, version: str) -> None:
        what = ("--grpc", "ratings_servicer:Ratings") if service == RATINGS_GRPC else (f"{service}:app",)
        self.processes.start(
            name,
            "serve",
            *what,
            "--service",
            service,
            "--service-account",
            f"bookinfo-{service.removesuffix('-grpc')}",
            "--label",
            f"version={version}",
            cwd=self._folder / "apps",
            SERVICE_VERSION=version,
        )

    def _wait_registered(self, count: int) -> None:
        def registered() -> bool | None:
            self.processes.check()
            workloads = json.loads(self.processes.command("get", "workloads", "-o", "json"))["items"]
            return True if len(workloads) >= count else None

        wait_for(f"{count} registered workloads", registered)
