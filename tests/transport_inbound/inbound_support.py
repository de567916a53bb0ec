"""A certificate authority, a mesh runtime and a server in a thread, for tests of the inbound side."""

import asyncio
import concurrent.futures
import contextlib
import datetime as dt
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.inbound import InboundListener, MutualTls
from proxyless.model.snapshot import Origin, Snapshot
from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry.telemetry import Telemetry
from proxyless.transport.inbound.application import Loaded, is_asgi
from proxyless.transport.inbound.serve import Listening, serve

DOMAIN = "cluster.local"
SERVER = SpiffeId(DOMAIN, "default", "hello")
CLIENT = SpiffeId(DOMAIN, "shop", "frontend")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
_NO_PASSWORD = serialization.NoEncryption()


def dns_name(uri: str) -> str:
    domain, _, namespace, _, account = uri.removeprefix("spiffe://").split("/")
    return f"{account}.{namespace}.sa.{domain}"


class Authority:
    """A root and leaves for tests."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")])
        self._root = self._certificate(
            self._name, self._key.public_key(), [(x509.BasicConstraints(ca=True, path_length=0), True)]
        )
        self.roots_pem = self._root.public_bytes(_PEM)

    def _certificate(
        self, subject: x509.Name, key: Any, extensions: list[tuple[x509.ExtensionType, bool]]
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=2))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())

    def leaf(self, *uris: str) -> tuple[bytes, bytes]:
        """A certificate and its key, with these URI names; and, as our CA writes it, a DNS name for gRPC's clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        if len(uris) == 1 and uris[0].count("/") == 6:
            names.append(x509.DNSName(dns_name(uris[0])))
        certificate = self._certificate(
            x509.Name([]),
            key.public_key(),
            [
                (x509.SubjectAlternativeName(names or [x509.DNSName("nobody")]), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.BasicConstraints(ca=False, path_length=None), True),
            ],
        )
        return certificate.public_bytes(_PEM), key.private_bytes(_PEM, _PKCS8, _NO_PASSWORD)

    def source(self, who: SpiffeId) -> IdentitySource:
        chain, key = self.leaf(str(who))
        source = IdentitySource()
        source.set(Svid(who, chain, key), TrustBundle(DOMAIN, self.roots_pem))
        return source

    def client_context(self, *uris: str) -> ssl.SSLContext:
        """What a client speaks with; without URIs it presents no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.roots_pem.decode())
        if uris:
            with tempfile.TemporaryDirectory() as directory:
                chain, key = Path(directory, "chain"), Path(directory, "key")
                for path, data in zip((chain, key), self.leaf(*uris), strict=True):
                    path.write_bytes(data)
                context.load_cert_chain(chain, key)
        return context


@dataclass
class TestRuntime:
    __test__ = False
    identity: IdentitySource
    telemetry: Telemetry = field(
        default_factory=lambda: Telemetry(service="hello", service_account="hello", environ={})
    )
    current: Snapshot = field(default_factory=lambda: Snapshot(1, Origin.CONTROL_PLANE))

    def snapshot(self) -> Snapshot:
        return self.current

    def require(self, port: int, mode: MutualTls, **more: Any) -> None:
        self.current = Snapshot(2, Origin.CONTROL_PLANE, inbound={port: InboundListener(port, mode, **more)})


@dataclass
class Running:
    """A server in a thread. ``port``, ``metrics``: where it listens. ``draining``: set when it announces its end."""

    runtime: TestRuntime
    port: int
    metrics: tuple[str, int]
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    thread: threading.Thread
    draining: threading.Event

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.stop.set)

    def connect(self, context: ssl.SSLContext | None = None) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        try:
            return plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")
        except BaseException:
            plain.close()
            raise

    def request(
        self, path: str = "/", *headers: str, context: ssl.SSLContext | None = None, method: str = "GET"
    ) -> "Reply":
        with self.connect(context) as connection:
            return exchange(connection, path, *headers, "connection: close", method=method)


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def exchange(
    connection: socket.socket, path: str = "/", *headers: str, method: str = "GET", host: str = "host: hello"
) -> Reply:
    """One request and its whole answer on an open connection."""
    lines = [f"{method} {path} HTTP/1.1", *([host] if host else []), *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode("latin-1"))
    return read_reply(connection)


def read_reply(connection: socket.socket) -> Reply:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the server closed the connection without an answer")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    reply = Reply(int(first.split()[1]), headers, body)
    length = reply.header("content-length")
    while length is not None and len(reply.body) < int(length):
        part = connection.recv(65536)
        assert part, "the body is cut"
        reply.body += part
    if length is None and reply.header("transfer-encoding") == "chunked":
        while not reply.body.endswith(b"0\r\n\r\n"):
            part = connection.recv(65536)
            assert part, "the body is cut"
            reply.body += part
    return reply


@contextlib.contextmanager
def serving_in_thread(
    app: Callable[..., Any], runtime: TestRuntime, loop: str = "asyncio", **arguments: Any
) -> Iterator[Running]:
    listening: concurrent.futures.Future[Running] = concurrent.futures.Future()
    draining = threading.Event()

    async def main() -> None:
        stop = asyncio.Event()

        async def on_listening(where: Listening) -> None:
            assert where.metrics is not None
            running = Running(
                runtime,
                where.ports[""],
                where.metrics,
                asyncio.get_running_loop(),
                stop,
                threading.current_thread(),
                draining,
            )
            listening.set_result(running)

        async def on_draining() -> None:
            draining.set()

        arguments.setdefault("drain_delay", 0.0)
        await serve(
            Loaded("test:app", app, is_asgi(app)),
            runtime,
            ports={"": 0},
            on_listening=on_listening,
            on_draining=on_draining,
            stop=stop,
            **arguments,
        )

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(main())
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    thread = threading.Thread(target=run, name="test-server")
    thread.start()
    try:
        running = listening.result(timeout=60)
        yield running
    finally:
        if listening.done() and listening.exception() is None:
            listening.result().end()
        thread.join(timeout=60)
        assert not thread.is_alive()


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what it was given, as JSON."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    extensions = scope.get("extensions", {})
    ours = {key: value for key, value in extensions.get("proxyless", {}).items() if key != "connection"}
    answer = json.dumps(
        {
            "path": scope["path"],
            "scheme": scope["scheme"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "tls": extensions.get("tls"),
            "proxyless": ours,
            "client": scope["client"],
            "body": len(body),
        }
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
