"""The end of a call: told to the engine and to telemetry once, whoever notices it first."""

from proxyless.engine.call import Call
from proxyless.telemetry.observation import ClientObservation


class Completion:
    """response_bytes, request_bytes: body sizes as far as they went. grpc_status: its number, "" outside gRPC."""

    __slots__ = ("_done", "call", "grpc_status", "observation", "request_bytes", "response_bytes")

    def __init__(self, call: Call, observation: ClientObservation) -> None:
        self.call = call
        self.observation = observation
        self.request_bytes = self.response_bytes = 0
        self.grpc_status = ""
        self._done = False

    def end(self, error: BaseException | None = None) -> None:
        """error: what the application gets instead of (the rest of) a response."""
        if self._done:
            return
        self._done = True
        self.call.finish()
        record = self.call.record
        if record.attempts and record.ended is not None:
            last = record.attempts[-1]
            if last.ended is not None and last.status is not None:
                last.receive = record.ended - last.ended
        self.observation.end(
            self.call.record,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            error="" if error is None else f"{type(error).__name__}: {error}",
            grpc_status=self.grpc_status,
        )
