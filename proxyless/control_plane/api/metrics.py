"""The control plane's own metrics, in a registry of their own, read when they are asked for."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from proxyless.control_plane.ads.counters import BUCKETS, Histogram
from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.configuration import Configuration
from proxyless.control_plane.load_reports.totals import LoadTotals
from proxyless.control_plane.registry.registry import Registry
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE
from proxyless.model.spiffe import SpiffeId
from proxyless.model.workload import WorkloadState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Istio's counters do not end in ``_total``, which the library would add to a counter's name.
Family = type[CounterMetricFamily] | type[GaugeMetricFamily] | type[UnknownMetricFamily]
_XDS_TYPES = {CLUSTER: "cds", ENDPOINT: "eds", LISTENER: "lds", ROUTE: "rds"}
# Label values, and the value.
Readings = list[tuple[tuple[str, ...], float]]


class Metrics(Collector):
    """Counts what nobody else keeps, and reads the rest where it is."""

    def __init__(self) -> None:
        self.certificates_signed = 0
        self._sources: list[tuple[Family, str, str, tuple[str, ...], Callable[[], Readings]]] = []
        self._histograms: list[tuple[str, str, Histogram]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._counter(
            "proxyless_ca_certificates_signed", "Workload certificates signed.", lambda: self.certificates_signed
        )

    def certificate_signed(self, _: SpiffeId) -> None:
        self.certificates_signed += 1

    def observe(self, ads: AdsServer, configuration: Configuration, registry: Registry) -> None:
        """Read these from now on."""
        self._observe_xds(ads)
        self._gauge("proxyless_config_resources", "Resources in effect.", lambda: len(configuration.resources))

        def problems() -> Readings:
            levels = Counter(problem.level for problem in configuration.problems)
            return [((level.value.lower(),), levels[level]) for level in Level]

        def workloads() -> Readings:
            states = Counter(workload.state for workload in registry.workloads.values())
            return [((state.value,), states[state]) for state in WorkloadState]

        self._add(
            GaugeMetricFamily, "proxyless_config_problems", "Problems of the configuration.", ("level",), problems
        )
        self._add(GaugeMetricFamily, "proxyless_registry_workloads", "Registered workloads.", ("state",), workloads)

    def _observe_xds(self, ads: AdsServer) -> None:
        """By Istio's names, for its dashboards and alerts; ``type`` is Istio's too."""

        def clients() -> Readings:
            return list(Counter((each.client.version, str(each.client.kind.value)) for each in ads.sessions).items())

        def by_type(counts: Mapping[str, int]) -> Callable[[], Readings]:
            return lambda: [((short,), counts.get(type_url, 0)) for type_url, short in _XDS_TYPES.items()]

        def one_type(type_url: str) -> Callable[[], Readings]:
            return lambda: [((), counters.nacks[type_url])]

        counters = ads.counters
        self._add(GaugeMetricFamily, "pilot_xds", "Connected xDS clients.", ("version", "type"), clients)
        for name, text, counts in (
            ("pilot_xds_pushes", "xDS responses sent.", counters.pushes),
            ("pilot_xds_acks", "xDS responses that clients accepted.", counters.acks),
            ("pilot_total_xds_rejects", "xDS responses that clients refused.", counters.nacks),
        ):
            self._add(UnknownMetricFamily, name, text, ("type",), by_type(counts))
        for type_url, short in _XDS_TYPES.items():
            text = f"{short.upper()} responses that clients refused."
            self._add(UnknownMetricFamily, f"pilot_xds_{short}_reject", text, (), one_type(type_url))
        self._histograms.append(
            (
                "pilot_proxy_convergence_time",
                "Seconds from a change of the mesh to a client's having accepted all that it brings.",
                counters.convergence,
            )
        )

    def observe_load(self, totals: LoadTotals) -> None:
        """What clients report of their requests: as trustworthy as they are."""
        self._counter("proxyless_load_reports", "Load reports received from clients.", lambda: totals.reports)

        def by_cluster(counts: Mapping[str, int]) -> Callable[[], Readings]:
            return lambda: [((cluster,), count) for cluster, count in counts.items()]

        for name, text, counts in (
            ("issued", "Requests that clients began", totals.issued),
            ("succeeded", "Requests that succeeded for clients", totals.succeeded),
            ("failed", "Requests that failed for clients", totals.failed),
        ):
            self._add(
                CounterMetricFamily,
                f"proxyless_load_requests_{name}",
                f"{text}, as they report it.",
                ("cluster",),
                by_cluster(counts),
            )
        self._add(
            CounterMetricFamily,
            "proxyless_load_requests_dropped",
            "Requests that clients dropped before sending them, as they report it.",
            ("cluster", "category"),
            lambda: list(totals.dropped.items()),
        )

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._add(GaugeMetricFamily, name, text, (), lambda: [((), read())])

    def _counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._add(CounterMetricFamily, name, text, (), lambda: [((), read())])

    def _add(self, family: Family, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Readings]) -> None:
        self._sources.append((family, name, text, labels, read))

    def collect(self) -> Iterator[Metric]:
        for make, name, text, labels, read in self._sources:
            family = make(name, text, labels=labels)
            for values, value in read():
                family.add_metric(values, value)
            yield family
        for name, text, histogram in self._histograms:
            bounds = [*map(str, BUCKETS), "+Inf"]
            yield HistogramMetricFamily(
                name, text, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total
            )

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
