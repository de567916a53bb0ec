"""Policy and telemetry of one request in the client, apart from its wire: engine, metrics, context, sampled spans.

python -m benchmarks.requests.policy STATE_DIR
"""

import statistics
import subprocess
import sys
import time

import httpx2

import proxyless
from benchmarks.requests.world import ROOT, World
from proxyless.engine.steps import Answered, Attempt
from proxyless.transport.completion import Completion
from proxyless.transport.httpx_adapter.convert import engine_request

_ROUNDS, _REQUESTS = 9, 4000
# As a client of httpx2 sends them.
_HEADERS = {"accept": "*/*", "accept-encoding": "gzip, deflate", "connection": "keep-alive", "user-agent": "bench"}


def policy_cost(world: World) -> float:
    """Microseconds per request, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.requests.policy", str(world.state_dir)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def _requests(mesh: proxyless.Mesh, count: int) -> None:
    """What a transport does around its wire."""
    runtime = mesh.runtime
    request = httpx2.Request("GET", "http://hello/", headers=_HEADERS)
    for _ in range(count):
        head = engine_request(request, replayable=True)
        call = runtime.engine.call(runtime.snapshot(), head)
        completion = Completion(call, runtime.telemetry.begin_client(head))
        while (step := call.next_step()) is not None:
            assert isinstance(step, Attempt), step
            call.report(Answered(200, [("content-length", "15")]))
        call.response_headers([("content-length", "15")])
        completion.end()


def main() -> None:
    with proxyless.Mesh(state_dir=sys.argv[1], service="bench") as mesh:
        mesh.wait_ready(timeout=30)
        mesh.explain("GET", "http://hello/")
        _requests(mesh, _REQUESTS)
        rounds = []
        for _ in range(_ROUNDS):
            started = time.thread_time()
            _requests(mesh, _REQUESTS)
            rounds.append((time.thread_time() - started) / _REQUESTS * 1e6)
        print(statistics.median(rounds))


if __name__ == "__main__":
    main()
