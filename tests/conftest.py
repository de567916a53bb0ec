"""The run ends: one that hangs after its last test says where, and fails."""

import faulthandler

import pytest

# Seconds; what is left then is a thread or a process that somebody did not end.
END = 120


def pytest_unconfigure(config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(END, exit=True)
