"""Which handler serves a method, and what it is: the four kinds, coroutine, generator or function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

_DICTIONARY = type(grpc.method_handlers_generic_handler("", {}))


class Details(NamedTuple):
    """A ``grpc.HandlerCallDetails``."""

    method: str
    invocation_metadata: Any


class Method:
    """incoming, outgoing: what streams. asynchronous: served in the event loop; generator: by an asynchronous one."""

    __slots__ = ("asynchronous", "behaviour", "generator", "incoming", "outgoing", "parse", "serialize")

    def __init__(self, handler: Any) -> None:
        self.incoming: bool = handler.request_streaming
        self.outgoing: bool = handler.response_streaming
        name = f"{'stream' if self.incoming else 'unary'}_{'stream' if self.outgoing else 'unary'}"
        self.behaviour: Any = getattr(handler, name)
        self.parse: Any = handler.request_deserializer
        self.serialize: Any = handler.response_serializer
        self.generator = inspect.isasyncgenfunction(self.behaviour)
        self.asynchronous = self.generator or inspect.iscoroutinefunction(self.behaviour)


class Methods:
    """services: names of those that were added, as far as handlers tell them.

    by_name: whether a method's handler depends on its name alone.
    """

    def __init__(self, interceptors: Sequence[Any]) -> None:
        invalid = [one for one in interceptors if not isinstance(one, grpc.aio.ServerInterceptor)]
        if invalid:
            raise ValueError(f"Interceptor must be ServerInterceptor, the following are invalid: {invalid}")
        self._interceptors = tuple(interceptors)
        self._generic: list[Any] = []
        self._registered: dict[str, Any] = {}
        self._known: dict[str, Method] = {}
        self.by_name = not interceptors
        self.services: list[str] = []

    def add(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:
            self._generic.append(handler)
            self.by_name = self.by_name and type(handler) is _DICTIONARY
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.services.append(handler.service_name())

    def register(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._registered.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def find(self, path: str) -> Method | None:
        """The method that is served by this name, whoever may stand before it; no code of the user's is asked."""
        if (known := self._known.get(path)) is not None:
            return known
        handler = self._registered.get(path)
        if handler is None:
            details: Any = Details(path, ())
            named = (one.service(details) for one in self._generic if type(one) is _DICTIONARY)
            handler = next((one for one in named if one is not None), None)
        if handler is None:
            return None  # who asks for what nobody serves could ask for anything: it is not remembered
        found = self._known[path] = Method(handler)
        return found

    async def ask(self, details: Details) -> Method | None:
        """The method that the interceptors and handlers choose."""
        handler = await self._through(0, details)
        return None if handler is None else Method(handler)

    async def _through(self, number: int, details: Any) -> Any:
        if number == len(self._interceptors):
            return self._resolve(details)
        following = functools.partial(self._through, number + 1)
        return await self._interceptors[number].intercept_service(following, details)

    def _resolve(self, details: Any) -> Any:
        if (handler := self._registered.get(details.method)) is not None:
            return handler
        for generic in self._generic:
            if (handler := generic.service(details)) is not None:
                return handler
        return None
