"""Which sessions watch what: so that a change finds those concerned without asking the others."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.state import WILDCARD
from proxyless.control_plane.type_urls import PUSH_ORDER


class Watchers:
    """Sessions by the type and name of what they subscribe to."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], set[Session]] = {}
        self._names: dict[Session, dict[str, frozenset[str]]] = {}

    def watch(self, session: Session, type_url: str, names: AbstractSet[str]) -> None:
        """These names, and none that it watched of this type before."""
        if type_url not in PUSH_ORDER:
            return
        watched = self._names.setdefault(session, {})
        before = watched.get(type_url, frozenset[str]())
        if before == names:
            return
        for name in names - before:
            self._sessions.setdefault((type_url, name), set()).add(session)
        for name in before - names:
            self._drop(session, type_url, name)
        watched[type_url] = frozenset(names)

    def remove(self, session: Session) -> None:
        for type_url, names in self._names.pop(session, {}).items():
            for name in names:
                self._drop(session, type_url, name)

    def of(self, type_url: str, name: str) -> Iterator[Session]:
        """Who subscribes to this resource, by its name or to everything."""
        yield from self._sessions.get((type_url, name), ())
        if name != WILDCARD:
            yield from self._sessions.get((type_url, WILDCARD), ())

    def _drop(self, session: Session, type_url: str, name: str) -> None:
        watching = self._sessions[type_url, name]
        watching.discard(session)
        if not watching:
            del self._sessions[type_url, name]
