"""A whole control plane in a thread of the test's own process, for tests that replace a part of it."""

import asyncio
import signal
import threading

from running_control_plane import DEADLINE, RunningControlPlane

from proxyless.control_plane.server import ControlPlane, Options
from proxyless.model.address import split_address


class InProcessControlPlane(RunningControlPlane):
    """``with`` one. ``control_plane`` belongs to its loop: look at it in ``run`` only."""

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        try:
            self.control_plane = self.run(self._make())
            self.at = self.control_plane.addresses
        except BaseException:
            self.stop()
            raise

    async def _make(self) -> ControlPlane:
        at = {name: split_address(address, name) for name, address in self.addresses().items()}
        options = Options(self.state_dir, xds_address=at["xds"], xds_tls_address=at["xds_tls"], http_address=at["http"])
        made = ControlPlane(options)
        await made.start()
        return made

    def run(self, work):  # type: ignore[no-untyped-def]
        """The result of a coroutine, from the control plane's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE)

    def alive(self) -> bool:
        return self.thread.is_alive()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.loop.is_closed():
            return 0
        try:
            if hasattr(self, "control_plane"):
                self.run(self.control_plane.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(DEADLINE)
            self.loop.close()
        return 0
