"""What one client subscribes to of one resource type, what it was sent and what it accepted. Pure state, no I/O.

The rules are those of the xDS protocol, state of the world:

- A request settles the outstanding response if it repeats its nonce: with an error it is a NACK, with the version that
  was sent an ACK. Any other request, one with a stale nonce included, only says what the client wants now.
- The first request of a stream, also after a reconnect, is always answered, whatever version it claims (as Istio does):
  a client cannot tell a server that has nothing new from one that does not know the resource. An unchanged answer has
  an unchanged version, for versions are content hashes.
- What was refused is not sent again; new content is.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxyless.control_plane.ads.state import WILDCARD, SubscriptionState, Update
from proxyless.control_plane.type_urls import FULL_STATE


@dataclass(slots=True)
class Subscription(SubscriptionState):
    """A subscription of a state-of-the-world stream. refused_version: of the content behind ``error``."""

    refused_version: str = ""
    _asked: bool = False
    _was_named: bool = False
    # What the client asks again for after a cluster or listener was pushed it needs again, changed or not.
    warming: bool = False

    def request(self, names: Iterable[str], version: str, nonce: str, error: str | None) -> None:
        """Take in one DiscoveryRequest; ``error`` is the text of error_detail, None without one."""
        settles = self.outstanding and nonce == self.nonce
        added, removed = self._subscribe(names)
        if settles:
            self._settle(version, error)
        # A request that settles nothing asks for something, unless all it does is to give something up. While warming,
        # a client may put its question and its ACK into one request.
        question = error is None and (self.warming or (not settles and (not removed or not self.nonce)))
        self._asked = bool(self._asked or added or question) and bool(self.names)

    @property
    def pending(self) -> bool:
        return self._asked

    @property
    def refusals(self) -> Mapping[str, str]:
        if not self.error or self.outstanding:
            return {}
        return {name: self.error for name, body in self.sent.items() if self.accepted.get(name) != body}

    def gone(self, current: Mapping[str, bytes]) -> frozenset[str]:
        # Of other types a response takes nothing away.
        return frozenset(self.sent.keys() - current.keys()) if self.type_url in FULL_STATE else frozenset()

    def unanswered(self) -> None:
        self.outstanding = False
        self._asked = bool(self.names)

    def warm(self, parents: Mapping[str, bytes]) -> None:
        self.warming = True

    def offer(
        self, current: Mapping[str, bytes], generation: int, nonce: str, keep: Iterable[str] = ()
    ) -> Update | None:
        """As described there. Answers to a request carry everything that is subscribed; later changes carry, for types
        that allow it, only what the client does not have.
        """
        current = {**{name: self.sent[name] for name in keep}, **current}
        self.evaluated = generation
        if self.type_url not in FULL_STATE:
            # Absence says nothing here; forgetting it makes a resource that returns be sent again.
            self.sent = {name: body for name, body in self.sent.items() if name in current}
        if not self._asked and self.sent == current:
            return None
        partial = not (self._asked or self.warming or self.type_url in FULL_STATE)
        fresh = {name: body for name, body in current.items() if not partial or self.accepted.get(name) != body}
        self._asked = self.warming = False
        self.sent = dict(current)
        self.sent_version = version_of(current)
        self.nonce = nonce
        self.outstanding = True
        return Update(self.type_url, self.sent_version, nonce, fresh)

    def _subscribe(self, names: Iterable[str]) -> tuple[bool, bool]:
        """Take the wanted names; whether anything was added to and removed from them."""
        wanted, before = frozenset(names), self.names
        if self.type_url in FULL_STATE and not wanted and not self._was_named:
            # Nothing named in the first request means all (Envoy's legacy wildcard), and none once something was named.
            wanted = frozenset((WILDCARD,))
        else:
            self._was_named = self._was_named or bool(wanted)
        self.names = wanted
        if WILDCARD not in wanted:
            for kept in (self.sent, self.accepted):
                for name in kept.keys() - wanted:
                    del kept[name]
            if self.error and not self.outstanding and not self.refusals:
                # It gave up what it had refused.
                self.error = self.refused_version = ""
                self.sent_version = self.accepted_version = version_of(self.accepted)
        return bool(wanted - before), bool(before - wanted)

    def _settle(self, version: str, error: str | None) -> None:
        self.outstanding = False
        if error is not None:
            self.error, self.refused_version = error, self.sent_version
        elif version == self.sent_version:
            self.error = self.refused_version = ""
            self.accepted, self.accepted_version = dict(self.sent), self.sent_version


def version_of(resources: Mapping[str, bytes]) -> str:
    """A hash of names and contents, the same in every process that holds the same resources."""
    digest = hashlib.sha256()
    for name in sorted(resources):
        body = resources[name]
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded + len(body).to_bytes(8, "big") + body)
    return digest.hexdigest()[:16]
