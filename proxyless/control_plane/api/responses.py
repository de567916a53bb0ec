"""JSON answers and errors: ``{"error": ..., "problems": [...]}``."""

import json
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxyless.control_plane.resources.problem import Problem
from proxyless.model.errors import ProxylessError

MAX_BODY = 32 * 1024 * 1024


class ApiError(ProxylessError):
    """An answer that is an error. problems: of the configuration, if that is what is wrong."""

    def __init__(self, status: int, text: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.problems = tuple(problems)


def error(status: int, text: str, problems: Iterable[Problem] = ()) -> JSONResponse:
    return JSONResponse({"error": text, "problems": [problem.to_dict() for problem in problems]}, status)


async def body_of(request: Request) -> bytes:
    """The whole request body; ApiError 413 beyond 32 MiB."""
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY // 2**20} MiB; apply it in parts")
    return bytes(parts)


def json_of(body: bytes) -> Any:
    """Raises ApiError 400 for what is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None


def number(request: Request, name: str, default: float, most: float) -> float:
    """A number from the query, at least 0 and at most ``most``."""
    text = request.query_params.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= most:
        raise ApiError(400, f"the query parameter {name} must be a number from 0 to {most:g}")
    return value


def text_field(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiError(400, f"the body must be a JSON object with a text {name!r}")
    return value
