"""A real Envoy as a sidecar, beside Python services of the same mesh."""

import asyncio
import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx2
import pytest
from envoy_mesh import STRICT, EnvoyMesh, Sidecar, alive, file_contents, plain_server, span_collector, spiffe, until

from proxyless.envoy.sidecar import Options
from proxyless.envoy.sidecar import Sidecar as Launcher
from proxyless.model.cluster import UpstreamTls
from proxyless.settings import load_settings

CANARY = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello}
spec:
  host: hello
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http:
  - route:
    - {destination: {host: hello, subset: v1}, weight: %d}
    - {destination: {host: hello, subset: v2}, weight: %d}
"""
ONE_REQUEST_EACH = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: turning}
spec: {host: turning, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""
UPGRADE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: upgrade}
spec: {host: "*.default.svc.cluster.local", trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}
"""
REGISTRY_ONLY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""


LIMITED = """
apiVersion: v1
kind: Service
metadata: {name: %(name)s, annotations: {proxyless.io/rate-limit: 1/h}}
spec: {selector: {app: %(name)s}, ports: [{name: http, port: 80}]}
"""


@dataclass(frozen=True)
class World:
    """hello, in two versions, is Python under ``proxyless serve``; plain, on ``port``, is behind ``side``.

    older: another one beside the same application, which is sent the state of the world. spans: of these two, with the
    names of their services.
    """

    mesh: EnvoyMesh
    side: Sidecar
    older: Sidecar
    port: int
    spans: list[tuple[str, Any]]

    @contextlib.contextmanager
    def applied(self, text: str, *kinds: str) -> Iterator[None]:
        """Configuration for a while; kinds: ``KIND/NAME/NAMESPACE`` of what is in it."""
        self.mesh.apply(text)
        try:
            yield
        finally:
            for one in kinds:
                kind, name, namespace = one.split("/")
                self.mesh.run("delete", kind, name, "-n", namespace)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # A short name: there are sockets in it.
    mesh = EnvoyMesh(tmp_path_factory.mktemp("m"))
    with plain_server("plain") as port, span_collector() as (collector, spans):
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER": "parentbased_always_on"}
        try:
            mesh.start_control_plane()
            for version in ("v1", "v2"):
                mesh.start_serving(version, "hello", "--label", f"version={version}")
            side = mesh.sidecar("side", "plain", port, **traced)
            older = mesh.sidecar("older", "older", port, "--sotw", **traced)
            for version in ("v1", "v2"):
                mesh.wait_serving(version)
            yield World(mesh, side, older, port, spans)
        finally:
            mesh.close()


def name_of(client: httpx2.Client, url: str) -> str | None:
    """Who answers, None while nobody does."""
    try:
        answer = client.get(url)
    except httpx2.TransportError:
        return None
    return str(answer.json()["name"]) if answer.status_code == 200 else None


@contextlib.contextmanager
def steady_calls(client: httpx2.Client, url: str) -> Iterator[list[Any]]:
    """Calls without a pause while the block runs: names of who answered, and whatever else happened."""
    seen: list[Any] = []
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            try:
                answer = client.get(url)
                seen.append(answer.json()["name"] if answer.status_code == 200 else answer)
            except Exception as error:
                seen.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def assert_no_refusal(world: World) -> None:
    for service, side in (("plain", world.side), ("older", world.older)):
        until(
            "SYNCED",
            lambda service=service: {one["state"] for one in world.mesh.types(service).values()} == {"SYNCED"},
        )
        counters = side.stats(r"update_rejected$|update_failure$|init_fetch_timeout$")
        assert len(counters) > 3
        refused = {name: value for name, value in counters.items() if value and "rejected" in name}
        assert refused == {}
        assert "Deprecated" not in world.mesh.log(side.name)


def test_each_variant_of_xds_is_spoken(world: World) -> None:
    clients = {one["service"]: one["delta"] for one in world.mesh.json("proxy-status") if one["kind"] == "envoy"}
    assert clients == {"plain": True, "older": False}


