"""A store that lasts as long as the process."""

from collections.abc import Iterable

from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.store.store import Contents, StoredDocument
from proxyless.model.workload import Workload


class MemoryStore:
    def __init__(self) -> None:
        self._documents: dict[Key, StoredDocument] = {}
        self._workloads: dict[str, Workload] = {}

    def load(self) -> Contents:
        return Contents(tuple(self._documents.values()), tuple(self._workloads.values()))

    def put_documents(self, documents: Iterable[StoredDocument]) -> None:
        self._documents.update({document.key: document for document in documents})

    def delete_documents(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._documents.pop(key, None)

    def put_workload(self, workload: Workload) -> None:
        self._workloads[workload.id] = workload

    def delete_workload(self, workload_id: str) -> None:
        self._workloads.pop(workload_id, None)

    def close(self) -> None:
        """Nothing to close."""
