"""Attempts of a call that are under way together. Source: Envoy's router filter, HedgePolicy.hedge_on_per_try_timeout.

An attempt that has brought no response head within the per-try timeout goes on, and a retry begins beside it, if there
is one left and room for it. The first answer that no retry condition names is the call's, and so is the last of all.
"""

from collections.abc import Callable

from proxyless.engine.balance.state import Hold
from proxyless.engine.record import AttemptRecord, CallRecord
from proxyless.engine.replies import is_grpc
from proxyless.engine.request import Request
from proxyless.engine.steps import Failed, FailureKind, Outcome, Step, Wait
from proxyless.model.cluster import Endpoint

# What is late, as outlier detection and the retry policy see it. It can be tried again only if its body can.
LATE = Failed(FailureKind.TIMEOUT, "no response within the per-try timeout", request_sent=True, body_consumed=True)
_CANCELLED = "1"


class Flight:
    """An attempt under way. late: that was told to outlier detection. retried: there is another because of it."""

    __slots__ = ("hold", "late", "record", "retried")

    def __init__(self, record: AttemptRecord, hold: Hold | None) -> None:
        self.record = record
        self.hold = hold
        self.late = self.retried = False

    def release(self) -> None:
        if self.hold is not None:
            self.hold.release()


class Hedging:
    """patience: seconds until an attempt is late. attempt, retry_after, judge: the call's, which makes an attempt, says
    after how long it may, and tells outlier detection.
    """

    __slots__ = ("_attempt", "_clock", "_due", "_flights", "_judge", "_patience", "_pending", "_record", "_retry_after")

    def __init__(
        self,
        patience: float,
        record: CallRecord,
        clock: Callable[[], float],
        *,
        attempt: Callable[[], Step | None],
        retry_after: Callable[[str, Outcome, float], float | None],
        judge: Callable[[Endpoint, Outcome, float], None],
    ) -> None:
        self._patience = patience
        self._record = record
        self._clock = clock
        self._attempt = attempt
        self._retry_after = retry_after
        self._judge = judge
        self._flights: dict[int, Flight] = {}
        # When the newest attempt is late, or, if one is pending, when it begins.
        self._due: float | None = None
        self._pending = False

    @property
    def busy(self) -> bool:
        return bool(self._flights)

    def begin(self, record: AttemptRecord, hold: Hold | None, now: float) -> None:
        """The newest attempt, the last of the call's record."""
        record.hedge = self.busy
        self._flights[record.number] = Flight(record, hold)
        self._due, self._pending = now + self._patience, False

    def ended(self, number: int) -> Flight:
        """An attempt, by its number."""
        return self._flights.pop(number)

    def step(self) -> Step | None:
        now = self._clock()
        if self._due is None or now < self._due:
            return Wait(None if self._due is None else self._due - now)
        if self._pending:
            return self._attempt()
        # The newest is late, and may be so only once.
        self._due = None
        newest = self._flights[self._record.attempts[-1].number]
        newest.late = True
        self._judge(newest.record.endpoint, LATE, now)
        newest.retried = self._retry("no response within the per-try timeout", LATE, now)
        return self.step()

    def give_up(self) -> Step | None:
        """There is no room for the attempt that was due: the others go on."""
        self._due, self._pending = None, False
        return self.step()

    def settles(self, flight: Flight, condition: str | None, outcome: Outcome, now: float, *, whole: bool) -> bool:
        """Whether the call ends with what an attempt brought; if not, the others or a retry decide.

        condition: why it should be retried. whole: the time of the whole call is over.
        """
        if whole:
            for other in self._flights.values():
                if not other.late:
                    self._judge(other.record.endpoint, LATE, now)
        else:
            if not flight.retried:
                # It was the newest, so nothing else is due.
                self._due = None
                if condition is not None:
                    self._retry(condition, outcome, now)
            if (condition is not None or isinstance(outcome, Failed)) and (self._flights or self._pending):
                flight.release()
                return False
            if condition is None:
                self._record.reason = ""  # why there was no other attempt
        attempts = self._record.attempts
        attempts.remove(flight.record)
        attempts.append(flight.record)
        return True

    def end(self, request: Request, now: float) -> None:
        """The call is decided: nobody wants the others any more."""
        self._due, self._pending = None, False
        for flight in self._flights.values():
            flight.release()
            flight.record.ended, flight.record.lost = now, True
            if is_grpc(request):
                flight.record.grpc_status = _CANCELLED
        self._flights.clear()

    def _retry(self, condition: str, outcome: Outcome, now: float) -> bool:
        wait = self._retry_after(condition, outcome, now)
        self._pending = wait is not None
        self._due = None if wait is None else now + wait
        return self._pending
