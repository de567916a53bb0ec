"""``--store URL`` to a store."""

from pathlib import Path

from proxyless.control_plane.store.memory import MemoryStore
from proxyless.control_plane.store.sqlite import SqliteStore
from proxyless.control_plane.store.store import Store
from proxyless.model.errors import ConfigurationError

SUPPORTED = "memory: (nothing is kept) and sqlite:PATH (a file)"


def open_store(url: str) -> Store:
    """Raises ConfigurationError for a URL that is no store, StoreError for a store that cannot be used."""
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "memory" and not rest:
        return MemoryStore()
    if colon and scheme == "sqlite":
        path = rest.removeprefix("//") if rest.startswith("///") else rest
        if path and not path.startswith("//"):
            return SqliteStore(Path(path).expanduser())
        raise ConfigurationError(f"the store {url!r} has no file path; write sqlite:PATH, such as sqlite:./mesh.sqlite")
    raise ConfigurationError(f"the store {url!r} is not supported; supported: {SUPPORTED}")
