"""Envoy's admin interface, as the launcher uses it: is it ready, does it listen, what is under way, drain."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

_TIMEOUT = 2.0


class Admin:
    """``async with`` one. port: on loopback; 0 for the socket, whose folder only this user can enter."""

    def __init__(self, socket: Path, port: int = 0) -> None:
        self.address: Mapping[str, Any]
        if port:
            self.shown = f"http://127.0.0.1:{port}"
            self.address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
            transport = httpx2.AsyncHTTPTransport()
        else:
            self.shown = f"unix socket {socket}"
            self.address = {"pipe": {"path": str(socket), "mode": 0o600}}
            transport = httpx2.AsyncHTTPTransport(uds=str(socket))
        base = f"http://127.0.0.1:{port}" if port else "http://envoy"
        # trust_env: a proxy of the environment is no way to a process of our own.
        self._client = httpx2.AsyncClient(transport=transport, base_url=base, timeout=_TIMEOUT, trust_env=False)

    async def __aenter__(self) -> "Admin":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def problem(self, port: int) -> str:
        """What is missing until it accepts connections on ``port``, "" for nothing."""
        try:
            ready = await self._client.get("/ready")
            if ready.status_code != httpx2.codes.OK:
                return f"Envoy has no configuration yet ({ready.text.strip()[:100]})"
            listeners = (await self._client.get("/listeners", params={"format": "json"})).json()
        except (httpx2.HTTPError, ValueError) as error:
            return f"Envoy's admin interface does not answer ({type(error).__name__})"
        addresses = [one.get("local_address", {}) for one in listeners.get("listener_statuses", [])]
        if any(address.get("socket_address", {}).get("port_value") == port for address in addresses):
            return ""
        return f"Envoy does not listen on port {port}: it refused its listener, or the control plane has none for it"

    async def active_requests(self) -> int | None:
        """Requests under way in both directions; None when Envoy does not say."""
        try:
            answer = await self._client.get("/stats", params={"filter": r"^http\.(in|out)bound\.downstream_rq_active$"})
            return sum(int(line.rpartition(":")[2]) for line in answer.text.splitlines())
        except (httpx2.HTTPError, ValueError):
            return None

    async def drain(self) -> bool:
        """Have callers take their next request elsewhere; what comes is still served. Whether Envoy heard it."""
        try:
            answer = await self._client.post("/drain_listeners?inboundonly&graceful&skip_exit")
        except httpx2.HTTPError:
            return False
        return answer.status_code == httpx2.codes.OK
