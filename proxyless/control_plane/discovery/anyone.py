"""The namespace of nobody in particular: to find out what is the same for clients of all namespaces."""

from typing import Any, NoReturn, cast


class Varies(Exception):
    """What was asked for is not the same for clients of all namespaces."""


class _Anyone:
    """Looking at it raises Varies, so that no answer can depend on it unnoticed."""

    __slots__ = ()

    def _varies(self, *_: Any) -> NoReturn:
        raise Varies

    __eq__ = __ne__ = __hash__ = __str__ = __format__ = _varies


# Stands where a client's namespace does, and is passed on like one.
ANYONE = cast(str, _Anyone())
