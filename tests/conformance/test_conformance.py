"""One behaviour, every client: each row of the table, sent by each client that can."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from conformance_table import CASES
from table_case import Case, Lacks
from table_mesh import CHANNELS, Mesh
from table_rows_mesh import SPLITS
from table_runners import Offline, Send, grpc_notes

from proxyless.cli.demo.statistics import share_is_right

# What the control plane says of a row that is not for gRPC.
NOTED = {
    Lacks.QUERY: "query parameters",
    Lacks.REWRITE: "rewrite has no effect",
    Lacks.REDIRECT: "redirect has no effect",
    Lacks.DIRECT: "directResponse has no effect",
    Lacks.MIRROR: "mirroring left out",
    Lacks.CORS: "corsPolicy left out",
    Lacks.LIMIT: "rate limit left out",
}
TIMES = 120


def rows(cases: Iterable[Case]) -> Any:
    return pytest.mark.parametrize("case", list(cases), ids=lambda case: case.host)


def weights(case: Case) -> tuple[int, int]:
    first, second = case.name.split()[1:]
    return int(first), int(second)


def assert_shares(send: Send, case: Case) -> None:
    first, second = weights(case)
    seen = Counter(send(case).backend for _ in range(TIMES))
    assert seen.total() == seen["reviews-v1"] + seen["reviews-v2"]
    assert share_is_right(seen["reviews-v1"], TIMES, first / (first + second)), seen


def test_the_table_is_in_order() -> None:
    assert [name for name, times in Counter(case.host for case in CASES).items() if times > 1] == []
    assert all(len(case.host) < 64 for case in CASES)
    assert len(CASES) >= 60


def test_the_control_plane_says_what_grpc_lacks() -> None:
    cases = [case for case in CASES if case.grpc in NOTED]
    notes = grpc_notes(cases)
    silent = [case.name for case in cases if case.grpc and NOTED[case.grpc] not in notes[case.name]]
    assert silent == []


@rows(case for case in CASES if not case.wire and case.library is None)
def test_offline(offline: Offline, case: Case) -> None:
    row = case.beside(offline.ports["ratings"])
    for _ in range(case.times):
        got = offline.send(row)
    assert row.expected.differences(got) == [], got


@rows(SPLITS)
def test_offline_shares(offline: Offline, case: Case) -> None:
    assert_shares(offline.send, case)


@rows(SPLITS)
@pytest.mark.parametrize("runner", ["library", "envoy", "grpc", *CHANNELS])
def test_shares(mesh: Mesh, runner: str, case: Case) -> None:
    mesh.registry_only(False)
    assert_shares(mesh.send(runner), case)


@rows(case for case in CASES if case.grpc is None)
def test_grpc(mesh: Mesh, case: Case) -> None:
    case = case.over_sockets
    got = mesh.observe("grpc", case)
    assert case.expected.as_grpc(envoy=False).differences(got, metadata=False) == [], got


# The rows for REGISTRY_ONLY are the last of a table: the policy of the mesh changes once for all clients.
OTHERS = [("library", case) for case in CASES if case.library is None]
OTHERS += [("envoy", case) for case in CASES if case.envoy is None]
OTHERS += [(channel, case) for channel in CHANNELS for case in CASES if case.for_channels]
OTHERS.sort(key=lambda one: one[1].registry_only)


@pytest.mark.parametrize(("runner", "case"), OTHERS, ids=lambda one: one.host if isinstance(one, Case) else one)
def test_others(mesh: Mesh, runner: str, case: Case) -> None:
    mesh.registry_only(case.registry_only)
    row = case.over_sockets.beside(mesh.stranger(runner))
    got = mesh.observe(runner, row)
    expected = row.expected.as_grpc(envoy=runner == "envoy-grpc") if runner in CHANNELS else row.expected
    assert expected.differences(got) == [], got


def test_nobody_refused_a_resource(mesh: Mesh) -> None:
    assert mesh.refusals() == []
