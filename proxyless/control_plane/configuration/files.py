"""What a set of files means, given what it meant before: a pure function, so any order of events can be a test."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.resources.document import Document
from proxyless.control_plane.resources.parse import documents, shortened
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.resource import Key, Resource

# Seconds for which a resource that no file has any more goes on serving: time to move it from one file to another,
# or for an editor to finish a file that it writes in place.
MOVE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class File:
    """What one file says. refused: keys whose document is faulty. unclear: some document does not say what it is."""

    resources: Mapping[Key, Resource[Any]] = field(default_factory=dict)
    refused: frozenset[Key] = frozenset()
    unclear: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def claims(self) -> set[Key]:
        return set(self.resources) | self.refused


@dataclass(frozen=True, slots=True)
class Files:
    """The configuration that files make up.

    served: what is in effect. owners: the file that each resource comes from. missing: resources that no file has any
    more, and since when (by ``advance``'s clock); they still serve.
    """

    served: Mapping[Key, Resource[Any]] = field(default_factory=lambda: MappingProxyType({}))
    owners: Mapping[Key, str] = field(default_factory=lambda: MappingProxyType({}))
    missing: Mapping[Key, float] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[Problem, ...] = ()


def read_file(text: str, name: str) -> File:
    return _file(documents(text, name), name)


def unreadable_file(name: str, reason: str) -> File:
    """A file that is there but cannot be read."""
    message = f"cannot be read: {reason}; what it said before stays in effect"
    return File(unclear=True, problems=(Problem("FileUnreadable", Level.ERROR, message, file=name),))


def _file(found: Iterable[Document], name: str) -> File:
    resources: dict[Key, Resource[Any]] = {}
    refused: set[Key] = set()
    problems: list[Problem] = []
    unclear = False
    for document in found:
        problems += document.problems
        if document.resource is not None:
            resources[document.resource.key] = document.resource
        elif document.refused and document.key is not None:
            refused.add(document.key)
        elif document.refused and not all(problem.code == "DuplicateResource" for problem in document.problems):
            unclear = True
    return File(resources, frozenset(refused - set(resources)), unclear, tuple(shortened(problems, name)))


def advance(previous: Files, files: Mapping[str, File], now: float, *, patience: float = MOVE_SECONDS) -> Files:
    """The next state. ``now`` is any clock that does not go back.

    - A faulty document keeps the last good version of its resource in effect, and blocks no other.
    - While a file has a document that does not say what it is (or cannot be read), nothing that the file had vanishes.
    - A key in two files is an Error; the file that had it first keeps it.
    - A resource that no file has any more goes after ``patience`` seconds.
    """
    claimants: dict[Key, list[str]] = defaultdict(list)
    for name in sorted(files):
        for key in files[name].claims:
            claimants[key].append(name)
    served: dict[Key, Resource[Any]] = {}
    owners: dict[Key, str] = {}
    missing: dict[Key, float] = {}
    problems = [problem for name in sorted(files) for problem in files[name].problems]
    for key, names in claimants.items():
        owner = _owner(key, names, files, previous)
        owners[key] = owner
        if key in files[owner].resources:
            served[key] = files[owner].resources[key]
        elif key in previous.served:
            served[key] = previous.served[key]
            problems.append(_still_serving(previous.served[key]))
        problems += [_twice(files[name], key, name, owner) for name in names if name != owner]
    for key, resource in previous.served.items():
        if key in claimants:
            continue
        owner = previous.owners[key]
        since = previous.missing.get(key, now)
        if owner in files and files[owner].unclear:
            problems.append(_still_serving(resource))
        elif now - since < patience:
            missing[key] = since
        else:
            continue
        served[key] = resource
        owners[key] = owner
    return Files(MappingProxyType(served), MappingProxyType(owners), MappingProxyType(missing), tuple(problems))


def _owner(key: Key, names: list[str], files: Mapping[str, File], previous: Files) -> str:
    before = previous.owners.get(key)
    if before in names:
        return before
    # On a first start there is no "first": take the first file by name whose document is good.
    return next((name for name in names if key in files[name].resources), names[0])


def _twice(file: File, key: Key, name: str, owner: str) -> Problem:
    line = file.resources[key].source.line if key in file.resources else 0
    message = f"is also in {owner}, which keeps serving; remove it from one of the two files"
    return Problem("DuplicateResource", Level.ERROR, message, *key, file=name, line=line)


def _still_serving(resource: Resource[Any]) -> Problem:
    source = resource.source
    message = "the last good version stays in effect until its file is repaired"
    return Problem("LastGoodServing", Level.WARNING, message, *resource.key, file=source.file, line=source.line)
