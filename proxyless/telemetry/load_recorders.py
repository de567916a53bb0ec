"""Where an application says how loaded it is: gRPC's recorders (gRFC A51), for one request and for the server.

As in gRPC, a value that cannot be right is left out: a measurement must not fail the request that makes it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from proxyless.model.load_report import LoadReport
from proxyless.telemetry.context import current
from proxyless.telemetry.metrics import reset_after_fork
from proxyless.telemetry.process_load import ProcessLoad


def _any(value: float) -> bool:
    return math.isfinite(value)


def _at_least_zero(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _share(value: float) -> bool:
    return 0 <= value <= 1


class _Values:
    """The metrics that one recorder has. No lock: each change is one operation on a dictionary."""

    __slots__ = ("_maps", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._maps: dict[str, dict[str, float]] = {}

    def _put(self, name: str, value: float, valid: Callable[[float], bool]) -> None:
        if valid(value):
            self._numbers[name] = float(value)

    def _put_into(self, name: str, key: str, value: float, valid: Callable[[float], bool]) -> None:
        if valid(value):
            self._maps.setdefault(name, {})[str(key)] = float(value)

    def report(self) -> LoadReport:
        """What was recorded so far."""
        maps = {name: dict(values) for name, values in list(self._maps.items())}
        return LoadReport(**self._numbers, **maps)  # type: ignore[arg-type]


class CallMetricRecorder(_Values):
    """The load of one request, as gRPC's recorder of the same name. Any thread; the last value of a name counts.

    It is told to the caller with the end of an RPC's answer, or with the head of an HTTP response: what an HTTP
    application records after that comes too late.
    """

    __slots__ = ()

    def record_cpu_utilization_metric(self, value: float) -> Self:
        """From 0, over 1 where more is asked than there is."""
        self._put("cpu_utilization", value, _at_least_zero)
        return self

    def record_memory_utilization_metric(self, value: float) -> Self:
        """From 0 to 1."""
        self._put("memory_utilization", value, _share)
        return self

    def record_application_utilization_metric(self, value: float) -> Self:
        """How loaded the application is by its own measure: from 0, over 1 where more is asked than there is."""
        self._put("application_utilization", value, _at_least_zero)
        return self

    def record_qps_metric(self, value: float) -> Self:
        """Requests a second, from 0."""
        self._put("qps", value, _at_least_zero)
        return self

    def record_eps_metric(self, value: float) -> Self:
        """Errors a second, from 0."""
        self._put("eps", value, _at_least_zero)
        return self

    def record_request_cost_metric(self, name: str, value: float) -> Self:
        """What this request took, in the application's own unit."""
        self._put_into("request_cost", name, value, _any)
        return self

    def record_utilization_metric(self, name: str, value: float) -> Self:
        """Of a resource of the application's, from 0 to 1."""
        self._put_into("utilization", name, value, _share)
        return self

    def record_named_metric(self, name: str, value: float) -> Self:
        """Anything else."""
        self._put_into("named_metrics", name, value, _any)
        return self


class ServerMetricRecorder(_Values):
    """The load of this process's servers, until it is set anew: what out-of-band reports say, and reports of requests
    where these say nothing themselves.

    What is not set is measured (see ``ProcessLoad``): cpu_utilization, memory_utilization, qps, eps. served: how many
    requests there were so far, and how many errors among them.
    """

    __slots__ = ("_measured", "with_calls")

    def __init__(self, served: Callable[[], tuple[int, int]], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._measured = ProcessLoad(served, clock)
        self.with_calls = False

    def report_with_calls(self, wanted: bool = True) -> None:
        """Whether every answer tells the load, also where its request recorded nothing. Off unless asked for."""
        self.with_calls = wanted

    def set_cpu_utilization_metric(self, value: float) -> None:
        """Values as for ``CallMetricRecorder``, here and below."""
        self._put("cpu_utilization", value, _at_least_zero)

    def set_memory_utilization_metric(self, value: float) -> None:
        self._put("memory_utilization", value, _share)

    def set_application_utilization_metric(self, value: float) -> None:
        self._put("application_utilization", value, _at_least_zero)

    def set_qps_metric(self, value: float) -> None:
        self._put("qps", value, _at_least_zero)

    def set_eps_metric(self, value: float) -> None:
        self._put("eps", value, _at_least_zero)

    def set_utilization_metric(self, name: str, value: float) -> None:
        self._put_into("utilization", name, value, _share)

    def set_all_utilization_metrics(self, metrics: Mapping[str, float]) -> None:
        """These and no others."""
        self._maps["utilization"] = {str(name): float(value) for name, value in metrics.items() if _share(value)}

    def delete_cpu_utilization_metric(self) -> None:
        """What is deleted is measured again, or not told."""
        self._numbers.pop("cpu_utilization", None)

    def delete_memory_utilization_metric(self) -> None:
        self._numbers.pop("memory_utilization", None)

    def delete_application_utilization_metric(self) -> None:
        self._numbers.pop("application_utilization", None)

    def delete_qps_metric(self) -> None:
        self._numbers.pop("qps", None)

    def delete_eps_metric(self) -> None:
        self._numbers.pop("eps", None)

    def delete_utilization_metric(self, name: str) -> None:
        self._maps.get("utilization", {}).pop(name, None)

    def report(self) -> LoadReport:
        """What was set, over what was measured."""
        measured = self._measured.report()
        return super().report().over(measured) if self._numbers or self._maps else measured

    def of_call(self, recorded: CallMetricRecorder | None) -> LoadReport | None:
        """What the answer to a request tells; None for nothing."""
        if recorded is None and not self.with_calls:
            return None
        whole = self.report()
        return whole if recorded is None else recorded.report().over(whole)


class _Making:
    """Threads of one request share its recorder, whoever makes it."""

    def __init__(self) -> None:
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        self.lock = threading.Lock()


_making = _Making()


def call_metrics() -> CallMetricRecorder:
    """The recorder of the request that is being handled here: in its coroutine or thread, and in tasks they start.

    Outside of a request, a recorder that nobody reads.
    """
    context = current.get()
    if context is None:
        return CallMetricRecorder()
    with _making.lock:
        if context.metrics is None:
            context.metrics = CallMetricRecorder()
        return context.metrics
