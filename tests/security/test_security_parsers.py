"""Parsers of what strangers send: each gives its result or its one error, in bounded time, whatever comes."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.identity.pem import certificates_der
from proxyless.model.errors import ConfigurationError, IdentityError, NotReadyError
from proxyless.model.workload import Workload
from proxyless.runtime import Runtime
from proxyless.settings import Settings
from proxyless.telemetry.deadline import patience
from proxyless.telemetry.trace_context import TRACE_HEADERS, extract, inject
from proxyless.transport.http1.errors import ConnectionEnded, RemoteProtocolError
from proxyless.transport.http1.response import MAX_HEAD_BYTES, ResponseReader

GOOD = Workload("a", "b", "c", "d", "10.0.0.1", {"http": 80}, {"app": "c"}).to_dict()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(changes=st.dictionaries(st.sampled_from(sorted(GOOD)) | st.text(max_size=5), JSON, max_size=4))
def test_a_registration(changes: dict[str, object]) -> None:
    with contextlib.suppress(ConfigurationError):
        found = Workload.from_dict({**GOOD, **changes})
        assert Workload.from_dict(found.to_dict()) == found
        assert all(0 < port < 65536 for port in found.ports.values())
        for text in (found.id, found.service, found.address, *found.ports, *found.labels, *found.labels.values()):
            assert text.isprintable()
        assert not set("*|/ ") & set(found.service)


_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@settings(deadline=None)
@given(pieces=st.lists(st.sampled_from([_BEGIN, _END, b"\n", b" ", b"AAAA", b"=", b"-"]) | st.binary(max_size=9)))
def test_a_trust_bundle(pieces: list[bytes]) -> None:
    with contextlib.suppress(IdentityError):
        assert len(certificates_der(b"".join(pieces))) <= b"".join(pieces).count(_BEGIN)


def test_a_trust_bundle_of_white_space_costs_no_quadratic_time() -> None:
    # As large as it may be: a second repetition in the pattern makes this take a minute.
    assert certificates_der(_BEGIN + b" " * 65_000) == []


_HEX = st.text("0123456789abcdefABCDEF-", max_size=60)


@settings(deadline=None)
@given(
    headers=st.lists(
        st.tuples(st.sampled_from(sorted({*TRACE_HEADERS, "grpc-timeout", "x-envoy-expected-rq-timeout-ms"})), _HEX)
        | st.tuples(st.sampled_from(sorted(TRACE_HEADERS)), st.text(max_size=60))
        | st.tuples(st.just("traceparent"), st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")),
        max_size=6,
    )
)
def test_trace_context_and_deadlines(headers: list[tuple[str, str]]) -> None:
    found = extract(headers)
    if found.context is not None:
        lines = inject(found.context)
        assert all(value.isascii() and value.isprintable() for _, value in lines)
        again = extract(lines)
        assert again.context is not None
        assert (again.context.trace_id, again.context.span_id) == (found.context.trace_id, found.context.span_id)
    waits = patience(headers)
    assert waits is None or 0 <= waits < 1e12


_FRAGMENTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n", b"HTTP/1.0 204 N\r\n", b"content-length: 3\r\n", b"\r\n", b"abc",
        b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n", b"connection: close\r\n", b"x: y\r\n", b"\n",
    ]
)  # fmt: skip


@settings(deadline=None)
@given(
    pieces=st.lists(_FRAGMENTS | st.binary(max_size=6), max_size=14),
    method=st.sampled_from(["GET", "HEAD"]),
    cut=st.integers(1, 40),
)
def test_a_response(pieces: list[bytes], method: str, cut: int) -> None:
    """What it is does not depend on how the network cuts it."""
    data = b"".join(pieces)

    def outcome(step: int) -> object:
        reader, body = ResponseReader(), b""
        reader.begin(method)
        try:
            for start in range(0, len(data), step):
                reader.feed(data[start : start + step])
                body += reader.take()
            reader.eof()
        except (RemoteProtocolError, ConnectionEnded) as error:
            return type(error)
        assert reader.head is not None
        return reader.head.status, reader.head.headers, body

    assert outcome(cut) == outcome(len(data) or 1)


def test_an_endless_response_head() -> None:
    reader = ResponseReader()
    reader.begin("GET")
    with pytest.raises(RemoteProtocolError, match="more than"):
        for _ in range(MAX_HEAD_BYTES // 1000 + 2):
            reader.feed(b"HTTP/1.1 100 C\r\nx: " + b"a" * 1000 + b"\r\n\r\n")


def test_a_name_longer_than_any_is_not_asked_for() -> None:
    """The control plane ends the stream of who asks for it: one URL of a stranger's would cost the mesh."""
    runtime = Runtime(Settings())
    with pytest.raises(NotReadyError, match="longer than any host name"):
        runtime.resolve("a" * 300 + ":80").result(0)
    assert runtime._agent is None
