"""What is compared: a channel, what stands between it and the service, and which processes that is."""

from benchmarks.grpc_calls.client import Spec
from benchmarks.grpc_calls.world import World
from benchmarks.requests.systems import System

_CLIENT = "benchmarks.grpc_calls.client"

PLAIN = "grpcio, plaintext"
SECURED = "grpcio, mutual TLS"
XDS = "grpcio xds:///, bare server"
ENVOY = "grpcio, Envoy pair"
MESH = "proxyless, proxyless serve"
# One side at a time.
MESH_CLIENT = "proxyless, bare server"
MESH_SERVER = "grpcio, proxyless serve"


def systems(world: World) -> list[System]:
    """All of them, in the order of the tables."""
    state_dir, services = str(world.state_dir), list(world.services)
    # Certificates of both sides name this service account.
    account = "default.default.sa.cluster.local"
    rows = (
        (PLAIN, Spec("bare", world.plain), ("plain",)),
        (SECURED, Spec("bare", world.secured, certificates=str(world.certificates)), ("secured",)),
        (XDS, Spec("xds", world.hello_member, state_dir=state_dir), ("member",)),
        (ENVOY, Spec("bare", world.envoy, authority=world.hello_envoy), ("envoy-out", "envoy-in", "plain")),
        (MESH, Spec("mesh", world.hello, state_dir=state_dir, services=services), ("serve",)),
        (MESH_CLIENT, Spec("mesh", world.hello_member, state_dir=state_dir, services=services), ("member",)),
        (MESH_SERVER, Spec("bare", world.serving, authority=account, state_dir=state_dir), ("serve",)),
    )
    return [System(name, spec, parts, _CLIENT) for name, spec, parts in rows]
