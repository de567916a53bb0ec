"""What a server of the mesh must ask of its callers, as its inbound xDS listener says (gRFC A36)."""

import enum
from dataclasses import dataclass

from proxyless.model.authentication import JwtAuthn
from proxyless.model.authorization import Rbac
from proxyless.model.matching import StringMatcher
from proxyless.model.rate_limit import RateLimit

ServerFilter = Rbac | JwtAuthn | RateLimit


class MutualTls(enum.Enum):
    """Istio's PeerAuthentication.MutualTLS.Mode."""

    DISABLE = "DISABLE"  # plaintext only
    PERMISSIVE = "PERMISSIVE"  # plaintext and TLS on the same port
    STRICT = "STRICT"  # only TLS with a client certificate of the mesh


@dataclass(frozen=True, slots=True)
class InboundListener:
    """One port of this workload. ``san``: a peer's identity must match one, unless empty (any identity of the mesh).

    filters: each must let a request in, in this order.
    """

    port: int
    mutual_tls: MutualTls = MutualTls.PERMISSIVE
    san: tuple[StringMatcher, ...] = ()
    ignored: tuple[str, ...] = ()
    filters: tuple[ServerFilter, ...] = ()
