"""Ports for the processes of tests: no two get the same, also while one is down between its end and its next start."""

import contextlib
import itertools
import os
import random
from collections.abc import Iterator

from proxyless.envoy.free_ports import choose_ports
from proxyless.model.errors import ConfigurationError

# Below those that the product's own choice (10000 and up) and the kernel's (32768 and up) give to others.
_LOWEST, _WORKERS, _EACH = 2_000, 16, 500


def _own() -> Iterator[int]:
    """This test worker's ports, round and round, from a random one: another run may go on beside this one."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS
    first = random.randrange(_EACH)
    return (_LOWEST + worker * _EACH + (first + count) % _EACH for count in itertools.count())


_ports = _own()


def free_port() -> int:
    """One that nobody listens on, and that no other test of this run is given before 500 more were asked for."""
    for port in itertools.islice(_ports, _EACH):
        with contextlib.suppress(ConfigurationError):
            return choose_ports([("127.0.0.1", port, "")])[0]
    raise RuntimeError(f"none of {_EACH} ports is free: end what is left of earlier test runs")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
