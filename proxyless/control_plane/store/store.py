"""The interface of every store. Small transactions, called from one thread at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxyless.control_plane.resources.resource import Key
from proxyless.model.errors import ProxylessError
from proxyless.model.workload import Workload


class StoreError(ProxylessError):
    """The store cannot be read or written. Its text names the store and the remedy."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A resource as it was applied: the whole document, and when its key was first applied (Unix seconds)."""

    key: Key
    document: Mapping[str, Any]
    created: float


@dataclass(frozen=True, slots=True)
class Contents:
    documents: tuple[StoredDocument, ...] = ()
    workloads: tuple[Workload, ...] = ()
    # What was there but could not be understood, one sentence each; it stays in the store.
    unreadable: tuple[str, ...] = field(default=())


class Store(Protocol):
    """Every method is one transaction: it happens whole or raises StoreError and changes nothing."""

    def load(self) -> Contents: ...

    def put_documents(self, documents: Iterable[StoredDocument]) -> None: ...

    def delete_documents(self, keys: Iterable[Key]) -> None: ...

    def put_workload(self, workload: Workload) -> None: ...

    def delete_workload(self, workload_id: str) -> None: ...

    def close(self) -> None: ...
