"""The application's request iterator, read once and played to as many attempts as there are."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from proxyless.transport.grpc_client.outgoing import Outgoing


class Requests:
    """failed: told when the application's iterator raises; the call is cancelled then, as in grpcio."""

    def __init__(
        self, given: Iterator[Any], serialize: Callable[[Any], bytes] | None, failed: Callable[[Exception], None]
    ) -> None:
        self._given = given
        self._serialize = serialize
        self._failed = failed
        self._changed = threading.Condition()
        self._pulling = False
        self.outgoing = Outgoing()

    def play(self, over: Callable[[], bool]) -> Iterator[bytes]:
        """All messages from the first, for one attempt; grpcio reads it in a thread of its own until ``over``."""
        number = 0
        outgoing, changed = self.outgoing, self._changed
        while True:
            with changed:
                outgoing.sent(number)
                while number >= outgoing.end and self._pulling and not over():
                    changed.wait()
                if over() or (number >= outgoing.end and outgoing.ended):
                    return
                if pull := number >= outgoing.end:
                    self._pulling = True
                else:
                    message = outgoing.get(number)
            if pull:
                self._pull()
            else:
                number += 1
                yield message

    def commit(self) -> None:
        """There is no further attempt."""
        with self._changed:
            self.outgoing.keeping = False

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _pull(self) -> None:
        message: bytes | None = None
        problem: Exception | None = None
        try:
            given = next(self._given)
            message = bytes(given) if self._serialize is None else self._serialize(given)
        except StopIteration:
            pass
        except Exception as error:
            problem = error
        with self._changed:
            self._pulling = False
            if message is not None:
                self.outgoing.add(message)
            else:
                self.outgoing.ended = True
            self._changed.notify_all()
        if problem is not None:
            self._failed(problem)
