"""A service mesh inside the Python process: discovery, routing, mutual TLS, retries and telemetry without a sidecar.

import httpx, proxyless

mesh = proxyless.Mesh()
client = httpx.AsyncClient(transport=mesh.async_transport())
"""

from proxyless.mesh import Mesh
from proxyless.model.errors import ConfigurationError, IdentityError, NotReadyError, ProxylessError
from proxyless.telemetry.load_recorders import call_metrics

__version__ = "0.1.0"
__all__ = [
    "ConfigurationError",
    "IdentityError",
    "Mesh",
    "NotReadyError",
    "ProxylessError",
    "__version__",
    "call_metrics",
]
