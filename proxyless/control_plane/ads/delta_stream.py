"""One incremental stream as a state machine: requests in, responses out, no I/O."""

from collections.abc import Collection, Mapping

from proxyless.control_plane.ads.delta_subscription import DeltaSubscription
from proxyless.control_plane.ads.ordering import MAX_NAMES, OrderedStream
from proxyless.control_plane.type_urls import PUSH_ORDER


class DeltaStream(OrderedStream[DeltaSubscription]):
    """All subscriptions of one client's incremental stream."""

    def __init__(self) -> None:
        super().__init__(DeltaSubscription)

    def receive(
        self,
        type_url: str,
        subscribe: Collection[str],
        unsubscribe: Collection[str],
        *,
        known: Mapping[str, str],
        nonce: str,
        error: str | None,
    ) -> DeltaSubscription:
        """Take in one request; raises StreamError if it is beyond the limits. Ask ``responses`` for what follows.

        known: initial_resource_versions, bounded by the size of a message, and then by what the world holds.
        """
        subscription = self._admit(type_url, subscribe)
        # What is not served is never compared, and would be remembered for nothing.
        known = known if type_url in PUSH_ORDER else {}
        subscription.request(subscribe, unsubscribe, known=known, nonce=nonce, error=error)
        if len(subscription.names) > MAX_NAMES:
            raise self._too_much(type_url)
        return subscription
