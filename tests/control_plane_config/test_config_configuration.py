"""Files and the API as one configuration, with real files and a real watcher."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyless.control_plane.configuration import Applied, Change, Configuration, mesh_settings
from proxyless.control_plane.configuration.scan import find
from proxyless.control_plane.resources.problem import Problem
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.store.memory import MemoryStore
from proxyless.control_plane.store.sqlite import SqliteStore
from proxyless.control_plane.store.store import StoreError
from proxyless.control_plane.world import MeshSettings
from proxyless.model.errors import ConfigurationError

DEADLINE = 60.0


def service(name: str, port: int = 80) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports: [{{port: {port}}}]\n"


def key(name: str) -> Key:
    return Key("Service", "default", name)


def ports(configuration: Configuration) -> dict[str, int]:
    return {found.name: resource.spec.ports[0].port for found, resource in configuration.resources.items()}


def opened(*paths: Path, store: Any = None) -> Configuration:
    configuration = Configuration(paths, store or MemoryStore())
    configuration.load()
    return configuration


def codes(configuration: Configuration) -> set[str]:
    return {problem.code for problem in configuration.problems}


# --- the API -----------------------------------------------------------------------------------------------------


def test_apply_get_delete_and_restart(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "mesh.sqlite")
    configuration = opened(store=store)
    applied = configuration.apply(f"{service('b')}---\n{service('a')}", namespace="shop")
    assert not applied.refused
    assert {str(each): change for each, change in applied.changes.items()} == {
        "Service shop/a": Change.CREATED,
        "Service shop/b": Change.CREATED,
    }
    assert [resource.name for resource in configuration.get("Service")] == ["a", "b"]
    assert [resource.name for resource in configuration.get("Service", "a", "shop")] == ["a"]
    assert configuration.get("Service", "a", "default") == []
    first = configuration.get("Service", "a")[0].created
    again = configuration.apply(f"{service('b')}---\n{service('a', 81)}", namespace="shop")
    assert list(again.changes.values()) == [Change.UNCHANGED, Change.CONFIGURED]
    assert configuration.resources[Key("Service", "shop", "a")].source.file == "api"
    document = configuration.document_of(Key("Service", "shop", "a"))
    assert document is not None
    assert document["metadata"] == {"name": "a", "namespace": "shop"}
    store.close()

    restarted = opened(store=SqliteStore(tmp_path / "mesh.sqlite"))
    resource = restarted.get("Service", "a", "shop")[0]
    assert resource.spec.ports[0].port == 81
    assert resource.created == first > 0
    assert resource.source.file == "api"
    assert restarted.delete(resource.key)
    assert not restarted.delete(resource.key)
    assert [each.name for each in restarted.get("Service")] == ["b"]


def refusal(configuration: Configuration, text: str) -> Applied:
    before = dict(configuration.resources)
    applied = configuration.apply(text, file="mine.yaml")
    assert applied.refused
    assert not applied.changes
    assert dict(configuration.resources) == before
    assert {problem.file for problem in applied.problems} == {"mine.yaml"}
    return applied


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{service('new')}---\n{service('bad', 0)}", "SchemaValidationError"),
        (f"{service('new')}---\nx: [", "InvalidYaml"),
        (f"{service('new')}---\n{service('new')}", "DuplicateResource"),
        (f"{service('new')}---\n{service('filed')}", "OwnedByFile"),
        ("# nothing", "NothingToApply"),
    ],
)
def test_apply_happens_whole_or_not_at_all(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "f.yaml").write_text(service("filed"))
    configuration = opened(tmp_path)
    assert code in {problem.code for problem in refusal(configuration, text).problems}


def test_apply_says_where_a_resource_is_owned(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(service("filed"))
    configuration = opened(tmp_path)
    (problem,) = refusal(configuration, service("filed")).problems
    assert str(tmp_path / "f.yaml") in problem.message
    with pytest.raises(ConfigurationError, match=r"f\.yaml"):
        configuration.delete(key("filed"))


def test_a_dry_run_checks_and_changes_nothing() -> None:
    store = MemoryStore()
    configuration = opened(store=store)
    applied = configuration.apply(service("a"), dry_run=True)
    assert list(applied.changes.values()) == [Change.CREATED]
    assert not configuration.resources
    assert not store.load().documents


def test_apply_warns_about_what_the_whole_would_be() -> None:
    configuration = opened()
    text = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n"
        "  http:\n  - route:\n    - destination: {host: a}\n"
    )
    assert [problem.code for problem in configuration.apply(text, dry_run=True).problems] == [
        "ReferencedResourceNotFound"
    ]
    assert not configuration.apply(f"{text}---\n{service('a')}").problems


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{group: "", kind: Service, name: a}], rules: [{backendRefs: [{name: a, port: 80}]}]}
"""


