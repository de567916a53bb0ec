"""Text of a file to resources: each document on its own, so that a faulty one is refused alone and by name."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proxyless.control_plane.resources import yaml_tree
from proxyless.control_plane.resources.document import Document, read_document, unreadable
from proxyless.control_plane.resources.problem import Level, Problem, has_error
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.yaml_tree import Node, TreeError

_MOST_PROBLEMS = 1000


def parse(text: str, file: str, *, namespace: str = "default") -> tuple[list[Resource[Any]], list[Problem]]:
    """Every valid resource in ``text`` and everything there is to say about it. Never raises for any text.

    namespace: that of documents which name none. A document that repeats a key of an earlier one is refused.
    """
    resources: list[Resource[Any]] = []
    problems: list[Problem] = []
    for document in documents(text, file, namespace=namespace):
        problems += document.problems
        if document.resource is not None:
            resources.append(document.resource)
    return resources, shortened(problems, file)


def shortened(problems: list[Problem], file: str) -> list[Problem]:
    """At most a thousand, and how many more there are: nobody reads more, and they are kept and sent."""
    if len(problems) <= _MOST_PROBLEMS:
        return problems
    more = len(problems) - _MOST_PROBLEMS
    message = f"{more} more problems are not shown; repair these first"
    problems = sorted(problems, key=lambda problem: problem.level is not Level.ERROR)[:_MOST_PROBLEMS]
    level = Level.ERROR if has_error(problems) else Level.INFO
    return [*problems, Problem("TooManyProblems", level, message, file=file)]


def documents(text: str, file: str, *, namespace: str = "default") -> list[Document]:
    """Every document of ``text`` in order; empty ones are left out. Never raises for any text."""
    if len(text) > yaml_tree.MAX_TEXT:
        return [unreadable(file, 1, f"larger than {yaml_tree.MAX_TEXT // 2**20} MiB; split the file")]
    parts = yaml_tree.split(text)
    if len(parts) > yaml_tree.MAX_DOCUMENTS:
        return [unreadable(file, 1, f"more than {yaml_tree.MAX_DOCUMENTS} documents; split the file")]
    found: list[Document] = []
    first: dict[Key, int] = {}
    for part, lines_before in parts:
        try:
            nodes = [node for node in _read(part, lines_before) if node.value is not None]
        except TreeError as error:
            found.append(unreadable(file, error.line, error.message))
            continue
        for node in nodes:
            for document in _expand(node, file, namespace):
                found.append(_once(document, first, file))
    return found


def document_of(data: Any, file: str) -> Document:
    """One document that is plain data already, such as one from a store."""
    try:
        return read_document(yaml_tree.from_data(data), file, "default")
    except TreeError as error:
        return unreadable(file, 0, error.message)


def _once(document: Document, first: dict[Key, int], file: str) -> Document:
    if document.key is None or (document.resource is None and not document.refused):
        return document
    if document.key not in first:
        first[document.key] = document.line
        return document
    earlier = first[document.key]
    problem = Problem(
        "DuplicateResource",
        Level.ERROR,
        f"is already defined at line {earlier} of the same file; remove one of the two",
        *document.key,
        file=file,
        line=document.line,
    )
    # Without key: the earlier document speaks for this name.
    return replace(document, key=None, resource=None, problems=(*document.problems, problem))


def _read(part: str, lines_before: int) -> list[Node]:
    try:
        return yaml_tree.read(part, lines_before)
    except TreeError:
        # JSON may hold what YAML's reader refuses, such as surrogate pairs.
        if not part.lstrip().startswith("{"):
            raise
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(part, object_pairs_hook=_no_duplicates)
            return [yaml_tree.from_data(data, lines_before + 1)]
        raise


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _expand(node: Node, file: str, namespace: str) -> Iterator[Document]:
    """The document itself, or the items of a ``kind: List``."""
    kind, api_version = node.get("kind"), node.get("apiVersion")
    if kind is None or kind.value != "List" or (api_version is not None and api_version.value != "v1"):
        yield read_document(node, file, namespace)
        return
    items = node.get("items")
    if items is None or not isinstance(items.value, list):
        yield unreadable(file, node.line, "items of a List must be a list")
        return
    for item in items.value:
        yield read_document(item, file, namespace)
