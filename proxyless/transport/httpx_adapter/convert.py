"""Between httpx's requests and responses and the engine's."""

from dataclasses import dataclass
from typing import Any

from proxyless.engine.paths import normalised
from proxyless.engine.record import CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.transport.http1.errors import LocalProtocolError, UnsupportedProtocol
from proxyless.transport.httpx_adapter.library import Library

# As httpcore: a WebSocket's URL is that of the request that begins it.
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_NO_LIMITS: dict[str, float | None] = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """The application's own timeouts, in seconds (httpx's Timeout)."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None


def limits_of(request: Any) -> Limits:
    given = request.extensions.get("timeout", _NO_LIMITS)
    return Limits(given.get("connect"), given.get("read"), given.get("write"), given.get("pool"))


def engine_request(request: Any, replayable: bool) -> Request:
    """The head of an httpx or httpx2 request.

    Raises UnsupportedProtocol for what is not HTTP, LocalProtocolError when it has more than one Host.
    """
    url = request.url
    scheme = _SCHEMES.get(url.scheme)
    if scheme is None:
        what = f"an unsupported protocol '{url.scheme}://'" if url.scheme else "no 'http://' or 'https://'"
        raise UnsupportedProtocol(f"the request's URL has {what}")
    host: str = url.raw_host.decode("ascii")
    if not host:
        raise UnsupportedProtocol("the request's URL has no host")
    port: int = url.port or _PORTS[scheme]
    authority = ""
    headers: list[tuple[str, str]] = []
    for raw_name, raw_value in request.headers.raw:
        name = raw_name.decode("latin-1").lower()
        if name != "host":
            headers.append((name, raw_value.decode("latin-1")))
        elif authority:
            raise LocalProtocolError("the request has more than one Host header")
        else:
            authority = raw_value.decode("latin-1")
    return Request(
        method=request.method,
        target=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        path=normalised(_target(request)),
        authority=authority,
        scheme=scheme,
        headers=headers,
        replayable=replayable,
    )


def _target(request: Any) -> str:
    """The request target; httpx's documented extension ``target`` says what a URL cannot, such as ``OPTIONS *``."""
    target: bytes | str = request.extensions.get("target", request.url.raw_path)
    return target.decode("latin-1") if isinstance(target, bytes) else target


def mesh_response(library: Library, method: str, step: Respond, record: CallRecord) -> Any:
    """An answer that the mesh made itself: it says so, and why."""
    headers = list(step.headers)
    if step.reason:
        headers.append(("x-proxyless-reason", step.reason))
    if step.flags:
        headers.append(("x-envoy-response-flags", ",".join(flag.value for flag in step.flags)))
    if method == "HEAD" and step.body:
        headers.append(("content-length", str(len(step.body))))
    return library.Response(
        step.status,
        headers=raw(headers),
        content=b"" if method == "HEAD" else step.body,
        extensions={"http_version": b"HTTP/1.1", "proxyless": record},
    )


def raw(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """As httpx keeps them: it would encode text as ASCII, and refuse the rest of latin-1."""
    return [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers]
