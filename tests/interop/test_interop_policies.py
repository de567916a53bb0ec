"""One policy, servers of every kind: each in turn is applied to all of them, acts on all, and goes again."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
import pytest
from authorization_mesh import JWKS, OTHER_KEY, Guarded, token
from envoy_mesh import until

OPEN, SECRET = "open", "secret"
# The same two operations at each server.
PATHS = {
    "web": {OPEN: "/open", SECRET: "/secret"},
    "beside": {OPEN: "/open", SECRET: "/secret"},
    "greeter": {OPEN: "/test.Greeter/Hello", SECRET: "/test.Greeter/Many"},
    "echo": {OPEN: "/test.Echo/Call", SECRET: "/test.Echo/Other"},
}
HTTP = ("web", "beside")
_GREETER = ["OK", "PERMISSION_DENIED", "UNAUTHENTICATED", "PERMISSION_DENIED"]
CALLERS = ("caller", "stranger", "anonymous")
# Nobody is anonymous at a server with STRICT.
ASKED = [(server, caller) for server in PATHS for caller in CALLERS if (server, caller) != ("echo", "anonymous")]
# INTERNAL: a stream where one answer was asked for.
_VERDICTS = {"200": "in", "OK": "in", "INTERNAL": "in", "403": "out", "PERMISSION_DENIED": "out"}


class Servers:
    """Asks them."""

    def __init__(self, guarded: Guarded, stack: contextlib.ExitStack) -> None:
        self._guarded = guarded
        ports = {"greeter": guarded.greeter, "echo": guarded.echo}
        self._channels: dict[tuple[str, str], grpc.Channel] = {}
        for name, port in ports.items():
            for caller, mesh in guarded.callers.items():
                channel = mesh.grpc_channel_sync(f"{name}.default:{port}")
                self._channels[name, caller] = stack.enter_context(contextlib.closing(channel))
        plain = grpc.insecure_channel(f"127.0.0.1:{guarded.greeter}")
        self._channels["greeter", "anonymous"] = stack.enter_context(contextlib.closing(plain))

    def status(self, server: str, caller: str, operation: str = OPEN, **headers: str) -> str:
        path = PATHS[server][operation]
        if server in HTTP:
            base = f"http://{server}.default:{self._guarded.web}" if server == "web" else f"http://{server}.default"
            if caller == "anonymous":
                where = self._guarded.beside.inbound if server == "beside" else f"127.0.0.1:{self._guarded.web}"
                return str(
                    httpx2.get(f"http://{where}{path}", headers=headers, trust_env=False, timeout=60).status_code
                )
            return str(self._guarded.clients[caller].get(f"{base}{path}", headers=headers).status_code)
        try:
            self._channels[server, caller].unary_unary(path)(b"", timeout=60, metadata=tuple(headers.items()))
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def verdict(self, server: str, caller: str, operation: str = OPEN) -> str:
        status = self.status(server, caller, operation)
        return _VERDICTS.get(status, status)

    def expect(self, *callers: str, operation: str = OPEN) -> None:
        """Wait until exactly these are let in, everywhere."""
        wanted = {pair: "in" if pair[1] in callers else "out" for pair in ASKED}
        found: list[dict[tuple[str, str], str]] = []

        def look() -> bool:
            found.append({pair: self.verdict(*pair, operation) for pair in ASKED})
            return found[-1] == wanted

        try:
            until("them", look, timeout=60)
        except AssertionError:
            wrong = {pair: verdict for pair, verdict in found[-1].items() if verdict != wanted[pair]}
            raise AssertionError(f"{operation} to {callers or 'nobody'}: {wrong}") from None


@pytest.fixture(scope="module")
def servers(guarded: Guarded) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(guarded, stack)


@contextlib.contextmanager
def policies(guarded: Guarded, *specs: dict[str, Any], kind: str = "AuthorizationPolicy") -> Iterator[Any]:
    """Of the namespace, for a while; what was said of them."""
    names = [f"p{number}" for number in range(len(specs))]
    documents = [
        json.dumps({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        for name, spec in zip(names, specs, strict=True)
    ]
    applied = guarded.control.apply("\n---\n".join(documents))
    try:
        yield applied["problems"]
    finally:
        for name in names:
            guarded.control.api("DELETE", f"resources/{kind}/default/{name}")


def source(**fields: Any) -> dict[str, Any]:
    return {"from": [{"source": fields}]}


def paths(operation: str) -> dict[str, Any]:
    return {"to": [{"operation": {"paths": sorted({found[operation] for found in PATHS.values()})}}]}


CALLER = "cluster.local/ns/default/sa/caller"


def test_who_may_call(guarded: Guarded, servers: Servers) -> None:
    servers.expect(*CALLERS)
    with policies(guarded, {}):
        servers.expect()
        until("the reason", lambda: "rbac_access_denied_matched_policy[none]" in guarded.mesh.log("web"))
    with policies(guarded, {}, {"rules": [source(principals=[CALLER])]}):
        servers.expect("caller")
    with policies(guarded, {"rules": [source(namespaces=["other"])]}):
        servers.expect("stranger")
    with policies(guarded, {"action": "DENY", "rules": [source(namespaces=["other"])]}):
        servers.expect("caller", "anonymous")
    # Nothing of it stays.
    servers.expect(*CALLERS)


def test_what_may_be_called(guarded: Guarded, servers: Servers) -> None:
    """At gRPC servers a path is a method."""
    with policies(guarded, {"rules": [paths(OPEN)]}):
        servers.expect(operation=SECRET)
        servers.expect(*CALLERS)
    with policies(guarded, {"action": "DENY", "rules": [{**paths(SECRET), **source(notPrincipals=[CALLER])}]}):
        servers.expect("caller", operation=SECRET)
        servers.expect(*CALLERS)


def test_tokens(guarded: Guarded, servers: Servers) -> None:
    rule = {"issuer": "issuer", "jwks": JWKS}
    admins = {"when": [{"key": "request.auth.claims[groups]", "values": ["admins"]}]}

    def bearer(*arguments: Any, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {token(*arguments, **claims)}"}

    sent = {
        "admin": bearer(groups=["users", "admins"]),
        "user": bearer(groups=["users"]),
        "forged": bearer(OTHER_KEY, groups=["admins"]),
        "nothing": {},
    }

    def answers(server: str) -> list[str]:
        return [servers.status(server, "caller", **headers) for headers in sent.values()]

    with policies(guarded, {"jwtRules": [rule]}, kind="RequestAuthentication"):
        with policies(guarded, {"rules": [admins]}):
            for server in HTTP:
                until(server, lambda server=server: answers(server) == ["200", "403", "401", "403"], timeout=60)
            until("greeter", lambda: answers("greeter") == _GREETER, timeout=60)
            # gRPC's own servers verify no tokens: nobody gets in by one, and that is told.
            until("echo", lambda: set(answers("echo")) == {"PERMISSION_DENIED"}, timeout=60)
            told = guarded.control.api("GET", "resources/RequestAuthentication/default/p0")["status"]["leftOut"]
            assert [one["kind"] for one in told if "do not verify tokens" in one["note"]] == ["grpc"]
            client = guarded.control.client("echo")
            assert client is not None
            assert any("cannot tell request.auth.claims[groups]" in note for note in client["leftOut"])
        # A token that is there must hold, whoever may call.
        for server, refused in (("web", "401"), ("beside", "401"), ("greeter", "UNAUTHENTICATED")):
            until(server, lambda server=server, refused=refused: answers(server)[2] == refused, timeout=60)
            until(server, lambda server=server: servers.verdict(server, "caller") == "in", timeout=60)
    servers.expect(*CALLERS)


def test_the_host_is_known_to_servers_of_both_protocols(guarded: Guarded, servers: Servers) -> None:
    for hosts, verdict in ((["elsewhere.example"], "out"), (["*"], "in")):
        with policies(guarded, {"rules": [{"to": [{"operation": {"hosts": hosts}}]}]}) as problems:
            # One kind of server is not told, and none of these is of it.
            assert any("behind mesh.grpc_interceptor" in problem["message"] for problem in problems)
            for server in ("greeter", "web"):
                until(
                    server,
                    lambda server=server, verdict=verdict: servers.verdict(server, "caller") == verdict,
                    timeout=60,
                )
    servers.expect(*CALLERS)
