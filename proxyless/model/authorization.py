"""Who may do what on a port of this workload, as its inbound listener's filters say (gRFC A41, Envoy's RBAC filter).

A condition that we do not know is ``Unknown``, neither met nor unmet, and so is one about a fact that a server does
not know of a request. An ALLOW policy must be met for certain, a DENY policy denies unless it is unmet for certain.
"""

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from proxyless.model.matching import HeaderMatcher, StringMatcher


class Action(enum.Enum):
    ALLOW = "ALLOW"  # some policy must be met
    DENY = "DENY"  # no policy may be met


class Side(enum.Enum):
    """Whose address of the connection."""

    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class All:
    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    part: "Condition"


@dataclass(frozen=True, slots=True)
class Anything:
    """Always met."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """what: the field that is not supported, for people."""

    what: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Header:
    matcher: HeaderMatcher


@dataclass(frozen=True, slots=True)
class UrlPath:
    """The path without its query."""

    matcher: StringMatcher


@dataclass(frozen=True, slots=True)
class Address:
    side: Side
    network: IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class LocalPort:
    """first <= port < end."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class ServerName:
    """What the TLS client asked for (SNI); "" over plaintext."""

    matcher: StringMatcher


@dataclass(frozen=True, slots=True)
class Authenticated:
    """``name`` matches the caller's SPIFFE ID, "" for TLS without a client certificate; None asks for TLS only."""

    name: StringMatcher | None = None


class JsonKind(enum.Enum):
    NULL = "null"
    PRESENT = "present"
    BOOL = "bool"
    NUMBER = "number"
    STRING = "string"
    ONE_OF = "one_of"  # a list with an element that meets the one part
    ANY_OF = "any_of"  # some part is met
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class JsonMatcher:
    """Envoy's type.matcher.v3.ValueMatcher. number: lowest and end, or equal numbers for exactly this one."""

    kind: JsonKind
    flag: bool = False
    number: tuple[float, float] = (0.0, 0.0)
    text: StringMatcher | None = None
    parts: "tuple[JsonMatcher, ...]" = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A value of the dynamic metadata that the JWT filter writes (``envoy.filters.http.jwt_authn``)."""

    path: tuple[str, ...]
    value: JsonMatcher
    invert: bool = False


Condition = (
    All | Some | Not | Anything | Unknown | Header | UrlPath | Address | LocalPort | ServerName | Authenticated | Claim
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Met if both are."""

    name: str
    permission: Condition
    principal: Condition


@dataclass(frozen=True, slots=True)
class Rbac:
    """One RBAC filter. ALLOW without policies denies everything."""

    action: Action
    policies: tuple[Policy, ...] = ()
