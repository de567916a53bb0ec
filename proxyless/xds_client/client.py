"""The xDS client: follows the control plane over one ADS stream and publishes consistent snapshots."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from envoy.config.core.v3 import base_pb2
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from tenacity import AsyncRetrying, retry_if_exception_type

from proxyless.model.cluster import Cluster
from proxyless.model.snapshot import EMPTY, Origin, Snapshot
from proxyless.xds_client.assemble import Assembler
from proxyless.xds_client.backoff import Backoff
from proxyless.xds_client.compile.listener import ApiListener
from proxyless.xds_client.entry import Entries, empty
from proxyless.xds_client.kinds import Kind
from proxyless.xds_client.last_known_good import LastKnownGood, LastKnownGoodFile
from proxyless.xds_client.offline import load_entries
from proxyless.xds_client.protocol import Protocol
from proxyless.xds_client.status import report
from proxyless.xds_client.stream import AdsStream, StreamError, describe, open_stream, receive, to_message

logger = logging.getLogger("proxyless.xds")

INBOUND_LISTENER = "xds.istio.io/grpc/lds/inbound/%s"
# Connecting includes TCP, TLS and HTTP/2's preface.
CONNECT_TIMEOUT = 10.0
# How long a fresh process waits for the control plane before it serves from what it remembers.
GRACE = 2.0
# How long changes are collected before the last known good is written.
SAVE_AFTER = 1.0
# An application may dial any number of hosts that the mesh does not know (a crawler); only so many are remembered.
MAX_UNKNOWN_TARGETS = 1000
# A stream that ended sooner than this was of little use.
SHORT_SESSION = 2.0
# How a good stream ends: the server ends it, or the connection breaks.
_ORDINARY = (GRPCError, StreamTerminatedError, OSError, type(None))


class XdsClient:
    """Lives in one event loop; every method is called there. ``run`` works until it is cancelled.

    node: who we are (``node.build_node``). open_channel: a new grpclib channel to the control plane, per attempt; the
        client closes it. It may wait as long as there is no way to connect at all. publish: gets every new snapshot.
    initial: what an earlier client of this process knew; it serves until it is answered for.
    store: where to keep what is accepted, with ``trust()`` (trust domain, roots as PEM). None: nowhere.
    known: what ``store`` had. Its targets are asked for at once; it serves where the control plane has not answered
        ``grace`` seconds after ``run`` started, or when ``fall_back`` is called: live rules are better than old ones.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        node: base_pb2.Node,
        open_channel: Callable[[], Awaitable[Channel]],
        publish: Callable[[Snapshot], None],
        initial: Snapshot = EMPTY,
        known: LastKnownGood | None = None,
        store: LastKnownGoodFile | None = None,
        trust: Callable[[], tuple[str, bytes]] = lambda: ("", b""),
        grace: float = GRACE,
        inbound_listener: str = INBOUND_LISTENER,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._node, self._open_channel, self._publish = node, open_channel, publish
        self._store, self._trust, self._grace = store, trust, grace
        self._inbound_listener = inbound_listener
        self._clock = clock
        self._backoff = Backoff(rng or random.Random())  # noqa: S311  # jitter, not a secret
        self.protocol = Protocol(clock)
        self.snapshot = initial
        self.last_error = ""
        self._assembler = Assembler(initial)
        # Ordered by when they were asked for, and a set.
        self._targets = dict.fromkeys(initial.listeners)
        self._inbound: dict[str, int] = {}
        self._known: LastKnownGood | None = known
        self._remembered: Entries = load_entries(known.resources, live=False) if known is not None else empty()
        self._fallen_back = False
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._saver: asyncio.TimerHandle | None = None
        self._logged = ""
        remembered = self._remembered[Kind.LISTENER].items()
        self._targets |= dict.fromkeys(name for name, one in remembered if isinstance(one.value, ApiListener))
        self.protocol.want(Kind.LISTENER, self._targets)

    # ---- what others call

    @property
    def connected(self) -> bool:
        """Whether the stream is open now."""
        return self.protocol.connected

    @property
    def answered(self) -> bool:
        """Whether the control plane has answered anything yet, in this process."""
        return self.protocol.answered

    def watch_target(self, target: str) -> None:
        """Ask for what a dialled ``host:port`` needs. It is in the snapshot once it is answered for. Idempotent."""
        if target not in self._targets:
            self._forget_unknown()
            self._targets[target] = None
            self._follow()

    def watch_inbound(self, port: int, address: str = "0.0.0.0") -> None:  # noqa: S104  # a name, nothing is bound
        """Ask for what this workload must ask of its callers on ``port`` (gRFC A36). Idempotent."""
        name = self._inbound_listener.replace("%s", f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        if self._inbound.get(name) != port:
            self._inbound[name] = port
            self._follow()

    def status(self) -> dict[str, Any]:
        """For people and ``proxy-config``: plain data, JSON-able."""
        return report(self.protocol, self.snapshot, self.last_error)

    def fall_back(self) -> None:
        """Serve from the last known good what the control plane has not answered for. Idempotent."""
        if self._known is None or self._fallen_back or not self._remembered[Kind.LISTENER]:
            return
        self._fallen_back = True
        if not self.protocol.answered:
            age = max(0.0, time.time() - self._known.written_at)
            logger.warning("serving from the last known good configuration, %.0f s old", age)
        self._follow()

    async def run(self) -> None:
        """Connect, follow, reconnect, until cancelled."""
        grace = asyncio.get_running_loop().call_later(self._grace, self.fall_back)
        try:
            self._follow()
            while True:
                retrying = AsyncRetrying(
                    wait=self._backoff, retry=retry_if_exception_type(StreamError), sleep=asyncio.sleep
                )
                async for attempt in retrying:
                    with attempt:
                        await self._session()
        finally:
            for handle in (self._timer, self._saver, grace):
                if handle is not None:
                    handle.cancel()
            if self._saver is not None:
                self._save()

    # ---- the stream

    async def _session(self) -> None:
        """One connection from its start to its end. Raises StreamError if the control plane answered nothing on it."""
        error: Exception | None = None
        started = self._clock()
        try:
            channel = await self._open_channel()
            try:
                await self._stream(channel)
            finally:
                channel.close()
        except Exception as caught:
            # Whatever ends a stream (network, TLS, the server, a message we cannot read), the answer is the same:
            # connect again.
            error = caught
        finally:
            # A stream that ends because of what came on it would end so again: that is no success to start anew from.
            useful = self.protocol.answered_on_stream and isinstance(error, _ORDINARY)
            self.protocol.stream_closed()
            self._schedule()
        self.last_error = describe(error) if error is not None else "the control plane ended the stream"
        if self.last_error != self._logged:
            self._logged = self.last_error
            logger.warning("no connection to the control plane: %s; connecting again", self.last_error)
        if not useful:
            raise StreamError(self.last_error) from error
        # The back-off starts anew (gRFC A57), but clients of one control plane must not come all at once, nor one spin.
        await asyncio.sleep(self._backoff.after(1 if self._clock() - started > SHORT_SESSION else 2))

    async def _stream(self, channel: Channel) -> None:
        # A control plane ends a stream on which nobody asks for anything.
        while not self.protocol.wants:
            self._wake.clear()
            await self._wake.wait()
        async with contextlib.AsyncExitStack() as stack:
            stream = await stack.enter_async_context(open_stream(channel))
            await asyncio.wait_for(stream.send_request(), CONNECT_TIMEOUT)
            self.protocol.stream_opened()
            self._wake.set()
            tasks = {asyncio.create_task(self._read(stream)), asyncio.create_task(self._write(stream))}
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                # grpclib would wait for the server's trailers on the way out.
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(stream.cancel(), 1.0)

    async def _read(self, stream: AdsStream) -> None:
        while (response := await receive(stream)) is not None:
            if self._logged or not self.snapshot.generation:
                logger.info("the control plane answers")
            self._logged = self.last_error = ""
            changed = self.protocol.received(response)
            if changed:
                self._save_soon()
            if changed or self.snapshot.origin is not Origin.CONTROL_PLANE:
                self._follow()
            else:
                self._wake.set()
                self._schedule()

    async def _write(self, stream: AdsStream) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for request in self.protocol.requests():
                await stream.send_message(to_message(request, self._node))
                self.protocol.written(request)
            self._schedule()

    # ---- from what came to what is published

    def _follow(self) -> None:
        """Ask for what the known resources name, publish what is complete, and see when the next timer is due."""
        # Every round knows one link more of what is remembered: LDS -> RDS -> CDS -> EDS. Live, one round does it.
        for _ in Kind if self._fallen_back else (None,):
            self._want()
        self._build()
        # A target that is now complete needs no longer what its former version named.
        self._want()
        self._wake.set()
        self._schedule()

    def _want(self) -> None:
        self.protocol.want(Kind.LISTENER, [*self._targets, *self._inbound])
        for kind, names in self._assembler.wanted(self.protocol.entries, self._targets).items():
            self.protocol.want(kind, names)
        if self._fallen_back:
            for kind, entries in self.protocol.entries.items():
                for name, entry in entries.items():
                    remembered = self._remembered[kind].get(name)
                    if remembered is not None and remembered.value is not None and not entry.known:
                        entry.value, entry.data, entry.deadline = remembered.value, remembered.data, None

    def _build(self) -> None:
        assembly = self._assembler.build(self.protocol.entries, self._targets, self._inbound)
        former = self.snapshot
        origin = former.origin
        if self.protocol.answered:
            origin = Origin.CONTROL_PLANE
        elif self._fallen_back:
            origin = Origin.LAST_KNOWN_GOOD
        new = replace(
            former, origin=origin, listeners=assembly.listeners, clusters=assembly.clusters, inbound=assembly.inbound
        )
        if new.origin is not former.origin or not _same(new, former):
            old = self._known.written_at if origin is Origin.LAST_KNOWN_GOOD and self._known else None
            self.snapshot = replace(new, generation=former.generation + 1, received_at=old or time.time())
            self._publish(self.snapshot)

    def _forget_unknown(self) -> None:
        """Make room: the oldest of the targets that do not exist goes; it is asked for again when it is dialled."""
        unknown = [target for target, listener in self.snapshot.listeners.items() if listener is None]
        if len(unknown) >= MAX_UNKNOWN_TARGETS:
            oldest = set(unknown[: len(unknown) - MAX_UNKNOWN_TARGETS + 1])
            self._targets = {target: None for target in self._targets if target not in oldest}

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.protocol.next_deadline()
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.protocol.tick():
            self._save_soon()
            self._follow()
        else:
            self._schedule()

    # ---- the last known good

    def _save_soon(self) -> None:
        if self._store is not None and self._saver is None:
            self._saver = asyncio.get_running_loop().call_later(SAVE_AFTER, self._save)

    def _save(self) -> None:
        self._saver = None
        assert self._store is not None
        resources: dict[Kind, dict[str, bytes]] = {}
        listeners = self.protocol.entries[Kind.LISTENER]
        pending = any(name in listeners and not listeners[name].known for name in self._remembered[Kind.LISTENER])
        for kind, named in self.protocol.entries.items():
            # What is not answered for yet stays remembered, with all it names; what is gone does not.
            kept = {
                name: one.data
                for name, one in self._remembered[kind].items()
                if one.value is not None and (not named[name].known if name in named else pending)
            }
            resources[kind] = kept | {name: entry.data for name, entry in named.items() if entry.value is not None}
        trust_domain, roots = self._trust()
        self._store.save(LastKnownGood(resources, trust_domain, roots, self._node.id))


def _same(new: Snapshot, former: Snapshot) -> bool:
    """Whether a swap would change nothing. Endpoints compare equal whatever their labels, which telemetry reads."""
    if (new.listeners, new.clusters, new.inbound) != (former.listeners, former.clusters, former.inbound):
        return False
    pairs = ((cluster, former.clusters[name]) for name, cluster in new.clusters.items())
    return all(one is other or _labels(one) == _labels(other) for one, other in pairs)


def _labels(cluster: Cluster) -> list[Mapping[str, str]]:
    return [endpoint.labels for endpoint in cluster.endpoints]
