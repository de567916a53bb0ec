"""One line per request, in and out, through the logger ``proxyless.access`` at INFO. Off until that logger is enabled.

The text is Istio's default format (istio.io, "Envoy Access Logs"); the same fields are on the record as
``record.access`` for formatters that write JSON. What a peer sent stays on its line and inside its quotes.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from proxyless.engine.request import Request
from proxyless.telemetry.labels import flag_letters

if TYPE_CHECKING:
    from proxyless.engine.record import CallRecord
    from proxyless.telemetry.observation import ClientObservation, Ending, ServerObservation

logger = logging.getLogger("proxyless.access")
if logger.level == logging.NOTSET:
    # Off by default as Istio's: an application that sets its root logger to INFO did not ask for a line per request.
    logger.setLevel(logging.WARNING)

_LIMIT = 512
# All but printable ASCII, and the quote and the backslash: a control or a line separator could forge a second line.
_UNSAFE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


enabled = partial(logger.isEnabledFor, logging.INFO)


def safe(value: str | None) -> str:
    """A value of a peer as it may stand in a log line; "-" for an absent one."""
    if not value:
        return "-"
    text = value if len(value) <= _LIMIT else value[:_LIMIT] + "..."
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def outbound(seen: ClientObservation, record: CallRecord, ending: Ending, seconds: float) -> None:
    last = record.attempts[-1] if record.attempts else None
    failure = last.failure.detail if last is not None and last.failure is not None else ""
    _write(
        "outbound",
        seen.request,
        ending,
        seconds,
        details=ending.reason,
        failure=ending.error or failure,
        request_id=seen.request_id,
        upstream_host=str(last.endpoint) if last is not None else "",
        upstream_cluster=record.cluster.name if record.cluster is not None else "",
        route=record.route,
        attempts=len(record.attempts),
        hedges=sum(attempt.hedge for attempt in record.attempts),
        answered_by=last.number if last is not None and last.status is not None else 0,
        trace_id=seen.trace.trace_id,
    )


def inbound(seen: ServerObservation, ending: Ending, seconds: float) -> None:
    connection = seen.connection
    _write(
        "inbound",
        seen.head,
        ending,
        seconds,
        details=ending.reason or "via_upstream",
        failure=ending.error,
        request_id=seen.context.request_id,
        local=connection.local,
        remote=connection.remote,
        peer="" if connection.peer is None else str(connection.peer),
        trace_id=seen.context.trace.trace_id,
    )


def _write(
    direction: str,
    head: Request,
    ending: Ending,
    seconds: float,
    *,
    details: str,
    failure: str,
    request_id: str,
    upstream_host: str = "",
    upstream_cluster: str = "",
    local: str = "",
    remote: str = "",
    route: str = "",
    peer: str = "",
    attempts: int = 0,
    hedges: int = 0,
    answered_by: int = 0,
    trace_id: str = "",
) -> None:
    start = datetime.now(UTC).timestamp() - seconds
    access: dict[str, Any] = {
        "direction": direction,
        "start_time": datetime.fromtimestamp(start, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "method": safe(head.method),
        "path": safe(head.path),
        "protocol": "HTTP/1.1",
        "response_code": ending.status,
        "response_flags": flag_letters(ending.flags),
        # Envoy's details contain no spaces, so that the line can be split.
        "response_code_details": safe(details).replace(" ", "_"),
        "upstream_transport_failure_reason": safe(failure),
        "bytes_received": ending.request_bytes,
        "bytes_sent": ending.response_bytes,
        "duration": round(seconds * 1000),
        "x_forwarded_for": safe(head.header("x-forwarded-for")),
        "user_agent": safe(head.header("user-agent")),
        "request_id": safe(request_id),
        "authority": safe(head.authority),
        "upstream_host": safe(upstream_host),
        "upstream_cluster": safe(upstream_cluster),
        "downstream_local_address": safe(local),
        "downstream_remote_address": safe(remote),
        "route_name": safe(route),
        "peer": safe(peer),
        "attempts": attempts,
        "hedges": hedges,
        "answered_by": answered_by,
        "trace_id": trace_id,
    }
    logger.info(
        '[%(start_time)s] "%(method)s %(path)s %(protocol)s" %(response_code)d %(response_flags)s '
        '%(response_code_details)s - "%(upstream_transport_failure_reason)s" %(bytes_received)d %(bytes_sent)d '
        '%(duration)d - "%(x_forwarded_for)s" "%(user_agent)s" "%(request_id)s" "%(authority)s" "%(upstream_host)s" '
        "%(upstream_cluster)s - %(downstream_local_address)s %(downstream_remote_address)s - %(route_name)s",
        access,
        extra={"access": access},
    )
