"""How one client stands to the configuration: what the world holds for it now against what it has accepted."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxyless.control_plane.ads.ports import Generated, Generator
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.state import SubscriptionState
from proxyless.control_plane.delivery.status import Refusal, State
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.type_urls import CLUSTER, PUSH_ORDER, short_name

logger = logging.getLogger("proxyless.ads")

# As ``str(Key)`` writes it.
_ORIGIN = re.compile(r"([A-Z]\w+) ([^\s/]+)/([^\s:]+)")


@dataclass(slots=True)
class Standing:
    """By configuration resource. refusals: all there are. notes: what the client's kind cannot take."""

    states: dict[Key, State] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    notes: dict[Key, list[str]] = field(default_factory=dict)

    def take(self, keys: Iterable[Key], state: State) -> None:
        """The worst counts."""
        for key in keys:
            known = self.states.get(key)
            if known is None or known is State.ACCEPTED or state is State.REFUSED:
                self.states[key] = state


class Comparison:
    """One look at many clients, in one world. Compares, sends nothing."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        # Clients of one kind share resources: each is taken apart once. By identity, while it is held here.
        self._made: dict[int, tuple[Generated, bytes, Mapping[Key, bytes]]] = {}

    def standing(self, session: Session) -> Standing:
        """What is not sent yet counts: the world may be newer than the stream."""
        result = Standing()
        for type_url in PUSH_ORDER:
            subscription = session.subscriptions.get(type_url)
            if subscription is None or not subscription.names:
                continue
            refusals = subscription.refusals
            for name, resource in self._current(session, type_url, subscription).items():
                body, made = self._taken_apart(session, type_url, name, resource)
                if resource.notes:
                    _note(result, resource, made, type_url)
                accepted = subscription.accepted.get(name)
                if accepted == body:
                    result.take(made, State.ACCEPTED)
                    continue
                had = accepted is not None
                before = self._generator.sources(session.client, type_url, name, accepted or b"") if had else {}
                # What no longer has a part in it is news to the client too.
                news = tuple(sorted(key for key in {**before, **made} if before.get(key) != made.get(key)))
                result.take(made.keys() - set(news), State.ACCEPTED)
                refused = name in refusals and subscription.sent.get(name) == body
                result.take(news, State.REFUSED if refused else State.PENDING)
                if refused:
                    result.refusals.append(
                        Refusal(session.client.node_id, short_name(type_url), name, refusals[name], news)
                    )
        return result

    def _current(self, session: Session, type_url: str, subscription: SubscriptionState) -> Mapping[str, Generated]:
        try:
            return self._generator.resources(session.client, type_url, subscription.names)
        except Exception:
            # The stream meets the same fault, and says so in its log.
            logger.debug("cannot translate %s for %s", short_name(type_url), session.client.node_id, exc_info=True)
            return {}

    def _taken_apart(
        self, session: Session, type_url: str, name: str, resource: Generated
    ) -> tuple[bytes, Mapping[Key, bytes]]:
        known = self._made.get(id(resource))
        if known is None:
            body: bytes = resource.any.value
            known = resource, body, self._generator.sources(session.client, type_url, name, body)
            self._made[id(resource)] = known
        return known[1], known[2]


def _note(result: Standing, resource: Generated, made: Mapping[Key, bytes], type_url: str) -> None:
    """A note is about the resource that it begins with; of a cluster, about the rules for it, else the service."""
    for note in resource.notes:
        named = _ORIGIN.match(note)
        rules = [key for key in made if key.kind == "DestinationRule"] if type_url == CLUSTER else []
        for key in [Key(*named.groups())] if named else rules or made:
            result.notes.setdefault(key, []).append(note)
