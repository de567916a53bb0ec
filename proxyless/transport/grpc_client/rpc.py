"""One call of an application, whichever of gRPC's two APIs and four kinds it came by: what needs no I/O."""

import math
import time
from typing import Any, NamedTuple

from proxyless.engine.call import Call
from proxyless.engine.record import CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Attempt
from proxyless.model.snapshot import Snapshot
from proxyless.telemetry.observation import ClientObservation
from proxyless.transport.completion import Completion
from proxyless.transport.grpc_client.metadata import OWN, Metadata, lines, metadata
from proxyless.transport.grpc_client.status import Status
from proxyless.transport.runtime import Runtime

# The waits between rounds of a call with wait_for_ready, in seconds.
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0


class Asked(NamedTuple):
    """The arguments of a call, as grpcio has them. timeout: seconds, None for no limit."""

    timeout: float | None = None
    metadata: Any = None
    credentials: Any = None
    wait_for_ready: bool | None = None
    compression: Any = None


class Rpc:
    """``begin`` gives the engine's call; with ``wait_for_ready`` there may be several, one after the other."""

    __slots__ = (
        "_call",
        "_runtime",
        "_watched",
        "asked",
        "deadline",
        "observation",
        "request",
        "request_bytes",
        "response_bytes",
    )
    observation: ClientObservation

    def __init__(self, runtime: Runtime, target: str, method: str, asked: Asked) -> None:
        request = Request("POST", target, method, headers=[*OWN, *lines(asked.metadata)])
        # Nor is NaN a limit: it would upset the loop's timers.
        if asked.timeout is not None and asked.timeout < math.inf:
            request.deadline = time.monotonic() + asked.timeout
        self._set(runtime, asked, runtime.telemetry.begin_client(request))
        self._watched = self.observation.watch()

    def _set(self, runtime: Runtime, asked: Asked, observation: ClientObservation) -> None:
        self._watched = False
        self._runtime = runtime
        self.asked = asked
        self.observation = observation
        self.request = observation.request
        self._call: Call | None = None
        self.deadline = self.request.deadline
        self.request_bytes = self.response_bytes = 0

    def begin(self, snapshot: Snapshot) -> Call:
        if self._call is not None:
            self._call.finish()
            if self._watched:
                self.observation.attempts_over(self._call.record)
        started = time.monotonic()
        self._call = call = self._runtime.engine.call(snapshot, self.request)
        call.record.policy = time.monotonic() - started
        return call

    def remaining(self) -> float | None:
        """Seconds until the deadline, never below 0; None for no limit."""
        deadline = self._call.deadline if self._call is not None else self.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    @property
    def record(self) -> CallRecord | None:
        """What the mesh did, as far as it went; None before there was a decision."""
        return self._call.record if self._call is not None else None

    def attempt(self, step: Attempt) -> Attempt:
        """The step as telemetry wants it sent."""
        if not self._watched:
            return step
        return step._replace(headers=self.observation.attempt(step.number, step.headers))

    def arguments(self, step: Attempt) -> dict[str, Any]:
        """For grpcio's call of an attempt. All the time that is left goes on the wire as ``grpc-timeout``."""
        asked = self.asked
        return {
            "timeout": self.remaining(),
            "metadata": metadata(step.headers),
            "credentials": asked.credentials,
            "wait_for_ready": False,
            "compression": asked.compression,
        }

    def headers(self, initial: Metadata) -> Metadata:
        """Initial metadata as the routes have it changed."""
        assert self._call is not None
        return metadata(self._call.response_headers(lines(initial)))

    def end(self, status: Status) -> None:
        if self._call is None:
            # Nothing was decided: the mesh has no answer about the target, or nobody waited for it.
            record = CallRecord(self.request.target, self.observation.started, reason=status.details)
            self.observation.end(record, error=str(status), grpc_status=status.number)
            return
        self._end(Completion(self._call, self.observation), status)

    def _end(self, completion: Completion, status: Status) -> None:
        completion.request_bytes, completion.response_bytes = self.request_bytes, self.response_bytes
        completion.grpc_status = status.number
        if completion.call.listens:
            completion.call.loaded(lines(status.trailing))
        completion.end(None if status.ok else Ended(str(status)))


class CopyRpc(Rpc):
    """A copy that is mirrored. It takes what time its route allows, and waits for no connection."""

    __slots__ = ("_completion",)

    def __init__(self, runtime: Runtime, copy: Completion, asked: Asked) -> None:
        self._completion = copy
        self._set(runtime, asked._replace(timeout=None, wait_for_ready=False), copy.observation)

    def begin(self, snapshot: Snapshot) -> Call:
        self._call = call = self._completion.call
        return call

    def end(self, status: Status) -> None:
        self._end(self._completion, status)


class Ended(Exception):
    """How telemetry hears of a status that is not OK."""
