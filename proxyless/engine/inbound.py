"""What the mesh decides about a request that arrives: the counterpart of ``Call``, as one pure function.

Source: Istio's PeerAuthentication (DISABLE, PERMISSIVE, STRICT) and gRFC A36. Where Envoy resets a connection that no
filter chain accepts, a request that got as far as here (its port became STRICT while its connection was open, or a
foreign server accepted it) is answered 403 and its connection closed: a client learns why.
"""

from dataclasses import dataclass

from proxyless.engine.matching import string_matches
from proxyless.engine.replies import respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.inbound import InboundListener, MutualTls
from proxyless.model.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of the connection that a request came on.

    tls: None when the server that accepted it does not say. peer: proved in a handshake that we verified, else None.
    """

    tls: bool | None = None
    peer: SpiffeId | None = None


@dataclass(frozen=True, slots=True)
class Allow:
    """The application may have the request."""


ALLOW = Allow()


def decide(listener: InboundListener | None, caller: Caller, head: Request) -> Allow | Respond:
    """Whether ``head`` may reach the application on a port with this listener.

    None for the listener: the control plane has said nothing of the port, which is Istio's default, PERMISSIVE.
    """
    if listener is None:
        return ALLOW
    if caller.peer is not None:
        if listener.san and not any(string_matches(san, str(caller.peer)) for san in listener.san):
            return _refuse(head, f"{caller.peer} is not among the identities that port {listener.port} accepts")
        return ALLOW
    if listener.mutual_tls is not MutualTls.STRICT:
        return ALLOW
    if caller.tls is None:
        # Fail closed: a header could claim anything, so an unknown connection counts as plaintext.
        return _refuse(
            head,
            f"port {listener.port} requires mutual TLS (STRICT), and the server that accepted this connection does not "
            "tell the mesh about its TLS; serve the application with proxyless serve",
        )
    how = "TLS without a certificate of the mesh" if caller.tls else "plaintext"
    return _refuse(head, f"port {listener.port} requires mutual TLS (STRICT), this connection is {how}")


def _refuse(head: Request, reason: str) -> Respond:
    # NR is what Envoy logs when no filter chain matches a connection.
    return respond(head, 403, b"mutual TLS required", reason, (Flag.NO_ROUTE,), headers=(("connection", "close"),))
