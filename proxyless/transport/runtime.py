"""What the outbound transports need of the mesh they belong to."""

from concurrent.futures import Future
from typing import Protocol

from proxyless.engine.engine import Engine
from proxyless.identity.source import IdentitySource
from proxyless.model.snapshot import Snapshot
from proxyless.telemetry.telemetry import Telemetry


class Runtime(Protocol):
    """``Mesh`` is one; tests build their own."""

    @property
    def engine(self) -> Engine: ...

    @property
    def identity(self) -> IdentitySource: ...

    @property
    def telemetry(self) -> Telemetry: ...

    def snapshot(self) -> Snapshot:
        """The current world. One reference read: no lock, no wait."""
        ...

    def resolve(self, target: str, within: float | None = None) -> Future[Snapshot]:
        """A snapshot that has ``target`` (``host:port``) in its listeners; the future is the caller's own to cancel.

        Asks the mesh thread. Fails with NotReadyError when the answer does not come ``within`` seconds, or within the
        mesh's own bound, whichever is less.
        """
        ...
