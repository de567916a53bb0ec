"""Fetching keys of token issuers: what is taken, what is refused and why, and what stays meanwhile."""

import asyncio
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxyless.control_plane.key_sets.fetch import FetchError, _connected, fetch
from proxyless.control_plane.key_sets.keeper import KeySets
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import KeySet
from proxyless.model.authentication import MAX_JWKS

KEYS = '{"keys": [{"kty": "oct", "k": "AQIDBA"}]}'
DISCOVERY = "/.well-known/openid-configuration"
Answers = dict[str, bytes]


def answer(body: str | bytes, status: str = "200 OK", *headers: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = (f"HTTP/1.1 {status}", f"content-length: {len(data)}", "connection: close", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def fetched(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    make: Callable[[str], Answers],
    within: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> str:
    """What ``fetch`` finds at a server that has these answers by path; others it never answers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    async def scenario() -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            found = answers.get(head.split(b" ")[1].decode())
            if found is None:
                await reader.read()
            else:
                writer.write(found)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        base = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        answers = make(base)
        try:
            return await fetch(f"{base}{path}", within)
        finally:
            server.close()

    return asyncio.run(scenario())


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetched(monkeypatch, "/keys", lambda _: {"/keys": answer(KEYS)}) == KEYS
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += f"{len(KEYS):x}\r\n{KEYS}\r\n0\r\n\r\n".encode()
    assert fetched(monkeypatch, "/keys", lambda _: {"/keys": chunked}) == KEYS


def test_https_is_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    certificate = made.add_extension(names, critical=True).sign(key, hashes.SHA256())
    roots, both = tmp_path / "roots.pem", tmp_path / "both.pem"
    roots.write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(private + roots.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
        fetched(monkeypatch, "/keys", lambda _: {"/keys": answer(KEYS)}, tls=context)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert fetched(monkeypatch, "/keys", lambda _: {"/keys": answer(KEYS)}, tls=context) == KEYS
    with pytest.raises(FetchError, match="not https"):
        fetched(monkeypatch, DISCOVERY, lambda _: {DISCOVERY: answer('{"jwks_uri": "http://127.0.0.1/"}')}, tls=context)


def test_keys_are_discovered(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(base: str) -> Answers:
        return {DISCOVERY: answer(json.dumps({"jwks_uri": f"{base}/keys"})), "/keys": answer(KEYS)}

    assert fetched(monkeypatch, DISCOVERY, make) == KEYS


@pytest.mark.parametrize(
    ("path", "found", "why"),
    [
        ("/", answer("", "404 Not Found"), "answered 404"),
        ("/", answer("", "302 Found", "location: http://169.254.169.254/"), "redirects are not followed"),
        ("/", answer("keys"), "is not a JSON Web Key Set"),
        ("/", answer('{"keys": []}'), "without a key"),
        ("/", answer('{"keys": [{"kty": "oct"}, {"kty": "EC", "crv": {}}]}'), "without a key"),
        ("/", answer('{"keys": [' + '{"kty": "oct", "k": "AQID"},' * 300 + "{}]}"), "301 keys"),
        ("/", answer("[" * 100_000), "is not a JSON Web Key Set"),
        ("/", answer(b"\xff" + KEYS.encode()), "utf-8"),
        ("/", answer("x" * (MAX_JWKS + 1)), "more than"),
        ("/", answer(KEYS, "200 OK", "content-encoding: gzip"), "encoding"),
        ("/", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "peer closed"),
        ("/", b"what?\r\n\r\n", "illegal"),
        (DISCOVERY, answer("{}"), "no jwks_uri"),
        (DISCOVERY, answer("[" * 100_000), "nested|Expecting"),
        (DISCOVERY, answer('{"jwks_uri": "file:///etc/passwd"}'), "no jwks_uri"),
        (DISCOVERY, answer('{"jwks_uri": ["http://a/"]}'), "no jwks_uri"),
    ],
)
def test_what_is_not_taken(monkeypatch: pytest.MonkeyPatch, path: str, found: bytes, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        fetched(monkeypatch, path, lambda _: {path: found})


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"no answer within 0\.2 s"):
        fetched(monkeypatch, "/", lambda _: {}, within=0.2)
    # Nor for a body that never ends.
    with pytest.raises(FetchError, match="no answer"):
        fetched(monkeypatch, DISCOVERY, lambda base: {DISCOVERY: answer(f'{{"jwks_uri": "{base}/never"}}')}, 0.5)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1%eth0", "::ffff:169.254.1.1"])
def test_link_local_addresses_are_not_asked(address: str) -> None:
    class Stream:
        closed = False

        def get_extra_info(self, name: str) -> Any:
            return {"server_addr": (address, 80)}[name]

        async def aclose(self) -> None:
            self.closed = True

    stream = Stream()
    with pytest.raises(FetchError, match="link-local"):
        asyncio.run(_connected("connection.connect_tcp.complete", {"return_value": stream}))
    assert stream.closed


def rules(*jwt_rules: dict[str, Any]) -> list[Resource[Any]]:
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "r"},
        "spec": {"jwtRules": list(jwt_rules)},
    }
    return parse(json.dumps(document), "test.yaml")[0]


class Issuer:
    """Answers in turn, the last one for ever; None fails."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, float]] = []

    async def get(self, url: str, within: float) -> str:
        self.asked.append((url, within))
        found = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if found is None:
            raise FetchError("no route")
        return found


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_last_good_keys_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyless.control_plane.key_sets.keeper._RETRY", 0.001)

    async def scenario() -> None:
        issuer = Issuer(None, KEYS, None, "new")
        seen: list[dict[str, KeySet]] = []
        keys = KeySets(lambda: seen.append(dict(keys.current)), get=issuer.get, refresh=0.001)
        keys.want(rules({"issuer": "i", "jwksUri": "http://a/"}))
        await keys.tried(30)
        await until(lambda: len(seen) == 3)
        keys.close()
        states = [one["http://a/"] for one in seen]
        assert states == [KeySet(problem="no route"), KeySet(KEYS), KeySet("new")]
        assert len(issuer.asked) >= 4

    asyncio.run(scenario())


def test_what_nobody_thought_of_is_tried_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyless.control_plane.key_sets.keeper._RETRY", 0.001)

    async def scenario() -> None:
        asked = 0

        async def get(url: str, within: float) -> str:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise LookupError("secret")
            return KEYS

        seen: list[KeySet] = []
        keys = KeySets(lambda: seen.append(keys.current["http://a/"]), get=get)
        keys.want(rules({"issuer": "i", "jwksUri": "http://a/"}))
        await until(lambda: len(seen) == 2)
        keys.close()
        assert seen == [KeySet(problem="unexpected LookupError"), KeySet(KEYS)]

    asyncio.run(scenario())


def test_who_is_asked() -> None:
    async def scenario() -> None:
        issuer = Issuer(KEYS)
        keys = KeySets(lambda: None, get=issuer.get)
        keys.want(
            rules(
                {"issuer": "i", "jwks": KEYS},
                {"issuer": "no-url"},
                {"issuer": "https://i.example/"},
                {"jwksUri": "http://a/", "timeout": "1s"},
                {"issuer": "i", "jwksUri": "http://a/", "timeout": "900s"},
            )
        )
        await keys.tried(30)
        assert sorted(issuer.asked) == [("http://a/", 30.0), (f"https://i.example{DISCOVERY}", 5.0)]
        assert keys.current["http://a/"] == KeySet(KEYS)
        keys.want(rules({"issuer": "https://i.example/"}))
        assert set(keys.current) == {f"https://i.example{DISCOVERY}"}
        # The same again asks nobody.
        await keys.tried(30)
        assert len(issuer.asked) == 2
        keys.close()

    asyncio.run(scenario())


def test_a_start_does_not_wait_for_ever() -> None:
    async def scenario() -> None:
        async def never(url: str, within: float) -> str:
            await asyncio.Event().wait()
            return ""

        keys = KeySets(lambda: None, get=never)
        keys.want(rules({"jwksUri": "http://a/"}))
        await keys.tried(0.01)
        assert keys.current == {}
        keys.close()

    asyncio.run(scenario())
