"""What runs in the mesh's thread: get an identity, keep it fresh, follow the control plane, stay registered."""

import asyncio
import concurrent.futures
import logging
import ssl
import threading
import uuid
import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING

from proxyless.agent.address import own_address
from proxyless.agent.loop_thread import LoopThread
from proxyless.agent.registration import Registration
from proxyless.identity.control_plane import open_channel
from proxyless.identity.enrol import Enrolment
from proxyless.identity.files import IdentityFiles
from proxyless.identity.rotation import CertificateRotation
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.identity.token import dev_token_file, read_file
from proxyless.model.address import split_address
from proxyless.model.errors import NotReadyError, ProxylessError
from proxyless.model.snapshot import EMPTY, Origin, Snapshot
from proxyless.model.workload import Workload
from proxyless.settings import Settings

if TYPE_CHECKING:
    from grpclib.client import Channel

    from proxyless.xds_client.client import XdsClient

logger = logging.getLogger("proxyless")

STOP_TIMEOUT = 5.0
# TCP and TLS to the control plane; one that hangs accepts connections and says nothing.
CONNECT_TIMEOUT = 10.0
# Before a part that failed in a way nobody foresaw is started again.
RESTART_AFTER = 1.0


class Agent:
    """One per runtime. Methods are for any thread unless they say otherwise."""

    def __init__(
        self,
        settings: Settings,
        identity: IdentitySource,
        publish: Callable[[Snapshot], None],
        initial: Snapshot = EMPTY,
    ) -> None:
        """initial: what this process knew before a fork."""
        self._settings = settings
        self._identity = identity
        self._publish = publish
        self._initial = initial
        self._thread = LoopThread("proxyless")
        self._ready = threading.Event()
        self._enrolled = asyncio.Event()
        self._id = f"{settings.service or 'client'}-{uuid.uuid4().hex[:10]}"
        self._registration = Registration(self._open_channel)
        self._rotation = CertificateRotation(
            identity,
            Enrolment(
                settings.control_plane,
                identity,
                self._token,
                namespace=settings.namespace,
                service_account=settings.service_account,
            ),
            on_rotated=self._on_rotated,
            on_failure=self._on_failure,
        )
        self._client: XdsClient | None = None
        self._watched: list[Callable[[XdsClient], None]] = []
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._defect = ""
        self._files: list[IdentityFiles] = []
        if identity.svid is not None:
            # A forked child has its parent's certificate.
            self._enrolled.set()
            self._ready.set()

    # ---- life

    def start(self) -> None:
        self._thread.start(self._main)

    def stop(self) -> None:
        """End the streams (which deregisters) and the thread; waits up to 5 s."""
        self._thread.stop(STOP_TIMEOUT)

    def sockets(self) -> list[object]:
        """Of the connections to the control plane. For a forked child: held there, they would outlive their owner, and
        the control plane would believe in a workload that is dead."""
        protocols = (channel._protocol for channel in self._channels)
        return [one.connection._transport.get_extra_info("socket") for one in protocols if one is not None]

    def wait_ready(self, timeout: float) -> None:
        """Raises NotReadyError, with the reason, unless there is something to serve from within ``timeout`` seconds."""
        if not self._ready.wait(timeout):
            raise NotReadyError(f"the mesh is not ready after {timeout:g} s: {self.problem()}")

    def problem(self) -> str:
        """Why the control plane is not with us, for people."""
        client = self._client.last_error if self._client is not None else ""
        return (
            self._defect
            or self._rotation.last_error
            or client
            or self._registration.last_error
            or f"the control plane at {self._settings.control_plane} has not answered yet"
        )

    # ---- what the mesh asks for

    def watch_target(self, target: str) -> None:
        """Follow the routes, clusters and endpoints of ``host:port`` from now on."""
        self._with_client(lambda client: client.watch_target(target))

    def watch_inbound(self, port: int) -> None:
        """Follow what the listener of one of our ports requires."""
        self._with_client(lambda client: client.watch_inbound(port))

    def register(self, ports: Mapping[str, int], *, address: str | None, mutual_tls: bool) -> None:
        """Announce ports of this process."""
        workload = Workload(
            id=self._id,
            namespace=self._settings.namespace,
            service=self._settings.service,
            service_account=self._settings.service_account,
            address=address or own_address(self._settings.control_plane),
            ports=ports,
            labels=self._settings.labels,
            mutual_tls=mutual_tls,
            region=self._settings.locality.region,
            zone=self._settings.locality.zone,
            sub_zone=self._settings.locality.sub_zone,
        )
        self._thread.call_soon(self._registration.add, workload)

    def unregister(self, ports: set[int]) -> None:
        self._thread.call_soon(self._registration.remove, ports)

    def drain(self, ports: Collection[int] | None = None) -> None:
        """Ask clients, through the control plane, to send nothing new, to some ports or to all."""
        self._thread.call_soon(self._registration.drain, ports)

    def wait_registered(self, timeout: float) -> bool:
        """Whether the control plane has confirmed the registration as it is wanted now, within ``timeout`` seconds."""
        try:
            self._thread.submit(self._registration.settled()).result(timeout)
        except concurrent.futures.TimeoutError:
            return False
        return True

    def keep_files(self, files: IdentityFiles) -> None:
        """Write the identity to ``files``, now and whenever it is renewed.

        Raises NotReadyError without a certificate, ConfigurationError if they cannot be written.
        """
        svid, bundle = self._identity.svid, self._identity.bundle
        if svid is None or bundle is None:
            raise NotReadyError(f"there is no certificate yet: {self.problem()}")
        files.write(svid, bundle)
        self._thread.call_soon(self._files.append, files)

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        self._thread.call_later(seconds, function, *arguments)

    # ---- in the thread

    async def _main(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._settings.plaintext:
                self._enrolled.set()
            else:
                group.create_task(self._keep_up("certificate rotation", self._rotation.run))
            group.create_task(self._keep_up("xDS client", self._follow))
            group.create_task(self._keep_up("registration", self._registration.run))

    async def _keep_up(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Nobody watches this thread: what ends for a reason we did not foresee is told, and started again."""
        while True:
            try:
                await work()
            except Exception as error:
                self._defect = f"the {name} failed: {type(error).__name__}: {error}"
                logger.exception("the %s failed, starting it again", name)
            await asyncio.sleep(RESTART_AFTER)

    async def _follow(self) -> None:
        if self._client is None:
            self._client = self._new_client()
            for watch in self._watched:
                watch(self._client)
            self._watched.clear()
        await self._client.run()

    def _new_client(self) -> "XdsClient":
        # Imported here, in the thread: the generated Envoy API takes longer to load than everything else together.
        from proxyless.xds_client.client import XdsClient
        from proxyless.xds_client.last_known_good import LastKnownGoodFile
        from proxyless.xds_client.node import build_node

        settings = self._settings
        store = LastKnownGoodFile(
            settings.state_dir,
            namespace=settings.namespace,
            service=settings.service,
            service_account=settings.service_account,
        )
        known = store.load()
        if known is not None and known.roots_pem and self._identity.bundle is None:
            # Servers can be verified before the control plane has answered; our own certificate has to wait for it.
            self._identity.set(None, TrustBundle(known.trust_domain, known.roots_pem))
        return XdsClient(
            node=build_node(
                address=own_address(settings.control_plane),
                service=settings.service,
                namespace=settings.namespace,
                service_account=settings.service_account,
                labels=settings.labels,
                node_id=settings.node_id,
                cluster=settings.node_cluster,
                locality=settings.locality,
                metadata=settings.node_metadata,
            ),
            open_channel=self._open_channel,
            publish=self._received,
            initial=self._initial,
            known=known,
            store=store,
            trust=self._trust,
            inbound_listener=settings.inbound_listener,
        )

    def _received(self, snapshot: Snapshot) -> None:
        self._publish(snapshot)
        self._defect = ""
        if snapshot.origin is not Origin.NONE:
            self._ready.set()

    def _with_client(self, watch: "Callable[[XdsClient], None]") -> None:
        def apply() -> None:
            if self._client is None:
                self._watched.append(watch)
            else:
                watch(self._client)

        self._thread.call_soon(apply)

    async def _open_channel(self) -> "Channel":
        """A new connection to the control plane, once there is an identity to open it with.

        Raises what grpclib does, TimeoutError included.
        """
        await self._enrolled.wait()
        channel = self._channel()
        self._channels.add(channel)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await channel.__connect__()
        except BaseException as error:
            channel.close()
            if isinstance(error, ssl.SSLError):
                # It lives, but with another root than ours (its state was lost, or replaced), or does not take our
                # certificate: only the enrolment token can say whether it is still our control plane.
                self._rotation.renew()
            raise
        self._ready.set()
        return channel

    def _channel(self) -> "Channel":
        from proxyless.xds_client.stream import channel_configuration

        if self._settings.plaintext:
            from grpclib.client import Channel

            return Channel(*split_address(self._settings.control_plane), config=channel_configuration())
        bundle = self._identity.bundle
        assert bundle is not None
        return open_channel(self._settings.control_plane, bundle, self._identity.svid, config=channel_configuration())

    def _trust(self) -> tuple[str, bytes]:
        bundle = self._identity.bundle
        return (bundle.trust_domain, bundle.roots_pem) if bundle is not None else ("", b"")

    def _token(self) -> str:
        return read_file(self._settings.token_file or dev_token_file(self._settings.state_dir))

    def _on_failure(self, _: Exception) -> None:
        """No certificate to be had: the control plane is away, no need to wait longer for it."""
        if self._client is not None and not self._enrolled.is_set():
            self._client.fall_back()

    def _on_rotated(self, svid: Svid) -> None:
        for files in self._files:
            try:
                assert self._identity.bundle is not None
                files.write(svid, self._identity.bundle)
            except ProxylessError as error:
                logger.error("the renewed certificate could not be written: %s", error)
        self._enrolled.set()
        self._ready.set()
