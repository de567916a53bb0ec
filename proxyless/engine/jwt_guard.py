"""JWT filters, as far as they can be kept to without verifying tokens: none is let in as if it were verified.

Source: Envoy's jwt_authn filter: where tokens are, what it answers (401, RFC 6750's ``www-authenticate``).
"""

from urllib.parse import parse_qs

from proxyless.engine.replies import original_url, respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.model.authorization import JwtGuard

_UNVERIFIED = "this server does not verify tokens (JWT), and its listener asks for that"


def guarded(guard: JwtGuard, head: Request) -> Respond | None:
    """The refusal of a request that carries a token where the filter looks for one, or needs one."""
    if carries_token(guard, head):
        return _refuse(head, b"Jwt verification fails", _UNVERIFIED, ', error="invalid_token"')
    return _refuse(head, b"Jwt is missing", "Jwt is missing", "") if guard.required else None


def carries_token(guard: JwtGuard, head: Request) -> bool:
    for name, prefix in guard.headers:
        # Envoy takes what comes after the prefix wherever that is in the line.
        if any(prefix in line for line in head.values(name)):
            return True
    if guard.params:
        query = parse_qs(head.path.partition("?")[2], keep_blank_values=True)
        if any(name in query for name in guard.params):
            return True
    return bool(guard.cookies) and any(name in _cookies(head) for name in guard.cookies)


def _cookies(head: Request) -> frozenset[str]:
    found: set[str] = set()
    for line in head.values("cookie"):
        for pair in line.split(";"):
            found.add(pair.partition("=")[0].strip())
    return frozenset(found)


def _refuse(head: Request, body: bytes, reason: str, error: str) -> Respond:
    realm = original_url(head)
    return respond(head, 401, body, reason, (), headers=(("www-authenticate", f'Bearer realm="{realm}"{error}'),))
