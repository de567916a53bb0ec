"""What ends the forgotten: goes on after a failure, and in a forked child without what its parent has to do."""

import os
import threading
from collections.abc import Callable

import pytest

from proxyless.transport import forgotten

PATIENCE = 60.0


def test_one_that_fails_does_not_keep_others_from_their_end(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise LookupError("a bug")

    done = threading.Event()
    forgotten.prepare()
    forgotten.end_later(fails)
    forgotten.end_later(done.set)
    assert done.wait(PATIENCE)
    assert "what the application has forgotten could not be ended" in caplog.text


def test_a_forked_child_ends_only_its_own() -> None:
    done = threading.Event()
    forgotten.prepare()
    forgotten.end_later(done.set)
    assert done.wait(PATIENCE)
    status = forked(lambda: not forgotten._ends.started and forgotten._ends.waiting.empty() and ends_one())
    assert status == 0


def ends_one() -> bool:
    done = threading.Event()
    forgotten.prepare()
    forgotten.end_later(done.set)
    return done.wait(PATIENCE)


def forked(condition: Callable[[], bool]) -> int:
    child = os.fork()
    if not child:
        try:
            os._exit(0 if condition() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
