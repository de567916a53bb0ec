"""Cluster.outlier_detection: the detectors of consecutive failures."""

from typing import Any

from proxyless.model.cluster import OutlierDetection
from proxyless.xds_client.compile.decode import FieldError, seconds, set_fields

_USUAL = OutlierDetection()
_IGNORED = ("max_ejection_time_jitter", "monitors")


def outlier_detection(message: Any, ignored: list[str]) -> OutlierDetection:
    """Defaults and limits are Envoy's and gRFC A50's."""

    def number(name: str, default: int, *, percent: bool = False) -> int:
        if not message.HasField(name):
            return default
        value = int(getattr(message, name).value)
        if percent and value > 100:
            raise FieldError(f"outlier_detection.{name} must be at most 100, not {value}")
        return value

    def time(name: str, default: float) -> float:
        if not message.HasField(name):
            return default
        value = seconds(getattr(message, name), f"outlier_detection.{name}")
        if not value:
            raise FieldError(f"outlier_detection.{name} must be more than 0")
        return value

    base = time("base_ejection_time", _USUAL.base_ejection_time)
    longest = time("max_ejection_time", max(_USUAL.max_ejection_time, base))
    if longest < base:
        raise FieldError("outlier_detection.max_ejection_time must not be less than base_ejection_time")
    ignored += set_fields(message, _IGNORED, "outlier_detection")
    # Detectors that compare endpoints: on by default in Envoy, switched off by Istio.
    for name, default in (("enforcing_success_rate", 100), ("enforcing_failure_percentage", 0)):
        if number(name, default, percent=True):
            ignored.append(f"outlier_detection.{name.removeprefix('enforcing_')}")
    return OutlierDetection(
        consecutive_5xx=number("consecutive_5xx", _USUAL.consecutive_5xx),
        enforcing_5xx=number("enforcing_consecutive_5xx", _USUAL.enforcing_5xx, percent=True),
        consecutive_gateway_failure=number("consecutive_gateway_failure", _USUAL.consecutive_gateway_failure),
        enforcing_gateway_failure=number(
            "enforcing_consecutive_gateway_failure", _USUAL.enforcing_gateway_failure, percent=True
        ),
        split_local_origin=bool(message.split_external_local_origin_errors),
        consecutive_local_origin_failure=number(
            "consecutive_local_origin_failure", _USUAL.consecutive_local_origin_failure
        ),
        enforcing_local_origin=number(
            "enforcing_consecutive_local_origin_failure", _USUAL.enforcing_local_origin, percent=True
        ),
        interval=time("interval", _USUAL.interval),
        base_ejection_time=base,
        max_ejection_time=longest,
        max_ejection_percent=number("max_ejection_percent", _USUAL.max_ejection_percent, percent=True),
        always_eject_one=bool(message.always_eject_one_host.value),
    )
