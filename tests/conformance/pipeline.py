"""The whole path of a rule without its sockets: YAML, validation, translation, the client's compiler, the engine."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxyless.control_plane.closure import closure
from proxyless.control_plane.configuration.settings import mesh_settings
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import has_error
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings, World
from proxyless.engine.call import Call
from proxyless.engine.engine import Engine
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, Respond
from proxyless.engine.url import request_for
from proxyless.model.snapshot import Snapshot
from proxyless.model.workload import Workload
from proxyless.xds_client.offline import compile_snapshot

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}, {name: admin, port: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {selector: {app: ratings}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: secrets}
spec: {selector: {app: vault}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
"""


def workload(name: str, service: str, port: int, *, namespace: str = "default", **labels: str) -> Workload:
    return Workload(name, namespace, service, f"{service}-sa", "10.0.0.1", {"http": port}, {"app": service, **labels})


WORKLOADS = (
    workload("reviews-v1", "reviews", 9001, version="v1"),
    workload("reviews-v2", "reviews", 9002, version="v2"),
    workload("ratings", "ratings", 9003),
    workload("vault", "vault", 9004, namespace="secrets"),
)


@dataclass(slots=True)
class Outcome:
    """What a request met. status: of the mesh's own answer, or of the service's. cluster: short, ``subset/service``."""

    status: int
    cluster: str = ""
    path: str = ""
    authority: str = ""
    method: str = ""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    flags: str = ""
    waited: float = 0.0
    attempts: int = 0
    timeout: float | None = None


class Pipeline:
    """One world, one caller; ``send`` answers every attempt with what ``answers`` has, then with 200."""

    def __init__(self, rules: str, *, namespace: str = "default", labels: Mapping[str, str] | None = None) -> None:
        resources, problems = parse(SERVICES + "---\n" + rules, "rules.yaml")
        assert not has_error(problems), [str(problem) for problem in problems]
        found = {resource.key: resource for resource in resources}
        world = World(found, {w.id: w for w in WORKLOADS}, mesh_settings(found, MeshSettings()))
        self._translator = Translator(world)
        self._client = Client(namespace=namespace, labels=labels or {})
        self.engine = Engine(clock=lambda: 1000.0, rng=random.Random(7))

    def snapshot(self, target: str) -> Snapshot:
        generated = closure(self._translator, self._client, [target])
        resources = {
            url: {name: resource.any.SerializeToString() for name, resource in named.items()}
            for url, named in generated.items()
        }
        return compile_snapshot(resources, [target])

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        answers: Iterable[Answered | Failed] = (),
    ) -> Outcome:
        request = request_for(method, url, headers or {})
        call = self.engine.call(self.snapshot(request.target), request)
        try:
            return _perform(call, list(answers))
        finally:
            call.finish()


def _perform(call: Call, answers: list[Answered | Failed]) -> Outcome:
    outcome = Outcome(0)
    while (step := call.next_step()) is not None:
        match step:
            case Delay():
                outcome.waited += step.seconds
            case Respond():
                outcome.status, outcome.body = step.status, step.body
                outcome.response_headers = dict(step.headers)
            case Attempt():
                outcome.attempts = step.number
                outcome.timeout = step.timeout
                outcome.cluster = _short(step.cluster.name)
                outcome.path, outcome.authority, outcome.method = step.path, step.authority, step.method
                outcome.request_headers = dict(step.headers)
                answer = answers.pop(0) if answers else Answered(200, [])
                if isinstance(answer, Answered):
                    outcome.status = answer.status
                    outcome.response_headers = dict(call.response_headers(list(answer.headers)))
                call.report(answer)
    outcome.flags = ",".join(flag.value for flag in call.record.flags)
    return outcome


def _short(cluster: str) -> str:
    """``outbound|80|v1|reviews.default.svc.cluster.local`` as ``v1/reviews``."""
    parts = cluster.split("|")
    return f"{parts[2]}/{parts[3].partition('.')[0]}" if len(parts) == 4 else cluster
