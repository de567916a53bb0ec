"""Results that are kept from world to world, each with the questions that were asked to make it."""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.topics import Topic, topics
from proxyless.control_plane.translate.witness import Asked, Question

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass(slots=True)
class _Known(Generic[Key]):
    asked: Asked
    topics: tuple[Topic, ...]
    users: set[Key] = field(default_factory=set)


class Memory(Generic[Key, Result]):
    """Bounded: the oldest results are forgotten. complete: whether none was since the last ``revise``."""

    def __init__(self, limit: int) -> None:
        self.complete = True
        self._limit = limit
        # With the questions, and the other results that went into it.
        self._results: dict[Key, tuple[Result, tuple[Question, ...], Collection[Key]]] = {}
        # What a result went into.
        self._wholes: dict[Key, set[Key]] = {}
        self._questions: dict[Question, _Known[Key]] = {}
        self._about: dict[Topic, set[Question]] = {}

    def get(self, key: Key) -> tuple[Result] | None:
        """None if it is not known."""
        found = self._results.get(key)
        return None if found is None else found[:1]

    def keep(
        self, key: Key, result: Result, asked: Mapping[Question, Asked], *, domain: str, parts: Collection[Key] = ()
    ) -> None:
        """parts: other results that went into this one, which is forgotten with any of them."""
        while len(self._results) >= self._limit:
            self._forget(next(iter(self._results)))
            self.complete = False
        if not all(part in self._results for part in parts):
            # Too many to remember, and a part that is forgotten cannot be seen to change.
            return
        self._results[key] = result, tuple(asked), parts
        for part in parts:
            self._wholes.setdefault(part, set()).add(key)
        for question, one in asked.items():
            if (entry := self._questions.get(question)) is None:
                found = topics(one.part, one.name, one.arguments, domain, scoped=one.view is not None)
                about = tuple(dict.fromkeys(found))
                entry = self._questions[question] = _Known(one, about)
                for topic in about:
                    self._about.setdefault(topic, set()).add(question)
            entry.users.add(key)

    def revise(self, catalog: Catalog) -> set[Key]:
        """Forget what would be made otherwise from this catalog, the next one; what that is."""
        self.complete = True
        doubtful = {question for topic in catalog.touched or () for question in self._about.get(topic, ())}
        wrong = [known for question in doubtful if not (known := self._questions[question]).asked.still_holds(catalog)]
        stale: set[Key] = set()
        found = {key for known in wrong for key in known.users}
        while found:
            stale |= found
            found = {whole for part in found for whole in self._wholes.get(part, ())} - stale
        for key in stale:
            self._forget(key)
        return stale

    def _forget(self, key: Key) -> None:
        if key not in self._results:
            return
        for whole in list(self._wholes.get(key, ())):
            self._forget(whole)
        _, questions, parts = self._results.pop(key)
        for part in parts:
            wholes = self._wholes[part]
            wholes.discard(key)
            if not wholes:
                del self._wholes[part]
        for question in questions:
            known = self._questions[question]
            known.users.discard(key)
            if not known.users:
                del self._questions[question]
                for topic in known.topics:
                    others = self._about[topic]
                    others.discard(question)
                    if not others:
                        del self._about[topic]
