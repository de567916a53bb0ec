"""The hash of a request, for clusters that balance by it. Source: Envoy's HashPolicyImpl, gRFC A42.

The same request gets the same hash here and in Envoy, so both send it to the same endpoint.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from xxhash import xxh64_intdigest

from proxyless.engine.request import Request
from proxyless.model.route import HashCookie, HashHeader, HashPolicy, HashQuery

_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class RequestHash:
    """value: 64 bits, None when no policy found what it hashes. set_cookie: a line for the response, "" for none."""

    value: int | None
    set_cookie: str = ""


NO_HASH = RequestHash(None)


def request_hash(policies: Iterable[HashPolicy], request: Request, new_cookie: Callable[[], str]) -> RequestHash:
    """All policies joined in order; a terminal one ends it once there is a hash."""
    value: int | None = None
    set_cookie = ""
    for policy in policies:
        match policy:
            case HashHeader():
                found = _header(policy, request)
            case HashQuery():
                found = _query(policy, request)
            case HashCookie():
                text = cookie(request, policy.name)
                if not text and policy.ttl is not None:
                    text = new_cookie()
                    set_cookie = _set_cookie(policy, text)
                found = xxh64_intdigest(_bytes(text)) if text else None
        if found is not None:
            # Rotated by one bit, so that two equal hashes do not cancel each other out.
            value = found if value is None else (((value << 1) | (value >> 63)) & _MASK) ^ found
        if policy.terminal and value is not None:
            break
    return RequestHash(value, set_cookie)


def _header(policy: HashHeader, request: Request) -> int | None:
    if policy.name.startswith(":") or policy.name == "host":
        one = request.header(policy.name)
        values = [] if one is None else [one]
    else:
        values = list(request.values(policy.name))
    if not values:
        return None
    if policy.rewrite is not None:
        substitute, replacement = policy.rewrite.regex.substitute, policy.rewrite.substitution
        if substitute is not None:
            values = [substitute(replacement, value) for value in values]
    # Sorted: the order of a header's lines does not change the hash. Each is the seed of the next.
    digest = 0
    for value in sorted(values):
        digest = xxh64_intdigest(_bytes(value), digest)
    return digest


def _query(policy: HashQuery, request: Request) -> int | None:
    query = request.path.partition("#")[0].partition("?")[2]
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name == policy.name:
            return xxh64_intdigest(_bytes(value))
    return None


def _bytes(value: str) -> bytes:
    """As on the wire: transports read header bytes as latin-1."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode()


def cookie(request: Request, name: str) -> str:
    """The value of the request's first cookie of that name, without quotes; "" when there is none."""
    for key, value in _cookies(request):
        if key == name:
            return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
    return ""


def _cookies(request: Request) -> Iterator[tuple[str, str]]:
    for line in request.values("cookie"):
        for pair in line.split(";"):
            key, equals, value = pair.strip().partition("=")
            if equals:
                yield key, value


def _set_cookie(policy: HashCookie, value: str) -> str:
    parts = [f'{policy.name}="{value}"']
    if policy.ttl:
        parts.append(f"Max-Age={int(policy.ttl)}")
    if policy.path:
        parts.append(f"Path={policy.path}")
    parts += [f"{name}={text}" if text else name for name, text in policy.attributes]
    return "; ".join([*parts, "HttpOnly"])
