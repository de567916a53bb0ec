"""reviews: v1 has no stars, v2 shows black ones, v3 red ones; stars come from ratings, v2 asks by gRPC, v3 by HTTP."""

import grpc.aio
import httpx2 as httpx
from common import VERSION, answered_by, end_user
from ratings_pb2 import Product
from ratings_pb2_grpc import RatingsStub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import proxyless

COLOUR = {"v2": "black", "v3": "red"}.get(VERSION)

mesh = proxyless.Mesh()
client = httpx.AsyncClient(transport=mesh.async_transport(), timeout=10)
stub = RatingsStub(mesh.grpc_channel("ratings-grpc:50051"))

TEXTS = {
    "Reviewer1": "An extremely entertaining play. The slapstick humour is refreshing!",
    "Reviewer2": "Absolutely fun and entertaining. The play lacks thematic depth compared with others.",
}


async def stars(request: Request) -> dict[str, object]:
    """The ratings of a product, or why there are none: a page without stars is better than no page."""
    product = request.path_params["product"]
    return await stars_by_grpc(product, request) if VERSION == "v2" else await stars_by_http(product, request)


async def stars_by_grpc(product: int, request: Request) -> dict[str, object]:
    try:
        answer = await stub.Get(Product(id=product), metadata=tuple(end_user(request).items()))
    except grpc.aio.AioRpcError as error:
        told = dict(error.trailing_metadata())
        return {"error": f"status {error.code().name}", "reason": told.get("x-proxyless-reason")}
    return {
        "ratings": dict(answer.ratings),
        "version": answer.version,
        "pid": answer.pid,
        "caller": answer.caller or None,
        "protocol": "grpc",
    }


async def stars_by_http(product: int, request: Request) -> dict[str, object]:
    try:
        answer = await client.get(f"http://ratings/ratings/{product}", headers=end_user(request))
    except httpx.HTTPError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if answer.status_code != 200:
        return {"error": f"status {answer.status_code}", "reason": answer.headers.get("x-proxyless-reason")}
    body: dict[str, object] = answer.json()
    return body


async def reviews(request: Request) -> JSONResponse:
    rated = await stars(request) if COLOUR else None
    given = rated.get("ratings") if rated else None
    found = []
    for reviewer, text in TEXTS.items():
        review: dict[str, object] = {"reviewer": reviewer, "text": text}
        if isinstance(given, dict):
            review["rating"] = {"stars": given[reviewer], "color": COLOUR}
        found.append(review)
    return JSONResponse(
        {"id": request.path_params["product"], "reviews": found, "ratings": rated, **answered_by(request)}
    )


app = Starlette(routes=[Route("/reviews/{product:int}", reviews)])
