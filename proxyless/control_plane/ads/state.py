"""What both variants of the protocol keep of one subscription, and what a response to send is. Pure state, no I/O."""

import abc
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Update:
    """A response to send. ``resources`` are serialised messages by name; ``removed`` is for the incremental variant."""

    type_url: str
    version: str
    nonce: str
    resources: Mapping[str, bytes]
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class SubscriptionState(abc.ABC):
    """The state of one type on one stream.

    names: what is asked for; ``*`` is all of it. sent, accepted: what the client got and took, by name. evaluated: the
    generation of the world that the state was last compared with. error: why the client refused what it was last sent.

    In both variants one response of a type is outstanding at a time: a later change waits for the ACK or NACK, and
    changes in between become one. So a slow client costs what the newest world holds for it, and no more. One that does
    not answer at all is sent what is new after a while (``Session``).
    """

    type_url: str
    names: AbstractSet[str] = frozenset()
    sent: dict[str, bytes] = field(default_factory=dict)
    accepted: dict[str, bytes] = field(default_factory=dict)
    sent_version: str = ""
    accepted_version: str = ""
    nonce: str = ""
    outstanding: bool = False
    evaluated: int = -1
    error: str = ""

    @property
    @abc.abstractmethod
    def pending(self) -> bool:
        """Whether the client waits for an answer, whether the world changes or not."""

    @property
    @abc.abstractmethod
    def refusals(self) -> Mapping[str, str]:
        """Why the client refused what it was last sent, by resource, as far as that can be told."""

    @abc.abstractmethod
    def gone(self, current: Mapping[str, bytes]) -> AbstractSet[str]:
        """Resources that the client has, and that sending this world would take away from it."""

    @abc.abstractmethod
    def offer(
        self, current: Mapping[str, bytes], generation: int, nonce: str, keep: Iterable[str] = ()
    ) -> Update | None:
        """Compare with what the world holds for this client now; the response to send, if one is needed.

        Call it only when ``due``. keep: of what is gone, what the client must not lose yet.
        """

    @abc.abstractmethod
    def warm(self, parents: Mapping[str, bytes]) -> None:
        """The client is being sent these resources, which it uses only once it was sent what they refer to, again."""

    @abc.abstractmethod
    def unanswered(self) -> None:
        """Stop waiting for the answer to what is outstanding. The client may use it or not: it is sent again, as it is
        by then. Call it only before an ``offer``.
        """

    def due(self, generation: int) -> bool:
        """Whether the subscription has to be compared with the world now."""
        return not self.outstanding and (self.pending or self.evaluated < generation)

    def settled(self, generation: int) -> bool:
        """Whether the client has accepted, or never needed, everything up to ``generation`` and waits for nothing."""
        return not self.outstanding and not self.pending and self.evaluated >= generation
