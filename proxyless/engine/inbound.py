"""What the mesh decides about a request that arrives: the counterpart of ``Call``, as one function.

Source: Istio's PeerAuthentication (DISABLE, PERMISSIVE, STRICT) and gRFC A36. Where Envoy resets a connection that no
filter chain accepts, a request that got as far as here (its port became STRICT while its connection was open, or a
foreign server accepted it) is answered 403 and its connection closed: a client learns why.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from proxyless.engine.caller import Caller
from proxyless.engine.jwt_authn import authenticate
from proxyless.engine.matching import string_matches
from proxyless.engine.rate_limit import RateLimiter, refusal
from proxyless.engine.rbac import Situation, denied_by
from proxyless.engine.replies import respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.authentication import JwtAuthn
from proxyless.model.inbound import InboundListener, MutualTls, ServerFilter
from proxyless.model.rate_limit import RateLimit


@dataclass(frozen=True, slots=True)
class Allow:
    """The application may have the request: without the header lines ``remove``, with ``add``; names lower case."""

    remove: frozenset[str] = frozenset()
    add: tuple[tuple[str, str], ...] = ()


ALLOW = Allow()
# A port has one server in a process, whoever asks about it.
LIMITER = RateLimiter()
os.register_at_fork(after_in_child=LIMITER.clear)


def decide(
    listener: InboundListener | None,
    caller: Caller,
    head: Request,
    *,
    authority_known: bool = True,
    limiter: RateLimiter = LIMITER,
) -> Allow | Respond:
    """Whether ``head`` may reach the application on a port with this listener; to be asked once for each request.

    None for the listener: the control plane has said nothing of the port, which is Istio's default, PERMISSIVE.
    authority_known: False where the server does not tell which authority was asked for. limiter: what rate limits
    remember of earlier requests.
    """
    if listener is None:
        return ALLOW
    if caller.peer is not None:
        if listener.san and not any(string_matches(san, str(caller.peer)) for san in listener.san):
            return _refuse(head, f"{caller.peer} is not among the identities that port {listener.port} accepts")
    elif listener.mutual_tls is MutualTls.STRICT:
        return _not_mutual(listener, caller, head)
    return _filtered(listener, caller, head, authority_known, limiter) if listener.filters else ALLOW


def _not_mutual(listener: InboundListener, caller: Caller, head: Request) -> Respond:
    if caller.tls is None:
        # Fail closed: a header could claim anything, so an unknown connection counts as plaintext.
        return _refuse(
            head,
            f"port {listener.port} requires mutual TLS (STRICT), and the server that accepted this connection does not "
            "tell the mesh about its TLS; serve the application with proxyless serve",
        )
    how = "TLS without a certificate of the mesh" if caller.tls else "plaintext"
    return _refuse(head, f"port {listener.port} requires mutual TLS (STRICT), this connection is {how}")


def _filtered(
    listener: InboundListener, caller: Caller, head: Request, authority_known: bool, limiter: RateLimiter
) -> Allow | Respond:
    situation = Situation(head, caller, authority_known=authority_known)
    allowed = ALLOW
    for one in listener.filters:
        if isinstance(one, JwtAuthn):
            known = authenticate(one, head)
            if isinstance(known, Respond):
                return known
            situation.claims = {**situation.claims, **known.claims}
            if known.remove or known.add:
                # Later filters and the application see these lines.
                head.headers = [line for line in head.headers if line[0] not in known.remove] + list(known.add)
                allowed = Allow(allowed.remove | known.remove, (*allowed.add, *known.add))
        elif isinstance(one, RateLimit):
            if not limiter.admits(one):
                return refusal(one, head)
        elif (policy := denied_by(one, situation)) is not None:
            # Envoy's response code details; it sets no flag.
            return respond(head, 403, b"RBAC: access denied", f"rbac_access_denied_matched_policy[{policy}]", ())
    return allowed


def listener_of(inbound: Mapping[int, InboundListener], port: int) -> InboundListener | None:
    """What a request on ``port`` is judged by. A foreign server may not tell the port (0, on a Unix socket), or may
    believe the caller's Host header about it: where it is none of ours, what all of them require counts.
    """
    return inbound.get(port) or strictest(inbound.values())


def strictest(listeners: Iterable[InboundListener]) -> InboundListener | None:
    """Where the port is not known, the mode of the strictest counts, and the filters of all."""
    found = None
    filters: tuple[ServerFilter, ...] = ()
    for listener in listeners:
        filters += listener.filters
        if found is None or (listener.mutual_tls is MutualTls.STRICT and found.mutual_tls is not MutualTls.STRICT):
            found = listener
    return replace(found, filters=filters) if found is not None and filters else found


def _refuse(head: Request, reason: str) -> Respond:
    # NR is what Envoy logs when no filter chain matches a connection.
    return respond(head, 403, b"mutual TLS required", reason, (Flag.NO_ROUTE,), headers=(("connection", "close"),))
