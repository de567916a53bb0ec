"""What httpx clients remember from request to request: bounded, nobody's secrets, and never another request's."""

import httpx
import httpx2
import pytest

from proxyless.transport.http1.errors import LocalProtocolError
from proxyless.transport.httpx_adapter import convert


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_heads", {})


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_heads_that_come_again(library: type) -> None:
    said = [("Accept", "*/*"), ("Connection", "keep-alive"), ("accept", "x")]
    request = library.Request("GET", "http://reviews/", headers=said)  # type: ignore[attr-defined]
    first, second = (convert.engine_request(request, True) for _ in range(2))
    assert len(convert._heads) == 1
    assert first == second and first.headers is not second.headers
    assert (first.authority, first.headers) == ("reviews", [("accept", "*/*"), ("accept", "x")])
    # Telemetry adds to the headers of each.
    first.headers.append(("x-request-id", "1"))
    assert convert.engine_request(request, True) == second


@pytest.mark.parametrize(
    "line", [("authorization", "Bearer secret"), ("cookie", "secret"), ("x", "secret"), ("user-agent", "a" * 1100)]
)
def test_nothing_else_is_remembered(line: tuple[str, str]) -> None:
    request = httpx2.Request("GET", "http://reviews/", headers=[("accept", "*/*"), line])
    for _ in range(2):
        assert line in convert.engine_request(request, True).headers
    assert not convert._heads


def test_no_more_than_a_bound_is_remembered() -> None:
    for number in range(1500):
        request = httpx2.Request("GET", f"http://h{number}/")
        assert convert.engine_request(request, True).authority == f"h{number}"
    assert len(convert._heads) == 1024


def test_two_hosts_are_refused_each_time() -> None:
    request = httpx2.Request("GET", "http://reviews/", headers=[("host", "a"), ("host", "b")])
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="more than one Host"):
            convert.engine_request(request, True)


def test_a_connection_that_is_to_be_closed_is_told() -> None:
    request = httpx2.Request("GET", "http://reviews/", headers={"connection": "close"})
    assert ("connection", "close") in convert.engine_request(request, True).headers
