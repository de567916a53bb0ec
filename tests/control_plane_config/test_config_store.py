"""The same promises from every store, and a damaged file that says so."""

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.store.open import open_store
from proxyless.control_plane.store.sqlite import SqliteStore
from proxyless.control_plane.store.store import Store, StoredDocument, StoreError
from proxyless.model.errors import ConfigurationError
from proxyless.model.workload import Workload

KEY = Key("VirtualService", "default", "reviews")
DOCUMENT = StoredDocument(KEY, {"kind": "VirtualService", "note": "é\x7f\U0001f600"}, 12.5)
WORKLOAD = Workload("id-1", "default", "reviews", "default", "127.0.0.1", {"": 9080}, {"app": "reviews"})


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = open_store("memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'mesh.sqlite'}")
    yield opened
    opened.close()


def test_what_is_put_is_there_and_what_is_deleted_is_not(store: Store) -> None:
    other = StoredDocument(Key("Namespace", "", "books"), {}, 1.0)
    store.put_documents([DOCUMENT, other])
    store.put_workload(WORKLOAD)
    assert {document.key for document in store.load().documents} == {KEY, other.key}
    assert store.load().workloads == (WORKLOAD,)
    store.put_documents([StoredDocument(KEY, {"new": 1}, 12.5)])
    store.put_workload(WORKLOAD.draining())
    assert {document.key: document.document for document in store.load().documents}[KEY] == {"new": 1}
    assert store.load().workloads == (WORKLOAD.draining(),)
    store.delete_documents([KEY, KEY, Key("Service", "a", "never")])
    store.delete_workload("id-1")
    store.delete_workload("never")
    assert [document.key for document in store.load().documents] == [other.key]
    assert store.load().workloads == ()


def test_sqlite_survives_a_restart_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "mesh.sqlite"
    first = SqliteStore(path)
    first.put_documents([DOCUMENT])
    first.put_workload(WORKLOAD)
    # Not closed: a killed control plane does not close either.
    second = SqliteStore(path)
    assert second.load().documents == (DOCUMENT,)
    assert second.load().workloads == (WORKLOAD,)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first.close()
    second.close()


def test_a_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "mesh.sqlite")
    store.put_documents([DOCUMENT])
    broken = StoredDocument(Key("Service", "default", "a"), {"when": object()}, 1.0)
    with pytest.raises(TypeError):
        store.put_documents([StoredDocument(Key("Service", "default", "b"), {}, 1.0), broken])
    assert store.load().documents == (DOCUMENT,)
    store.close()


def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sqlite"
    path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(StoreError, match=r"mesh\.sqlite.*(restore a backup|move it away)"):
        SqliteStore(path)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sqlite"
    SqliteStore(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match="schema version 99"):
        SqliteStore(path)


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sqlite"
    store = SqliteStore(path)
    store.put_documents([DOCUMENT])
    database = sqlite3.connect(path)
    database.execute("INSERT INTO documents VALUES ('Service', 'default', 'a', 1.0, '{')")
    database.execute("INSERT INTO workloads VALUES ('x', '[]')")
    database.commit()
    database.close()
    contents = store.load()
    assert contents.documents == (DOCUMENT,)
    assert len(contents.unreadable) == 2
    store.close()


def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteStore(tmp_path / "file" / "mesh.sqlite")


@pytest.mark.parametrize(
    "url", ["", "memory", "memory:x", "redis://h", "etcd://h:1", "kubernetes:", "/a/path", "sqlite:", "sqlite://host/x"]
)
def test_other_stores_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite:PATH"):
        open_store(url)


def test_sqlite_urls(tmp_path: Path) -> None:
    for url in (f"sqlite:{tmp_path}/a.sqlite", f"sqlite://{tmp_path}/b.sqlite"):
        open_store(url).close()
    assert sorted(file.name for file in tmp_path.glob("*.sqlite")) == ["a.sqlite", "b.sqlite"]
