"""Where something runs: region, zone and sub-zone, from texts and labels in Istio's and Kubernetes' spelling."""

from collections.abc import Mapping

from proxyless.model.cluster import Locality

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"
SUB_ZONE_LABEL = "topology.istio.io/subzone"
# Istio: a workload's own word on where it runs, with dots, because a label's value may not have slashes.
LOCALITY_LABEL = "istio-locality"


def parse_locality(text: str) -> Locality:
    """``region/zone/sub-zone``; what is left out is empty."""
    region, _, rest = text.partition("/")
    zone, _, sub_zone = rest.partition("/")
    return Locality(region, zone, sub_zone)


def locality_of(labels: Mapping[str, str], told: Locality = Locality()) -> Locality:  # noqa: B008  it is frozen
    """``told`` if it says anything, else what the labels say."""
    if told != Locality():
        return told
    if text := labels.get(LOCALITY_LABEL, ""):
        return parse_locality(text if "/" in text else text.replace(".", "/"))
    return Locality(labels.get(REGION_LABEL, ""), labels.get(ZONE_LABEL, ""), labels.get(SUB_ZONE_LABEL, ""))


def topology_labels(labels: Mapping[str, str], locality: Locality) -> Mapping[str, str]:
    """``labels`` with those of the locality, which is what failoverPriority compares (Istio adds them to endpoints)."""
    told = {REGION_LABEL: locality.region, ZONE_LABEL: locality.zone, SUB_ZONE_LABEL: locality.sub_zone}
    return {**{key: value for key, value in told.items() if value}, **labels}
