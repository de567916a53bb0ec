"""The ratios that matter, with what they must be."""

from benchmarks.grpc_calls import systems as s
from benchmarks.requests.reach import AT_32, AT_ONE, Reach, p50, throughput

REACHES = (
    Reach("p50 at 1: proxyless / grpcio with mutual TLS", AT_ONE, s.MESH, s.SECURED, p50, 1.12, 1.05),
    Reach("p50 at 1: proxyless / Envoy pair", AT_ONE, s.MESH, s.ENVOY, p50, 0.8, 0.7),
    Reach(
        "throughput at 32: proxyless / grpcio with mutual TLS", AT_32, s.MESH, s.SECURED, throughput, 0.9, 0.97, True
    ),
)
