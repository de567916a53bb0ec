"""What is compared: a client, what stands between it and the application, and which processes that is."""

from dataclasses import dataclass
from typing import Protocol

from benchmarks.requests.client import Spec
from benchmarks.requests.world import World


class Encodable(Protocol):
    """What a client is told on its command line."""

    def encode(self) -> str: ...


@dataclass(frozen=True, slots=True)
class System:
    """parts: of the world, besides the client, whose CPU time and memory the system costs. client: its module."""

    name: str
    spec: Encodable
    parts: tuple[str, ...]
    client: str = "benchmarks.requests.client"


# The mesh's rows, in the order of the tables.
PLAIN_HTTPX = "httpx, plaintext"
PLAIN_HTTPX2 = "httpx2, plaintext"
AIOHTTP = "aiohttp, plaintext"
RAW = "raw, plaintext"
RAW_TLS = "raw, mutual TLS"
ENVOY_HTTPX = "httpx, Envoy pair"
ENVOY_HTTPX2 = "httpx2, Envoy pair"
MESH_HTTPX = "httpx, proxyless"
MESH_HTTPX2 = "httpx2, proxyless"
SYNC = ", sync"


def systems(world: World) -> list[System]:
    """All of them; names that end in SYNC are the blocking clients."""
    state_dir, services = str(world.state_dir), list(world.services)
    envoys = ("envoy-out", "envoy-in", "plain")
    host = {"host": "hello-envoy"}
    found = [
        System(RAW, Spec("raw", world.plain), ("plain",)),
        System(RAW_TLS, Spec("raw", world.secured, certificates=str(world.certificates)), ("secured",)),
        System(AIOHTTP, Spec("aiohttp", world.plain), ("plain",)),
    ]
    for blocking, suffix in ((False, ""), (True, SYNC)):
        for library, plain, envoy, mesh in (
            ("httpx", PLAIN_HTTPX, ENVOY_HTTPX, MESH_HTTPX),
            ("httpx2", PLAIN_HTTPX2, ENVOY_HTTPX2, MESH_HTTPX2),
        ):
            through = Spec(library, "http://hello", blocking, state_dir=state_dir, services=services)
            found += [
                System(plain + suffix, Spec(library, world.plain, blocking), ("plain",)),
                System(envoy + suffix, Spec(library, world.envoy, blocking, headers=host), envoys),
                System(mesh + suffix, through, ("serve",)),
            ]
    return found


SERVER_BARE = "bare uvicorn, mutual TLS"
SERVER_MESH = "proxyless serve, mutual TLS"


def servers(world: World) -> list[System]:
    """The same raw client against each server: what is left is the server's own cost.

    After other rows only: until a TLS connection has closed, glibc maps and unmaps the 256 KiB that uvloop asks for at
    each read, which costs a bare uvicorn some 20 us a request. ``proxyless serve`` has freed as much when it started.
    """
    certificates, state_dir = str(world.certificates), str(world.state_dir)
    return [
        System(SERVER_BARE, Spec("raw", world.secured, certificates=certificates), ("secured",)),
        System(SERVER_MESH, Spec("raw", world.serving, state_dir=state_dir), ("serve",)),
    ]
