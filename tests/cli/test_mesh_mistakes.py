"""``proxyless.Mesh`` given what cannot be right: an error at once that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyless import ConfigurationError, Mesh


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda mesh: mesh.register(0).__enter__(), "port to register is 0"),
        (lambda mesh: mesh.register("8080").__enter__(), "port to register is '8080'"),
        (lambda mesh: mesh.register({"http": 70000}).__enter__(), "port http is 70000"),
        (lambda mesh: mesh.explain("GET", "reviews/0"), "http://HOST"),
    ],
)
def test_wrong_arguments(tmp_path: Path, call: Callable[[Mesh], Any], says: str) -> None:
    mesh = Mesh(state_dir=tmp_path, control_plane="127.0.0.1:1")
    try:
        with pytest.raises(ConfigurationError, match=says):
            call(mesh)
    finally:
        mesh.close()
