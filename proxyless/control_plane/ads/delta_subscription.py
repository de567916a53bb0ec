"""What one client of the incremental variant subscribes to of one type, was sent, and accepted. Pure state, no I/O.

The rules are those of the xDS protocol, "Incremental xDS":

- Subscriptions add up; every name that is subscribed to is answered, with the resource or by naming it as removed, also
  if the server believes that the client has it.
- The first request of a type that names nothing subscribes to everything, as ``*`` does, where there is an everything.
  Giving up a name next to ``*`` is answered: the client cannot know whether the wildcard covers it.
- The versions that a reconnecting client brings along stand for what it was sent before: content hashes, so that they
  mean the same after a restart. What is unchanged is not sent; what is gone is removed.
- A request with the outstanding nonce is an ACK or a NACK; its names count whatever its nonce.
- What was refused is not sent again; new content is. A response of several resources that is refused is sent again in
  halves, down to the resource that is at fault: what is good gets through, and the refusal has a name. The search ends
  when the content that is searched changes.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxyless.control_plane.ads.state import WILDCARD, SubscriptionState, Update
from proxyless.control_plane.type_urls import ENDPOINT, FULL_STATE

# A resource that the client has from an earlier stream, in content that is not known here: no message is like this.
_UNKNOWN = b""
# Hashes: many clients are sent the same at about the same time. Few, for what is hashed is held meanwhile.
_REMEMBERED = 64


@dataclass(slots=True)
class DeltaSubscription(SubscriptionState):
    """A subscription of an incremental stream.

    sent, accepted: what the client holds if it accepts everything, and what it holds. refused: why it refused what it
    was last sent, by name.
    """

    names: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    # To be answered whether they changed or not.
    _asked: set[str] = field(default_factory=set)
    _begun: bool = False
    # A wildcard is answered even if the answer is empty: a client that starts waits for it.
    _greeting: bool = False
    # Versions by name that the client brought from an earlier stream.
    _known: dict[str, str] = field(default_factory=dict)
    _offered: frozenset[str] = frozenset()
    # What is left to send of a refused response: a stack of parts.
    _parts: list[frozenset[str]] = field(default_factory=list)
    _sent_digest: int = 0
    _accepted_digest: int = 0

    def request(
        self,
        subscribe: Iterable[str],
        unsubscribe: Iterable[str],
        *,
        known: Mapping[str, str],
        nonce: str,
        error: str | None,
    ) -> None:
        """Take in one DeltaDiscoveryRequest. known: its initial_resource_versions. error: the text of error_detail."""
        wanted, unwanted = set(subscribe), set(unsubscribe)
        if self.outstanding and nonce == self.nonce:
            self._settle(error)
        self._give_up((unwanted - wanted) & self.names)
        if not self._begun:
            self._begun = True
            self._known = dict(known)
            if not wanted and not unwanted and self.type_url in FULL_STATE:
                wanted = {WILDCARD}
            # What it brought along is compared, not asked for; and all that it does not have is new.
            self._asked |= wanted - known.keys() - {WILDCARD}
        else:
            self._asked |= wanted
        self._greeting = self._greeting or WILDCARD in wanted
        self.names |= wanted

    @property
    def pending(self) -> bool:
        return bool(self._asked or self._known or self._parts or self._greeting)

    @property
    def refusals(self) -> Mapping[str, str]:
        return self.refused

    def gone(self, current: Mapping[str, bytes]) -> frozenset[str]:
        brought = (name for name in self._known if self._covers(name) and name not in current)
        return frozenset((*self._lost(current), *brought))

    def unanswered(self) -> None:
        self.outstanding = False
        self._parts.clear()
        self._asked.update(name for name in self._offered if self._covers(name))

    def warm(self, parents: Mapping[str, bytes]) -> None:
        if self.type_url == ENDPOINT:
            # A set of endpoints has its cluster's name.
            self._asked |= parents.keys() & self.names
        else:
            # Which routes a listener refers to, its bytes tell; one too many does no harm.
            self._asked |= {name for name in self.names if any(name.encode() in body for body in parents.values())}

    def offer(
        self, current: Mapping[str, bytes], generation: int, nonce: str, keep: Iterable[str] = ()
    ) -> Update | None:
        kept = frozenset(keep)
        self._adopt(current)
        self._forgive(current)
        need = self._needed(current, kept)
        if any(current.get(name) != self.sent.get(name) for names in self._parts for name in names):
            # The fault may be gone, and an Envoy may not answer before it has all of the new content: one whose load
            # balancer refused a cluster takes that cluster for warming, and answers no later one until it has another.
            self._parts.clear()
        part = self._next_part(need)
        self._explain(self.error)
        chosen = need if part is None else need & part
        # Parts of what was refused go first; what else is needed follows them.
        self.evaluated = generation if chosen == need else generation - 1
        self._asked -= chosen
        if part is None:
            self._asked &= kept
        if not chosen and not self._greeting:
            return None
        self._greeting = False
        for name in chosen:
            self._set_sent(name, current.get(name))
            self.refused.pop(name, None)
        self._offered, self.nonce, self.outstanding = frozenset(chosen), nonce, True
        resources = {name: body for name, body in current.items() if name in chosen}
        return Update(self.type_url, self.sent_version, nonce, resources, tuple(sorted(chosen - current.keys())))

    def _needed(self, current: Mapping[str, bytes], kept: frozenset[str]) -> set[str]:
        """Names to send or to name as removed. One that was asked for, is gone, and is kept for now, waits."""
        asked = {name for name in self._asked if name in current or name not in kept}
        if WILDCARD in asked:
            asked.remove(WILDCARD)
            asked.update(current)
        new = {
            name
            for name, body in current.items()
            if self.accepted.get(name) != body and not (name in self.refused and self.sent.get(name) == body)
        }
        return asked | new | (self._lost(current) - kept)

    def _lost(self, current: Mapping[str, bytes]) -> set[str]:
        """What the client holds or was offered, and is no more; not if it has refused to part with it."""
        return {
            name
            for name in self.sent.keys() | self.accepted.keys()
            if name not in current and not (name in self.refused and name not in self.sent)
        }

    def _adopt(self, current: Mapping[str, bytes]) -> None:
        """Take what the client brought from an earlier stream for what it was sent."""
        for name, version in self._known.items():
            body = current.get(name, _UNKNOWN)
            if self._covers(name) and (body == _UNKNOWN or resource_version(body) == version):
                self._set_sent(name, body)
                self._set_accepted(name, body)
        self._known = {}

    def _forgive(self, current: Mapping[str, bytes]) -> None:
        """A refusal ends when the world is back at what the client uses."""
        for name in list(self.refused):
            if name in self.sent and current.get(name) == self.accepted.get(name, _UNKNOWN):
                self._set_sent(name, self.accepted[name])
                del self.refused[name]

    def _next_part(self, need: set[str]) -> frozenset[str] | None:
        while self._parts:
            if need & (part := self._parts.pop()):
                return part
        return None

    def _give_up(self, names: set[str]) -> None:
        self.names -= names
        if WILDCARD in names:
            names = (self.sent.keys() | self.accepted.keys() | self._asked) - self.names
        elif WILDCARD in self.names:
            self._asked |= names
            return
        for name in names:
            self._set_sent(name, None)
            self._set_accepted(name, None)
            self.refused.pop(name, None)
        self._asked -= names
        self._explain(self.error)

    def _settle(self, error: str | None) -> None:
        self.outstanding = False
        if error is None:
            for name in self._offered:
                self._set_accepted(name, self.sent.get(name))
        elif len(self._offered) > 1:
            names = sorted(self._offered)
            middle = len(names) // 2
            self._parts += [frozenset(names[middle:]), frozenset(names[:middle])]
            # A client may have taken what is good (Envoy does): none of it is known to be what was accepted before.
            self._asked.update(name for name in names if self._covers(name))
        else:
            self.refused.update({name: error for name in self._offered if self._covers(name)})
        self._explain(error or self.error)

    def _explain(self, error: str) -> None:
        """``error``, while it is not known yet which resource is at fault; then the words of those refusals."""
        self.error = error if self._parts else "; ".join(dict.fromkeys(self.refused.values()))

    def _covers(self, name: str) -> bool:
        return name in self.names or WILDCARD in self.names

    def _set_sent(self, name: str, body: bytes | None) -> None:
        self._sent_digest ^= _replace(self.sent, name, body)
        self.sent_version = f"{self._sent_digest:016x}" if self.sent else ""

    def _set_accepted(self, name: str, body: bytes | None) -> None:
        self._accepted_digest ^= _replace(self.accepted, name, body)
        self.accepted_version = f"{self._accepted_digest:016x}" if self.accepted else ""


@functools.lru_cache(_REMEMBERED)
def resource_version(body: bytes) -> str:
    """A hash of one resource's content."""
    return hashlib.sha256(body).hexdigest()[:16]


def _replace(held: dict[str, bytes], name: str, body: bytes | None) -> int:
    """Set or remove one resource; what that changes in the hash of them all, at the cost of what changed."""
    before = held.pop(name, None)
    if body is not None:
        held[name] = body
    return 0 if before == body else _digest(name, before) ^ _digest(name, body)


@functools.lru_cache(_REMEMBERED)
def _digest(name: str, body: bytes | None) -> int:
    if body is None:
        return 0
    encoded = name.encode()
    digest = hashlib.sha256(len(encoded).to_bytes(4, "big") + encoded + body)
    return int.from_bytes(digest.digest()[:8], "big")
