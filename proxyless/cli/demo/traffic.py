"""Real requests to the bookstore's front page, and what came back."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from proxyless.cli.demo.bookstore import RATINGS_GRPC

PRODUCT = "http://productpage/api/v1/products/0"
CONCURRENCY = 16


@dataclass(slots=True)
class Observed:
    """What a batch of requests met. ``seconds`` holds each request's duration; ``failures`` counts by reason."""

    seconds: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    stars: Counter[str] = field(default_factory=Counter)
    raters: Counter[int] = field(default_factory=Counter)
    callers: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return len(self.seconds)

    def note(self, page: Mapping[str, Any]) -> None:
        """Count one page's parts: which reviews, whose stars, and who every service says its caller was."""
        reviews = page["reviews"]
        ratings = reviews.get("ratings")
        self.versions[reviews["version"]] += 1
        self.callers["productpage", page["caller"]] += 1
        self.callers["details", page["details"]["caller"]] += 1
        self.callers["reviews", reviews["caller"]] += 1
        if ratings is None:
            self.stars["none"] += 1
        elif "error" in ratings:
            self.stars[ratings["error"]] += 1
        else:
            self.stars["shown"] += 1
            self.raters[ratings["pid"]] += 1
            service = RATINGS_GRPC if ratings.get("protocol") == "grpc" else "ratings"
            self.callers[service, ratings["caller"]] += 1


async def send(
    client: httpx2.AsyncClient,
    count: int,
    *,
    user: str | None = None,
    on_answer: Callable[[int], None] | None = None,
) -> Observed:
    """Send ``count`` requests, ``CONCURRENCY`` at a time; ``on_answer`` is called with the number answered so far."""
    observed = Observed()
    headers = {"end-user": user} if user else {}
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            started = time.perf_counter()
            try:
                answer = await client.get(PRODUCT, headers=headers)
                if answer.status_code == 200:
                    observed.note(answer.json())
                else:
                    observed.failures[f"status {answer.status_code}: {answer.text[:300]}"] += 1
            except httpx2.HTTPError as error:
                observed.failures[f"{type(error).__name__}: {error}"] += 1
            observed.seconds.append(time.perf_counter() - started)
            if on_answer is not None:
                on_answer(observed.count)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(worker())
    return observed
