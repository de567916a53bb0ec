"""The HTTP application: routes, authentication, and errors as JSON."""

import hmac
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from proxyless.control_plane.api.backend import Backend
from proxyless.control_plane.api.clients import ClientRoutes
from proxyless.control_plane.api.metrics import CONTENT_TYPE
from proxyless.control_plane.api.resources import ResourceRoutes
from proxyless.control_plane.api.responses import ApiError, body_of, error, json_of, text_field
from proxyless.control_plane.ca.token_issuer import DEFAULT_TTL
from proxyless.model.errors import ProxylessError

_LONGEST_TOKEN = 90 * 24 * 3600.0

Endpoint = Callable[[Request], Awaitable[Response]]


def application(backend: Backend) -> Starlette:
    """Health and metrics for everyone, ``/api/v1`` for holders of the admin token."""
    resources, clients = ResourceRoutes(backend), ClientRoutes(backend)
    one = "/resources/{kind}/{namespace}/{name}"

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if backend.ready() else PlainTextResponse("starting\n", 503)

    async def metrics(_: Request) -> Response:
        return Response(backend.metrics.exposition(), media_type=CONTENT_TYPE)

    async def issue_token(request: Request) -> Response:
        body = json_of(await body_of(request))
        namespace, account = text_field(body, "namespace"), text_field(body, "serviceAccount")
        ttl = body.get("ttl", DEFAULT_TTL)
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= _LONGEST_TOKEN:
            raise ApiError(400, "a token's ttl must be a number of seconds, at most 90 days")
        token = backend.tokens.issue(namespace, account, ttl)
        return JSONResponse({"token": token, "namespace": namespace, "serviceAccount": account, "ttl": ttl})

    def route(path: str, endpoint: Endpoint, method: str = "GET") -> Route:
        return Route(path, endpoint, methods=[method])

    api = Starlette(
        routes=[
            route("/apply", resources.apply, "POST"),
            route("/resources/{kind}", resources.listing),
            route(one, resources.one),
            route(one, resources.delete, "DELETE"),
            route("/problems", resources.problems),
            route("/proxy-status", clients.status),
            route("/proxy-config/{node:path}", clients.configuration),
            route("/rollout", clients.rollout),
            route("/rollout", clients.rollout, "POST"),
            route("/translate", clients.translate),
            route("/tokens", issue_token, "POST"),
        ],
        exception_handlers={ProxylessError: _refused, HTTPException: _http_error},
    )
    return Starlette(
        routes=[
            route("/healthz", healthz),
            route("/readyz", readyz),
            route("/metrics", metrics),
            Mount("/api/v1", app=_AdminOnly(api, backend.admin_token)),
        ],
        exception_handlers={HTTPException: _http_error},
    )


class _AdminOnly:
    """Lets requests through that carry the admin token, and no other."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._expected):
            text = (
                "the admin token is missing or wrong: send `Authorization: Bearer TOKEN`; the token is in the file "
                "admin-token in the control plane's state directory"
            )
            answer = error(401, text)
            answer.headers["www-authenticate"] = "Bearer"
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _refused(_: Request, exception: Exception) -> Response:
    if isinstance(exception, ApiError):
        return error(exception.status, str(exception), exception.problems)
    return error(400, str(exception))


async def _http_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    return error(exception.status_code, f"{request.method} {request.url.path[:300]}: {exception.detail}")
