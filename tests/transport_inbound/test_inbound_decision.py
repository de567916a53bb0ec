"""The inbound decision as a table, without sockets."""

import pytest

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import ALLOW, decide
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.inbound import InboundListener, MutualTls
from proxyless.model.matching import NEVER, StringKind, StringMatcher
from proxyless.model.spiffe import SpiffeId

PEER = SpiffeId("cluster.local", "shop", "frontend")
UNKNOWN, PLAIN, ANONYMOUS, MUTUAL = Caller(), Caller(False), Caller(True), Caller(True, PEER)
THIS = (StringMatcher(StringKind.EXACT, str(PEER)),)
OTHER = (StringMatcher(StringKind.EXACT, "spiffe://cluster.local/ns/shop/sa/front"),)


@pytest.mark.parametrize(
    ("mode", "san", "caller", "allowed"),
    [
        (None, (), UNKNOWN, True),
        (MutualTls.DISABLE, (), PLAIN, True),
        (MutualTls.PERMISSIVE, (), UNKNOWN, True),
        (MutualTls.PERMISSIVE, (), PLAIN, True),
        (MutualTls.PERMISSIVE, (), ANONYMOUS, True),
        (MutualTls.PERMISSIVE, (), MUTUAL, True),
        (MutualTls.PERMISSIVE, OTHER, MUTUAL, False),
        (MutualTls.STRICT, (), UNKNOWN, False),
        (MutualTls.STRICT, (), PLAIN, False),
        (MutualTls.STRICT, (), ANONYMOUS, False),
        (MutualTls.STRICT, (), MUTUAL, True),
        (MutualTls.STRICT, THIS, MUTUAL, True),
        (MutualTls.STRICT, (*OTHER, *THIS), MUTUAL, True),
        (MutualTls.STRICT, OTHER, MUTUAL, False),
        (MutualTls.STRICT, (NEVER,), MUTUAL, False),
    ],
)
def test_decision(mode: MutualTls | None, san: tuple[StringMatcher, ...], caller: Caller, allowed: bool) -> None:
    listener = None if mode is None else InboundListener(8080, mode, san)
    verdict = decide(listener, caller, Request("GET", "hello:8080", "/"))
    assert (verdict is ALLOW) is allowed
    if not allowed:
        assert isinstance(verdict, Respond)
        assert (verdict.status, verdict.flags) == (403, (Flag.NO_ROUTE,))
        assert "8080" in verdict.reason


def test_a_grpc_caller_is_refused_in_its_own_terms() -> None:
    head = Request("POST", "hello:8080", "/a.B/C", headers=[("content-type", "application/grpc")])
    verdict = decide(InboundListener(8080, MutualTls.STRICT), PLAIN, head)
    assert isinstance(verdict, Respond)
    assert verdict.status == 200
    assert dict(verdict.headers)["grpc-status"] == "7"
