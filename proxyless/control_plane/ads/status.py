"""What ``proxy-status`` and ``proxy-config`` show of a connected client, as plain data."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxyless.control_plane.ads.state import SubscriptionState
from proxyless.control_plane.type_urls import short_name


class SyncState(enum.Enum):
    """The words of ``istioctl proxy-status``; NACKED is what it shows as an error."""

    SYNCED = "SYNCED"  # accepted what it was last sent
    STALE = "STALE"  # was sent something and has not answered
    NACKED = "NACKED"  # refused what it was last sent; what it accepted before is in use
    NOT_SENT = "NOT SENT"  # nothing was sent for this type


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One subscription. ``*`` among the names is all resources; versions are content hashes.

    refused: the client's words by resource name, as far as they can be told apart; error: all of them.
    """

    type: str
    state: SyncState
    names: tuple[str, ...]
    sent_version: str
    accepted_version: str
    error: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "state": self.state.value,
            "names": list(self.names),
            "sentVersion": self.sent_version,
            "acceptedVersion": self.accepted_version,
            "error": self.error,
            "refused": dict(self.refused),
        }


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One connected client. ``since`` is Unix seconds.

    identity: its verified SPIFFE ID, empty on the plaintext port. delta: whether it speaks the incremental variant.
    version: of its software, as it says. left_out: what its kind cannot take and was not sent.
    """

    node: str
    kind: str
    namespace: str
    service_account: str
    service: str
    identity: str
    since: float
    types: tuple[TypeStatus, ...]
    delta: bool = False
    version: str = ""
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "kind": self.kind,
            "version": self.version,
            "namespace": self.namespace,
            "serviceAccount": self.service_account,
            "service": self.service,
            "identity": self.identity,
            "connectedSince": self.since,
            "delta": self.delta,
            "types": [status.to_dict() for status in self.types],
            "leftOut": list(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class TypeConfig:
    """The resources behind a TypeStatus, by name: serialised messages that were sent last and that were accepted last,
    and why resources were refused.
    """

    type_url: str
    status: TypeStatus
    sent: Mapping[str, bytes]
    accepted: Mapping[str, bytes]
    refused: Mapping[str, str] = field(default_factory=dict)


def sync_state(subscription: SubscriptionState) -> SyncState:
    if subscription.outstanding:
        return SyncState.STALE
    if subscription.error:
        return SyncState.NACKED
    if not subscription.nonce and not subscription.sent:
        return SyncState.NOT_SENT
    return SyncState.SYNCED if subscription.accepted_version == subscription.sent_version else SyncState.STALE


def type_status(subscription: SubscriptionState) -> TypeStatus:
    return TypeStatus(
        type=short_name(subscription.type_url),
        state=sync_state(subscription),
        names=tuple(sorted(subscription.names)),
        sent_version=subscription.sent_version,
        accepted_version=subscription.accepted_version,
        error=subscription.error,
        refused=dict(subscription.refusals),
    )