def test_apply_says_what_loses_to_what_is_applied() -> None:
    configuration = opened()
    rule = "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}"
    before = f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: rule}}\nspec: {rule}"
    assert not configuration.apply(f"{service('a')}\n---\n{before}").problems
    lost = [problem for problem in configuration.apply(ROUTE).problems if problem.kind != "HTTPRoute"]
    assert [problem.key for problem in lost] == [Key("VirtualService", "default", "rule")]
    assert "HTTPRoute default/r is used" in lost[0].message
    # Once is enough.
    assert {problem.kind for problem in configuration.apply(ROUTE).problems} == {"HTTPRoute"}


def test_a_store_that_fails_changes_nothing() -> None:
    class Full(MemoryStore):
        def put_documents(self, documents: Any) -> None:
            raise StoreError("full")

    configuration = opened(store=Full())
    with pytest.raises(StoreError):
        configuration.apply(service("a"))
    assert not configuration.resources


def test_a_file_wins_over_the_api_and_gives_it_back(tmp_path: Path) -> None:
    configuration = opened(tmp_path)
    configuration.apply(service("a", 81))
    (tmp_path / "f.yaml").write_text(service("a", 82))
    configuration.rescan()
    assert ports(configuration) == {"a": 82}
    assert codes(configuration) == {"ShadowedByFile"}
    (tmp_path / "f.yaml").unlink()
    until(configuration, lambda: ports(configuration) == {"a": 81})
    assert not configuration.problems


def test_on_change_tells_of_changes_only(tmp_path: Path) -> None:
    told: list[tuple[list[str], list[Problem]]] = []
    configuration = Configuration(
        [tmp_path], MemoryStore(), lambda resources, problems: told.append(([k.name for k in resources], problems))
    )
    configuration.load()
    configuration.rescan()
    assert told == [([], [])]
    configuration.apply(service("a"))
    configuration.apply(service("a"))
    configuration.refresh()
    assert told[1:] == [(["a"], [])]


def test_a_document_stored_by_another_version_is_reported_and_blocks_no_other(tmp_path: Path) -> None:
    store = MemoryStore()
    configuration = opened(store=store)
    configuration.apply(f"{service('a')}---\n{service('b')}")
    contents = {document.key: document for document in store.load().documents}
    contents[key("a")].document["spec"]["portz"] = 1  # type: ignore[index]
    restarted = opened(store=store)
    assert ports(restarted) == {"b": 80}
    assert codes(restarted) == {"UnknownField"}


def test_references_know_the_services_that_workloads_imply() -> None:
    hosts: list[str] = []
    configuration = Configuration([], MemoryStore(), hosts=lambda: hosts)
    configuration.load()
    configuration.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: hello}\n"
    )
    assert codes(configuration) == {"ReferencedResourceNotFound"}
    hosts.append("hello.default.svc.cluster.local")
    assert not configuration.problems


def test_mesh_settings() -> None:
    configuration = opened()
    base = MeshSettings()
    assert mesh_settings(configuration.resources, base) == base
    mesh = {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}, "trustDomain": "elsewhere"}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": json.dumps(mesh)},
    }
    applied = configuration.apply(json.dumps(config_map))
    assert [problem.code for problem in applied.problems] == ["FieldNotActedOn"]
    assert mesh_settings(configuration.resources, base) == MeshSettings(outbound_allow_any=False)


# --- files -------------------------------------------------------------------------------------------------------


