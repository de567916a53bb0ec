"""What the inbound side needs of a mesh."""

from typing import Protocol

from proxyless.identity.source import IdentitySource
from proxyless.model.snapshot import Snapshot
from proxyless.telemetry.telemetry import Telemetry


class InboundRuntime(Protocol):
    """``snapshot().inbound`` says what each port requires; it is read anew for every connection and every request."""

    @property
    def identity(self) -> IdentitySource: ...

    @property
    def telemetry(self) -> Telemetry: ...

    def snapshot(self) -> Snapshot: ...
