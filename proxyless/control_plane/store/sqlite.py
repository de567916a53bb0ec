"""The default store: one SQLite file in the state dir, readable by its owner only."""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.store.store import Contents, StoredDocument, StoreError
from proxyless.model.errors import ConfigurationError
from proxyless.model.workload import Workload

SCHEMA_VERSION = 1
_BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE documents (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE workloads (id TEXT PRIMARY KEY, workload TEXT NOT NULL) WITHOUT ROWID;
"""


class SqliteStore:
    """Usable from any thread, one at a time. ``path`` is created with its directory if it does not exist."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite creates it with the umask's mode.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
        except OSError as error:
            raise StoreError(
                f"the store {self._path} cannot be opened: {error.strerror}; give another with --store"
            ) from None
        with self._explained():
            # Autocommit: transactions are ours to begin.
            self._db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._prepare()
        except StoreError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # In WAL mode NORMAL survives a crash of the process; a power cut may lose the last moments, never corrupt.
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if version == 0 and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"the store {self._path} has schema version {version}, this proxyless reads {SCHEMA_VERSION}; "
                    "use the proxyless that wrote it, or move the file away to start empty"
                )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                remedy = "another process is using it; stop that one or give another --store"
            elif "full" in text:
                remedy = "free some disk space"
            elif "malformed" in text or "not a database" in text:
                remedy = "the file is damaged; restore a backup, or move it away to start empty"
            else:
                remedy = "check the file and its directory, or give another --store"
            raise StoreError(f"the store {self._path} failed: {text}; {remedy}") from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def load(self) -> Contents:
        documents: list[StoredDocument] = []
        workloads: list[Workload] = []
        unreadable: list[str] = []
        with self._transaction():
            rows = self._db.execute("SELECT kind, namespace, name, created, document FROM documents").fetchall()
            processes = self._db.execute("SELECT id, workload FROM workloads").fetchall()
        for kind, namespace, name, created, text in rows:
            key = Key(kind, namespace, name)
            try:
                documents.append(StoredDocument(key, json.loads(text), float(created)))
            except (ValueError, TypeError):
                unreadable.append(f"{key} in {self._path} is not JSON; apply it again")
        for workload_id, text in processes:
            try:
                workloads.append(Workload.from_dict(json.loads(text)))
            except (ValueError, TypeError, AttributeError, ConfigurationError):
                unreadable.append(f"workload {workload_id} in {self._path} is unreadable; it will register again")
        return Contents(tuple(documents), tuple(workloads), tuple(unreadable))

    def put_documents(self, documents: Iterable[StoredDocument]) -> None:
        rows = [(*document.key, document.created, json.dumps(dict(document.document))) for document in documents]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)", rows)

    def delete_documents(self, keys: Iterable[Key]) -> None:
        with self._transaction():
            self._db.executemany(
                "DELETE FROM documents WHERE kind = ? AND namespace = ? AND name = ?", [tuple(key) for key in keys]
            )

    def put_workload(self, workload: Workload) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO workloads VALUES (?, ?)", (workload.id, json.dumps(workload.to_dict()))
            )

    def delete_workload(self, workload_id: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM workloads WHERE id = ?", (workload_id,))

    def close(self) -> None:
        with self._lock, self._explained():
            self._db.close()
