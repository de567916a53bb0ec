"""productpage: the page a person sees; it asks details and reviews at the same time."""

import asyncio
import html
from typing import Any

import httpx2 as httpx
from common import answered_by, end_user
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

import proxyless

mesh = proxyless.Mesh()
client = httpx.AsyncClient(transport=mesh.async_transport(), timeout=10)


async def ask(url: str, headers: dict[str, str]) -> dict[str, Any]:
    try:
        answer = await client.get(url, headers=headers)
    except httpx.HTTPError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if answer.status_code != 200:
        return {"error": f"status {answer.status_code}", "reason": answer.headers.get("x-proxyless-reason")}
    body: dict[str, Any] = answer.json()
    return body


async def product(request: Request) -> dict[str, Any]:
    headers = end_user(request)
    details, reviews = await asyncio.gather(
        ask("http://details/details/0", headers), ask("http://reviews/reviews/0", headers)
    )
    return {"title": "The Comedy of Errors", "details": details, "reviews": reviews, **answered_by(request)}


async def api(request: Request) -> JSONResponse:
    found = await product(request)
    broken = "error" in found["details"] or "error" in found["reviews"]
    return JSONResponse(found, status_code=502 if broken else 200)


def review_row(review: dict[str, Any]) -> str:
    rating = review.get("rating")
    stars = f'<span style="color:{rating["color"]}">{"★" * rating["stars"]}</span>' if rating else ""
    text, reviewer = html.escape(review["text"]), html.escape(review["reviewer"])
    return f"<blockquote>{text} <cite>{reviewer}</cite> {stars}</blockquote>"


async def page(request: Request) -> HTMLResponse:
    found = await product(request)
    reviews, details = found["reviews"], found["details"]
    rows = "".join(review_row(review) for review in reviews.get("reviews", []))
    facts = ", ".join(f"{key}: {value}" for key, value in details.items() if key in {"author", "year", "type", "pages"})
    return HTMLResponse(
        f"<!doctype html><title>{found['title']}</title><h1>{found['title']}</h1>"
        f"<p>{html.escape(facts or str(details.get('error')))}</p>"
        f"<h2>Reviews ({html.escape(str(reviews.get('version', reviews.get('error'))))})</h2>{rows}"
    )


app = Starlette(routes=[Route("/productpage", page), Route("/api/v1/products/0", api)])