def test_both_directions_under_strict(world: World) -> None:
    mesh, side = world.mesh, world.side
    with (
        world.applied(STRICT, "PeerAuthentication/default/istio-system"),
        httpx2.Client(transport=mesh.mesh("caller").transport()) as python,
        side.client() as client,
    ):
        # From Python, over mutual TLS, to a server that knows nothing of it.
        until("the sidecar", lambda: name_of(python, "http://plain/"))
        answer = python.get("http://plain/a/../b", headers={"x-forwarded-client-cert": "By=me;URI=spiffe://evil/x"})
        headers = answer.json()["headers"]
        assert answer.headers["server"] == "istio-envoy"
        proof = headers["x-forwarded-client-cert"].split(",")[-1]
        assert proof.startswith(f"By={spiffe('plain')};Hash=")
        assert f";URI={spiffe('caller')};" in proof
        assert answer.json()["path"] == "/b"

        # And from the application behind it to a Python service, by every name it has.
        full = "hello.default.svc.cluster.local"
        for host in ("hello", "hello:80", "HELLO", "hello.default", "hello.default.svc", full, f"{full}:80"):
            until(host, lambda host=host: name_of(client, f"http://{host}/"))
            assert client.get(f"http://{host}/").json()["peer"] == spiffe("plain")
        # A plain request, not addressed as to a proxy, is routed by its Host header.
        direct = httpx2.get(side.outbound, headers={"host": "hello"}, trust_env=False)
        assert direct.json()["peer"] == spiffe("plain")
        assert_no_refusal(world)

        # STRICT: neither plaintext nor TLS without a certificate of the mesh.
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://{side.inbound}/", trust_env=False)
        anybody = ssl.create_default_context()
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"https://{side.inbound}/", verify=anybody, trust_env=False)

        # PERMISSIVE for its namespace: plaintext again, and nobody's word for who he is.
        permissive = STRICT.replace("istio-system", "default").replace("STRICT", "PERMISSIVE")
        claims = {"x-forwarded-client-cert": f"URI={spiffe('caller')}", "x-envoy-original-path": "/admin"}
        with (
            world.applied(permissive, "PeerAuthentication/default/default"),
            httpx2.Client(trust_env=False, headers=claims) as anonymous,
        ):
            until("plaintext", lambda: name_of(anonymous, f"http://{side.inbound}/"))
            seen = anonymous.get(f"http://{side.inbound}/").json()["headers"]
            assert not seen.keys() & claims.keys()
            assert name_of(python, "http://plain/") == "plain"


def test_both_sidecars_of_a_call_are_in_its_trace(world: World) -> None:
    with world.older.client() as client:
        until("the other sidecar", lambda: name_of(client, "http://plain/"))
        begun = client.get("http://plain/").json()["headers"]["traceparent"]
        assert begun.endswith("-01")

        def spans() -> set[str] | None:
            client.get("http://plain/")  # Envoy sends a few at a time
            found = {name for name, span in world.spans if span.trace_id.hex() == begun.split("-")[1]}
            return found if len(found) == 2 else None

        assert until("the spans", spans) == {"older.default", "plain.default"}
        untraced = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
        seen = client.get("http://plain/", headers={"traceparent": untraced}).json()["headers"]["traceparent"]
        assert seen.startswith(untraced[:36]) and seen.endswith("-00")


def test_servers_limit_the_rate_of_requests(world: World) -> None:
    """A Python service under ``proxyless serve`` and an application behind a sidecar, in the same words."""
    kinds = [f"Service/{name}/default" for name in ("hello", "plain")]
    texts = [LIMITED % {"name": name} for name in ("hello", "plain")]
    with world.applied("\n---\n".join(texts), *kinds), world.older.client() as client:
        for name in ("hello", "plain"):
            # Of hello there are two, each with its own bucket.
            def refused(url: str = f"http://{name}/") -> httpx2.Response | None:
                answer = client.get(url)
                return answer if answer.status_code == 429 else None

            answer = until(f"a refusal of {name}", refused)
            assert (answer.text, answer.headers["x-envoy-ratelimited"]) == ("local_rate_limited", "true")
            reason = answer.headers.get("x-proxyless-reason")
            assert reason == ("local_rate_limited: 1/h (Service default/hello)" if name == "hello" else None)
        limited = "http_local_rate_limit.rate_limited"
        assert sum(value for key, value in world.side.stats(limited).items() if key.startswith("Service")) >= 1
        assert_no_refusal(world)
    with world.older.client() as client:
        for name in ("hello", "plain"):
            until("no limit", lambda name=name: name_of(client, f"http://{name}/"))


