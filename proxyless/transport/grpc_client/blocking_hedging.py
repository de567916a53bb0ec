"""Attempts of a hedged call, in threads of their own: grpcio's blocking calls cannot be left and gone on with."""

from collections.abc import Callable

from proxyless.engine.call import Call
from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Attempt, Outcome, Respond
from proxyless.transport.blocking_hedging import Race
from proxyless.transport.grpc_client.blocking_attempt import BlockingAttempt


class _Racer:
    def __init__(self, attempt: BlockingAttempt, request: bytes) -> None:
        self.attempt = attempt
        self._request = request

    def perform(self, patience: float | None) -> Outcome | None:
        return None if patience is not None else self.attempt.start(self._request) or self.attempt.first()

    def abandon(self) -> None:
        self.attempt.end()

    def drop(self) -> None:
        self.attempt.end()


def race(
    call: Call, first: Attempt, make: Callable[[Attempt, AttemptRecord], BlockingAttempt], request: bytes
) -> BlockingAttempt | Respond:
    """The attempt that answered, or what to answer instead."""
    found = Race(call, lambda step, record: _Racer(make(step, record), request)).run(first)
    return found.attempt if isinstance(found, _Racer) else found
