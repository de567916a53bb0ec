"""Rotation on a virtual clock: hours pass at once."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from proxyless.identity.rotation import CertificateRotation
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.errors import IdentityError


class Done(BaseException):
    """Ends a virtual run."""


class World:
    """A clock that sleeping moves, and an authority that says no when ``failing``."""

    def __init__(self, mesh: Any, until: float) -> None:
        self.now, self.until = 1_000_000.0, 1_000_000.0 + until
        self.svid: Svid = mesh.workload("web")
        self.bundle: TrustBundle = mesh.ca.bundle
        self.asked: list[float] = []
        self.failing: Callable[[float], bool] = lambda now: False
        self.lifetime = 86_400.0
        self.error: Exception = IdentityError("no")

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        if self.now > self.until:
            raise Done

    async def request(self) -> tuple[Svid, TrustBundle]:
        self.asked.append(self.now - 1_000_000.0)
        if self.failing(self.now - 1_000_000.0):
            raise self.error
        return replace(self.svid, not_before=self.now - 120, not_after=self.now + self.lifetime), self.bundle

    def run(self, source: IdentitySource, **options: Any) -> CertificateRotation:
        rotation = CertificateRotation(
            source, self.request, clock=lambda: self.now, sleep=self.sleep, rng=random.Random(1), **options
        )
        with pytest.raises(Done):
            asyncio.run(rotation.run())
        return rotation


def test_the_first_certificate_is_asked_for_at_once_and_renewed_at_half_life(mesh: Any) -> None:
    world, source, rotated = World(mesh, until=3 * 86_400), IdentitySource(), []
    world.run(source, on_rotated=rotated.append)
    assert world.asked[0] == 0
    gaps = [later - sooner for sooner, later in zip(world.asked, world.asked[1:], strict=False)]
    assert len(gaps) in (5, 6)
    assert all(0.49 * 86_400 <= gap <= 0.51 * 86_400 for gap in gaps)
    assert len(set(gaps)) > 1  # jitter
    assert len(rotated) == len(world.asked)
    assert source.generation == len(world.asked)


def test_a_present_certificate_is_kept_until_its_half_life(mesh: Any) -> None:
    world, source = World(mesh, until=40_000), IdentitySource()
    source.set(replace(world.svid, not_after=world.now + 86_400), world.bundle)
    world.run(source)
    assert world.asked == []


def test_failures_back_off_with_jitter_and_leave_the_present_certificate(mesh: Any) -> None:
    world, source, failures = World(mesh, until=86_400 + 1_000), IdentitySource(), []
    world.failing = lambda now: now > 0
    rotation = world.run(source, on_failure=failures.append)
    assert source.generation == 1
    assert source.svid is not None
    renewals = world.asked[1:]
    gaps = [later - sooner for sooner, later in itertools.pairwise(renewals)]
    assert 0.25 <= gaps[0] <= 0.5
    assert max(gaps) <= 60
    assert all(gap >= 30 for gap in gaps[8:])
    assert len(failures) == len(renewals)
    assert rotation.last_error == "no"


def test_recovery_clears_the_error_and_returns_to_half_life(mesh: Any) -> None:
    world, source = World(mesh, until=2 * 86_400), IdentitySource()
    world.failing = lambda now: 42_000 < now < 50_000
    rotation = world.run(source)
    assert rotation.last_error == ""
    recovered = next(moment for moment in world.asked if moment >= 50_000)
    assert recovered < 50_060
    following = [moment for moment in world.asked if moment > recovered]
    assert following[0] - recovered >= 0.49 * 86_400


def test_a_bug_is_retried_too_and_logged_with_its_trace(mesh: Any, caplog: pytest.LogCaptureFixture) -> None:
    world, source = World(mesh, until=100), IdentitySource()
    world.failing, world.error = (lambda now: now < 5), RuntimeError("bug")
    with caplog.at_level(logging.WARNING):
        world.run(source)
    assert source.svid is not None
    assert any(record.exc_info for record in caplog.records)


def test_a_certificate_that_is_born_old_does_not_renew_in_a_tight_loop(mesh: Any) -> None:
    world, source = World(mesh, until=100), IdentitySource()
    world.lifetime = -5
    world.run(source)
    assert len(world.asked) <= 105


def test_a_changed_root_is_said_once_and_order_does_not_count(
    mesh: Any, foreign: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world, source = World(mesh, until=4 * 43_200), IdentitySource()
    old, new = mesh.ca.bundle.roots_pem, foreign.ca.bundle.roots_pem
    answers = iter([old, old + new, new + old, new + old + new])
    request = world.request

    async def request_with_next_bundle() -> tuple[Svid, TrustBundle]:
        svid, _ = await request()
        return svid, TrustBundle("cluster.local", next(answers, new + old))

    world.request = request_with_next_bundle  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        world.run(source)
    assert len([record for record in caplog.records if "roots" in record.message]) == 1
    assert source.bundle is not None
    assert len(source.bundle.fingerprints) == 2


def test_keys_are_in_no_repr_and_no_log(mesh: Any, caplog: pytest.LogCaptureFixture) -> None:
    world, source = World(mesh, until=86_400), IdentitySource()
    with caplog.at_level(logging.DEBUG):
        world.run(source)
    assert source.svid is not None
    secret = source.svid.key_pem.decode().splitlines()[1]
    assert secret not in repr(source) + repr(source.svid) + str(vars(source)) + caplog.text
    assert "PRIVATE" not in repr(source) + str(vars(source)) + caplog.text


def test_without_any_certificate_it_asks_often_enough_to_be_there_soon_after_the_control_plane(mesh: Any) -> None:
    world = World(mesh, until=3_600)
    world.failing = lambda now: now < 3_000
    world.run(IdentitySource())
    gaps = [later - sooner for sooner, later in itertools.pairwise(world.asked)]
    assert max(gaps) <= 5


def test_renew_does_not_wait_for_half_of_the_life(mesh: Any) -> None:
    async def scenario() -> None:
        world, source = World(mesh, until=0), IdentitySource()
        world.now, rotated = time.time(), asyncio.Event()
        rotation = CertificateRotation(source, world.request, on_rotated=lambda _: rotated.set())
        running = asyncio.create_task(rotation.run())
        for generation in (1, 2, 3):
            await asyncio.wait_for(rotated.wait(), 60)
            assert source.generation == generation
            rotated.clear()
            rotation.renew()
        running.cancel()

    asyncio.run(scenario())
