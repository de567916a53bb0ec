"""The registry: its rules without a process, its streams and restarts with real ones."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from running_control_plane import (
    DEADLINE,
    RunningControlPlane,
    register,
    registered,
    say,
    start_workload,
    struct,
    until,
    workload,
)

from proxyless.control_plane.registry.registry import Registration, Registry
from proxyless.control_plane.store.memory import MemoryStore
from proxyless.identity.enrol import request_certificate
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.workload import Workload


class Fixture:
    def __init__(self, **options: Any) -> None:
        self.store = MemoryStore()
        self.changes = 0
        self.registry = Registry(self.store, self._changed, **options)

    def _changed(self) -> None:
        self.changes += 1

    def stored(self) -> set[str]:
        return {each.id for each in self.store.load().workloads}

    def register(self, name: str, registration: Registration | None = None, **changes: Any) -> Registration:
        return self.registry.register(Workload.from_dict(workload(name, **changes)), registration)


def test_a_workload_is_there_from_its_registration_to_the_end_of_its_stream() -> None:
    f = Fixture()
    registration = f.register("a")
    assert (set(f.registry.workloads), f.stored(), f.changes) == ({"a"}, {"a"}, 1)
    f.register("a", registration)
    assert f.changes == 1
    f.register("a", registration, state="draining")
    assert (f.registry.workloads["a"].state.value, f.changes) == ("draining", 2)
    f.registry.end(registration)
    assert (set(f.registry.workloads), f.stored(), f.changes) == (set(), set(), 3)


def test_a_newer_stream_of_a_workload_supersedes_the_older() -> None:
    f = Fixture()
    old = f.register("a")
    new = f.register("a", port=9090)
    f.registry.end(old)
    assert f.registry.workloads["a"].ports == {"http": 9090}
    with pytest.raises(IdentityError):
        f.register("a", old)
    f.registry.end(new)
    assert not f.registry.workloads


def test_one_identity_does_not_take_the_room_of_all() -> None:
    f = Fixture(max_workloads=20)
    greedy = [f.register(str(number)) for number in range(10)]
    with pytest.raises(ConfigurationError, match="default/reviews has 10 workloads already"):
        f.register("one more")
    f.register("5", greedy[5], state="draining")
    for number in range(2):
        f.register(f"other-{number}", serviceAccount="other")
    with pytest.raises(ConfigurationError, match="default/other has 2"):
        f.register("other-2", serviceAccount="other")
    for registration in greedy:
        f.registry.end(registration)
    f.register("other-2", serviceAccount="other")
    assert f.registry._held == {("default", "other"): 3}


def test_who_is_sent_for_a_new_certificate_may_come_back() -> None:
    async def scenario() -> None:
        f = Fixture(grace=0.2)
        streams = [f.register(name) for name in ("back", "dead")]
        for stream in streams:
            f.registry.end(stream, returns=True)
        assert set(f.registry.workloads) == {"back", "dead"}
        f.register("back")
        async with asyncio.timeout(DEADLINE):
            while "dead" in f.registry.workloads:
                await asyncio.sleep(0.01)
        assert set(f.registry.workloads) == f.stored() == {"back"}

    asyncio.run(scenario())


def test_who_left_while_the_control_plane_stood_still_may_come_back() -> None:
    """To a workload, a stopped process or a paused machine is a dead control plane: it leaves, and tries again."""

    async def scenario() -> None:
        now = [0.0]
        f = Fixture(grace=0.2, clock=lambda: now[0])
        watching = asyncio.create_task(f.registry.watch())
        await asyncio.sleep(0)
        streams = [f.register(name) for name in ("back", "slow", "dead")]
        now[0] += 30
        for stream in streams:
            f.registry.end(stream)
        assert set(f.registry.workloads) == {"back", "slow", "dead"}
        back = f.register("back")
        async with asyncio.timeout(DEADLINE):
            while set(f.registry.workloads) != {"back"}:
                await asyncio.sleep(0.01)
        now[0] += 1
        f.registry.end(back)  # by now a stream that ends is an end again
        assert not f.registry.workloads
        watching.cancel()

    asyncio.run(scenario())


def test_an_id_cannot_be_taken_over_by_another_identity() -> None:
    f = Fixture()
    f.register("a")
    with pytest.raises(IdentityError):
        f.register("a", serviceAccount="ratings")
    assert f.registry.workloads["a"].service_account == "reviews"


def test_the_registry_is_bounded() -> None:
    f = Fixture(max_workloads=1)
    f.register("a")
    with pytest.raises(ConfigurationError):
        f.register("b")


def test_streams_that_end_in_a_shutdown_remove_nothing() -> None:
    f = Fixture()
    registration = f.register("a")
    f.registry.freeze()
    f.registry.end(registration)
    assert f.stored() == {"a"}


def test_after_the_grace_time_only_those_who_came_back_are_left() -> None:
    async def scenario() -> None:
        f = Fixture(grace=0.01)
        f.registry.restore([Workload.from_dict(workload(name)) for name in ("back", "lost")])
        assert set(f.registry.workloads) == {"back", "lost"}
        f.register("back")
        while "lost" in f.registry.workloads:
            await asyncio.sleep(0.001)
        assert set(f.registry.workloads) == {"back"}

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


def test_a_workload_appears_drains_and_disappears(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        async with registered(running, "reviews-1") as call:
            assert await asyncio.to_thread(running.workloads) == {"reviews-1": "serving"}
            await call.write(struct(workload("reviews-1", state="draining")))
            answer = await asyncio.wait_for(call.read(), DEADLINE)
            assert dict(answer) == {"registered": True, "state": "draining"}
            assert await asyncio.to_thread(running.workloads) == {"reviews-1": "draining"}
        await asyncio.to_thread(until, "its end", lambda: running.workloads() == {})

    asyncio.run(scenario())


def test_a_killed_workload_is_gone(running: RunningControlPlane) -> None:
    process = start_workload(running, "reviews-1")
    try:
        assert running.workloads() == {"reviews-1": "serving"}
    finally:
        process.kill()
        process.wait()
    until("its end", lambda: running.workloads() == {})


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(depth):
        made = {"a": made}
    return made


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (workload("x", serviceAccount="ratings"), grpc.StatusCode.PERMISSION_DENIED),
        (workload("x", namespace="other"), grpc.StatusCode.PERMISSION_DENIED),
        (workload("x", ports={"http": 70000}), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", state="sleeping"), grpc.StatusCode.INVALID_ARGUMENT),
        ({}, grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", padding="x" * 70_000), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", ports={"http": float("nan")}), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", ports={"http": float("inf")}), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x\n2026-01-01 ERROR forged"), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", address="\x1b[2J"), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", service="*"), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", service="a|b"), grpc.StatusCode.INVALID_ARGUMENT),
        (workload("x", labels=nested(60)), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_registration_that_is_not_the_callers_or_not_right_is_refused(
    running: RunningControlPlane, message: dict[str, Any], code: grpc.StatusCode
) -> None:
    async def scenario() -> None:
        svid, bundle = await running.enrolled()
        async with running.secure(svid, bundle) as channel:
            call = register(channel)
            await say(call, struct(message))
            assert await asyncio.wait_for(call.code(), DEADLINE) is code

    asyncio.run(scenario())
    assert running.workloads() == {}


def test_a_registration_ends_with_its_certificate(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        first, bundle = await running.enrolled()
        short, _ = await request_certificate(running.at["xds_tls"], first.spiffe_id, bundle, svid=first, ttl=3.0)
        async with running.secure(short, bundle) as channel:
            call = register(channel)
            await call.write(struct(workload("short-lived")))
            assert (await asyncio.wait_for(call.read(), DEADLINE))["registered"] is True
            assert await asyncio.wait_for(call.code(), DEADLINE) is grpc.StatusCode.PERMISSION_DENIED
            assert "has expired" in await call.details()
        # It has a moment to come back, and its clients hear nothing of it.
        assert "short-lived" in running.workloads()
        async with registered(running, "short-lived"):
            assert "short-lived" in running.workloads()
        await asyncio.to_thread(until, "its end", lambda: "short-lived" not in running.workloads())

    asyncio.run(scenario())


def test_registering_needs_a_certificate(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        _, bundle = await running.enrolled()
        for channel in (running.secure(None, bundle), running.plaintext()):
            async with channel:
                # Nothing is written: the refusal comes before, and gRPC reports a write that meets it as INTERNAL.
                call = register(channel)
                # On the plaintext port there is no such service.
                assert await asyncio.wait_for(call.code(), DEADLINE) in (
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.UNIMPLEMENTED,
                )

    asyncio.run(scenario())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workloads_and_configuration_survive_a_restart(tmp_path: Path, how: signal.Signals) -> None:
    with RunningControlPlane(tmp_path / "state") as running:
        running.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: kept}\n")
        process = start_workload(running, "reviews-1")
        try:
            status = running.stop(how)
            assert status == (0 if how is signal.SIGTERM else -how)
            running.start()
            assert running.workloads() == {"reviews-1": "serving"}
            found = running.api("GET", "resources/ns/-/kept")["document"]
            assert found["metadata"]["name"] == "kept"
        finally:
            process.kill()
            process.wait()
