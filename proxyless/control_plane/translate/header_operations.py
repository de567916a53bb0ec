"""Istio's header operations as Envoy's header mutations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envoy.config.core.v3 import base_pb2

from proxyless.control_plane.resources.virtual_service import HeaderOperations, Headers

_SET = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_ADD = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


@dataclass(slots=True)
class HeaderChanges:
    """authority: what a ``set`` or ``add`` of Host asks for; Envoy has it as a host rewrite, not as a header."""

    request_add: list[base_pb2.HeaderValueOption] = field(default_factory=list)
    request_remove: list[str] = field(default_factory=list)
    response_add: list[base_pb2.HeaderValueOption] = field(default_factory=list)
    response_remove: list[str] = field(default_factory=list)
    authority: str = ""

    def __bool__(self) -> bool:
        return bool(self.request_add or self.request_remove or self.response_add or self.response_remove)


def header_changes(headers: Headers | None) -> HeaderChanges:
    """``set`` before ``add``, each by name. Pseudo-headers and Host cannot be changed as headers."""
    if headers is None:
        return HeaderChanges()
    request = headers.request or HeaderOperations()
    response = headers.response or HeaderOperations()
    return HeaderChanges(
        request_add=[*_options(request.set, _SET), *_options(request.add, _ADD)],
        request_remove=_removable(request.remove),
        response_add=[*_options(response.set, _SET), *_options(response.add, _ADD)],
        response_remove=_removable(response.remove),
        authority=_authority(request.set) or _authority(request.add),
    )


def _authority(values: Mapping[str, str]) -> str:
    return next((value for name, value in sorted(values.items()) if name.lower() in {":authority", "host"}), "")


def _internal(name: str) -> bool:
    return name.startswith(":") or name.lower() == "host"


def _removable(names: Iterable[str]) -> list[str]:
    return [name for name in names if not _internal(name)]


def _options(values: Mapping[str, str], action: int) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=name, value=value),
            append_action=action,
            # An empty value would be dropped otherwise; somebody wrote it.
            keep_empty_value=not value,
        )
        for name, value in sorted(values.items())
        if not _internal(name)
    ]
