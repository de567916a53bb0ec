"""The ratios that matter, with what they must be."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.requests import systems as s
from benchmarks.requests.measure import Ratio, Sample, Samples, ratio

AT_ONE, AT_32 = 1, 32


@dataclass(frozen=True, slots=True)
class Reach:
    """at_least, aim: of ``mine / theirs``; lower is better unless ``higher``."""

    what: str
    concurrency: int
    mine: str
    theirs: str
    of: Callable[[Sample], float]
    at_least: float
    aim: float
    higher: bool = False

    def met(self, value: float) -> str:
        def reached(bound: float) -> bool:
            return value >= bound if self.higher else value <= bound

        return "aim" if reached(self.aim) else "yes" if reached(self.at_least) else "no"


def p50(sample: Sample) -> float:
    return sample.done.p50


def p99(sample: Sample) -> float:
    return sample.done.p99


def throughput(sample: Sample) -> float:
    return sample.throughput


def cpu(sample: Sample) -> float:
    return sample.cpu


REACHES = (
    Reach("p50 at 1, httpx2: proxyless / Envoy pair", AT_ONE, s.MESH_HTTPX2, s.ENVOY_HTTPX2, p50, 0.50, 0.40),
    Reach("p50 at 1, httpx: proxyless / Envoy pair", AT_ONE, s.MESH_HTTPX, s.ENVOY_HTTPX, p50, 0.42, 0.32),
    Reach("p50 at 1, httpx2: proxyless / plain", AT_ONE, s.MESH_HTTPX2, s.PLAIN_HTTPX2, p50, 0.75, 0.60),
    Reach("p50 at 1, httpx: proxyless / plain", AT_ONE, s.MESH_HTTPX, s.PLAIN_HTTPX, p50, 0.75, 0.60),
    Reach(
        "throughput at 32, httpx: proxyless / Envoy pair", AT_32, s.MESH_HTTPX, s.ENVOY_HTTPX, throughput, 6, 9, True
    ),
    Reach(
        "throughput at 32, httpx2: proxyless / Envoy pair",
        *(AT_32, s.MESH_HTTPX2, s.ENVOY_HTTPX2, throughput, 2.5, 3.3, True),
    ),
    Reach(
        "CPU per request at 32, httpx2: proxyless / Envoy pair", AT_32, s.MESH_HTTPX2, s.ENVOY_HTTPX2, cpu, 0.45, 0.3
    ),
    Reach("CPU per request at 32, httpx: proxyless / Envoy pair", AT_32, s.MESH_HTTPX, s.ENVOY_HTTPX, cpu, 0.45, 0.3),
    Reach("p99 at 32, httpx2: proxyless / plain", AT_32, s.MESH_HTTPX2, s.PLAIN_HTTPX2, p99, 0.7, 0.4),
)
SERVER = Reach(
    "throughput at 32: proxyless serve / bare uvicorn",
    *(AT_32, s.SERVER_MESH, s.SERVER_BARE, throughput, 0.90, 0.97, True),
)


def value(reach: Reach, results: Samples) -> Ratio:
    return ratio(results, reach.mine, reach.theirs, reach.of)
