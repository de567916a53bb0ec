"""The processes of a demo: who has died is told of, and several threads may start theirs."""

from pathlib import Path
from typing import Any

import pytest

from proxyless.cli.demo.processes import DemoError, Processes, wait_for


def test_who_died_is_told_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("lost", "no-such-command")
    with pytest.raises(DemoError, match=r"(?s)lost ended with status 2:.*no-such-command"):
        wait_for("its end", processes.check)
    processes.stop_all()


def test_one_may_be_started_while_the_others_are_looked_at(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    looked_at: list[str] = []

    class Alive:
        def __init__(self, name: str) -> None:
            self.name = name

        def poll(self) -> None:
            looked_at.append(self.name)
            started: Any = Alive("started meanwhile")
            processes._running["started meanwhile"] = started

    first: Any = Alive("first")
    processes._running["first"] = first
    processes.check()
    assert looked_at == ["first"]
