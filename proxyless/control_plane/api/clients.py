"""``/api/v1/proxy-status``, ``/proxy-config/NODE``, ``/rollout`` and ``/translate``: what clients have or would get."""

import base64
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import JSONResponse

from proxyless.control_plane.ads.status import TypeConfig
from proxyless.control_plane.api.backend import Backend
from proxyless.control_plane.api.resources import key_of
from proxyless.control_plane.api.responses import ApiError, body_of, json_of, number, text_field
from proxyless.control_plane.closure import closure
from proxyless.control_plane.delivery.status import Refusal
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.sources import TRACED
from proxyless.control_plane.type_urls import short_name

_LONGEST_WAIT = 600.0
_MOST_TARGETS = 1000


class ClientRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def status(self, _: Request) -> JSONResponse:
        return JSONResponse({"clients": [client.to_dict() for client in self._backend.ads.clients()]})

    async def configuration(self, request: Request) -> JSONResponse:
        node = request.path_params["node"]
        if (types := self._backend.ads.configuration(node)) is None:
            raise ApiError(404, f"no client {node[:253]!r} is connected; `proxyless proxy-status` lists those that are")
        return JSONResponse({"node": node, "types": [_decoded(each) for each in types]})

    async def rollout(self, request: Request) -> JSONResponse:
        """Wait until all clients have accepted (or refused) ``generation``, at most ``timeout`` seconds.

        The body of a POST may name what matters: ``{"resources": [{"kind", "namespace", "name"}]}``. Then only clients
        count that have to do with one of these.
        """
        generation = int(number(request, "generation", self._backend.worlds.current.generation, 2**53))
        limit = number(request, "timeout", 30.0, _LONGEST_WAIT)
        named = await self._named(request) if request.method == "POST" else None
        rollout = await self._backend.delivery.rollout(generation, limit, named)
        return JSONResponse(
            {
                "accepted": list(rollout.accepted),
                "refused": [
                    {"node": node, "error": text, "resources": list(map(self._refusal, refusals))}
                    for node, text, refusals in rollout.refused
                ],
                "lagging": list(rollout.lagging),
            }
        )

    async def _named(self, request: Request) -> list[Key] | None:
        """None if one of them acts on everything."""
        found = json_of(await body_of(request))
        named = found.get("resources") if isinstance(found, dict) else None
        if not isinstance(named, list) or not named:
            raise ApiError(400, "the body must be a JSON object with a list 'resources'")
        keys = [key_of(*(text_field(each, part) for part in ("kind", "namespace", "name"))) for each in named]
        for key in keys:
            if key not in self._backend.configuration.resources:
                raise ApiError(404, f"there is no {key}")
        return keys if all(key.kind in TRACED for key in keys) else None

    def _refusal(self, refusal: Refusal) -> dict[str, Any]:
        fields = refusal.to_dict()
        del fields["node"]
        known = self._backend.configuration.resources
        made_from = [
            {**key._asdict(), "source": str(known[key].source) if key in known else ""} for key in refusal.made_from
        ]
        return {**fields, "madeFrom": made_from}

    async def translate(self, request: Request) -> JSONResponse:
        """What a library client of this identity would get for these targets: base64 of each Any, by type URL and name.

        Query: ``namespace``, ``serviceAccount``, ``labels`` (k=v,k=v), ``targets`` (host:port, comma-separated).
        """
        query = request.query_params
        targets = [target for target in query.get("targets", "").split(",") if target]
        if not targets or len(targets) > _MOST_TARGETS:
            raise ApiError(400, f"the query parameter targets must name 1 to {_MOST_TARGETS} host:port pairs")
        client = Client(
            kind=ClientKind.PROXYLESS,
            node_id="translate",
            namespace=query.get("namespace") or "default",
            service_account=query.get("serviceAccount", ""),
            labels=dict(_pair(text) for text in query.get("labels", "").split(",") if text),
        )
        generator, generation = self._backend.ads.current()
        found = closure(generator, client, targets)
        resources = {
            type_url: {
                name: base64.b64encode(resource.any.SerializeToString()).decode() for name, resource in named.items()
            }
            for type_url, named in found.items()
        }
        return JSONResponse({"generation": generation, "resources": resources})


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ApiError(400, f"{text[:253]!r} in the query parameter labels is not KEY=VALUE")
    return key, value


def _decoded(config: TypeConfig) -> dict[str, Any]:
    return {
        **config.status.to_dict(),
        "sent": {name: _json(config.type_url, body) for name, body in config.sent.items()},
        "accepted": {name: _json(config.type_url, body) for name, body in config.accepted.items()},
    }


def _json(type_url: str, body: bytes) -> Any:
    """Protobuf's own JSON form. Extensions whose types are not installed are shown as what they are called."""
    try:
        return MessageToDict(AnyMessage(type_url=type_url, value=body))
    except (TypeError, DecodeError):
        return {"@type": type_url, "name": short_name(type_url), "value": base64.b64encode(body).decode()}
