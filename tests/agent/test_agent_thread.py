"""The mesh's own thread: it outlives what fails in it, and whoever calls it when it is gone."""

import asyncio
import concurrent.futures
import logging
import threading
from pathlib import Path

import pytest

from proxyless.agent import agent as agent_module
from proxyless.agent.agent import Agent
from proxyless.agent.loop_thread import LoopThread
from proxyless.identity.source import IdentitySource
from proxyless.model.errors import NotReadyError
from proxyless.settings import Settings


def test_a_thread_that_has_ended_takes_no_work_and_raises_nothing() -> None:
    thread = LoopThread("test")

    async def main() -> None:
        await asyncio.Event().wait()

    async def work() -> None: ...

    thread.start(main)
    thread.submit(work()).result(60)
    thread.stop(10)
    thread.stop(10)
    thread.call_soon(pytest.fail, "called")
    with pytest.raises(concurrent.futures.CancelledError):
        thread.submit(work()).result(60)


def test_a_part_that_fails_unforeseen_is_told_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "RESTART_AFTER", 0.0)
    agent = Agent(Settings(control_plane="127.0.0.1:1", state_dir=tmp_path), IdentitySource(), lambda _: None)
    told, again, problems = threading.Event(), threading.Event(), []

    async def broken() -> None:
        if told.is_set():
            problems.append(agent.problem())
            again.set()
            await asyncio.Event().wait()
        told.set()
        raise RuntimeError("a defect")

    monkeypatch.setattr(agent, "_follow", broken)
    with caplog.at_level(logging.ERROR, logger="proxyless"):
        agent.start()
        try:
            assert again.wait(20)
            assert problems == ["the xDS client failed: RuntimeError: a defect"]
            assert any(record.exc_info for record in caplog.records)
            with pytest.raises(NotReadyError, match="the xDS client failed"):
                agent.wait_ready(0.0)
        finally:
            agent.stop()
