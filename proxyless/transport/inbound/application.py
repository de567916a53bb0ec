"""Finds the application that ``MODULE:APP`` names and says which interface it has."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxyless.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Loaded:
    """name: as it was asked for. asgi: False for a WSGI application."""

    name: str
    app: Callable[..., Any]
    asgi: bool


def load(name: str) -> Loaded:
    """Import ``MODULE:APP``, looking in the working directory first. APP may be dotted; without it, ``app`` is meant.

    Raises ConfigurationError that says what is missing. An error inside the application's own module is not hidden: it
    keeps its type and traceback.
    """
    found = find(name, "an application: write MODULE:APP, for example hello:app", default="app")
    if not callable(found):
        raise ConfigurationError(
            f"{name} is {type(found).__name__!r}, not an ASGI or WSGI application: it cannot be called"
        )
    return Loaded(name, found, is_asgi(found))


def find(name: str, what: str, *, default: str = "") -> Any:
    """What ``MODULE:ATTRIBUTE`` names. what: ends the sentence "NAME does not name ..."; default: the attribute."""
    module_name, _, attribute = name.partition(":")
    attribute = attribute or default
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigurationError(f"{name!r} does not name {what}")
    directory = os.getcwd()  # noqa: PTH109 (sys.path holds text)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only when it is the module itself that is missing; a missing dependency of it is the application's error.
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        meant = f"; write {module_name.removesuffix('.py')}:{attribute}" if module_name.endswith(".py") else ""
        raise ConfigurationError(
            f"there is no module {module_name!r}, neither in {directory} nor among the installed packages{meant}"
        ) from None
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"module {module_name!r} has no {attribute!r}{_candidates(module)}") from None
    return found


def is_asgi(app: Callable[..., Any]) -> bool:
    """ASGI if a call makes a coroutine or takes scope, receive and send; WSGI takes environ and start_response."""
    if inspect.isclass(app):
        return False
    call = getattr(app, "__call__", None)  # noqa: B004 (its kind is asked for, not whether it is there)
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call):
        return True
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 3


def _candidates(module: object) -> str:
    """What the user may have meant."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and not inspect.isclass(value) and not inspect.isbuiltin(value)
    ]
    return f"; it has: {', '.join(sorted(names)[:8])}" if names else ""
