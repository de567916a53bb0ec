"""One mesh for the whole table: a control plane, an Envoy, a gRPC client, and every row's rules from the start."""

import concurrent.futures
import contextlib
import itertools
from pathlib import Path

import httpx2
from conformance_table import CASES
from envoy_mesh import EnvoyMesh, until
from table_backends import Backends
from table_case import Case, Expected, Observed
from table_rows_mesh import SECURE
from table_runners import LABELS, Grpc, Http, Send
from table_world import REGISTRY_ONLY, configuration


class Mesh:
    """``envoy``, ``library`` and ``grpc`` send a row's request."""

    def __init__(self, folder: Path, http: Backends, grpc: Backends) -> None:
        self._http = http
        self._registry_only = False
        self._slow: dict[tuple[str, str], concurrent.futures.Future[Observed]] = {}
        with contextlib.ExitStack() as stack:
            self._mesh = EnvoyMesh(folder)
            stack.callback(self._mesh.close)
            self._start(stack, grpc)
            self._stack = stack.pop_all()

    def _start(self, stack: contextlib.ExitStack, grpc: Backends) -> None:
        grpc_rows = [case for case in CASES if case.grpc is None]
        texts = configuration(CASES, "http", self._http.ports), configuration(grpc_rows, "grpc", grpc.ports)
        self._mesh.start_control_plane("\n---\n".join(texts))
        identity = ("--namespace", "http", "--label", "app=caller")
        self._mesh.start_serving("secure", "secure", "--namespace", "http")
        side = self._mesh.sidecar("side", "caller", self._http.ports["ratings"], *identity)
        library = self._mesh.mesh("caller", namespace="http", labels=LABELS)
        ours = stack.enter_context(httpx2.Client(transport=library.transport()))
        plain = stack.enter_context(httpx2.Client(trust_env=False))
        caller = Grpc(grpc, self._mesh.addresses["xds"])
        stack.callback(caller.close)
        self._pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(8))
        self._senders: dict[str, Http | Grpc] = {
            "library": Http(self._http, ours),
            "envoy": Http(self._http, plain, side.outbound),
            "grpc": caller,
        }
        self._mesh.wait_serving("secure")
        for runner in ("library", "envoy"):
            send = self.send(runner)
            until("the service with a certificate", lambda send=send: send(SECURE).status == 200)

    def send(self, runner: str) -> Send:
        return self._senders[runner].send

    @property
    def stranger(self) -> int:
        """The port of a backend, which as such is unknown to the mesh."""
        return self._http.ports["ratings"]

    def observe(self, runner: str, case: Case) -> Observed:
        """What came of a row. All that take their time were sent together, when the first was asked for."""
        if runner == "grpc" or not case.slow:
            return self.send(runner)(case)
        if not self._slow:
            for one, sends in itertools.product((case for case in CASES if case.slow), ("library", "envoy")):
                self._slow[sends, one.name] = self._pool.submit(self.send(sends), one)
        return self._slow[runner, case.name].result()

    def refusals(self) -> list[object]:
        """What clients were sent and did not take."""
        clients = self._mesh.json("proxy-status")
        assert {client["kind"] for client in clients} >= {"envoy", "grpc", "proxyless"}
        return [one for client in clients for one in client["types"] if one["state"] not in {"SYNCED", "STALE"}]

    def registry_only(self, wanted: bool) -> None:
        if wanted == self._registry_only:
            return
        if wanted:
            self._mesh.apply(REGISTRY_ONLY)
        else:
            self._mesh.run("delete", "ConfigMap", "istio", "-n", "istio-system")
        self._registry_only = wanted
        stranger = Case("stranger", "", Expected(), f"http://127.0.0.1:{self.stranger}/")
        for runner in ("library", "envoy"):
            send = self.send(runner)
            until(runner, lambda send=send: (send(stranger).status == 502) is wanted)

    def close(self) -> None:
        self._stack.close()
