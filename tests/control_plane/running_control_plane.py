"""A real control plane process for tests, and a raw xDS client of the kind other people write."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from free_ports import free_port
from google.protobuf.struct_pb2 import Struct

from proxyless.control_plane.ads.service import DELTA_METHOD, METHOD, SERVICE
from proxyless.identity.control_plane import control_plane_id
from proxyless.identity.enrol import enrol
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.workload import REGISTER_METHOD

DEADLINE = 60.0
Found = TypeVar("Found")


def until(what: str, condition: Callable[[], Found | None]) -> Found:
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


class RunningControlPlane:
    """``with`` one: started on free ports in ``state_dir``, ended on exit."""

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        self.state_dir = state_dir
        self.arguments = arguments
        self.at: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "RunningControlPlane":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def addresses(self) -> dict[str, str]:
        """Those that it had before; at first, ports that nobody gets before it has them."""
        names = ("xds", "xds_tls", "http")
        return {name: self.at.get(name) or f"127.0.0.1:{free_port()}" for name in names}

    def start(self) -> None:
        """Start, on the same ports as before if it ran before, and wait until it is ready."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        announcement = self.state_dir / "control-plane.json"
        announcement.unlink(missing_ok=True)
        addresses = [(f"--{name.replace('_', '-')}-address", address) for name, address in self.addresses().items()]
        with (self.state_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxyless", "control-plane", "--state-dir", str(self.state_dir)]
                + [part for pair in addresses for part in pair]
                + list(self.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until("control-plane.json", lambda: self.alive() and announcement.exists())
            self.at = json.loads(announcement.read_text())
            until("/readyz", lambda: self.http("GET", "/readyz")[0] == 200)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return True

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        try:
            return self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def log(self) -> str:
        return (self.state_dir / "log").read_text()

    @property
    def admin_token(self) -> str:
        return (self.state_dir / "admin-token").read_text().strip()

    def http(self, method: str, path: str, body: bytes | None = None, token: str = "") -> tuple[int, str]:
        request = urllib.request.Request(f"http://{self.at['http']}{path}", body, method=method)
        if token:
            request.add_header("authorization", f"Bearer {token}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=DEADLINE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def api(self, method: str, path: str, body: bytes | None = None) -> Any:
        status, text = self.http(method, f"/api/v1/{path}", body, self.admin_token)
        assert status == 200, text
        return json.loads(text)

    def apply(self, text: str) -> Any:
        return self.api("POST", "apply", text.encode())

    def client(self, node: str) -> dict[str, Any] | None:
        """What proxy-status says of a node."""
        return next((each for each in self.api("GET", "proxy-status")["clients"] if each["node"] == node), None)

    def types(self, node: str) -> dict[str, dict[str, Any]]:
        found = self.client(node)
        return {each["type"]: each for each in found["types"]} if found else {}

    def workloads(self) -> dict[str, str]:
        """State by id."""
        items = [item["document"] for item in self.api("GET", "resources/workloads")["items"]]
        return {item["metadata"]["name"]: item["spec"]["state"] for item in items}

    async def enrolled(self, namespace: str = "default", account: str = "reviews") -> tuple[Svid, TrustBundle]:
        body = json.dumps({"namespace": namespace, "serviceAccount": account}).encode()
        token = (await asyncio.to_thread(self.api, "POST", "tokens", body))["token"]
        return await enrol(self.at["xds_tls"], token)

    def plaintext(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.at["xds"])

    def secure(self, svid: Svid | None, bundle: TrustBundle) -> grpc.aio.Channel:
        key, chain = (svid.key_pem, svid.chain_pem) if svid else (None, None)
        credentials = grpc.ssl_channel_credentials(bundle.roots_pem, key, chain)
        name = control_plane_id(bundle.trust_domain).dns_name
        return grpc.aio.secure_channel(self.at["xds_tls"], credentials, [("grpc.ssl_target_name_override", name)])


async def say(call: Any, message: Any) -> None:
    """Write, to a stream that may be refused already: reading tells why."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(message)


class XdsStream:
    """One ADS stream, driven request by request."""

    def __init__(self, channel: grpc.aio.Channel, node: base_pb2.Node) -> None:
        self.node = node
        self.call = channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()

    async def ask(self, type_url: str, *names: str, after: Any = None, accepted: str = "", error: str = "") -> None:
        """``after``: the response that this answers; ``error``: refuse it, with ``accepted`` as the version in use."""
        request = discovery_pb2.DiscoveryRequest(
            node=self.node,
            type_url=type_url,
            resource_names=names,
            version_info=accepted or (after.version_info if after is not None and not error else ""),
            response_nonce=after.nonce if after is not None else "",
        )
        if error:
            request.error_detail.message = error
        await say(self.call, request)

    async def read(self) -> Any:
        return await next_response(self.call)


class DeltaStream:
    """One incremental ADS stream, driven request by request."""

    def __init__(self, channel: grpc.aio.Channel, node: base_pb2.Node) -> None:
        self.node = node
        self.call = channel.stream_stream(
            f"/{SERVICE}/{DELTA_METHOD}",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()

    async def ask(self, type_url: str, *names: str, known: dict[str, str] | None = None) -> None:
        """Subscribe to names, none for all; ``known``: versions from an earlier stream."""
        await self._say(type_url, resource_names_subscribe=names, initial_resource_versions=known or {})

    async def give_up(self, type_url: str, *names: str) -> None:
        await self._say(type_url, resource_names_unsubscribe=names)

    async def answer(self, response: Any, error: str = "") -> None:
        """Accept a response, or refuse it."""
        detail = {"error_detail": {"code": 3, "message": error}} if error else {}
        await self._say(response.type_url, response_nonce=response.nonce, **detail)

    async def read(self) -> Any:
        return await next_response(self.call)

    async def _say(self, type_url: str, **fields: Any) -> None:
        await say(self.call, discovery_pb2.DeltaDiscoveryRequest(node=self.node, type_url=type_url, **fields))


async def next_response(call: Any) -> Any:
    """The next response; StreamEnded if the stream ended instead."""
    try:
        response = await asyncio.wait_for(call.read(), DEADLINE)
    except grpc.aio.AioRpcError as error:
        raise StreamEnded(error.code(), error.details() or "") from None
    if response is grpc.aio.EOF:
        raise StreamEnded(await call.code(), await call.details())
    return response


class StreamEnded(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


def node(name: str, *, namespace: str = "default", account: str = "reviews", agent: str = "proxyless") -> base_pb2.Node:
    made = base_pb2.Node(id=name, cluster=f"{account}.{namespace}", user_agent_name=agent)
    made.metadata.update({"NAMESPACE": namespace, "SERVICE_ACCOUNT": account})
    return made


def workload(name: str, port: int = 8080, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "namespace": "default",
        "service": "reviews",
        "serviceAccount": "reviews",
        "address": "127.0.0.1",
        "ports": {"http": port},
        "labels": {"app": "reviews"},
        "state": "serving",
        "mutualTls": True,
        **changes,
    }


def struct(data: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(data)
    return made


def register(channel: grpc.aio.Channel) -> Any:
    """An open registration stream."""
    return channel.stream_stream(
        REGISTER_METHOD, request_serializer=Struct.SerializeToString, response_deserializer=Struct.FromString
    )()


@contextlib.asynccontextmanager
async def registered(running: RunningControlPlane, name: str) -> AsyncIterator[Any]:
    """A registered workload's stream."""
    svid, bundle = await running.enrolled()
    async with running.secure(svid, bundle) as channel:
        call = register(channel)
        await call.write(struct(workload(name)))
        answer = await asyncio.wait_for(call.read(), DEADLINE)
        assert answer["registered"] is True
        yield call


async def _hold(state_dir: Path, at: dict[str, Any], name: str) -> None:
    running = RunningControlPlane(state_dir)
    running.at = at
    async with registered(running, name):
        sys.stdout.write("registered\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def start_workload(running: RunningControlPlane, name: str) -> subprocess.Popen[bytes]:
    """A process that holds a registration; end it."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(running.state_dir), json.dumps(running.at), name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"registered\n"
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        process.stdout.close()
    return process


if __name__ == "__main__":  # a workload process, for tests that kill one
    asyncio.run(_hold(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]))
