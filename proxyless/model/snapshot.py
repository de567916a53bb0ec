"""One consistent view of everything the mesh knows. A request reads the current one once (gRFC A74: no tearing)."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxyless.model.cluster import Cluster
from proxyless.model.inbound import InboundListener
from proxyless.model.route import Listener


class Origin(enum.Enum):
    NONE = "none"  # nothing received yet
    CONTROL_PLANE = "control-plane"
    LAST_KNOWN_GOOD = "last-known-good"  # read from the state dir, the control plane has not answered yet
    FILES = "files"  # made from files, as ``proxyless explain --config`` does


@dataclass(frozen=True, slots=True)
class Snapshot:
    """listeners: by target ``host:port``; None means the control plane says there is no such target; a target that is
    not in the mapping has not been asked for or not been answered. A listener is in it only when every cluster that
    its routes name is in ``clusters``. inbound: by port. generation grows by one with each swap. received_at: Unix
    seconds of the last change.
    """

    generation: int = 0
    origin: Origin = Origin.NONE
    listeners: Mapping[str, Listener | None] = field(default_factory=dict)
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    inbound: Mapping[int, InboundListener] = field(default_factory=dict)
    received_at: float = 0.0


EMPTY = Snapshot()