def test_keys_are_in_memory_only(world: World) -> None:
    for private in world.mesh.temporary.iterdir():
        assert private.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o077 for path in private.glob("*.sock")} == {0}
        content = list(file_contents(private))
        assert content
        assert not [one for one in content if b"PRIVATE KEY" in one]


def test_a_weight_change_drops_nothing(world: World) -> None:
    kinds = ("VirtualService/hello/default", "DestinationRule/hello/default")
    with world.applied(CANARY % (100, 0), *kinds), world.side.client() as client, world.older.client() as older:
        for caller in (client, older):
            until("v1", lambda caller=caller: name_of(caller, "http://hello/") == "v1")
        with steady_calls(client, "http://hello/") as seen, steady_calls(older, "http://hello/") as by_older:
            for calls in (seen, by_older):
                until("a few calls", lambda calls=calls: len(calls) > 20)
                assert "v2" not in calls
            world.mesh.apply(CANARY % (0, 100))
            for calls in (seen, by_older):
                until("v2", lambda calls=calls: calls[-1] == "v2")
            world.mesh.apply(CANARY % (50, 50))
            for calls in (seen, by_older):
                turned = len(calls)
                until("both", lambda calls=calls, turned=turned: {"v1", "v2"} <= set(map(str, calls[turned:])))
        assert set(map(str, seen)) == set(map(str, by_older)) == {"v1", "v2"}
        assert_no_refusal(world)


@pytest.mark.parametrize("inbound", ["grpc=0", "0"])
def test_grpc_between_two_sidecars(world: World, inbound: str) -> None:
    """Over HTTP/2 all the way, whether the port's name says so or the caller's connection does."""

    def hello(request: bytes, context: grpc.ServicerContext) -> bytes:
        return request + dict(context.invocation_metadata())["x-forwarded-client-cert"].encode()

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(hello)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greeter", {"Hello": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    name = f"greeter-{'named' if 'grpc' in inbound else 'sniffed'}"
    address = world.side.outbound.removeprefix("http://")
    try:
        sidecar = world.mesh.sidecar(name, name, port, "--inbound-port", inbound)
        number = sidecar.inbound.rpartition(":")[2]
        options = [("grpc.default_authority", f"{name}:{number}"), ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(address, options) as channel:
            call = channel.unary_unary("/greeter/Hello")

            def answered() -> bytes | None:
                with contextlib.suppress(grpc.RpcError):
                    return bytes(call(b"hello ", timeout=60))
                return None

            assert f"URI={spiffe('plain')}" in until("an answer", answered).decode()
        assert world.mesh.terminate(name) == 0
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_http2_from_python(world: World, kind: str) -> None:
    """To a gRPC server behind a sidecar: all requests on one connection, under mutual TLS."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    caller, name = world.mesh.mesh("caller"), f"http2-{kind}"

    async def scenario(sidecar: Sidecar) -> None:
        client: Any = (
            httpx2.AsyncClient(transport=caller.async_transport(), timeout=30)
            if kind == "async"
            else httpx2.Client(transport=caller.transport(), timeout=30)
        )
        url = f"http://{name}:{sidecar.inbound.rpartition(':')[2]}/echo/Echo"
        headers = {"content-type": "application/grpc", "te": "trailers"}

        async def post(message: bytes) -> Any:
            body = b"\0" + len(message).to_bytes(4, "big") + message
            if kind == "async":
                return await client.post(url, content=body, headers=headers)
            return await asyncio.to_thread(client.post, url, content=body, headers=headers)

        while (await post(b"")).content != bytes(5):
            await asyncio.sleep(0.02)
        before = sidecar.stats(r"downstream_cx_http2_total$")
        answers = await asyncio.gather(*(post(b"%d" % n * 2000) for n in range(40)))
        assert {answer.extensions["http_version"] for answer in answers} == {b"HTTP/2"}
        assert [answer.content[5:] for answer in answers] == [b"%d" % n * 2000 for n in range(40)]
        assert {answer.extensions["proxyless"].attempts[0].peer for answer in answers} == {spiffe(name)}
        assert sum(before.values()) >= 1
        assert sidecar.stats(r"downstream_cx_http2_total$") == before
        await (client.aclose() if kind == "async" else asyncio.to_thread(client.close))

    try:
        sidecar = world.mesh.sidecar(name, name, port, "--inbound-port", "grpc=0")
        asyncio.run(asyncio.wait_for(scenario(sidecar), 60))
        assert world.mesh.terminate(name) == 0
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("inbound", ["grpc=0", "0"])
def test_grpc_stubs_of_the_library_to_a_sidecar(world: World, inbound: str) -> None:
    """Over mutual TLS with the sidecar's identity pinned: it tells the server who called."""

    def hello(request: bytes, context: grpc.ServicerContext) -> bytes:
        return request + dict(context.invocation_metadata())["x-forwarded-client-cert"].encode()

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handlers = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello),
        "Echo": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greeter", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    name = f"stubbed-{'named' if 'grpc' in inbound else 'sniffed'}"
    try:
        number = world.mesh.sidecar(name, name, port, "--inbound-port", inbound).inbound.rpartition(":")[2]
        client = world.mesh.mesh("caller")
        with client.grpc_channel_sync(f"{name}:{number}") as channel:
            call = channel.unary_unary("/greeter/Hello")

            def answered() -> bytes | None:
                with contextlib.suppress(grpc.RpcError):
                    return bytes(call(b"hello ", timeout=60))
                return None

            assert f"URI={spiffe('caller')}" in until("an answer", answered).decode()

        async def stream() -> list[bytes]:
            async with client.grpc_channel(f"{name}:{number}") as channel:
                return [one async for one in channel.stream_stream("/greeter/Echo")(iter([b"1", b"2"]), timeout=30)]

        assert asyncio.run(stream()) == [b"1", b"2"]
        principal = f'destination_principal="{spiffe(name)}"'
        assert principal in client.runtime.telemetry.prometheus().decode()
        assert world.mesh.terminate(name) == 0
    finally:
        server.stop(None).wait()


