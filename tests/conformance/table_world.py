"""The configuration of a whole table, all rows at once: shared services, and a service of its own for each row."""

from collections.abc import Iterable, Mapping

from table_case import Case

REGISTRY_ONLY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}
"""
_SHARED = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: NAMESPACE}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews-one, namespace: NAMESPACE}
spec: {selector: {app: reviews, version: v1}, ports: [{name: SPEAKS, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews-two, namespace: NAMESPACE}
spec: {selector: {app: reviews, version: v2}, ports: [{name: SPEAKS, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: NAMESPACE}
spec: {selector: {app: nobody}, ports: [{name: SPEAKS, port: 80}]}
"""
_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec:
  selector: {app: %s}
  ports: [{name: SPEAKS, port: 80}, {name: SPEAKS-admin, port: 8081}, {name: tcp, port: 9000}]
"""
_WORKLOAD = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: %s, namespace: %s}
spec: {address: 127.0.0.1, ports: {SPEAKS: %d, SPEAKS-admin: %d, tcp: %d}, labels: {app: %s, version: %s}}
"""
# Its workloads by name: the port of a backend, and a version.
_WORKLOADS = {
    "reviews": {"reviews-v1": "v1", "reviews-v2": "v2"},
    "ratings": {"ratings": "v1"},
    "down": {"refused": "v1"},
    # One of two is down: who is called first is a matter of chance.
    "flaky": {"refused": "v1", "reviews-v1": "v2"},
}


def configuration(cases: Iterable[Case], namespace: str, ports: Mapping[str, int]) -> str:
    """YAML. ``ports``: of the backends, see ``table_backends``."""
    documents = [_SHARED]
    for service, workloads in _WORKLOADS.items():
        documents.append(_SERVICE % (service, namespace, service))
        documents += [_workload(service, name, namespace, ports, version) for name, version in workloads.items()]
    secrets = f"{namespace}-secrets"
    documents += [_SERVICE % ("vault", secrets, "vault"), _workload("vault", "vault", secrets, ports, "v1")]
    for case in cases:
        documents.append(_SERVICE % (case.host, namespace, "reviews"))
        if case.rules:
            documents.append(case.fill(case.rules, namespace))
    # The namespaces are called by what their ports speak.
    return "\n---\n".join(documents).replace("NAMESPACE", namespace).replace("SPEAKS", namespace)


def _workload(service: str, backend: str, namespace: str, ports: Mapping[str, int], version: str) -> str:
    return _WORKLOAD % (f"{service}-{version}", namespace, *[ports[backend]] * 3, service, version)
