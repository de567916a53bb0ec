"""An event loop in a daemon thread, for the work that must go on whatever the application does."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """Runs one main coroutine and whatever is handed to it, until ``stop``.

    It is a daemon: a process that ends without closing its mesh is not held up. A fork leaves the thread behind in
    the parent; the child makes a new one (``Runtime`` does).
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._main: asyncio.Task[None] | None = None
        self._factory: Callable[[], Coroutine[Any, Any, None]] | None = None

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start the thread; ``main()`` is awaited in it until it returns or ``stop`` cancels it."""
        self._factory = main
        self._thread.start()

    def call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Run a function in the loop; does nothing once the loop is closed."""
        # Not asked beforehand: it may be closed between the question and the call.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        """Run a function in the loop after ``seconds``."""
        self.call_soon(self._loop.call_later, seconds, function, *arguments)

    def submit(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Run a coroutine in the loop and get its result as a future of this thread, cancelled if the loop ends."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            ended: concurrent.futures.Future[Result] = concurrent.futures.Future()
            ended.cancel()
            return ended

    def stop(self, timeout: float) -> None:
        """Cancel ``main``, let it clean up, and wait up to ``timeout`` seconds for the thread. Safe to call twice."""
        self.call_soon(self._cancel)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        assert self._factory is not None
        try:
            self._main = self._loop.create_task(self._factory())
            self._loop.run_until_complete(asyncio.wait([self._main]))
            leftovers = asyncio.all_tasks(self._loop)
            for task in leftovers:
                task.cancel()
            if leftovers:
                self._loop.run_until_complete(asyncio.gather(*leftovers, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
