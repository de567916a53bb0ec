"""What a load process is told to do, and what it says it did: one JSON line each."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Work:
    """``seconds`` of requests, ``concurrency`` at a time. size: bytes of the body asked for (GET) or sent (POST).

    None is the small answer. method: HTTP's, or that of the gRPC service; size is then that of each message.
    """

    seconds: float
    concurrency: int = 1
    method: str = "GET"
    size: int | None = None

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, line: str) -> Self:
        return cls(**json.loads(line))

    @property
    def path(self) -> str:
        return "/" if self.size is None or self.method == "POST" else f"/bytes/{self.size}"


@dataclass(frozen=True, slots=True)
class Done:
    """count: answered requests. seconds: from the first to the last. The rest are microseconds."""

    count: int
    seconds: float
    p50: float
    p90: float
    p99: float
    p999: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int], seconds: float) -> Self:
        durations = sorted(nanoseconds)

        def at(share: float) -> float:
            return durations[min(len(durations) - 1, int(share * len(durations)))] / 1000

        return cls(len(durations), seconds, at(0.5), at(0.9), at(0.99), at(0.999))

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, line: str) -> Self:
        return cls(**json.loads(line))


def commands() -> Iterator[Work]:
    """What a load process is told, once it has said that it is ready."""
    print("ready", flush=True)
    for line in sys.stdin:
        yield Work.decode(line)
