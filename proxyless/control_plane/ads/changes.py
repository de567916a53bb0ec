"""Tells who waits that something changed."""

import asyncio


class Changes:
    """Call it when something changed. count: how often it did. Belongs to one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        changed, self._next = self._next, asyncio.Event()
        changed.set()

    async def after(self, count: int) -> None:
        """Returns once something has changed since ``count`` was read."""
        while self.count == count:
            await self._next.wait()
