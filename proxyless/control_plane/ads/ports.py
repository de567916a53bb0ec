"""What the ADS server needs of its neighbours. It serves whatever they give it."""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.world import World
from proxyless.model.spiffe import SpiffeId


class Client(Protocol):
    """Who asks, read from the xDS node."""

    @property
    def node_id(self) -> str: ...
    @property
    def kind(self) -> enum.Enum: ...
    @property
    def namespace(self) -> str: ...
    @property
    def service_account(self) -> str: ...
    @property
    def version(self) -> str: ...


class Generated(Protocol):
    """One resource. ``any`` is a google.protobuf.Any, ``body`` the message in it; ``notes`` say what this client was
    not sent, and why.

    stand_in: it only says that there is no such thing.
    """

    @property
    def any(self) -> Any: ...
    @property
    def body(self) -> bytes: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def stand_in(self) -> bool: ...


class Generator(Protocol):
    """Resources as one world has them.

    changed: type and name of each that may differ from what the generator it was made after gave to the same client;
    the name ``*`` is about what all there are for a client. None: anything may differ.
    """

    @property
    def changed(self) -> AbstractSet[tuple[str, str]] | None: ...

    def resources(self, client: Any, type_url: str, names: Iterable[str]) -> Mapping[str, Generated]:
        """Resources by name, those that exist of ``names``; ``*`` asks for all there are for this client."""
        ...

    def sources(self, client: Any, type_url: str, name: str, body: bytes) -> Mapping[Key, bytes]:
        """Which configuration resources such a resource was made from, each with a digest of what it made of it."""
        ...


# The generator of a world, and the one of the world before it, if there was one, which is not asked any more.
MakeGenerator = Callable[[World, Any], Generator]
# Reads a Node message of a caller with this verified identity (None on the plaintext port).
ReadNode = Callable[[Any, SpiffeId | None], Client]
