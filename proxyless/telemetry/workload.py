"""Who a workload is in telemetry: Istio's workload, app, version and canonical service of one side of a request."""

from collections.abc import Mapping
from dataclasses import dataclass

UNKNOWN = "unknown"
# Istio's default name of the cluster (CLUSTER_ID) a control plane stands in.
DEFAULT_CLUSTER = "Kubernetes"


@dataclass(frozen=True, slots=True)
class WorkloadLabels:
    """The values of Istio's ``source_*`` or ``destination_*`` labels that describe a workload."""

    workload: str = UNKNOWN
    namespace: str = UNKNOWN
    app: str = UNKNOWN
    version: str = UNKNOWN
    canonical_service: str = UNKNOWN
    canonical_revision: str = UNKNOWN
    cluster: str = UNKNOWN


NOBODY = WorkloadLabels()


def describe(
    labels: Mapping[str, str], *, workload: str = "", namespace: str = "", cluster: str = ""
) -> WorkloadLabels:
    """Derive them from a workload's Kubernetes labels in Istio's order of preference (istio.io, "Canonical service").

    Arguments win over the labels ``workload``, ``namespace`` and ``cluster`` that a control plane adds.
    """
    workload = workload or labels.get("workload", "") or labels.get("service.istio.io/workload-name", "")
    app = labels.get("app", "")
    version = labels.get("version", "")
    return WorkloadLabels(
        workload=workload or UNKNOWN,
        namespace=namespace or labels.get("namespace", "") or UNKNOWN,
        app=app or UNKNOWN,
        version=version or UNKNOWN,
        canonical_service=labels.get("canonical_service")
        or labels.get("service.istio.io/canonical-name")
        or labels.get("app.kubernetes.io/name")
        or app
        or workload
        or UNKNOWN,
        canonical_revision=labels.get("canonical_revision")
        or labels.get("service.istio.io/canonical-revision")
        or labels.get("app.kubernetes.io/version")
        or version
        or "latest",
        cluster=cluster or labels.get("cluster", "") or DEFAULT_CLUSTER,
    )
