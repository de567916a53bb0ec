"""details: facts about the book."""

from common import answered_by
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def details(request: Request) -> JSONResponse:
    return JSONResponse(
        {
            "id": request.path_params["product"],
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            **answered_by(request),
        }
    )


app = Starlette(routes=[Route("/details/{product:int}", details)])
