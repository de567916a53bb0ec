"""What a server says of its load: recorders, and what is measured."""

import math
import os
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

import proxyless
from proxyless.engine.request import Request
from proxyless.model.load_report import LoadReport
from proxyless.telemetry import process_load
from proxyless.telemetry.application import serving
from proxyless.telemetry.load_recorders import CallMetricRecorder, ServerMetricRecorder, call_metrics
from proxyless.telemetry.observation import Connection
from proxyless.telemetry.process_load import ProcessLoad
from proxyless.telemetry.telemetry import Telemetry

NUMBERS: dict[str, tuple[Callable[[Any, float], Any], Callable[[Any, float], Any]]] = {
    "cpu_utilization": (
        CallMetricRecorder.record_cpu_utilization_metric,
        ServerMetricRecorder.set_cpu_utilization_metric,
    ),
    "memory_utilization": (
        CallMetricRecorder.record_memory_utilization_metric,
        ServerMetricRecorder.set_memory_utilization_metric,
    ),
    "application_utilization": (
        CallMetricRecorder.record_application_utilization_metric,
        ServerMetricRecorder.set_application_utilization_metric,
    ),
    "qps": (CallMetricRecorder.record_qps_metric, ServerMetricRecorder.set_qps_metric),
    "eps": (CallMetricRecorder.record_eps_metric, ServerMetricRecorder.set_eps_metric),
}
OVER_ONE = {"cpu_utilization", "application_utilization", "qps", "eps"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def nothing_served() -> tuple[int, int]:
    return 0, 0


@pytest.mark.parametrize("name", list(NUMBERS))
@pytest.mark.parametrize("value", [0.0, 0.25, 1, 3.5, -0.1, math.nan, math.inf])
def test_values_that_cannot_be_right_are_left_out(name: str, value: float) -> None:
    record, set_ = NUMBERS[name]
    valid = 0 <= value <= 1 or (name in OVER_ONE and 1 < value < math.inf)
    for recorder, tell in ((CallMetricRecorder(), record), (ServerMetricRecorder(nothing_served), set_)):
        tell(recorder, 0.5)
        tell(recorder, value)
        # 0 is "not told" on the wire; a server's is measured then.
        if value:
            assert getattr(recorder.report(), name) == (value if valid else 0.5)


def test_metrics_by_name() -> None:
    recorder = CallMetricRecorder()
    recorder.record_request_cost_metric("rows", -3).record_request_cost_metric("bad", math.inf)
    recorder.record_utilization_metric("queue", 0.5).record_utilization_metric("queue", 1.5)
    recorder.record_named_metric("depth", 7).record_named_metric("depth", 8)
    report = recorder.report()
    assert (report.request_cost, report.utilization, report.named_metrics) == (
        {"rows": -3},
        {"queue": 0.5},
        {"depth": 8},
    )


def test_what_is_set_stays_until_it_is_deleted() -> None:
    recorder = ServerMetricRecorder(nothing_served)
    for name, (_, set_) in NUMBERS.items():
        set_(recorder, 0.75)
        assert getattr(recorder.report(), name) == 0.75
        getattr(recorder, f"delete_{name}_metric")()
        assert getattr(recorder.report(), name) != 0.75
    recorder.set_utilization_metric("a", 0.1)
    recorder.set_utilization_metric("b", 0.2)
    recorder.delete_utilization_metric("a")
    assert recorder.report().utilization == {"b": 0.2}
    recorder.set_all_utilization_metrics({"c": 0.3, "d": 2})
    assert recorder.report().utilization == {"c": 0.3}


def test_a_request_says_it_over_the_server() -> None:
    recorder = ServerMetricRecorder(nothing_served)
    assert recorder.of_call(None) is None
    recorder.set_qps_metric(100)
    recorder.set_application_utilization_metric(0.5)
    recorder.set_utilization_metric("queue", 0.1)
    recorded = CallMetricRecorder().record_application_utilization_metric(0.9).record_request_cost_metric("rows", 3)
    report = recorder.of_call(recorded)
    assert report is not None
    assert (report.application_utilization, report.qps) == (0.9, 100)
    assert (report.utilization, report.request_cost) == ({"queue": 0.1}, {"rows": 3})
    recorder.report_with_calls()
    told = recorder.of_call(None)
    assert told is not None
    assert told.qps == 100


def test_the_recorder_is_that_of_the_request() -> None:
    telemetry = Telemetry(service="reviews", environ={})

    def begin() -> Any:
        return telemetry.begin_server(Request("GET", "reviews:80", "/"), Connection())

    one, other = begin(), begin()
    with serving(one.context):
        proxyless.call_metrics().record_named_metric("depth", 1)
        # A task or a thread that the request starts.
        inside = copy_context()
        thread = threading.Thread(target=lambda: inside.run(lambda: call_metrics().record_qps_metric(5)))
        thread.start()
        thread.join()
    with serving(other.context):
        assert other.load() is None
    report = one.load()
    assert (report.named_metrics, report.qps) == ({"depth": 1}, 5)
    # Outside of a request nobody reads it.
    call_metrics().record_named_metric("depth", 2)
    assert begin().load() is None


def test_rates_are_of_the_time_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, served, used = Clock(), [0, 0], [0.0]
    monkeypatch.setattr(time, "process_time", lambda: used[0])
    monkeypatch.setattr(process_load, "processors", lambda: 4.0)
    load = ProcessLoad(lambda: (served[0], served[1]), clock)
    served[:], used[0] = [50, 5], 1.0
    clock.now += 0.5
    assert load.report().qps == 0  # too early to tell
    clock.now += 4.5
    report = load.report()
    assert (report.qps, report.eps, report.cpu_utilization) == (10, 1, 0.05)
    served[:] = [80, 5]
    clock.now += 0.9
    assert load.report() is report
    clock.now += 1.1
    report = load.report()
    assert (report.qps, report.eps, report.cpu_utilization) == (15, 0, 0)
    assert 0 < report.memory_utilization < 1


def test_requests_served_and_errors_among_them() -> None:
    telemetry = Telemetry(service="reviews", environ={})
    grpc = [("content-type", "application/grpc")]
    for headers, ended, grpc_status in (
        ([], 200, ""),
        ([], 404, ""),
        ([], 503, ""),
        ([], 0, ""),  # the caller went
        (grpc, 200, "0"),
        (grpc, 200, "5"),
        (grpc, 200, "13"),
    ):
        head = Request("GET", "reviews:80", "/", headers=list(headers))
        telemetry.begin_server(head, Connection()).end(ended, grpc_status=grpc_status)
    assert telemetry._served() == (7, 2)


@pytest.mark.parametrize(
    ("files", "count", "memory"),
    [
        ({}, None, None),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu.max": "50000 100000\n", "memory.max": "1048576\n"}, 0.5, 1048576),
        ({"cpu.max": "\0", "memory.max": "-1"}, None, None),
    ],
)
def test_what_a_container_may_use(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: float | None, memory: int | None
) -> None:
    monkeypatch.setattr(process_load, "_CGROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert process_load.processors() == (count or len(os.sched_getaffinity(0)))
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert process_load.memory_limit() == (memory or whole)


def test_a_report_over_another() -> None:
    base = LoadReport(cpu_utilization=0.5, qps=3, named_metrics={"a": 1, "b": 2})
    over = LoadReport(qps=4, named_metrics={"b": 3}).over(base)
    assert over == LoadReport(cpu_utilization=0.5, qps=4, named_metrics={"a": 1, "b": 3})
