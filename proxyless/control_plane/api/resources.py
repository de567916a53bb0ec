"""``/api/v1/apply``, ``/api/v1/resources/...`` and ``/api/v1/problems``."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxyless.control_plane.api.backend import Backend
from proxyless.control_plane.api.responses import ApiError, body_of
from proxyless.control_plane.configuration import Applied
from proxyless.control_plane.resources.kinds import KINDS, Kind, kind_named
from proxyless.control_plane.resources.names import DNS_LABEL_RULE, is_dns_label
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.resources.render import to_document
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.translate.sources import TRACED
from proxyless.model.errors import ConfigurationError
from proxyless.model.workload import Workload

_WORKLOADS = frozenset({"workload", "workloads", "wl"})


class ResourceRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._configuration = backend.configuration

    async def apply(self, request: Request) -> JSONResponse:
        """Query: ``file`` names the text in problems, ``namespace`` is for documents without one, ``dryRun=true``."""
        query = request.query_params
        namespace = query.get("namespace", "default")
        if not is_dns_label(namespace):
            raise ApiError(400, f"the namespace {namespace[:253]!r} must be {DNS_LABEL_RULE}")
        try:
            text = (await body_of(request)).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ApiError(400, f"{query.get('file', 'the body')[:1000]} is not UTF-8 text") from None
        applied = self._configuration.apply(
            text,
            file=query.get("file", "api")[:1000],
            namespace=namespace,
            dry_run=query.get("dryRun") == "true",
        )
        if applied.refused:
            errors = sum(problem.level is Level.ERROR for problem in applied.problems)
            raise ApiError(422, f"nothing was applied: {errors} error{'s' if errors != 1 else ''}", applied.problems)
        return JSONResponse(_applied(applied, self._backend.worlds.current.generation))

    async def listing(self, request: Request) -> JSONResponse:
        namespace = request.query_params.get("namespace")
        if request.path_params["kind"].lower() in _WORKLOADS:
            workloads = self._backend.registry.workloads.values()
            found = [w for w in workloads if namespace is None or w.namespace == namespace]
            return JSONResponse({"items": [_workload(w) for w in sorted(found, key=lambda w: (w.namespace, w.id))]})
        kind = _kind(request)
        return JSONResponse({"items": await self._documents(self._configuration.get(kind.name, "", namespace))})

    async def one(self, request: Request) -> JSONResponse:
        if request.path_params["kind"].lower() in _WORKLOADS:
            found = self._backend.registry.workloads.get(request.path_params["name"])
            if found is None or found.namespace != request.path_params["namespace"]:
                raise ApiError(404, f"there is no workload {request.path_params['name'][:253]}")
            return JSONResponse(_workload(found))
        key = _key(request)
        if (resource := self._configuration.resources.get(key)) is None:
            raise ApiError(404, f"there is no {key}")
        return JSONResponse((await self._documents([resource]))[0])

    async def delete(self, request: Request) -> JSONResponse:
        key = _key(request)
        try:
            deleted = self._configuration.delete(key)
        except ConfigurationError as error:
            raise ApiError(409, str(error)) from None
        if not deleted:
            raise ApiError(404, f"there is no {key}")
        return JSONResponse({**key._asdict(), "generation": self._backend.worlds.current.generation})

    async def problems(self, _: Request) -> JSONResponse:
        return JSONResponse({"problems": [problem.to_dict() for problem in self._configuration.problems]})

    async def _documents(self, resources: Sequence[Resource[Any]]) -> list[dict[str, Any]]:
        """With where they come from, since when, and what became of them in the connected clients.

        As it was applied; one from a file, as it was understood. status: None of a kind that acts on everything.
        """
        told = [resource.key for resource in resources if resource.kind in TRACED]
        statuses = await self._backend.delivery.statuses(told) if told else {}
        return [
            {
                "document": self._configuration.document_of(resource.key) or to_document(resource),
                "source": str(resource.source),
                "created": resource.created,
                "status": statuses[resource.key].to_dict() if resource.key in statuses else None,
            }
            for resource in resources
        ]


def _applied(applied: Applied, generation: int) -> dict[str, Any]:
    return {
        "results": [{**key._asdict(), "action": change.value} for key, change in applied.changes.items()],
        "problems": [problem.to_dict() for problem in applied.problems],
        "generation": generation,
    }


def _workload(workload: Workload) -> dict[str, Any]:
    """In the form of a resource, so that one ``get`` shows both."""
    fields = workload.to_dict()
    metadata = {"name": fields.pop("id"), "namespace": fields.pop("namespace"), "labels": fields.pop("labels")}
    document = {"apiVersion": "proxyless/v1", "kind": "Workload", "metadata": metadata, "spec": fields}
    return {
        "document": document,
        "source": f"registered, {workload.state.value}, {workload.address}",
        "created": 0.0,
        "status": None,
    }


def _kind(request: Request) -> Kind:
    return _kind_named(request.path_params["kind"])


def _kind_named(name: str) -> Kind:
    if (kind := kind_named(name)) is None:
        known = ", ".join(sorted(each.plural for each in KINDS.values()))
        raise ApiError(404, f"there is no kind {name[:100]!r}; there are {known} and workloads")
    return kind


def _key(request: Request) -> Key:
    return key_of(*(request.path_params[part] for part in ("kind", "namespace", "name")))


def key_of(kind_name: str, namespace: str, name: str) -> Key:
    """kind_name: as people type it. Raises ApiError 404 for what is no kind."""
    kind = _kind_named(kind_name)
    return Key(kind.name, namespace[:253] if kind.namespaced else "", name[:253])
