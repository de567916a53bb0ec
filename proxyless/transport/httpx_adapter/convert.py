"""Between httpx's requests and responses and the engine's."""

from functools import lru_cache
from typing import Any, NamedTuple

from proxyless.engine.call import Call
from proxyless.engine.paths import normalised
from proxyless.engine.record import CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.transport.http1.errors import LocalProtocolError, UnsupportedProtocol
from proxyless.transport.http1.names import lower
from proxyless.transport.http1.response import ResponseHead
from proxyless.transport.httpx_adapter.library import Library

# As httpcore: a WebSocket's URL is that of the request that begins it.
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
VERSIONS = {version: f"HTTP/{version}".encode() for version in ("1.0", "1.1", "2")}
_NO_LIMITS: dict[str, float | None] = {}


class Limits(NamedTuple):
    """The application's own timeouts, in seconds (httpx's Timeout)."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None


# A client's requests have the same, nearly always.
_limits = lru_cache(maxsize=256)(Limits)


def limits_of(request: Any) -> Limits:
    given = request.extensions.get("timeout", _NO_LIMITS)
    return _limits(given.get("connect"), given.get("read"), given.get("write"), given.get("pool"))


def engine_request(request: Any, replayable: bool) -> Request:
    """The head of an httpx or httpx2 request. What is replayable is all in memory, so attempts may overlap.

    Raises UnsupportedProtocol for what is not HTTP, LocalProtocolError when it has more than one Host.
    """
    url = request.url
    scheme, target = _dialled(url.scheme, url.raw_host, url.port)
    raw_lines = tuple(request.headers.raw)
    authority, headers = _heads.get(raw_lines) or _head(raw_lines)
    return Request(
        method=request.method,
        target=target,
        path=normalised(_target(request)),
        authority=authority,
        scheme=scheme,
        headers=[*headers],
        replayable=replayable,
        hedgeable=replayable,
    )


_RawLines = tuple[tuple[bytes, bytes], ...]
_Head = tuple[str, list[tuple[str, str]]]
# Of what a client says again with each request. Nothing else is remembered: a value may be a secret.
_REPEATED = frozenset({"accept", "accept-encoding", "connection", "content-type", "host", "user-agent"})
_MOST, _LONGEST = 1024, 1024
_heads: dict[_RawLines, _Head] = {}


def _head(raw_lines: _RawLines) -> _Head:
    """The authority, and the other headers in lower case, as text."""
    authority = ""
    headers: list[tuple[str, str]] = []
    repeated = True
    for raw_name, raw_value in raw_lines:
        name, value = lower(raw_name)[0], raw_value.decode("latin-1")
        repeated = repeated and name in _REPEATED
        if name == "host":
            if authority:
                raise LocalProtocolError("the request has more than one Host header")
            authority = value
        elif name != "connection" or value != "keep-alive":  # which says nothing in HTTP/1.1
            headers.append((name, value))
    head = authority, headers
    if repeated and len(_heads) < _MOST and sum(len(name) + len(value) for name, value in raw_lines) <= _LONGEST:
        _heads[raw_lines] = head
    return head


@lru_cache(maxsize=1024)
def _dialled(scheme: str, raw_host: bytes, port: int | None) -> tuple[str, str]:
    """``http`` or ``https``, and ``host:port``."""
    known = _SCHEMES.get(scheme)
    if known is None:
        what = f"an unsupported protocol '{scheme}://'" if scheme else "no 'http://' or 'https://'"
        raise UnsupportedProtocol(f"the request's URL has {what}")
    host = raw_host.decode("ascii")
    if not host:
        raise UnsupportedProtocol("the request's URL has no host")
    port = port or _PORTS[known]
    return known, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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


def response(kind: Any, answer: ResponseHead, call: Call, stream: Any, network_stream: Any) -> Any:
    """A server's answer, with a library's class for responses. Its headers are as they came unless ``call`` changes
    them.
    """
    headers = call.response_headers(answer.headers)
    untouched = headers is answer.headers and answer.raw
    made = kind(
        answer.status,
        headers=answer.raw if untouched else raw(headers),
        stream=stream,
        extensions={
            "http_version": VERSIONS[answer.version],
            "reason_phrase": answer.reason,
            "network_stream": network_stream,
            "proxyless": call.record,
        },
    )
    if untouched and answer.plain:
        made.headers.encoding = "ascii"  # it would find that out by decoding all of them
    return made


def raw(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """As httpx keeps them: it would encode text as ASCII, and refuse the rest of latin-1."""
    return [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers]
