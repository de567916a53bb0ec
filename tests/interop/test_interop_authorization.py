"""Authorization by a real Envoy: who gets through to a server that knows nothing of it, with which token."""

import contextlib
import socket
from typing import Any

import httpx2
import pytest
from authorization_mesh import OTHER_KEY, Guarded, token
from envoy_mesh import until


@pytest.mark.parametrize(
    ("path", "identified", "anonymous"),
    [
        ("/open", 200, 200),
        ("/open/x?y", 200, 200),
        ("/open/secret", 403, 403),
        ("/open/secret?x", 403, 403),
        ("/open/./a/../secret", 403, 403),
        ("/openx", 403, 403),
        ("/caller", 200, 403),
        ("/nearly", 403, 403),
        ("/suffix", 200, 403),
        ("/anybody", 200, 403),
        ("/nobody", 403, 200),
        ("/namespace", 200, 403),
        ("/elsewhere", 403, 403),
        ("/account", 200, 403),
        ("/loopback", 200, 200),
        ("/remote", 403, 403),
        ("/template/a/x/", 200, 200),
        ("/template/a-1/x/b/c", 200, 200),
        ("/template/a/b/x/c", 403, 403),
        ("/template//x/c", 403, 403),
        ("/not-get", 403, 403),
        ("/not-port", 200, 200),
        ("/header", 403, 403),
        ("/token", 403, 403),
        ("/", 403, 403),
    ],
)
def test_who_may_call(guarded: Guarded, path: str, identified: int, anonymous: int) -> None:
    assert guarded.caller.get(f"http://plain{path}").status_code == identified
    assert guarded.anonymous.get(path).status_code == anonymous


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/host", {"host": "allowed.EXAMPLE"}, 200),
        ("/host", {"host": "allowed.example.org"}, 403),
        ("/header", {"x-key": "key"}, 200),
        ("/header", {"x-key": "no key"}, 403),
    ],
)
def test_headers(guarded: Guarded, path: str, headers: dict[str, str], status: int) -> None:
    assert guarded.anonymous.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("path", "made", "status"),
    [
        ("/token", {}, 200),
        ("/token", {"iss": "fetched"}, 200),
        ("/token", {"iss": "keyless"}, 401),
        ("/token", {"iss": "unknown"}, 401),
        ("/token", {"key": OTHER_KEY}, 401),
        ("/token", {"exp": 1}, 401),
        # Also where no rule asks for one.
        ("/open", {}, 200),
        ("/open", {"key": OTHER_KEY}, 401),
        ("/open/secret", {}, 403),
        ("/alice", {}, 200),
        ("/alice", {"sub": "bob"}, 403),
        ("/alice", {"iss": "fetched"}, 403),
        ("/admins", {"groups": ["users", "admins"]}, 200),
        ("/admins", {"groups": "admins"}, 200),
        ("/admins", {"groups": ["users"]}, 403),
        ("/nested", {"a": {"b": "c"}}, 200),
        ("/nested", {"a": "c"}, 403),
        ("/scope", {"scope": "write read"}, 200),
        ("/scope", {"scope": "reader"}, 403),
        ("/audience", {"aud": ["us", "them"]}, 200),
        ("/audience", {"aud": "them"}, 403),
    ],
)
def test_tokens(guarded: Guarded, path: str, made: dict[str, Any], status: int) -> None:
    bearer = {"authorization": f"Bearer {token(**made)}"}
    answer = guarded.anonymous.get(path, headers=bearer)
    assert answer.status_code == status, answer.text
    if status == 200:
        seen = answer.json()["headers"]
        # It is not handed on, unless the rule says so.
        assert "authorization" not in seen
        assert seen.get("x-sub") == (None if made.get("iss") == "fetched" else "alice")


def test_connections(guarded: Guarded) -> None:
    """Rules about requests let no connection in, and one about the port does."""

    def answered(port: int) -> bytes:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return connection.recv(100)
        return b""

    assert answered(guarded.tcp).startswith(b"HTTP/1.1 200")
    assert answered(guarded.closed) == b""


def test_envoy_takes_all_of_it_and_changes_act(guarded: Guarded) -> None:
    refused = {name: value for name, value in guarded.side.stats(r"update_rejected$").items() if value}
    assert refused == {}
    guarded.mesh.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: more}\nspec: {rules: [{}]}\n"
    )

    def status(path: str) -> int:
        # Connections that are there keep what they began with.
        return httpx2.get(f"http://{guarded.side.inbound}{path}", trust_env=False).status_code

    until("everybody", lambda: status("/") == 200)
    assert status("/open/secret") == 403
    guarded.mesh.run("delete", "AuthorizationPolicy", "more", "-n", "default")
    until("some", lambda: status("/") == 403)
    assert status("/open") == 200
