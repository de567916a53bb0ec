"""What requests share within one identity: the engine, the current snapshot, and the agent that keeps it current."""

import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from proxyless.engine.engine import Engine
from proxyless.identity.source import IdentitySource
from proxyless.model.errors import NotInTimeError, NotReadyError
from proxyless.model.snapshot import EMPTY, Snapshot
from proxyless.settings import Settings
from proxyless.transport.pool import fork

if TYPE_CHECKING:
    from proxyless.agent.agent import Agent
    from proxyless.telemetry.telemetry import Telemetry

# The longest a first request to a target waits for the control plane's answer. gRPC's resource timer (gRFC A57) is
# 15 s, but a person or a caller with its own timeout is waiting here.
RESOLVE_TIMEOUT = 10.0
# A DNS name has at most 253 characters, and a port six with its colon. A control plane ends the stream of a client that
# asks for more than it reads: one URL of a stranger's must not cost a process its mesh.
_LONGEST_TARGET = 260

Waiter = concurrent.futures.Future[Snapshot]
Condition = Callable[[Snapshot], bool]


class Runtime:
    """One mesh identity in one process. Thread-safe. Starts its agent on first use, and again in a forked child."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine()
        self.identity = IdentitySource()
        self._telemetry: Telemetry | None = None
        self._snapshot = EMPTY
        self._lock = threading.Lock()
        self._agent: Agent | None = None
        self._inherited = False
        self._waiting: list[tuple[Condition, Waiter]] = []
        self._closed = False
        _all.add(self)

    # ---- what transports use

    @property
    def telemetry(self) -> "Telemetry":
        if self._telemetry is None:
            from proxyless.telemetry.telemetry import Telemetry

            with self._lock:
                self._telemetry = self._telemetry or Telemetry(
                    service=self.settings.service,
                    namespace=self.settings.namespace,
                    service_account=self.settings.service_account,
                    labels=self.settings.labels,
                )
                if (svid := self.identity.svid) is not None:
                    self._telemetry.identify(svid.spiffe_id)
        return self._telemetry

    def snapshot(self) -> Snapshot:
        """The current view of the world; a request reads it once.

        What a forked child has inherited serves at once, and is kept current from then on.
        """
        if self._inherited:
            self.agent  # noqa: B018  # starts it
        return self._snapshot

    def resolve(self, target: str, within: float | None = None) -> Waiter:
        """A future of the first snapshot that knows ``target`` (``host:port``), whether it exists or not.

        Fails with NotInTimeError when the control plane has not answered ``within`` seconds, at most
        ``RESOLVE_TIMEOUT``: looking a name up is part of connecting, so transports pass their connect timeout.
        """
        if len(target) > _LONGEST_TARGET:
            refused = Waiter()
            refused.set_exception(NotReadyError(f"{target[:40]}... is longer than any host name"))
            return refused
        self.agent.watch_target(target)
        limit = RESOLVE_TIMEOUT if within is None else min(within, RESOLVE_TIMEOUT)
        return self._when(lambda snapshot: target in snapshot.listeners, f"answer about {target}", limit)

    # ---- what servers use

    def join(self, ports: Mapping[str, int], address: str | None, timeout: float, *, mutual_tls: bool = True) -> None:
        """Take part as a server: have what the ports require, then be registered. Blocks; may be called again.

        Raises NotReadyError after about ``timeout`` seconds with what is missing; the agent goes on trying.
        """
        agent = self.agent
        agent.wait_ready(timeout)
        for port in ports.values():
            agent.watch_inbound(port)
        wanted = set(ports.values())
        self._when(lambda snapshot: wanted <= snapshot.inbound.keys(), "inbound listener", timeout).result()
        agent.register(ports, address=address, mutual_tls=mutual_tls)
        if not agent.wait_registered(timeout):
            raise NotReadyError(f"not registered after {timeout:g} s: {agent.problem()}")

    def drain(self, timeout: float, ports: Collection[int] | None = None) -> None:
        """Ask clients to send nothing new; returns when the control plane has confirmed, or after ``timeout``.

        ports: only to these, None for all of this process.
        """
        agent = self.agent
        agent.drain(ports)
        agent.wait_registered(timeout)

    def leave(self, ports: Collection[int]) -> None:
        """These ports are served no more."""
        if self._agent is not None:
            self._agent.unregister(set(ports))

    # ---- what the mesh uses

    @property
    def agent(self) -> "Agent":
        """The running agent; started by the first who asks."""
        if self._agent is None:
            from proxyless.agent.agent import Agent

            with self._lock:
                if self._closed:
                    raise NotReadyError("this mesh is closed; create a new proxyless.Mesh")
                if self._agent is None:
                    agent = Agent(self.settings, self.identity, self._publish, self._snapshot)
                    agent.start()
                    self._agent, self._inherited = agent, False
        return self._agent

    def close(self) -> None:
        """Deregister, stop the thread, flush telemetry. A request under way keeps its connection to its end."""
        with self._lock:
            agent, self._agent, self._closed, self._inherited = self._agent, None, True, False
            waiting, self._waiting = self._waiting, []
        for _, waiter in waiting:
            _fail(waiter, NotReadyError("the mesh was closed while a request waited for the control plane"))
        if agent is not None:
            agent.stop()
        if self._telemetry is not None:
            self._telemetry.close()

    def _when(self, condition: Condition, what: str, timeout: float) -> Waiter:
        """A future of the first snapshot that meets ``condition``; NotInTimeError naming ``what`` after ``timeout``."""
        waiter = Waiter()
        with self._lock:
            if condition(self._snapshot):
                waiter.set_result(self._snapshot)
                return waiter
            self._waiting.append((condition, waiter))
        self.agent.call_later(timeout, self._give_up, waiter, what, timeout)
        return waiter

    def _publish(self, snapshot: Snapshot) -> None:
        """Called by the agent in its thread: swap the reference, wake whoever waited for it."""
        if self._telemetry is not None and (svid := self.identity.svid) is not None:
            self._telemetry.identify(svid.spiffe_id)  # its trust domain is news until the first certificate
        self.engine.prepare(snapshot)
        with self._lock:
            self._snapshot = snapshot
            ready = [entry for entry in self._waiting if entry[0](snapshot)]
            self._waiting = [entry for entry in self._waiting if entry not in ready]
        for _, waiter in ready:
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(snapshot)

    def _give_up(self, waiter: Waiter, what: str, timeout: float) -> None:
        with self._lock:
            waiting = [entry for entry in self._waiting if entry[1] is not waiter]
            if len(waiting) == len(self._waiting):
                return
            self._waiting = waiting
        _fail(waiter, NotInTimeError(f"no {what} from the control plane in {timeout:g} s: {self.agent.problem()}"))

    def after_fork(self) -> None:
        """In the child: forget the parent's thread and locks; snapshot and certificate serve until news comes."""
        self._lock = threading.Lock()
        agent, self._agent, self._waiting = self._agent, None, []
        if agent is not None:
            # Nobody may ever use the mesh here: it starts with the first who does.
            self._inherited = True
            fork.silence(agent.sockets())
        self.identity.after_fork()
        self.engine.after_fork()


def _fail(waiter: Waiter, error: Exception) -> None:
    if waiter.set_running_or_notify_cancel():
        waiter.set_exception(error)


_all: "weakref.WeakSet[Runtime]" = weakref.WeakSet()


def _restart_all_after_fork() -> None:
    for runtime in list(_all):
        runtime.after_fork()


os.register_at_fork(after_in_child=_restart_all_after_fork)


class Runtimes:
    """Shares a runtime among meshes of equal settings, so that ``proxyless serve`` and the application it serves are
    one client of the control plane with one certificate. The last to release it closes it.
    """

    def __init__(self) -> None:
        self._users: dict[object, tuple[Runtime, int]] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork)

    def acquire(self, settings: Settings) -> Runtime:
        with self._lock:
            runtime, users = self._users.get(settings.key) or (Runtime(settings), 0)
            self._users[settings.key] = runtime, users + 1
            return runtime

    def release(self, runtime: Runtime) -> None:
        with self._lock:
            _, users = self._users[runtime.settings.key]
            if users > 1:
                self._users[runtime.settings.key] = runtime, users - 1
                return
            del self._users[runtime.settings.key]
        runtime.close()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


RUNTIMES = Runtimes()
