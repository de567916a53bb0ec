"""The rollout the demo walks: every step changes the mesh with YAML, sends traffic and compares."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

import httpx2

from proxyless.cli.demo.bookstore import RATINGS_GRPC, Bookstore
from proxyless.cli.demo.report import Row
from proxyless.cli.demo.statistics import binomial_p_value, share_is_right
from proxyless.cli.demo.traffic import Observed, send

REQUESTS = 600
USER = "jason"
DELAY = 2.0

Say = Callable[[str], None]

CALLERS = {
    "productpage": "demo",
    "details": "bookinfo-productpage",
    "reviews": "bookinfo-productpage",
    "ratings": "bookinfo-reviews",
}
GRPC_CALLERS = {RATINGS_GRPC: "bookinfo-reviews"}


class Rollout:
    """Collects a row for each promise; ``rows`` is the demo's result."""

    def __init__(self, store: Bookstore, client: httpx2.AsyncClient, say: Say) -> None:
        self._store = store
        self._client = client
        self._say = say
        self._everything = Observed()
        self.rows: list[Row] = []

    async def walk(self) -> None:
        """All steps, in the order a careful team would take them."""
        await self._split("reviews-100-0.yaml", 0.0)
        await self._split("reviews-90-10.yaml", 0.1)
        await self._split("reviews-50-50.yaml", 0.5)
        await self._split("reviews-0-100.yaml", 1.0)
        await self._pin_user()
        await self._delay()
        await self._abort()
        await self._kill_one_of_two()
        self._identities()

    async def _apply(self, file: str) -> None:
        self._say(f"proxyless apply --wait -f {file}")
        path = self._store.rollout / file
        await asyncio.to_thread(self._store.processes.command, "apply", "--wait", "-f", str(path))

    async def _send(
        self, count: int, user: str | None = None, on_answer: Callable[[int], None] | None = None
    ) -> Observed:
        observed = await send(self._client, count, user=user, on_answer=on_answer)
        self._everything.callers.update(observed.callers)
        return observed

    def _row(self, step: str, expected: str, observed: str, right: bool) -> None:
        self.rows.append(Row(step, expected, observed, right))
        self._say(f"  {step}: {observed}")

    async def _split(self, file: str, share: float) -> None:
        await self._apply(file)
        observed = await self._send(REQUESTS)
        seen = observed.versions["v3"]
        chance = binomial_p_value(seen, REQUESTS, share)
        right = (
            not observed.failures and set(observed.versions) <= {"v1", "v3"} and share_is_right(seen, REQUESTS, share)
        )
        failures = _failures(observed)
        self._row(
            f"reviews v1/v3 {100 - share * 100:.0f}/{share * 100:.0f}",
            f"{share:.0%} on v3",
            f"{seen / REQUESTS:.1%} on v3 ({seen} of {REQUESTS}, p={chance:.2g}){failures}",
            right,
        )

    async def _pin_user(self) -> None:
        await self._apply("reviews-jason-v2.yaml")
        pinned, others = await asyncio.gather(self._send(100, USER), self._send(100))
        self._row(
            f"user {USER} pinned to v2",
            f"{USER}: 100 x v2, others: 100 x v3",
            f"{USER}: {_versions(pinned)}, others: {_versions(others)}{_failures(pinned, others)}",
            pinned.versions == {"v2": 100} and others.versions == {"v3": 100},
        )

    async def _delay(self) -> None:
        await self._apply("ratings-delay.yaml")
        late, others = await asyncio.gather(self._send(16, USER), self._send(50))
        earliest, latest = min(late.seconds), max(others.seconds)
        self._row(
            f"{DELAY:.0f} s delay in ratings for {USER}",
            f"{USER}: {DELAY:.1f} s or more, others: less",
            f"{USER}: {earliest:.2f} s or more, others: at most {latest:.2f} s{_failures(late, others)}",
            earliest >= DELAY and latest < DELAY and late.stars == {"shown": 16} and others.stars == {"shown": 50},
        )

    async def _abort(self) -> None:
        await self._apply("ratings-abort.yaml")
        without, others = await asyncio.gather(self._send(50, USER), self._send(50))
        self._row(
            f"ratings aborted with 500 for {USER}",  # which gRPC, by which v2 asks, calls UNKNOWN
            f"{USER}: 0 of 50 with stars, others: 50",
            f"{USER}: {without.stars['shown']} of 50 with stars, others: {others.stars['shown']}"
            f"{_failures(without, others)}",
            without.stars == {"status UNKNOWN": 50} and others.stars == {"shown": 50},
        )

    async def _kill_one_of_two(self) -> None:
        self._say("proxyless serve ratings:app --service ratings  (a second instance)")
        await self._store.start_second_ratings()
        both = {self._store.processes.pid("ratings"), self._store.processes.pid("ratings-2")}
        await self._until_both_answer(both)
        before = 0

        def kill_in_the_middle(answered: int) -> None:
            nonlocal before
            if answered == REQUESTS // 4:
                self._say("kill -9 ratings")
                self._store.processes.kill("ratings")
                before = answered

        survivor = self._store.processes.pid("ratings-2")
        observed = await self._send(REQUESTS, on_answer=kill_in_the_middle)
        lost = REQUESTS - observed.stars["shown"]
        shares = sorted(f"{count}" for count in observed.raters.values())
        self._row(
            "1 of 2 ratings killed under traffic",
            f"0 of {REQUESTS} requests lost",
            f"{lost} lost; killed after {before}, then all on the survivor ({' + '.join(shares)}){_failures(observed)}",
            lost == 0 and set(observed.raters) == both and observed.raters[survivor] > REQUESTS // 2,
        )

    async def _until_both_answer(self, both: set[int]) -> None:
        async with asyncio.timeout(20):
            while True:
                observed = await self._send(20)
                if set(observed.raters) == both:
                    return

    def _identities(self) -> None:
        callers = self._everything.callers
        grpc = Counter({hop: count for hop, count in callers.items() if hop[0] == RATINGS_GRPC})
        self._proven("callers proven by mutual TLS", "every hop: the caller's SPIFFE ID", callers - grpc, CALLERS)
        self._proven("gRPC calls over mutual TLS", "every one: the caller's SPIFFE ID", grpc, GRPC_CALLERS)

    def _proven(
        self, step: str, expected: str, callers: Counter[tuple[str, str | None]], accounts: Mapping[str, str]
    ) -> None:
        domain = "spiffe://cluster.local/ns/default/sa"
        wrong = {hop: n for hop, n in callers.items() if f"{domain}/{accounts[hop[0]]}" != hop[1]}
        total = callers.total()
        self._row(
            step,
            expected,
            f"{total - sum(wrong.values())} of {total}" + (f"; wrong: {wrong}" if wrong else ""),
            not wrong and {service for service, _ in callers} == set(accounts),
        )


def _versions(observed: Observed) -> str:
    return " + ".join(f"{count} x {version}" for version, count in sorted(observed.versions.items())) or "none"


def _failures(*batches: Observed) -> str:
    found = [f"{count} x {reason}" for batch in batches for reason, count in batch.failures.items()]
    return "; failed: " + ", ".join(found) if found else ""
