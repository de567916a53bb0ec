"""Istio's HTTPRetry, and its default, as Envoy's RetryPolicy."""

from http import HTTPStatus

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from proxyless.control_plane.resources.virtual_service import HTTPRetry
from proxyless.control_plane.translate.client import ClientKind
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import pack

DEFAULT_CONDITIONS = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
# The library's own: the connection ended before any byte of a response and the method is idempotent.
_OWN_CONDITION = "reset-idempotent"
# With 1 ms, less its jitter, grpcio 1.85 never makes the second attempt.
_GRPC_BACK_OFF = 0.002
_STATUSES = {status.value for status in HTTPStatus}


def retry_policy(asked: HTTPRetry | None, kind: ClientKind, *, sticky: bool = False) -> rc.RetryPolicy | None:
    """Istio's default where nothing is asked; None for ``attempts: 0``, which switches retries off.

    sticky: requests are balanced by hash, so that another host would be the wrong one.
    Source: istio/pilot/pkg/networking/core/route/retry.
    """
    if asked is not None and asked.attempts <= 0:
        return None
    policy = rc.RetryPolicy(
        num_retries=UInt32Value(value=2),
        retry_on=DEFAULT_CONDITIONS,
        host_selection_retry_max_attempts=5,
    )
    other_host = not sticky
    if kind is ClientKind.PROXYLESS and (asked is None or not asked.retry_on):
        policy.retry_on += f",{_OWN_CONDITION}"
    if asked is not None:
        policy.num_retries.value = asked.attempts
        if asked.retry_on:
            policy.retry_on, codes = _conditions(asked.retry_on)
            policy.retriable_status_codes.extend(codes)
        if asked.per_try_timeout is not None:
            policy.per_try_timeout.CopyFrom(duration(asked.per_try_timeout))
        if asked.retry_ignore_previous_hosts is not None:
            other_host = asked.retry_ignore_previous_hosts
        if asked.retry_remote_localities and kind is ClientKind.ENVOY:
            policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
            policy.retry_priority.typed_config.CopyFrom(
                pack(previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2))
            )
        # Envoy refuses a base interval of 0.
        if asked.backoff:
            shortest = _GRPC_BACK_OFF if kind is ClientKind.GRPC else 0.0
            policy.retry_back_off.base_interval.CopyFrom(duration(max(asked.backoff, shortest)))
    if other_host:
        policy.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
        )
    return policy


def _conditions(retry_on: str) -> tuple[str, list[int]]:
    """Names stay, numbers that are HTTP statuses become retriable_status_codes."""
    names: list[str] = []
    codes: list[int] = []
    for part in (part.strip() for part in retry_on.split(",")):
        if part.isascii() and part.isdigit() and int(part[:4]) in _STATUSES:
            codes.append(int(part))
        elif part:
            names.append(part)
    if codes and "retriable-status-codes" not in names:
        names.append("retriable-status-codes")
    return ",".join(names), codes
