"""gRPC's bootstrap file (grpc.github.io, "xDS Bootstrap File Format in gRPC"), as far as a mesh reads it.

``GRPC_XDS_BOOTSTRAP`` is its path and wins, ``GRPC_XDS_BOOTSTRAP_CONFIG`` its content.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyless.model.address import split_address
from proxyless.model.cluster import Locality
from proxyless.model.errors import ConfigurationError

_MAX_FILE = 1 << 20
_NOWHERE = Locality()


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What the bootstrap file says; None where it says nothing. source: the file or variable, for error messages."""

    source: str = ""
    control_plane: str | None = None
    plaintext: bool = False
    service: str | None = None
    namespace: str | None = None
    service_account: str | None = None
    labels: Mapping[str, str] | None = None
    node_id: str = ""
    node_cluster: str = ""
    locality: Locality = _NOWHERE
    metadata: Mapping[str, Any] = field(default_factory=dict)
    inbound_listener: str | None = None
    ignored: tuple[str, ...] = ()


def read_bootstrap(argument: str | Path | Mapping[str, Any] | None, environ: Mapping[str, str]) -> Bootstrap:
    """argument: a path, or the parsed JSON; it wins over the environment. Without any of them an empty Bootstrap.

    Raises ConfigurationError naming the field and the remedy.
    """
    if isinstance(argument, Mapping):
        return _parse(argument, "argument bootstrap")
    path = str(argument) if argument else environ.get("GRPC_XDS_BOOTSTRAP", "")
    if path:
        source = f"argument bootstrap ({path})" if argument else f"GRPC_XDS_BOOTSTRAP ({path})"
        try:
            with Path(path).open("rb") as stream:
                data = stream.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigurationError(f"{source} cannot be read: {error.strerror or error}") from error
        return _parse_text(data, source)
    inline = environ.get("GRPC_XDS_BOOTSTRAP_CONFIG", "")
    return (
        _parse_text(inline.encode("utf-8", "surrogateescape"), "GRPC_XDS_BOOTSTRAP_CONFIG") if inline else Bootstrap()
    )


def _parse_text(data: bytes, source: str) -> Bootstrap:
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"{source} is larger than {_MAX_FILE} bytes: it is not a gRPC bootstrap file")
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ConfigurationError(f'{source} must be a JSON object with "xds_servers" and "node"')
    return _parse(parsed, source)


class _Reader:
    """Reads fields of the file by path, and names the one that is wrong."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get(self, parent: Mapping[str, Any], path: str, kind: type, remedy: str) -> Any:
        """The field at the end of ``path`` in ``parent``, an empty ``kind`` when it is absent."""
        value = parent.get(path.rpartition(".")[2])
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise self.wrong(path, f"must be {remedy}, not {json.dumps(value, default=str)[:100]}")
        return value

    def wrong(self, path: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self.source}: {path} {problem}")


def _parse(data: Mapping[str, Any], source: str) -> Bootstrap:
    read = _Reader(source)
    servers = read.get(data, "xds_servers", list, "a list of servers")
    if not servers or not isinstance(servers[0], dict):
        raise read.wrong(
            "xds_servers", 'must have an entry like {"server_uri": "HOST:PORT", "channel_creds": [{"type": "tls"}]}'
        )
    uri = read.get(servers[0], "xds_servers[0].server_uri", str, "a text HOST:PORT")
    node = read.get(data, "node", dict, "an object")
    place = read.get(node, "node.locality", dict, "an object")
    metadata = read.get(node, "node.metadata", dict, "an object")
    labels = read.get(metadata, "node.metadata.LABELS", dict, "an object of texts")
    ignored = [f"{source}: {name}" for name in ("authorities", "certificate_providers") if data.get(name)]
    if len(servers) > 1:
        ignored.append(f"{source}: xds_servers after the first")

    def text(parent: Mapping[str, Any], path: str) -> str:
        return str(read.get(parent, path, str, "a text"))

    return Bootstrap(
        source=source,
        control_plane=_server_address(uri, read),
        plaintext=_plaintext(servers[0], read),
        service=labels.get("app"),
        namespace=text(metadata, "node.metadata.NAMESPACE") or None,
        service_account=text(metadata, "node.metadata.SERVICE_ACCOUNT") or None,
        labels=labels or None,
        node_id=text(node, "node.id"),
        node_cluster=text(node, "node.cluster"),
        locality=Locality(
            text(place, "node.locality.region"),
            text(place, "node.locality.zone"),
            text(place, "node.locality.sub_zone"),
        ),
        metadata=metadata,
        inbound_listener=text(data, "server_listener_resource_name_template") or None,
        ignored=tuple(ignored),
    )


def _server_address(uri: str, read: _Reader) -> str:
    """From gRPC's target URI: ``HOST:PORT``, ``dns:HOST:PORT``, ``dns:///HOST:PORT``, ``ipv4:`` or ``ipv6:``."""
    address = uri
    for scheme in ("dns", "ipv4", "ipv6"):
        if address.startswith(f"{scheme}:") and not address.removeprefix(f"{scheme}:").isdigit():
            rest = address.removeprefix(f"{scheme}:")
            # dns://authority/name: the part before the third slash names a DNS server.
            address = rest.removeprefix("//").partition("/")[2] if rest.startswith("//") else rest
            break
    if address.startswith("unix:") or "/" in address:
        raise read.wrong(
            "xds_servers[0].server_uri", f"is {uri[:300]!r}: only HOST:PORT and dns:///HOST:PORT are supported"
        )
    split_address(address, f"{read.source}: xds_servers[0].server_uri")
    return address


def _plaintext(server: Mapping[str, Any], read: _Reader) -> bool:
    """gRPC uses the first credentials it supports; without any the file is unusable."""
    kinds = []
    for one in read.get(server, "xds_servers[0].channel_creds", list, "a list"):
        kind = one.get("type") if isinstance(one, dict) else None
        if kind in ("insecure", "tls"):
            return bool(kind == "insecure")
        kinds.append(str(kind))
    raise read.wrong(
        "xds_servers[0].channel_creds", f'must name type "tls" or "insecure", not {", ".join(kinds) or "nothing"}'
    )
