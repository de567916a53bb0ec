"""``MODULE:APP`` from the working directory: what is found, and what is said when it is not."""

import sys
from pathlib import Path

import pytest

from proxyless.model.errors import ConfigurationError
from proxyless.transport.inbound.application import is_asgi, load

SOURCE = """
import functools

async def app(scope, receive, send): ...
def hello(environ, start_response): ...
def three(scope, receive, send): ...

class Asgi:
    async def __call__(self, scope, receive, send): ...

class Wsgi:
    def __call__(self, environ, start_response): ...

class Deep:
    inner = Asgi()

asgi, wsgi, text = Asgi(), Wsgi(), "text"
partial = functools.partial(hello)
bound = functools.partial(app)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "loadable_application.py").write_text(SOURCE)
    (tmp_path / "broken_application.py").write_text("import does_not_exist_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("loadable_application", None)


@pytest.mark.parametrize(
    ("name", "asgi"),
    [
        ("app", True),
        ("", True),
        ("asgi", True),
        ("three", True),
        ("Deep.inner", True),
        ("bound", True),
        ("hello", False),
        ("wsgi", False),
        ("partial", False),
    ],
)
def test_interface_is_recognised(name: str, asgi: bool) -> None:
    assert load(f"loadable_application:{name}" if name else "loadable_application").asgi is asgi


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("no_such.module:app", "there is no module 'no_such.module'"),
        ("loadable_application:ap", "module 'loadable_application' has no 'ap'; it has: app"),
        ("loadable_application:text", "not an ASGI or WSGI application"),
        ("", "write MODULE:APP"),
        ("a b:c", "write MODULE:APP"),
        ("./hello.py:app", "write MODULE:APP"),
    ],
)
def test_what_is_missing_is_said(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("(", r"\(")):
        load(name)


def test_error_of_the_module_itself_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="does_not_exist_anywhere"):
        load("broken_application:app")


def test_a_class_is_no_application() -> None:
    class App:
        async def __call__(self, scope, receive, send): ...

    assert not is_asgi(App)
    assert is_asgi(App())
