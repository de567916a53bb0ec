"""Our transports as what other tools take for a transport: an instance of httpx's own base class."""

import sys
from functools import cache
from typing import Any, TypeVar

_Transport = TypeVar("_Transport")


def with_bases(ours: type[_Transport], name: str) -> type[_Transport]:
    """``ours`` as a subclass of ``name`` in httpx and in httpx2, whichever the application has imported by now.

    Their clients only call its methods, but httpx-retries, for one, asks with ``isinstance``.
    """
    found = (getattr(sys.modules.get(library), name, None) for library in ("httpx", "httpx2"))
    key: Any = ours
    made: type[_Transport] = _subclass(key, tuple(base for base in found if base is not None))
    return made


@cache
def _subclass(ours: Any, bases: tuple[type, ...]) -> Any:
    return type(ours.__name__, (ours, *bases), {"__module__": ours.__module__, "__doc__": ours.__doc__})
