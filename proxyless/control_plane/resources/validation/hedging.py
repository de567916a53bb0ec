"""The annotation for hedged requests: what it may say, and whether it can do anything."""

from proxyless.control_plane.resources.hedging import HEDGE, hedges
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.validation.checks import Checks


def check_hedging(checks: Checks, remedy: str) -> None:
    """remedy: what must be added for it to have an effect; empty if it has."""
    annotations = checks.resource.annotations
    if HEDGE not in annotations:
        return
    path = child("metadata.annotations", HEDGE)
    value = annotations[HEDGE]
    if value not in ("true", "false"):
        checks.error(path, f'{value!r} is neither "true" nor "false"; use one of them')
    elif hedges(annotations) and remedy:
        checks.warning(path, f"has no effect: {remedy}", "NoEffect")
