"""ratings: how many stars each reviewer gave. The last service in the chain; it calls nobody."""

from common import STARS, answered_by
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def ratings(request: Request) -> JSONResponse:
    return JSONResponse(
        {
            "id": request.path_params["product"],
            "ratings": STARS,
            **answered_by(request),
        }
    )


app = Starlette(routes=[Route("/ratings/{product:int}", ratings)])
