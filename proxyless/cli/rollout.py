"""Waiting until configuration is live, for ``apply --wait`` and ``wait``."""

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any

from proxyless.cli import output
from proxyless.cli.connection import Connection
from proxyless.cli.parsers import duration

TIMEOUT = 30.0
# The API's own limit.
_LONGEST = 600.0
# Beyond the wait itself: the control plane may be busy.
_MARGIN = 10.0


def timeout(text: str) -> float:
    """A duration that the API waits for."""
    if (seconds := duration(text)) > _LONGEST:
        raise argparse.ArgumentTypeError("it waits 10m at most")
    return seconds


def wait_for(
    connection: Connection, generation: int | None, resources: Iterable[Mapping[str, Any]], timeout: float
) -> dict[str, Any]:
    """What became of it within ``timeout`` seconds, said on stderr too.

    generation: None for the current one. resources: what matters, by kind, namespace and name; none for everything.
    """
    query: dict[str, object] = {"timeout": timeout}
    if generation is not None:
        query["generation"] = generation
    named = [{part: each[part] for part in ("kind", "namespace", "name")} for each in resources]
    found: dict[str, Any] = connection.call(
        "POST" if named else "GET",
        "rollout",
        query=query,
        body=json.dumps({"resources": named}).encode() if named else None,
        timeout=timeout + _MARGIN,
    )
    for refusal in found["refused"]:
        for each in refusal["resources"]:
            made_from = ", ".join(map(_origin, each["madeFrom"]))
            what = f"{each['type']} {each['name']}".rstrip() + (f", made from {made_from}" if made_from else "")
            output.line(f"{refusal['node']} refused {what}: {each['reason']}")
    for node in found["lagging"]:
        output.line(f"{node} has not accepted it within {timeout:g} s")
    accepted = len(found["accepted"])
    output.message(f"accepted by {accepted} connected client{'' if accepted == 1 else 's'}")
    return found


def is_live(rollout: Mapping[str, Any]) -> bool:
    """Whether nobody refused it or lags."""
    return not rollout["refused"] and not rollout["lagging"]


def _origin(resource: Mapping[str, Any]) -> str:
    name = "/".join(part for part in (resource["namespace"], resource["name"]) if part)
    where = f" ({resource['source']})" if resource["source"] else ""
    return f"{resource['kind']} {name}{where}"
