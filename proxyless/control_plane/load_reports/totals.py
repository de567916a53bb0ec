"""Reported requests, by cluster. What clients say is not checked, and only counted; how much is kept is bounded."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

MAX_CLUSTERS = 10_000
MAX_CATEGORIES = 100
MAX_NAME_LENGTH = 500
# Stands for all clusters, or drop categories, beyond the bound.
OTHER = "(other)"
# Drops that a client counts without saying why.
UNNAMED = "(unnamed)"


class LoadTotals:
    """Totals since the start. issued, succeeded, failed: by cluster; dropped: by cluster and drop category."""

    def __init__(self, max_clusters: int = MAX_CLUSTERS, max_categories: int = MAX_CATEGORIES) -> None:
        self.reports = 0
        self._max_clusters = max_clusters
        self._max_categories = max_categories
        self._clusters: dict[str, None] = {}
        self._categories: dict[str, None] = {}
        self._issued = Counter[str]()
        self._succeeded = Counter[str]()
        self._failed = Counter[str]()
        self._dropped = Counter[tuple[str, str]]()

    @property
    def issued(self) -> Mapping[str, int]:
        return MappingProxyType(self._issued)

    @property
    def succeeded(self) -> Mapping[str, int]:
        return MappingProxyType(self._succeeded)

    @property
    def failed(self) -> Mapping[str, int]:
        return MappingProxyType(self._failed)

    @property
    def dropped(self) -> Mapping[tuple[str, str], int]:
        return MappingProxyType(self._dropped)

    def add(self, clusters: Iterable[Any]) -> None:
        """One report: envoy.config.endpoint.v3.ClusterStats messages. They count since the client's last report."""
        self.reports += 1
        for stats in clusters:
            cluster = _bounded(self._clusters, stats.cluster_name, self._max_clusters)
            localities = stats.upstream_locality_stats
            self._issued[cluster] += sum(locality.total_issued_requests for locality in localities)
            self._succeeded[cluster] += sum(locality.total_successful_requests for locality in localities)
            self._failed[cluster] += sum(locality.total_error_requests for locality in localities)
            named = 0
            for drop in stats.dropped_requests:
                category = _bounded(self._categories, drop.category, self._max_categories)
                self._dropped[(cluster, category)] += drop.dropped_count
                named += drop.dropped_count
            # The total includes the named ones.
            if stats.total_dropped_requests > named:
                self._dropped[(cluster, UNNAMED)] += stats.total_dropped_requests - named


def _bounded(known: dict[str, None], name: str, most: int) -> str:
    # Printable: it ends up in metrics and on terminals.
    name = "".join(letter if letter.isprintable() else " " for letter in name[:MAX_NAME_LENGTH])
    if name not in known:
        if len(known) >= most:
            return OTHER
        known[name] = None
    return name
