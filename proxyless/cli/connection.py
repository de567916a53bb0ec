"""The command line's connection to a running control plane: found by its state directory, spoken to over HTTP."""

import errno
import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from proxyless.model.errors import ProxylessError

_MAX_ANSWER = 256 * 1024 * 1024


class ApiError(ProxylessError):
    """The control plane refused; ``problems`` as its API has them."""

    def __init__(self, text: str, problems: list[dict[str, Any]], status: int) -> None:
        super().__init__(text)
        self.problems = problems
        self.status = status


class Connection:
    """Calls the HTTP API of the control plane that runs with this state directory.

    Raises ProxylessError with the remedy when none runs there, ApiError when it refuses.
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        found = _running(state_dir)
        host, _, port = str(found.get("http", "")).rpartition(":")
        self._host, self._port = host.strip("[]"), int(port or 0)
        self._token = _admin_token(state_dir)

    def get(self, path: str, **query: object) -> Any:
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, object] | None = None,
        body: bytes | None = None,
        timeout: float = 30.0,
    ) -> Any:
        """One request; the decoded answer. ``path`` is below ``/api/v1/`` and quoted part by part already."""
        target = f"/api/v1/{path}" + (f"?{urlencode(query)}" if query else "")
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            connection.request(method, target, body, {"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            raw = response.read(_MAX_ANSWER)
        except TimeoutError:
            raise ProxylessError(f"the control plane at {self._host}:{self._port} did not answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            raise ProxylessError(f"{_none_runs(self.state_dir)} ({error})") from None
        finally:
            connection.close()
        try:
            answer = json.loads(raw)
        except ValueError:
            raise ProxylessError(f"{self._host}:{self._port} does not answer as a control plane does") from None
        if response.status >= 400:
            text = str(answer.get("error", "")) if isinstance(answer, dict) else ""
            problems = answer.get("problems", []) if isinstance(answer, dict) else []
            raise ApiError(text or f"HTTP status {response.status}", problems, response.status)
        return answer


def segment(text: str) -> str:
    """One part of a URL path."""
    return quote(text, safe="")


def _running(state_dir: Path) -> dict[str, Any]:
    path = state_dir / "control-plane.json"
    try:
        found = json.loads(path.read_text())
        pid = int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ProxylessError(_none_runs(state_dir)) from None
    try:
        os.kill(pid, 0)
    except OSError as error:
        # EPERM: it runs, as another user. Then the admin token will say so.
        if error.errno == errno.ESRCH:
            raise ProxylessError(_none_runs(state_dir)) from None
    return dict(found)


def _none_runs(state_dir: Path) -> str:
    return (
        f"no control plane runs with the state directory {state_dir}; start one with `proxyless control-plane`, "
        "or name another directory with --state-dir or PROXYLESS_STATE_DIR"
    )


def _admin_token(state_dir: Path) -> str:
    path = state_dir / "admin-token"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ProxylessError(f"cannot read the admin token {path}: {error.strerror}") from None
