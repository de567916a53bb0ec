"""A resource as a document again, for ``get`` and for people who want to edit what is in effect."""

import json
from datetime import UTC, datetime
from typing import Any

from proxyless.control_plane.resources.kinds import KINDS
from proxyless.control_plane.resources.resource import Resource


def to_document(resource: Resource[Any]) -> dict[str, Any]:
    """Only the fields that were set, in JSON's types; reading the result gives an equal spec."""
    metadata: dict[str, Any] = {"name": resource.name}
    if resource.namespace:
        metadata["namespace"] = resource.namespace
    if resource.labels:
        metadata["labels"] = dict(resource.labels)
    if resource.annotations:
        metadata["annotations"] = dict(resource.annotations)
    if resource.created:
        metadata["creationTimestamp"] = datetime.fromtimestamp(resource.created, UTC).isoformat(timespec="seconds")
    document: dict[str, Any] = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
    }
    spec = resource.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    root, _, embedded = KINDS[resource.kind].root.partition(".")
    if embedded:
        return {**document, root: {embedded: json.dumps(spec)}}
    return {**document, root: spec} if root else {**document, **spec}
