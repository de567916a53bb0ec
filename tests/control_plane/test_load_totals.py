"""What is kept of load reports is bounded, whatever clients call their clusters."""

from typing import Any

import pytest
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats

from proxyless.control_plane.load_reports.totals import MAX_NAME_LENGTH, OTHER, UNNAMED, LoadTotals


def stats(name: str, issued: int = 1, drops: dict[str, int] | None = None, dropped: int = 0) -> Any:
    return ClusterStats(
        cluster_name=name,
        upstream_locality_stats=[{"total_issued_requests": issued}],
        total_dropped_requests=dropped,
        dropped_requests=[{"category": name, "dropped_count": count} for name, count in (drops or {}).items()],
    )


def test_clusters_beyond_the_bound_are_counted_together() -> None:
    totals = LoadTotals(max_clusters=2)
    totals.add([stats("a"), stats("b", 2), stats("c", 4)])
    totals.add([stats("d", 8), stats("a")])
    assert dict(totals.issued) == {"a": 2, "b": 2, OTHER: 12}
    assert totals.reports == 2


def test_categories_beyond_the_bound_are_counted_together() -> None:
    totals = LoadTotals(max_categories=1)
    totals.add([stats("a", drops={"x": 1, "y": 2}), stats("b", drops={"x": 4, "z": 8})])
    assert dict(totals.dropped) == {("a", "x"): 1, ("a", OTHER): 2, ("b", "x"): 4, ("b", OTHER): 8}


@pytest.mark.parametrize(("total", "unnamed"), [(0, None), (3, None), (5, 2)])
def test_drops_without_a_category_are_what_is_left_of_the_total(total: int, unnamed: int | None) -> None:
    totals = LoadTotals()
    totals.add([stats("a", drops={"x": 3}, dropped=total)])
    assert totals.dropped.get(("a", UNNAMED)) == unnamed


def test_long_names_are_cut() -> None:
    totals = LoadTotals()
    totals.add([stats("x" * 100_000)])
    assert [len(name) for name in totals.issued] == [MAX_NAME_LENGTH]


def test_names_are_printable() -> None:
    totals = LoadTotals()
    totals.add([stats("a\x1b[2J\n", drops={"b\r": 1})])
    assert all((cluster + category).isprintable() for cluster, category in totals.dropped)
    assert all(cluster.isprintable() for cluster in totals.issued)
