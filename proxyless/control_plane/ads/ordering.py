"""The order in which the responses of one stream leave: make before break, in both variants of the protocol.

What disappears together with the resources that used it is kept until the client has accepted the new ones, so that no
request meets a route without its cluster, or a cluster without its endpoints. A resource that only says that there is
no such thing is a disappearance too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from proxyless.control_plane.ads.state import SubscriptionState, Update
from proxyless.control_plane.type_urls import PUSH_ORDER, REMOVAL_ORDER, SENT_AFTER, USED_BY, WARMED_BY, short_name
from proxyless.model.errors import ProxylessError

MAX_NAMES = 10_000
MAX_NAME_LENGTH = 1_000
MAX_TYPES = 32

# What the world holds for this client: a type and the names asked for to serialised messages by name.
Generate = Callable[[str, AbstractSet[str]], Mapping[str, bytes]]
State = TypeVar("State", bound=SubscriptionState)


class StreamError(ProxylessError):
    """The client broke a rule or a limit of the protocol; the stream ends."""


class OrderedStream(Generic[State]):
    """All subscriptions of one client's stream, by type. Requests in, responses out, no I/O."""

    def __init__(self, subscription: Callable[[str], State]) -> None:
        self.subscriptions: dict[str, State] = {}
        self._subscription = subscription
        # The generation that a type was last sent of, but for removals.
        self._made: dict[str, int] = {}
        self._sent = 0

    def responses(
        self, generate: Generate, generation: int, stand_ins: AbstractSet[tuple[str, str]] = frozenset()
    ) -> Iterator[Update]:
        """Every response that is due for this generation of the world, in the order to send them.

        stand_ins: type and name of what ``generate`` (which may fill the set) made only to say that it does not exist.
        Call it after each request and each change of the world; each call sees the state that the previous one left.
        """
        for type_url in (*PUSH_ORDER, *REMOVAL_ORDER):
            subscription = self.subscriptions.get(type_url)
            if subscription is None or not subscription.due(generation) or self._too_early(type_url, generation):
                continue
            current = generate(type_url, subscription.names)
            gone, replaced = subscription.gone(current), _stood_in_for(subscription, current, stand_ins)
            if in_use := bool(gone or replaced) and self._in_use(type_url, generation):
                current = {**current, **replaced}
            keep = gone if in_use else frozenset[str]()
            update = subscription.offer(current, generation, str(self._sent + 1), keep)
            self._made[type_url] = subscription.evaluated
            if in_use:
                # Not done with this generation: the removal follows once its users are replaced.
                subscription.evaluated = generation - 1
            if update is None:
                continue
            self._sent += 1
            if (warms := WARMED_BY.get(type_url)) and (dependent := self.subscriptions.get(warms)):
                dependent.warm(update.resources)
            yield update

    def carry_over(self, before: int, generation: int, touched: AbstractSet[str]) -> None:
        """What was compared with generation ``before`` need not be with this one, but for the types touched since."""
        for type_url, subscription in self.subscriptions.items():
            if type_url not in touched:
                if subscription.evaluated == before:
                    subscription.evaluated = generation
                if self._made.get(type_url) == before:
                    self._made[type_url] = generation

    def settled(self, generation: int) -> bool:
        """Whether the client has accepted all it subscribes to, of the types we serve, up to ``generation``."""
        return all(self.subscriptions[known].settled(generation) for known in PUSH_ORDER if known in self.subscriptions)

    def _admit(self, type_url: str, names: Iterable[str]) -> State:
        """The subscription that a request is for; raises StreamError if the request is beyond the limits."""
        if not type_url:
            raise StreamError("a request on an aggregated stream must name its type_url")
        if any(len(name) > MAX_NAME_LENGTH for name in names):
            raise self._too_much(type_url)
        if type_url not in self.subscriptions:
            if len(self.subscriptions) >= MAX_TYPES:
                raise StreamError(f"a stream may subscribe to {MAX_TYPES} types")
            self.subscriptions[type_url] = self._subscription(type_url)
        return self.subscriptions[type_url]

    @staticmethod
    def _too_much(type_url: str) -> StreamError:
        return StreamError(
            f"a subscription to {short_name(type_url)} may have {MAX_NAMES} names of {MAX_NAME_LENGTH} characters"
        )

    def _too_early(self, type_url: str, generation: int) -> bool:
        """Whether a change would arrive before what it refers to. What the client asks for is not held back: it may
        not answer before it has that.
        """
        made = SENT_AFTER.get(type_url, "")
        return (
            made in self.subscriptions
            and not self.subscriptions[type_url].pending
            and self._made.get(made, -1) < generation
        )

    def _in_use(self, type_url: str, generation: int) -> bool:
        """Whether the client may still use resources of this type that the world no longer has."""
        users = [self.subscriptions[user] for user in USED_BY.get(type_url, ()) if user in self.subscriptions]
        return not all(user.settled(generation) and not user.error for user in users)


def _stood_in_for(
    subscription: SubscriptionState, current: Mapping[str, bytes], stand_ins: AbstractSet[tuple[str, str]]
) -> dict[str, bytes]:
    """What the client was sent, by name, of what there is only a stand-in for now."""
    kind, sent = subscription.type_url, subscription.sent
    # Of what it brought from an earlier stream the content may be unknown, and cannot be kept.
    return {
        name: had
        for name, body in current.items()
        if (kind, name) in stand_ins and (had := sent.get(name)) and had != body
    }