def test_python_services_have_http1_only(world: World) -> None:
    """Whatever a rule asks for: the connection's two ends settle it."""
    with (
        world.applied(UPGRADE, "DestinationRule/upgrade/default"),
        httpx2.Client(transport=world.mesh.mesh("caller").transport(), timeout=30) as client,
    ):
        until("hello", lambda: name_of(client, "http://hello/"))
        assert client.get("http://hello/").extensions["http_version"] == b"HTTP/1.1"


def test_an_upgrade_is_between_sidecars_where_the_port_says_what_the_application_speaks(world: World) -> None:
    mesh = world.mesh
    named = mesh.sidecar("named", "named", world.port, "--inbound-port", "http=0")
    try:
        with (
            world.applied(UPGRADE, "DestinationRule/upgrade/default"),
            httpx2.Client(transport=mesh.mesh("caller").transport(), timeout=30) as python,
            world.side.client() as envoy,
        ):

            def upgraded(client: httpx2.Client) -> bool:
                """Until the rule has arrived requests go over HTTP/1.1."""
                before = named.stats(r"downstream_cx_http2_total$")
                assert name_of(client, "http://named/") in {"plain", None}
                return named.stats(r"downstream_cx_http2_total$") != before

            for client in (python, envoy):
                until("HTTP/2", lambda client=client: upgraded(client))
                assert name_of(client, "http://named/") == "plain"
    finally:
        assert mesh.terminate("named") == 0


def test_endpoints_come_and_go(world: World) -> None:
    """By SIGTERM: callers learn of it before it ends, so that none of them notices."""
    mesh = world.mesh
    with (
        plain_server("b") as port,
        httpx2.Client(transport=mesh.mesh("caller").transport()) as python,
        world.side.client() as client,
        world.older.client() as older,
    ):
        for caller in (python, client, older):
            until("the first", lambda caller=caller: name_of(caller, "http://plain/") == "plain")
        with (
            steady_calls(python, "http://plain/") as to_python,
            steady_calls(client, "http://plain/") as to_envoy,
            steady_calls(older, "http://plain/") as to_older,
        ):
            second = mesh.sidecar("second", "plain", port)
            for seen in (to_python, to_envoy, to_older):
                until("the second", lambda seen=seen: "b" in seen)
            assert mesh.terminate("second") == 0
            assert not alive(second.envoy)
            for seen in (to_python, to_envoy, to_older):
                ended = len(seen)
                until("calls after its end", lambda seen=seen, ended=ended: len(seen) > ended + 20)
                assert set(map(str, seen)) == {"plain", "b"}
                assert set(seen[ended + 1 :]) == {"plain"}
    assert len(list(mesh.temporary.iterdir())) == 2


