"""gRPC stubs through a real control plane: services come, rules are applied, a host nobody knows is called as it is."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from local_mesh import LocalMesh, until

RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - match: [{headers: {x-user: {exact: tester}}, uri: {prefix: /test.Ratings/}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: ratings}}]
"""


class Ratings(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/test.Ratings/Get":
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"rated " + request)


@pytest.fixture
def serving() -> Iterator[Callable[[], int]]:
    with ExitStack() as servers:

        def start() -> int:
            server = grpc.server(ThreadPoolExecutor(4))
            server.add_generic_rpc_handlers((Ratings(),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            servers.callback(lambda: server.stop(None).wait(30))
            return port

        yield start


def test_stubs_of_both_apis(local: LocalMesh, serving: Callable[[], int], tmp_path: Path) -> None:
    local.start_control_plane()
    port = serving()
    ratings, client = local.mesh(service="ratings"), local.mesh()
    target = f"ratings:{port}"
    with ratings, client, ratings.register(port, address="127.0.0.1"):
        with client.grpc_channel_sync(target) as channel:
            get = channel.unary_unary("/test.Ratings/Get")
            assert get(b"x", timeout=60, wait_for_ready=True) == b"rated x"

            rule = tmp_path / "rule.yaml"
            rule.write_text(RULE)
            local.run("apply", "-f", str(rule))

            def aborted() -> grpc.RpcError | None:
                try:
                    get(b"x", timeout=60, metadata=(("x-user", "tester"),))
                except grpc.RpcError as error:
                    return error
                return None

            error: Any = until("the fault", aborted)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "VirtualService default/ratings" in error.details()
            assert get(b"x", timeout=60) == b"rated x"

        async def call(to: str) -> bytes:
            async with client.grpc_channel(to) as channel:
                answer: bytes = await channel.unary_unary("/test.Ratings/Get")(b"y", timeout=60)
                return answer

        assert asyncio.run(call(target)) == b"rated y"
        assert asyncio.run(call(f"127.0.0.1:{serving()}")) == b"rated y"
