"""A forked child must not speak on its parent's connections, nor end them, nor keep them open."""

import os
import weakref
from collections.abc import Iterable
from typing import Protocol


class Forkable(Protocol):
    """A pool. ``forget`` drops everything without touching the network, and returns the connections it had."""

    def forget(self) -> Iterable[object]: ...


_pools: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def watch(pool: Forkable) -> None:
    """Make ``pool`` forget its connections in every forked child, as long as it lives."""
    _pools.add(pool)


def silence(connections: Iterable[object]) -> None:
    """In a child: make sockets of the parent stand for nothing. What has no ``fileno`` is left alone."""
    held = list(connections)  # to the end: one that is collected meanwhile would close its socket, as below
    descriptors: list[int] = []
    for connection in held:
        try:
            descriptors.append(connection.fileno())  # type: ignore[attr-defined]
        except (AttributeError, OSError, ValueError):
            continue
    if not any(descriptor >= 0 for descriptor in descriptors):
        return
    # Closing would do too much: an event loop would take the socket out of the epoll set that it shares with its
    # parent, and a finaliser would close the number once more. So the numbers stay, and stand for nothing.
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in descriptors:
            if descriptor >= 0:
                os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)


def _in_child() -> None:
    silence([connection for pool in list(_pools) for connection in pool.forget()])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
