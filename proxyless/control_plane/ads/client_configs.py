"""A connected client as CSDS shows it: ``envoy.service.status.v3.ClientConfig``, resource by resource."""

from typing import Any

from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus, UpdateFailureState
from envoy.service.status.v3 import csds_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from proxyless.control_plane.ads.delta_subscription import resource_version
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ads.state import WILDCARD
from proxyless.control_plane.ads.status import TypeConfig
from proxyless.control_plane.type_urls import PUSH_ORDER


def client_config(session: Session, *, contents: bool = True) -> Any:
    """What the client was sent, accepted and refused. contents: with the resources themselves.

    ``xds_config`` is what the client uses, what it accepted last; what it refused is in ``error_state``.
    """
    config = csds_pb2.ClientConfig()
    config.node.id = session.client.node_id
    config.node.cluster = session.service
    config.node.metadata.update(
        {"NAMESPACE": session.client.namespace, "SERVICE_ACCOUNT": session.client.service_account}
    )
    for each in session.configuration():
        if each.type_url in PUSH_ORDER:
            names = {*each.status.names, *each.sent, *each.accepted} - {WILDCARD}
            config.generic_xds_configs.extend(
                _resource(each, name, delta=session.delta, contents=contents) for name in sorted(names)
            )
    return config


def _resource(config: TypeConfig, name: str, *, delta: bool, contents: bool) -> Any:
    sent, accepted = config.sent.get(name), config.accepted.get(name)
    shown = csds_pb2.ClientConfig.GenericXdsConfig(type_url=config.type_url, name=name)
    shown.config_status, shown.client_status = _status(config, name)
    if accepted is not None:
        shown.version_info = resource_version(accepted) if delta else config.status.accepted_version
        if contents:
            shown.xds_config.CopyFrom(AnyMessage(type_url=config.type_url, value=accepted))
    if (refusal := config.refused.get(name)) is not None:
        failure = UpdateFailureState(details=refusal)
        if sent is not None:
            failure.version_info = resource_version(sent) if delta else config.status.sent_version
            if contents:
                failure.failed_configuration.CopyFrom(AnyMessage(type_url=config.type_url, value=sent))
        shown.error_state.CopyFrom(failure)
    return shown


def _status(config: TypeConfig, name: str) -> tuple[Any, Any]:
    """How it stands as we see it, and as the client must see it by what it has answered."""
    sent, accepted = config.sent.get(name), config.accepted.get(name)
    if name in config.refused:
        return csds_pb2.ERROR, ClientResourceStatus.NACKED
    if sent is None and accepted is None:
        return csds_pb2.NOT_SENT, ClientResourceStatus.REQUESTED
    if sent == accepted:
        return csds_pb2.SYNCED, ClientResourceStatus.ACKED
    return csds_pb2.STALE, ClientResourceStatus.REQUESTED if accepted is None else ClientResourceStatus.ACKED
