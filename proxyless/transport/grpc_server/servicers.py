"""Finds the gRPC service that ``MODULE:SERVICER`` names, and how it is added to a server."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from proxyless.model.errors import ConfigurationError
from proxyless.transport.inbound.application import find

Register = Callable[[Any], object]


def load_servicer(name: str) -> Register:
    """A function that adds to a server what ``MODULE:SERVICER`` names. SERVICER is one of:

    a servicer's class, made without arguments, or an instance of one: the ``add_...Servicer_to_server`` beside the
    generated class it inherits from is found; or a function, which is called with the server.
    Raises ConfigurationError that says what is missing. An error inside the module keeps its type and traceback.
    """
    found = find(name, "a servicer: write MODULE:SERVICER, for example greeter:Greeter")
    if inspect.isroutine(found):
        return _checked(name, found)
    kind = found if inspect.isclass(found) else type(found)
    adders = _adders(kind)
    if not adders:
        raise ConfigurationError(
            f"{name} is no servicer: neither {kind.__name__} nor a class it inherits from has an "
            f"add_{kind.__name__}_to_server beside it; name a class that inherits from a generated ...Servicer, or a "
            "function that takes the server and adds services to it"
        )
    if not inspect.isclass(found):
        servicer = found
    else:
        try:
            inspect.signature(kind).bind()
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"{name} cannot be made without arguments: name an instance of it, or a function that takes the server "
                "and adds the servicer to it"
            ) from None
        servicer = kind()

    def register(server: Any) -> None:
        for add in adders:
            add(servicer, server)

    return register


def _checked(name: str, function: Any) -> Register:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise ConfigurationError(f"{name} must be a function that takes one argument, the server") from None
    except ValueError:
        pass  # it does not say what it takes
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{name} must not be a coroutine: it only adds services to the server it is given")
    return function  # type: ignore[no-any-return]


def _adders(kind: type) -> list[Callable[[Any, Any], object]]:
    """Of all the services that a class implements. protoc writes the function beside the class."""
    found = []
    for one in kind.__mro__:
        add = getattr(sys.modules.get(one.__module__), f"add_{one.__name__}_to_server", None)
        if callable(add):
            found.append(add)
    return found
