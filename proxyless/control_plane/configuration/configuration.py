"""The one place that knows which configuration is in effect, where each piece came from, and what is wrong with it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.configuration.applied import API, Applied, Change, Held, plan, restore
from proxyless.control_plane.configuration.files import MOVE_SECONDS, Files, advance
from proxyless.control_plane.configuration.scan import Seen, check_paths, scan
from proxyless.control_plane.replaced import replaced
from proxyless.control_plane.resources.problem import Level, Problem, has_error
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.validation.attachments import CONFLICTS
from proxyless.control_plane.resources.validation.references import REFERRING, References
from proxyless.control_plane.store.store import Store
from proxyless.model.errors import ConfigurationError

_log = logging.getLogger(__name__)

Resources = Mapping[Key, Resource[Any]]
OnChange = Callable[[Resources, list[Problem]], None]

# Seconds. Behind the file system's own notices, which network and overlay file systems may not give.
RESCAN_SECONDS = 1.0


class Configuration:
    """Files under ``paths`` and resources applied over the API, as one set. Used from one thread (the event loop's).

    on_change is called with the new set and all problems whenever either changed. hosts: the services that exist
    without a resource (registered workloads imply them), for telling a dangling reference from a good one.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        store: Store,
        on_change: OnChange | None = None,
        *,
        hosts: Callable[[], Collection[str]] = tuple,
        cluster_domain: str = "cluster.local",
    ) -> None:
        self._paths = [Path(path) for path in paths]
        self._store = store
        self._on_change = on_change
        self._hosts = hosts
        self._references = References(cluster_domain)
        self._seen: Mapping[str, Seen] = {}
        self._files = Files()
        self._held: dict[Key, Held] = {}
        # Of what is held: the resources, and what is wrong with those with which something is.
        self._applied: dict[Key, Resource[Any]] = {}
        self._wrong: dict[Key, Sequence[Problem]] = {}
        self._store_problems: list[Problem] = []
        self._resources: Resources = MappingProxyType({})
        self._published: tuple[Resources, list[Problem]] | None = None

    @property
    def resources(self) -> Resources:
        """What is in effect."""
        return self._resources

    @property
    def problems(self) -> list[Problem]:
        """Everything wrong with it now, errors first."""
        problems = [*self._files.problems, *self._store_problems]
        for key in self._held.keys() & self._files.owners.keys():
            message = f"was applied over the API, but the file {self._files.owners[key]} has it too and is used"
            problems.append(Problem("ShadowedByFile", Level.WARNING, message, *key, file=API))
        for key in self._wrong.keys() - self._files.owners.keys():
            problems += self._wrong[key]
        problems += self._references.problems(self._resources, self._hosts())
        order = {Level.ERROR: 0, Level.WARNING: 1, Level.INFO: 2}
        return sorted(
            dict.fromkeys(problems),
            key=lambda each: (
                order[each.level],
                each.file,
                each.line,
                each.name,
                each.kind,
                each.namespace,
                each.message,
            ),
        )

    def document_of(self, key: Key) -> Mapping[str, Any] | None:
        """The document as it was applied, for a resource that came over the API."""
        held = self._held.get(key)
        return held.stored.document if held and key not in self._files.owners else None

    def load(self) -> None:
        """The first reading. Raises ConfigurationError for a path that is not there, StoreError for an unusable store.

        Faulty files and documents raise nothing: they are problems, and the rest serves.
        """
        check_paths(self._paths)
        contents = self._store.load()
        self._store_problems = [Problem("StoreUnreadable", Level.ERROR, text, file=API) for text in contents.unreadable]
        for stored in contents.documents:
            held, problems = restore(stored)
            self._store_problems += problems
            if held is not None:
                self._hold(stored.key, held)
        self.rescan()

    def rescan(self) -> None:
        """Look at the files now."""
        self._take(scan(self._paths, self._seen))

    def _take(self, seen: Mapping[str, Seen]) -> None:
        first = self._published is None
        changed = seen.keys() != self._seen.keys() or any(seen[n].file is not self._seen[n].file for n in seen)
        self._seen = seen
        if not (first or changed or self._files.missing):
            return
        files = {name: each.file for name, each in seen.items()}
        self._files = advance(self._files, files, time.monotonic())
        self._publish()

    def _publish(self) -> None:
        merged = {**self._applied, **self._files.served}
        self._resources = MappingProxyType(merged)
        problems = self.problems
        # Identity, not equality: an unchanged file keeps its very objects, and specs are costly to compare.
        if self._published is not None and self._published[1] == problems and not replaced(self._published[0], merged):
            return
        self._published = (self._resources, problems)
        if self._on_change is not None:
            self._on_change(self._resources, problems)

    def refresh(self) -> None:
        """Publish again if the problems changed, as they may when ``hosts`` gives other answers."""
        if self._references.hosts != frozenset(self._hosts()):
            self._publish()

    def apply(self, text: str, *, file: str = API, namespace: str = "default", dry_run: bool = False) -> Applied:
        """Put every resource of ``text`` in effect, or none: any Error refuses the whole call.

        file: what to call the text in problems. Raises StoreError if it cannot be stored (nothing changed then).
        """
        puts, written, problems = plan(
            text, file=file, namespace=namespace, held=self._held, owners=self._files.owners, now=time.time()
        )
        # As written: whoever applies it is told the lines of the text at hand, which nobody has afterwards.
        if any(key.kind in REFERRING for key in puts):
            after = {**self._applied, **self._files.served, **written}
            found = self._references.problems(after, self._hosts())
            before = frozenset(self._published[1] if self._published else ())
            # What loses to one of these is said now too: nobody may look at it again.
            lost = {problem for problem in found if problem.code in CONFLICTS} - before
            problems += [problem for problem in found if problem.key in puts or problem in lost]
        if has_error(problems):
            return Applied({}, tuple(problems))
        changes = {key: self._change(key, held) for key, held in puts.items()}
        if not dry_run:
            changed = {key: held for key, held in puts.items() if changes[key] is not Change.UNCHANGED}
            self._store.put_documents([held.stored for held in changed.values()])
            for key, held in changed.items():
                self._hold(key, held)
            self._publish()
        return Applied(changes, tuple(problems))

    def _hold(self, key: Key, held: Held | None) -> None:
        """Take in what is held, None for nothing."""
        self._wrong.pop(key, None)
        if held is None:
            del self._held[key], self._applied[key]
            return
        self._held[key], self._applied[key] = held, held.resource
        if held.problems:
            self._wrong[key] = held.problems

    def _change(self, key: Key, held: Held) -> Change:
        before = self._held.get(key)
        if before is None:
            return Change.CREATED
        return Change.UNCHANGED if before.stored.document == held.stored.document else Change.CONFIGURED

    def delete(self, key: Key) -> bool:
        """False when there is no such resource; raises ConfigurationError when a file owns it."""
        if key in self._files.owners:
            raise ConfigurationError(f"{key} is owned by the file {self._files.owners[key]}; remove it there")
        if key not in self._held:
            return False
        self._store.delete_documents([key])
        self._hold(key, None)
        self._publish()
        return True

    def get(self, kind: str, name: str = "", namespace: str | None = None) -> list[Resource[Any]]:
        """Resources of a kind, all of them or those of a name or namespace, by namespace and name."""
        found = [
            resource
            for resource in self._resources.values()
            if resource.kind == kind
            and (not name or resource.name == name)
            and (namespace is None or not resource.namespace or resource.namespace == namespace)
        ]
        return sorted(found, key=lambda each: (each.namespace, each.name))

    async def watch(self) -> None:
        """Follow the files until cancelled. A change is in effect within about a second."""
        if not self._paths:
            await asyncio.Event().wait()
        noticed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(noticed))
            # A file is watched through its directory: an atomic rename replaces the file itself.
            folders = {path for path in self._paths if path.is_dir()}
            tasks.create_task(_notice(folders, noticed, recursive=True))
            parents = {path.parent for path in self._paths if not path.is_dir()}
            tasks.create_task(_notice(parents, noticed, recursive=False))

    async def _follow(self, noticed: asyncio.Event) -> None:
        while True:
            # A resource that just went missing is looked for again soon, so that its removal is not late.
            pause = MOVE_SECONDS / 2 if self._files.missing else RESCAN_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(noticed.wait(), pause)
            noticed.clear()
            self._take(await asyncio.to_thread(scan, self._paths, self._seen))


async def _notice(folders: Collection[Path], noticed: asyncio.Event, *, recursive: bool) -> None:
    """Sets ``noticed`` when the file system says that something changed. Without its notices the rescan does it all."""
    import watchfiles

    while folders:
        try:
            there = [folder for folder in folders if folder.is_dir()]
            if not there:
                raise FileNotFoundError("no folder to watch")
            async for _ in watchfiles.awatch(*there, watch_filter=None, step=50, debounce=200, recursive=recursive):
                noticed.set()
        except (OSError, RuntimeError) as error:
            _log.debug("no file system notices (%s); files are looked at every %s s", error, RESCAN_SECONDS)
        await asyncio.sleep(RESCAN_SECONDS)
