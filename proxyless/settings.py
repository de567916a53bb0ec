"""Who this process is and where its control plane is: arguments, environment, gRPC's bootstrap file, in that order."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyless.bootstrap import Bootstrap, read_bootstrap
from proxyless.model.address import split_address
from proxyless.model.cluster import Locality
from proxyless.model.errors import ConfigurationError
from proxyless.model.state_dir import default_state_dir

DEFAULT_CONTROL_PLANE = "127.0.0.1:15012"
DEFAULT_INBOUND_LISTENER = "xds.istio.io/grpc/lds/inbound/%s"
_MAX_LABELS = 64
_NOWHERE = Locality()

# A Kubernetes name (RFC 1123): it becomes part of a SPIFFE ID and of a DNS name.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,315}[A-Za-z0-9])?\Z")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?\Z")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a mesh needs to know before it speaks to anyone.

    control_plane: ``host:port``. plaintext: the bootstrap file's channel credentials are ``insecure``; else TLS.
    token_file: None for the dev token in ``state_dir``. node_id, node_cluster, locality, node_metadata: of the xDS
    node, as the bootstrap file has them. inbound_listener: template of a server's listener name, ``%s`` is
    ``ADDRESS:PORT`` (gRFC A36). ignored: fields of the bootstrap file that are not acted on.
    """

    control_plane: str = DEFAULT_CONTROL_PLANE
    service: str = ""
    namespace: str = "default"
    service_account: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    token_file: Path | None = None
    state_dir: Path = Path()
    plaintext: bool = False
    node_id: str = ""
    node_cluster: str = ""
    locality: Locality = _NOWHERE
    node_metadata: Mapping[str, Any] = field(default_factory=dict)
    inbound_listener: str = DEFAULT_INBOUND_LISTENER
    ignored: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for settings that mean the same client of the same control plane; hashable."""
        return (
            self.control_plane,
            self.plaintext,
            self.service,
            self.namespace,
            self.service_account,
            tuple(sorted(self.labels.items())),
            self.token_file,
            self.state_dir,
            self.node_id,
            self.node_cluster,
            self.locality,
            json.dumps(self.node_metadata, sort_keys=True, default=str),
            self.inbound_listener,
        )


def load_settings(
    *,
    control_plane: str | None = None,
    service: str | None = None,
    namespace: str | None = None,
    service_account: str | None = None,
    labels: Mapping[str, str] | None = None,
    token_file: str | Path | None = None,
    state_dir: str | Path | None = None,
    bootstrap: str | Path | Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Arguments win over the environment, the environment over the bootstrap file; an empty variable counts as not set.

    Raises ConfigurationError naming the argument, variable or field, and the remedy. Reads the bootstrap file and
    ``STATE_DIR/control-plane.json``; does no other I/O.
    """
    environ = os.environ if environ is None else environ
    file = read_bootstrap(bootstrap, environ)
    directory = Path(state_dir) if state_dir else default_state_dir(environ)

    def choose(argument: str | None, name: str, from_file: str | None, default: str) -> tuple[str, str]:
        """(value, where it came from)"""
        variable = f"PROXYLESS_{name.upper()}"
        if argument is not None:
            return argument, f"argument {name}"
        if environ.get(variable):
            return environ[variable], variable
        return (from_file, f"{file.source}: {name}") if from_file else (default, "")

    address, where = choose(control_plane, "control_plane", file.control_plane, "")
    if not address:
        address, where = _from_state_dir(directory)
    split_address(address, where)
    chosen_service = _name(*choose(service, "service", file.service, ""), empty=True)
    chosen_namespace = _name(*choose(namespace, "namespace", file.namespace, "default"))
    account = _name(*choose(service_account, "service_account", file.service_account, "default"))
    token = str(token_file) if token_file else environ.get("PROXYLESS_TOKEN_FILE", "")
    return Settings(
        control_plane=address,
        service=chosen_service,
        namespace=chosen_namespace,
        service_account=account,
        labels=_labels(labels, environ, file, chosen_service),
        token_file=Path(token) if token else None,
        state_dir=directory,
        plaintext=file.plaintext and address == file.control_plane,
        node_id=file.node_id,
        node_cluster=file.node_cluster,
        locality=file.locality,
        node_metadata=file.metadata,
        inbound_listener=file.inbound_listener or DEFAULT_INBOUND_LISTENER,
        ignored=file.ignored,
    )


def _name(value: str, where: str, *, empty: bool = False) -> str:
    if (empty and not value) or _NAME.match(value):
        return value
    raise ConfigurationError(
        f"{where} is {value[:300]!r}: use lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    )


def _from_state_dir(directory: Path) -> tuple[str, str]:
    """The address that a control plane with this state dir wrote there, else the default."""
    path = directory / "control-plane.json"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return DEFAULT_CONTROL_PLANE, "default"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error}): set PROXYLESS_CONTROL_PLANE to HOST:PORT"
        ) from error
    try:
        address = json.loads(text)["xds_tls"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f'{path} is not a JSON object with "xds_tls": restart the control plane, or set PROXYLESS_CONTROL_PLANE'
        ) from error
    return str(address), f"{path}: xds_tls"


def _labels(
    argument: Mapping[str, str] | None, environ: Mapping[str, str], file: Bootstrap, service: str
) -> Mapping[str, str]:
    if argument is not None:
        labels, where = dict(argument), "argument labels"
    elif text := environ.get("PROXYLESS_LABELS"):
        labels, where = {}, "PROXYLESS_LABELS"
        for pair in text.split(","):
            key, equals, value = pair.strip().partition("=")
            if not equals:
                raise ConfigurationError(f"PROXYLESS_LABELS has {pair[:300]!r}: write key=value pairs joined by commas")
            labels[key.strip()] = value.strip()
    else:
        labels, where = dict(file.labels or {}), f"{file.source}: node.metadata.LABELS"
    if len(labels) > _MAX_LABELS:
        raise ConfigurationError(f"{where} has {len(labels)} labels, at most {_MAX_LABELS} are accepted")
    for key, value in labels.items():
        if (
            not isinstance(key, str)
            or not isinstance(value, str)
            or not _LABEL_KEY.match(key)
            or not _LABEL_VALUE.match(value)
        ):
            raise ConfigurationError(
                f"{where}: {key!r}={value!r} is not a Kubernetes label (letters, digits, '-', '_', '.')"
            )
    if service:
        labels.setdefault("app", service)
    return labels
