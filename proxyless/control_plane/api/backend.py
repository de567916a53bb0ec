"""What the HTTP API serves from."""

from collections.abc import Callable
from dataclasses import dataclass

from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.api.metrics import Metrics
from proxyless.control_plane.ca.token_issuer import TokenIssuer
from proxyless.control_plane.configuration import Configuration
from proxyless.control_plane.delivery.delivery import Delivery
from proxyless.control_plane.registry.registry import Registry
from proxyless.control_plane.world_keeper import WorldKeeper


@dataclass(frozen=True, slots=True)
class Backend:
    """ready: stores are read and xDS is served."""

    configuration: Configuration
    registry: Registry
    worlds: WorldKeeper
    ads: AdsServer
    delivery: Delivery
    tokens: TokenIssuer
    metrics: Metrics
    admin_token: str
    ready: Callable[[], bool]
