"""Settings: what wins, and what each mistake is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxyless.model.cluster import Locality
from proxyless.model.errors import ConfigurationError
from proxyless.settings import DEFAULT_CONTROL_PLANE, DEFAULT_INBOUND_LISTENER, Settings, load_settings

FILE: dict[str, Any] = {
    "xds_servers": [
        {
            "server_uri": "dns:///file.example:15010",
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }
    ],
    "node": {
        "id": "sidecar~1.2.3.4~x.y~y.svc.cluster.local",
        "cluster": "x",
        "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
        "metadata": {"NAMESPACE": "file-ns", "SERVICE_ACCOUNT": "file-sa", "LABELS": {"app": "file-app", "v": "1"}},
    },
    "certificate_providers": {"default": {}},
    "server_listener_resource_name_template": "custom/%s",
}
ENVIRON = {
    "PROXYLESS_CONTROL_PLANE": "env.example:15012",
    "PROXYLESS_SERVICE": "env-service",
    "PROXYLESS_NAMESPACE": "env-ns",
    "PROXYLESS_SERVICE_ACCOUNT": "env-sa",
    "PROXYLESS_LABELS": "app=env-app, version=v1",
    "PROXYLESS_TOKEN_FILE": "/env/token",
}


def load(tmp_path: Path, environ: dict[str, str] | None = None, **arguments: Any) -> Settings:
    return load_settings(environ={"PROXYLESS_STATE_DIR": str(tmp_path), **(environ or {})}, **arguments)


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings == Settings(state_dir=tmp_path)
    assert settings.control_plane == DEFAULT_CONTROL_PLANE
    assert (settings.service, settings.namespace, settings.service_account) == ("", "default", "default")
    assert settings.labels == {}
    assert settings.inbound_listener == DEFAULT_INBOUND_LISTENER
    assert load(tmp_path, service="web").labels == {"app": "web"}
    assert load(tmp_path, service="web", labels={"app": "other"}).labels == {"app": "other"}


def test_arguments_win_over_environment_over_file(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(FILE))
    file = load(tmp_path, {"GRPC_XDS_BOOTSTRAP": str(path)})
    assert (file.control_plane, file.plaintext) == ("file.example:15010", True)
    assert (file.service, file.namespace, file.service_account) == ("file-app", "file-ns", "file-sa")
    assert file.labels == {"app": "file-app", "v": "1"}
    assert (file.node_id, file.node_cluster) == ("sidecar~1.2.3.4~x.y~y.svc.cluster.local", "x")
    assert file.locality == Locality("r", "z", "s")
    assert file.inbound_listener == "custom/%s"
    assert "certificate_providers" in file.ignored[0]

    both = load(tmp_path, {"GRPC_XDS_BOOTSTRAP": str(path), **ENVIRON})
    assert (both.control_plane, both.plaintext) == ("env.example:15012", False)
    assert (both.service, both.namespace, both.service_account) == ("env-service", "env-ns", "env-sa")
    assert both.labels == {"app": "env-app", "version": "v1"}
    assert both.token_file == Path("/env/token")
    assert both.node_id == file.node_id

    arguments = load(
        tmp_path,
        {"GRPC_XDS_BOOTSTRAP": str(path), **ENVIRON},
        control_plane="[::1]:1",
        service="s",
        namespace="n",
        service_account="a",
        labels={"x": "y"},
        token_file="/argument",
        state_dir=tmp_path / "other",
    )
    assert (arguments.control_plane, arguments.service, arguments.namespace) == ("[::1]:1", "s", "n")
    assert (arguments.service_account, arguments.labels) == ("a", {"x": "y", "app": "s"})
    assert (arguments.token_file, arguments.state_dir) == (Path("/argument"), tmp_path / "other")


def test_where_the_file_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(FILE))
    inline = {**FILE, "xds_servers": [{"server_uri": "inline:1", "channel_creds": [{"type": "tls"}]}]}
    environ = {"GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(inline)}
    assert load(tmp_path, environ).control_plane == "inline:1"
    assert not load(tmp_path, environ).plaintext
    assert load(tmp_path, {**environ, "GRPC_XDS_BOOTSTRAP": str(path)}).control_plane == "file.example:15010"
    assert load(tmp_path, {"GRPC_XDS_BOOTSTRAP": str(path)}, bootstrap=inline).control_plane == "inline:1"
    assert load(tmp_path, environ, bootstrap=path).control_plane == "file.example:15010"


def test_the_address_a_control_plane_left_in_the_state_dir(tmp_path: Path) -> None:
    (tmp_path / "control-plane.json").write_text('{"xds_tls": "127.0.0.1:4711", "pid": 1}')
    assert load(tmp_path).control_plane == "127.0.0.1:4711"
    assert load(tmp_path, {"PROXYLESS_CONTROL_PLANE": "x:1"}).control_plane == "x:1"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("h:1", "h:1"),
        ("dns:h:1", "h:1"),
        ("dns:///h:1", "h:1"),
        ("dns://8.8.8.8/h:1", "h:1"),
        ("ipv4:127.0.0.1:1", "127.0.0.1:1"),
        ("ipv6:[::1]:1", "[::1]:1"),
    ],
)
def test_server_uris(tmp_path: Path, uri: str, address: str) -> None:
    servers = [{"server_uri": uri, "channel_creds": [{"type": "google_default"}, {"type": "tls"}]}]
    assert load(tmp_path, bootstrap={"xds_servers": servers}).control_plane == address


def test_equal_settings_have_equal_keys(tmp_path: Path) -> None:
    one = load(tmp_path, ENVIRON)
    assert one.key == load(tmp_path, ENVIRON).key
    assert hash(one.key) != hash(load(tmp_path, ENVIRON, service="other").key)


SERVER: dict[str, Any] = {"server_uri": "h:1", "channel_creds": [{"type": "tls"}]}


@pytest.mark.parametrize(
    ("arguments", "environ", "error"),
    [
        ({"control_plane": "nowhere"}, {}, "argument control_plane is 'nowhere': write HOST:PORT"),
        ({"control_plane": "::1:80"}, {}, "argument control_plane"),
        ({"control_plane": "http://x:80"}, {}, "argument control_plane"),
        ({}, {"PROXYLESS_CONTROL_PLANE": "h:0"}, "PROXYLESS_CONTROL_PLANE is 'h:0'"),
        ({}, {"PROXYLESS_SERVICE": "No Name"}, "PROXYLESS_SERVICE is 'No Name': use lower-case"),
        ({"namespace": ""}, {}, "argument namespace is ''"),
        ({"service_account": "../x"}, {}, "argument service_account"),
        ({}, {"PROXYLESS_LABELS": "a"}, "PROXYLESS_LABELS has 'a': write key=value"),
        ({"labels": {"a": "b c"}}, {}, "argument labels: 'a'='b c' is not a Kubernetes label"),
        ({"labels": {f"k{i}": "v" for i in range(65)}}, {}, "has 65 labels"),
        ({}, {"GRPC_XDS_BOOTSTRAP": "/does/not/exist"}, "GRPC_XDS_BOOTSTRAP (/does/not/exist) cannot be read"),
        ({}, {"GRPC_XDS_BOOTSTRAP_CONFIG": "{"}, "GRPC_XDS_BOOTSTRAP_CONFIG is not valid JSON"),
        ({}, {"GRPC_XDS_BOOTSTRAP_CONFIG": "[]"}, "must be a JSON object"),
        ({"bootstrap": {}}, {}, "argument bootstrap: xds_servers must have an entry"),
        ({"bootstrap": {"xds_servers": 5}}, {}, "xds_servers must be a list of servers, not 5"),
        ({"bootstrap": {"xds_servers": [{**SERVER, "server_uri": "unix:/x"}]}}, {}, "only HOST:PORT and dns:///"),
        ({"bootstrap": {"xds_servers": [{**SERVER, "server_uri": "x"}]}}, {}, "xds_servers[0].server_uri is 'x'"),
        ({"bootstrap": {"xds_servers": [{**SERVER, "channel_creds": [{"type": "alts"}]}]}}, {}, "not alts"),
        ({"bootstrap": {"xds_servers": [SERVER], "node": {"id": 5}}}, {}, "node.id must be a text, not 5"),
        (
            {"bootstrap": {"xds_servers": [SERVER], "node": {"metadata": {"NAMESPACE": "A B"}}}},
            {},
            "argument bootstrap: namespace is 'A B'",
        ),
        (
            {"bootstrap": {"xds_servers": [SERVER], "node": {"metadata": {"LABELS": {"a": 5}}}}},
            {},
            "node.metadata.LABELS: 'a'=5 is not a Kubernetes label",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: Any, environ: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, environ, **arguments)
    assert error in str(raised.value)


def test_a_broken_state_dir_is_named(tmp_path: Path) -> None:
    path = tmp_path / "control-plane.json"
    for content in ("{", "[]", "{}"):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=r'control-plane\.json is not a JSON object with "xds_tls"'):
            load(tmp_path)
