"""What a server says of its load: ORCA's report (xds.data.orca.v3.OrcaLoadReport, gRFC A51)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# The metadata key, and the HTTP header whose value is the protobuf message (gRFC A51, Envoy's orca_parser).
BINARY = "endpoint-load-metrics-bin"
# The HTTP header whose value says its own format: "JSON {...}", "TEXT key=value,...", "BIN base64" (Envoy's).
HEADER = "endpoint-load-metrics"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Utilizations: 1.0 is all there is; of the processor and the application it may be more. 0: not told.

    qps, eps: requests and errors a second. request_cost: of this request; utilization, named_metrics: of the server.
    """

    cpu_utilization: float = 0.0
    memory_utilization: float = 0.0
    application_utilization: float = 0.0
    qps: float = 0.0
    eps: float = 0.0
    request_cost: Mapping[str, float] = field(default_factory=dict)
    utilization: Mapping[str, float] = field(default_factory=dict)
    named_metrics: Mapping[str, float] = field(default_factory=dict)

    def over(self, base: "LoadReport") -> "LoadReport":
        """This report, with what it does not tell as ``base`` has it."""
        return LoadReport(
            self.cpu_utilization or base.cpu_utilization,
            self.memory_utilization or base.memory_utilization,
            self.application_utilization or base.application_utilization,
            self.qps or base.qps,
            self.eps or base.eps,
            {**base.request_cost, **self.request_cost},
            {**base.utilization, **self.utilization},
            {**base.named_metrics, **self.named_metrics},
        )

    def header(self) -> str:
        """As the value of ``HEADER``: JSON, which has room for all of it and people can read."""
        told: dict[str, object] = {name: value for name, ours in NUMBERS.items() if (value := getattr(self, ours))}
        told |= {name: dict(values) for name in MAPS if (values := getattr(self, name))}
        return f"JSON {json.dumps(told)}"


# The message's names for our fields, in its order: those of one number, and the maps.
NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        "cpu_utilization": "cpu_utilization",
        "mem_utilization": "memory_utilization",
        "rps_fractional": "qps",
        "eps": "eps",
        "application_utilization": "application_utilization",
    }
)
MAPS = ("request_cost", "utilization", "named_metrics")
