"""Rules as they were read from their resources, and which of them to read again when something changes."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Generic, Protocol, TypeVar

from proxyless.control_plane.groups import Groups
from proxyless.control_plane.replaced import Replaced
from proxyless.control_plane.resources.resource import Key, Resource


class ReadRule(Protocol):
    """names: the hosts whose being known or not decided how it was read."""

    @property
    def resource(self) -> Resource[Any]: ...

    @property
    def names(self) -> Iterable[str]: ...


Rule = TypeVar("Rule", bound=ReadRule)


class ReadRules(Generic[Rule]):
    """Immutable. read: a resource, and the hosts that are known, into a rule."""

    def __init__(self, read: Callable[[Resource[Any], Container[str]], Rule]) -> None:
        self.gone: list[Rule] = []
        self.came: list[Rule] = []
        self._read = read
        self._rules: Mapping[Key, Rule] = {}
        self._by_name: Groups[Rule] = Groups(lambda rule: [(name,) for name in rule.names], order=age)

    def __getitem__(self, key: Key) -> Rule:
        return self._rules[key]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def changed(
        self, replaced: Replaced[Resource[Any]], moved: AbstractSet[str], known: Container[str]
    ) -> "ReadRules[Rule]":
        """The same after a change, with what ``gone`` and ``came``; itself if no rule is another.

        moved: the hosts that came or went; known: those there are.
        """
        doubtful = {rule.resource.key: rule.resource for name in moved for rule in self._by_name.get((name,))}
        if not replaced and not doubtful:
            return self
        keys = {resource.key for resource in replaced.gone}
        stay = [resource for key, resource in doubtful.items() if key not in keys]
        result = ReadRules(self._read)
        result.gone = [self._rules[key] for key in (*keys, *(resource.key for resource in stay))]
        result.came = [self._read(resource, known) for resource in (*stay, *replaced.came)]
        rules = dict(self._rules)
        for rule in result.gone:
            del rules[rule.resource.key]
        rules.update((rule.resource.key, rule) for rule in result.came)
        result._rules = rules
        result._by_name = self._by_name.changed(result.gone, result.came)
        return result


def age(rule: ReadRule) -> tuple[float, str, str]:
    """Older rules first."""
    return rule.resource.age
