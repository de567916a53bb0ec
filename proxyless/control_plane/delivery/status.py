"""What became of one configuration resource, and of a change, in the connected clients. Plain data."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.resources.resource import Key


class State(enum.Enum):
    """The worst of what clients say: each outweighs those before it."""

    UNUSED = "unused"  # no connected client was sent anything made from it
    ACCEPTED = "accepted"
    PENDING = "pending"  # not sent yet, or not answered
    REFUSED = "refused"  # what the client accepted before stays in use


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client's no to one xDS resource. type: such as ``clusters``. reason: the client's words.

    made_from: the configuration resources whose part in it the client does not have.
    """

    node: str
    type: str
    name: str
    reason: str
    made_from: tuple[Key, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"node": self.node, "type": self.type, "name": self.name, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """accepted, pending, refused: node ids. left_out: kind of client, and what such clients cannot take of it."""

    accepted: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def state(self) -> State:
        if self.refused:
            return State.REFUSED
        if self.pending:
            return State.PENDING
        return State.ACCEPTED if self.accepted else State.UNUSED

    def to_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "accepted": len(self.accepted),
            "pending": len(self.pending),
            "refused": len(self.refused),
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "leftOut": [{"kind": kind, "note": note} for kind, note in self.left_out],
        }


@dataclass(frozen=True, slots=True)
class Rollout:
    """What became of a change: nodes that accepted it, that refused it (with everything they refused), that lag."""

    accepted: tuple[str, ...] = ()
    refused: tuple[tuple[str, str, tuple[Refusal, ...]], ...] = ()
    lagging: tuple[str, ...] = ()


def words(refusals: Iterable[Refusal]) -> str:
    """``type: the client's text``, each once."""
    return "; ".join(dict.fromkeys(f"{refusal.type}: {refusal.reason}" for refusal in refusals))
