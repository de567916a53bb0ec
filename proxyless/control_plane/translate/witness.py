"""The catalog as a generator is given it: every question and its answer are written down.

So what a resource depends on is not for anybody to declare, and cannot be forgotten: a generator has no other source.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast

from proxyless.control_plane.discovery.anyone import ANYONE, Varies
from proxyless.control_plane.discovery.catalog import Catalog, View
from proxyless.control_plane.discovery.destination_rules import DestinationPolicy
from proxyless.control_plane.discovery.egress import EgressListener
from proxyless.control_plane.resources.resource import Resource

# What of the catalog was asked (None for the whole), the part of it ("" for itself), the method, and its arguments.
Question = tuple[Hashable, ...]
_PARTS = (
    "virtual_services",
    "attached_routes",
    "destination_rules",
    "peer_authentications",
    "authorization_policies",
    "request_authentications",
    "sidecars",
)


class Asked:
    """One question, as it can be put again, and the answer it got."""

    __slots__ = ("answer", "arguments", "name", "part", "view")

    def __init__(self, view: View | None, part: str, name: str, arguments: tuple[Any, ...], answer: object) -> None:
        self.view, self.part, self.name, self.arguments, self.answer = view, part, name, arguments, answer

    def still_holds(self, catalog: Catalog) -> bool:
        """Whether another catalog gives the same answer."""
        seen = catalog.of_view(self.view)
        if seen is None:
            return False
        source = getattr(seen, self.part) if self.part else seen
        try:
            answer = getattr(source, self.name)(*self.arguments)
        except Varies:
            answer = Varies
        return _same(self.answer, answer)


def witness(catalog: Catalog, namespace: str, labels: Mapping[str, str]) -> tuple[Catalog, dict[Question, Asked]]:
    """A catalog to generate from, as such a client sees it, and the questions that will have been asked of it.

    namespace: ANYONE for clients of all namespaces that have no Sidecar; then questions may raise Varies.
    """
    asked: dict[Question, Asked] = {}
    if namespace is ANYONE:
        return cast(Catalog, _Witness(catalog, asked)), asked
    # Which Sidecar it is decides what is asked next.
    cast(Catalog, _Witness(catalog, asked)).sidecars.of(namespace, labels)
    return cast(Catalog, _Witness(catalog.of_client(namespace, labels), asked)), asked


class _Part:
    def __init__(self, view: View | None, part: str, source: object, asked: dict[Question, Asked]) -> None:
        self._view, self._part, self._source, self._asked = view, part, source, asked

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._source, name)
        if name.startswith("_") or not callable(method):
            raise AttributeError(f"a generator may not read {self._part or 'catalog'}.{name}: it could not be noticed")

        def ask(*arguments: Any) -> Any:
            question = (self._view, self._part, name, *map(_hashable, arguments))
            try:
                answer = method(*arguments)
            except Varies:
                self._asked.setdefault(question, Asked(self._view, self._part, name, arguments, Varies))
                raise
            self._asked.setdefault(question, Asked(self._view, self._part, name, arguments, answer))
            return answer

        return ask


class _Witness(_Part):
    def __init__(self, catalog: Catalog, asked: dict[Question, Asked]) -> None:
        super().__init__(catalog.view, "", catalog, asked)
        # Nothing outlives a change of the settings, so that they need not be asked for.
        self.settings = catalog.settings
        for part in _PARTS:
            setattr(self, part, _Part(catalog.view, part, getattr(catalog, part), asked))

    def of_listener(self, listener: EgressListener) -> "_Witness":
        return _Witness(cast(Catalog, self._source).of_listener(listener), self._asked)


def _hashable(argument: Any) -> Hashable:
    if argument is ANYONE:
        return None
    return tuple(sorted(argument.items())) if isinstance(argument, Mapping) else cast(Hashable, argument)


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    if isinstance(one, Resource):
        # Equal ones may differ in the order of a mapping, which a resource may show.
        return False
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, DestinationPolicy) and isinstance(other, DestinationPolicy):
        return len(one.resources) == len(other.resources) and all(map(_is, one.resources, other.resources))
    return one == other


def _is(one: object, other: object) -> bool:
    return one is other
