"""Servers that ``proxyless serve`` did not start, and what a workload shows of itself."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from local_mesh import LocalMesh, answer, until


@contextmanager
def plain_server() -> Iterator[int]:
    """Any server that knows nothing of the mesh; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "5")
            self.end_headers()
            self.wfile.write(b"plain")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_registered_server_is_found_while_it_is_registered(local: LocalMesh) -> None:
    local.start_control_plane()
    owner = local.mesh(service="legacy")
    client_mesh = local.mesh()
    with plain_server() as port, httpx2.Client(transport=client_mesh.transport()) as client:
        with owner.register(port=port):
            found = until("the registered server", lambda: answer(client, "http://legacy/"))
            assert found.text == "plain"
            told = client_mesh.explain("GET", "http://legacy/")
            endpoint = told.clusters[0].endpoints[0]
            assert endpoint.address == f"127.0.0.1:{port}"
            assert not endpoint.tls  # it never claimed to speak the mesh's TLS
            assert told.to_dict()["outcome"] == "forward"
        until("its end", lambda: True if local.json("get", "workloads")["items"] == [] else None)


def test_a_workload_shows_istios_metrics(local: LocalMesh) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello", "--label", "version=v3")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client))
    log = (local.state_dir / "logs" / "hello.log").read_text()
    address = re.search(r"metrics on (\S+)", log)
    assert address is not None, log
    text = httpx2.get(address[1]).text
    served = [line for line in text.splitlines() if line.startswith("istio_requests_total{")]
    assert len(served) == 1
    for label in (
        'reporter="destination"',
        'destination_service="hello.default.svc.cluster.local"',
        'destination_version="v3"',
        'source_principal="spiffe://cluster.local/ns/default/sa/default"',
        'connection_security_policy="mutual_tls"',
        'response_code="200"',
        'response_flags="-"',
    ):
        assert label in served[0]
    assert "istio_request_duration_milliseconds_bucket{" in text


def test_an_access_log_line_says_why(local: LocalMesh) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello", "--access-log")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client, "http://hello/seen"))
    log = local.state_dir / "logs" / "hello.log"
    line = until("the line", lambda: next((each for each in log.read_text().splitlines() if "/seen" in each), None))
    assert '"GET /seen HTTP/1.1" 200 -' in line


def test_a_wildcard_address_is_registered_as_one_that_can_be_reached(local: LocalMesh) -> None:
    local.start_control_plane()
    local.serve("hello", "hello:app", "hello", "--host", "0.0.0.0")
    with httpx2.Client(transport=local.mesh().transport()) as client:
        until("hello", lambda: answer(client))
    registered = local.json("get", "workloads")["items"]
    assert [item["spec"]["address"] for item in registered] == ["127.0.0.1"]
