"""Resources that people applied over the API: checked as one change, which happens whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from proxyless.control_plane.resources.document import Document
from proxyless.control_plane.resources.parse import document_of, documents
from proxyless.control_plane.resources.problem import Level, Problem, has_error
from proxyless.control_plane.resources.resource import Key, Resource, Source
from proxyless.control_plane.store.store import StoredDocument

API = "api"


class Change(StrEnum):
    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of one ``apply``. changes: empty when it was refused. problems: of the documents in it."""

    changes: Mapping[Key, Change]
    problems: tuple[Problem, ...]

    @property
    def refused(self) -> bool:
        return has_error(self.problems)


@dataclass(frozen=True, slots=True)
class Held:
    """A resource in effect through the API, and what is stored of it."""

    resource: Resource[Any]
    stored: StoredDocument
    problems: tuple[Problem, ...] = ()


def plan(
    text: str,
    *,
    file: str,
    namespace: str,
    held: Mapping[Key, Held],
    owners: Mapping[Key, str],
    now: float,
) -> tuple[dict[Key, Held], dict[Key, Resource[Any]], list[Problem]]:
    """What applying ``text`` would put in place, the same with its lines, and everything there is to say about it."""
    puts: dict[Key, Held] = {}
    written: dict[Key, Resource[Any]] = {}
    problems: list[Problem] = []
    found = documents(text, file, namespace=namespace)
    for document in found:
        problems += document.problems
        if document.resource is None:
            continue
        key = document.resource.key
        if key in owners:
            message = f"is owned by the file {owners[key]}; change it there, or remove it from that file first"
            problems.append(
                Problem("OwnedByFile", Level.ERROR, message, *key, file=file, line=document.resource.source.line)
            )
            continue
        created = held[key].stored.created if key in held else now
        puts[key] = _hold(document, StoredDocument(key, _canonical(document), created))
        written[key] = replace(document.resource, created=created)
    if not found:
        problems.append(Problem("NothingToApply", Level.ERROR, "holds no resource", file=file))
    return puts, written, problems


def restore(stored: StoredDocument) -> tuple[Held | None, list[Problem]]:
    """A stored document as a resource again. An older or newer version may have stored what this one refuses."""
    document = document_of(stored.document, API)
    if document.resource is not None and document.resource.key == stored.key:
        return _hold(document, stored), []
    problems = [problem for problem in document.problems if problem.level is Level.ERROR]
    message = "the stored document is not a resource of this name; apply it again"
    return None, problems or [Problem("StoreUnreadable", Level.ERROR, message, *stored.key, file=API)]


def _hold(document: Document, stored: StoredDocument) -> Held:
    assert document.resource is not None
    resource = replace(document.resource, source=Source(API), created=stored.created)
    problems = tuple(replace(problem, file=API, line=0) for problem in document.problems)
    return Held(resource, stored, problems)


def _canonical(document: Document) -> Mapping[str, Any]:
    """The document with its namespace spelled out: what it means must not depend on who applied it."""
    assert document.key is not None
    metadata = dict(document.data["metadata"])
    if document.key.namespace:
        metadata["namespace"] = document.key.namespace
    # What `get -o json` shows of its fate is none of its content.
    content = {field: value for field, value in document.data.items() if field != "status"}
    return {**content, "metadata": metadata}
