"""Python and Envoy callers refuse a server that is not who they were told to expect."""

from collections.abc import Iterator

import httpx2
import pytest
from envoy_mesh import STRICT, EnvoyMesh, plain_server, spiffe, until

EXPECTING = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s}
spec: {host: %s, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["%s"]}}}
---
"""


@pytest.fixture
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyMesh]:
    # A short name: there are sockets in it.
    made = EnvoyMesh(tmp_path_factory.mktemp("i"))
    try:
        made.start_control_plane(STRICT)
        yield made
    finally:
        made.close()


def expecting(python: str, envoy: str) -> str:
    """Rules for who the Python service, and the one behind the Envoy, must be."""
    return EXPECTING % ("hello", "hello", python) + EXPECTING % ("plain", "plain", envoy)


def status(client: httpx2.Client, url: str) -> int:
    """0 for a failed call."""
    try:
        return client.get(url).status_code
    except httpx2.TransportError:
        return 0


def test_a_wrong_identity_is_refused_in_both_directions(mesh: EnvoyMesh) -> None:
    with plain_server("plain") as port:
        mesh.start_serving("v1", "hello")
        side = mesh.sidecar("side", "plain", port)
        mesh.wait_serving("v1")
        with httpx2.Client(transport=mesh.mesh("caller").transport()) as python, side.client() as envoy:
            calls = ((python, "http://plain/"), (envoy, "http://hello/"))
            for client, url in calls:
                until(f"an answer of {url}", lambda client=client, url=url: status(client, url) == 200)
            mesh.apply(expecting(spiffe("somebody-else"), spiffe("somebody-else")))
            for client, url in calls:
                until(f"a refusal of {url}", lambda client=client, url=url: status(client, url) == 503)
            mesh.apply(expecting(spiffe("hello"), spiffe("plain")))
            for client, url in calls:
                until(f"an answer of {url}", lambda client=client, url=url: status(client, url) == 200)
