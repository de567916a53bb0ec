"""What a client knows about one resource it asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxyless.xds_client.compile.resource import Compiled
from proxyless.xds_client.kinds import Kind


@dataclass(frozen=True, slots=True)
class Held:
    """An update that takes everything away right after a reconnect. value None: the resource is gone."""

    value: Compiled | None
    data: bytes
    version: str
    until: float


@dataclass(slots=True)
class Entry:
    """value: what is in use. data: the Any it came from. absent: the control plane has no such resource.

    refused: why the latest update was not taken; ``value`` is then an older one, or None. live: the control plane
    answered for it in this process (False: from the last known good). asked: the how-manieth request for something new
    on this stream asked for it, None before that. deadline: when it counts as absent unless it arrives.
    """

    value: Compiled | None = None
    data: bytes = b""
    version: str = ""
    absent: bool = False
    refused: str = ""
    live: bool = False
    asked: int | None = None
    deadline: float | None = None
    held: Held | None = None

    @property
    def known(self) -> bool:
        """Whether there is anything to go by, be it that it does not exist or cannot be used."""
        return self.value is not None or self.absent or bool(self.refused)

    def accept(self, value: Compiled, data: bytes, version: str) -> None:
        self.value, self.data, self.version = value, data, version
        self.absent, self.refused, self.held, self.deadline = False, "", None, None
        self.live = True

    def remove(self) -> None:
        self.value, self.data, self.version = None, b"", ""
        self.absent, self.refused, self.held, self.deadline = True, "", None, None
        self.live = True


Entries = Mapping[Kind, dict[str, Entry]]


def empty() -> dict[Kind, dict[str, Entry]]:
    return {kind: {} for kind in Kind}