def test_which_files_are_configuration(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "c.json", "deep/er/d.yaml", "named.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for name in (".a.yaml.swp", ".hidden.yaml", "a.yaml~", "#a.yaml#", "4913", "x.txt", ".git/e.yaml", "..data/f.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in find([tmp_path, tmp_path / "a.yaml", tmp_path / "named.conf"])]
    assert found == ["a.yaml", "b.yml", "c.json", "deep/er/d.yaml", "named.conf"]


def test_a_path_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml does not exist"):
        opened(tmp_path / "nowhere.yaml")


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.yaml").write_bytes(b"\xef\xbb\xbf" + service("b").encode())
    configuration = opened(tmp_path)
    assert ports(configuration) == {"b": 80}
    assert codes(configuration) == {"FileUnreadable"}


def until(configuration: Configuration, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, (ports(configuration), [str(problem) for problem in configuration.problems])
        time.sleep(0.01)
        configuration.rescan()


def replace_atomically(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)


def mount(directory: Path, files: dict[str, str]) -> None:
    """What Kubernetes does for a mounted ConfigMap: a new folder, and one link that is swapped."""
    version = directory / f"..{time.monotonic_ns()}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    (directory / "..tmp").symlink_to(version.name)
    (directory / "..tmp").rename(directory / "..data")


Change_ = tuple[Callable[[Path], Any], dict[str, int]]

WATCHED: dict[str, list[Change_]] = {
    "create, rewrite in place, remove": [
        (lambda d: (d / "a.yaml").write_text(service("a")), {"a": 80}),
        (lambda d: (d / "a.yaml").write_text(service("a", 81)), {"a": 81}),
        (lambda d: (d / "a.yaml").unlink(), {}),
    ],
    "atomic renames": [
        (lambda d: replace_atomically(d / "a.yaml", service("a")), {"a": 80}),
        (lambda d: replace_atomically(d / "a.yaml", service("a", 81)), {"a": 81}),
        (lambda d: replace_atomically(d / "a.yaml", service("a", 82)), {"a": 82}),
    ],
    "a file is renamed": [
        (lambda d: (d / "a.yaml").write_text(service("a")), {"a": 80}),
        (lambda d: (d / "a.yaml").rename(d / "b.yaml"), {"a": 80}),
        (lambda d: (d / "b.yaml").write_text(service("a", 81)), {"a": 81}),
    ],
    "folders come and go": [
        (lambda d: ((d / "deep").mkdir(), (d / "deep" / "a.yaml").write_text(service("a"))), {"a": 80}),
        (lambda d: (d / "deep" / "b.yml").write_text(service("b")), {"a": 80, "b": 80}),
        (lambda d: (d / "deep").rename(d / ".old"), {}),
    ],
    "a mounted ConfigMap": [
        (lambda d: mount(d, {"a.yaml": service("a")}), {"a": 80}),
        (lambda d: mount(d, {"a.yaml": service("a", 81)}), {"a": 81}),
        (lambda d: mount(d, {"a.yaml": service("a", 82)}), {"a": 82}),
    ],
    "a bad file, repaired": [
        (lambda d: (d / "a.yaml").write_text(service("a")), {"a": 80}),
        (lambda d: ((d / "a.yaml").write_text("x: ["), (d / "b.yaml").write_text(service("b"))), {"a": 80, "b": 80}),
        (lambda d: (d / "a.yaml").write_text(service("a", 81)), {"a": 81, "b": 80}),
    ],
}


class Watched:
    """A watcher running in this test's event loop, ended with it."""

    def __init__(self, *paths: Path) -> None:
        self._changed = asyncio.Event()
        self.configuration = Configuration(paths, MemoryStore(), lambda *_: self._changed.set())
        self.configuration.load()
        self._task = asyncio.create_task(self.configuration.watch())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.mark.parametrize("changes", WATCHED.values(), ids=WATCHED.keys())
def test_watching_a_directory(tmp_path: Path, changes: list[Change_]) -> None:
    async def run() -> None:
        watched = Watched(tmp_path)
        try:
            for change, expected in changes:
                change(tmp_path)
                await watched.until(lambda expected=expected: ports(watched.configuration) == expected)  # type: ignore[misc]
        finally:
            await watched.close()

    asyncio.run(run())


def test_watching_one_file(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "mesh.yaml"
        path.write_text(service("a"))
        (tmp_path / "other.yaml").write_text(service("other"))
        watched = Watched(path)
        try:
            replace_atomically(path, service("a", 81))
            await watched.until(lambda: ports(watched.configuration) == {"a": 81})
            path.write_text("x: [")
            await watched.until(lambda: "InvalidYaml" in codes(watched.configuration))
            assert ports(watched.configuration) == {"a": 81}
            path.unlink()
            await watched.until(lambda: ports(watched.configuration) == {})
            path.write_text(service("b"))
            await watched.until(lambda: ports(watched.configuration) == {"b": 80})
        finally:
            await watched.close()

    asyncio.run(run())


def test_changes_are_seen_without_the_file_systems_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles

    def broken(*_: Any, **__: Any) -> Iterator[None]:
        raise OSError("inotify limit reached")

    monkeypatch.setattr(watchfiles, "awatch", broken)

    async def run() -> None:
        watched = Watched(tmp_path)
        try:
            (tmp_path / "a.yaml").write_text(service("a"))
            await watched.until(lambda: ports(watched.configuration) == {"a": 80})
        finally:
            await watched.close()

    asyncio.run(run())


def test_a_rewrite_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a", 80))
    when = path.stat().st_mtime_ns
    configuration = opened(tmp_path)
    path.write_text(service("a", 81))
    os.utime(path, ns=(when, when))
    configuration.rescan()
    assert ports(configuration) == {"a": 81}
