"""Where a user's control plane and data planes keep what must survive a restart."""

import os
from collections.abc import Mapping
from pathlib import Path


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """``$PROXYLESS_STATE_DIR``, else ``$XDG_STATE_HOME/proxyless``, else ``~/.local/state/proxyless``."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("PROXYLESS_STATE_DIR"):
        return Path(chosen)
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "proxyless"