def test_hosts_outside_the_mesh(world: World) -> None:
    with plain_server("outside") as port, world.side.client() as client:
        for host in ("127.0.0.1", "localhost"):
            assert name_of(client, f"http://{host}:{port}/") == "outside"
        assert client.get("http://nobody.invalid/").status_code == 503
        assert tunnelled(world.side, f"127.0.0.1:{port}") == "200"
        with world.applied(REGISTRY_ONLY, "ConfigMap/istio/istio-system"):
            until("REGISTRY_ONLY", lambda: client.get(f"http://127.0.0.1:{port}/").status_code == 502)
            assert tunnelled(world.side, f"127.0.0.1:{port}") == "502"
            assert name_of(client, "http://plain/") == "plain"
            assert_no_refusal(world)


def tunnelled(sidecar: Sidecar, target: str) -> str:
    """The status that a CONNECT is answered with."""
    port = int(sidecar.outbound.rpartition(":")[2])

    async def connect() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        try:
            return (await reader.readline()).split()[1].decode()
        finally:
            writer.transport.abort()

    return asyncio.run(connect())


def test_a_new_certificate_arrives_without_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = world.mesh
    monkeypatch.setattr("tempfile.tempdir", str(mesh.temporary))
    settings = load_settings(
        control_plane=mesh.addresses["xds_tls"], service="turning", state_dir=mesh.state_dir, environ={}
    )
    said: list[str] = []
    identity = mesh.mesh("caller").runtime.identity

    def presented() -> tuple[bytes, str]:
        """The certificates that Envoy shows now: the one to its callers, and the hash of the one to those it calls."""
        inbound, outbound = (re.search(pattern, " ".join(said)) for pattern in (r"on port (\S+) as", r"through (\S+),"))
        assert inbound
        assert outbound
        context = identity.client_context(UpstreamTls(alpn=("http/1.1",)))
        host, _, port = inbound[1].rpartition(":")
        with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as tls:
            certificate = tls.getpeercert(True)
        assert certificate
        # To itself: what it shows as a client is in what it tells its application.
        answer = httpx2.get(outbound[1], headers={"host": "turning"}, trust_env=False)
        client = re.search(r"Hash=(\w+)", answer.json()["headers"]["x-forwarded-client-cert"])
        assert client
        return certificate, client[1]

    async def scenario(port: int) -> None:
        options = Options(settings, app_port=port, outbound_port=0, concurrency=1, ttl=6.0)
        launcher = Launcher(options, said.append)
        running = asyncio.create_task(launcher.run())
        with httpx2.Client(transport=mesh.mesh("caller").transport()) as python:
            try:
                assert await asyncio.to_thread(until, "the sidecar", lambda: name_of(python, "http://turning/"))
                before = await asyncio.to_thread(presented)
                with steady_calls(python, "http://turning/") as seen:
                    for index in (0, 1):
                        await asyncio.to_thread(
                            until, "a new one", lambda index=index: presented()[index] != before[index]
                        )
                assert set(map(str, seen)) == {"turning"}
                assert not running.done()
            finally:
                launcher.stop()
                await running

    # Each call on a connection of its own, for certificates are shown when one is made.
    with plain_server("turning") as port, world.applied(ONE_REQUEST_EACH, "DestinationRule/turning/default"):
        asyncio.run(scenario(port))


def test_neither_outlives_the_other(world: World) -> None:
    mesh = world.mesh
    killed = mesh.sidecar("killed", "killed", world.port)
    mesh.processes.kill("killed")
    until("the end of Envoy", lambda: not alive(killed.envoy))

    bereft = mesh.sidecar("bereft", "bereft", world.port)
    process = mesh.processes._running.pop("bereft")
    os.kill(bereft.envoy, signal.SIGKILL)
    assert process.wait(60) == 1
    assert "proxyless: Envoy ended by signal 9" in mesh.log("bereft")
    names = {one["metadata"]["name"].partition("-")[0] for one in mesh.json("get", "workloads")["items"]}
    assert names == {"hello", "plain", "older"}
