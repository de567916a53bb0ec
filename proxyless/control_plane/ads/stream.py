"""One state-of-the-world stream as a state machine: requests in, responses out, no I/O."""

from collections.abc import Iterable

from proxyless.control_plane.ads.ordering import MAX_NAMES, MAX_TYPES, OrderedStream, StreamError
from proxyless.control_plane.ads.subscription import Subscription

__all__ = ["MAX_NAMES", "MAX_TYPES", "Stream", "StreamError"]


class Stream(OrderedStream[Subscription]):
    """All subscriptions of one client's stream."""

    def __init__(self) -> None:
        super().__init__(Subscription)

    def receive(self, type_url: str, names: Iterable[str], version: str, nonce: str, error: str | None) -> Subscription:
        """Take in one request; raises StreamError if it is beyond the limits. Ask ``responses`` for what follows."""
        wanted = frozenset(names)
        if len(wanted) > MAX_NAMES:
            raise self._too_much(type_url)
        subscription = self._admit(type_url, wanted)
        subscription.request(wanted, version, nonce, error)
        return subscription
