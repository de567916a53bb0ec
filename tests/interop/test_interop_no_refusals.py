"""What validation accepts, every client takes: real Envoys in both variants of xDS, gRPC's own client, and ours.

PROXYLESS_CORPUS=2000 tries that many generated worlds, and others each time.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from judges import Judges, envoy, grpc_programs, library
from valid_worlds import configurations, policies, repaired, world

from proxyless.control_plane.closure import closure
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.resources.validation.header_format import examples
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import World
from proxyless.xds_client.kinds import BY_TYPE_URL
from proxyless.xds_client.offline import load_entries

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MORE = int(os.environ.get("PROXYLESS_CORPUS", "0"))
corpus = settings(
    max_examples=MORE or 40,
    derandomize=not MORE,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    with ExitStack() as stack:
        # Not tmp_path, which may be too long for a socket.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="judges")))
        made = Judges(folder)
        stack.callback(made.close)
        for delta in (True, False):
            stack.enter_context(envoy(made, folder / f"envoy-{delta}", delta=delta))
        streams = stack.enter_context(grpc_programs(made))
        made.wait_connected(2 + streams)
        yield made


def refusals(judges: Judges, made: World) -> dict[str, list[str]]:
    return {**judges.publish(made), **library_refusals(made)}


def library_refusals(made: World) -> dict[str, list[str]]:
    translator, client = Translator(made), library(made)
    targets = [target.name for target in translator.targets(client)]
    found = closure(translator, client, targets)
    sent = {
        BY_TYPE_URL[url]: {name: one.any.SerializeToString() for name, one in named.items()}
        for url, named in found.items()
    }
    entries = load_entries(sent, live=True)
    refused = [f"{name}: {one.refused}" for named in entries.values() for name, one in named.items() if one.refused]
    return {"library": refused} if refused else {}


@corpus
@given(configurations())
@pytest.mark.timeout(0 if MORE else 600)
def test_nobody_refuses_what_is_valid(judges: Judges, written: list[dict[str, Any]]) -> None:
    assert refusals(judges, world(written)) == {}, [repaired(document)[0] for document in written]


@settings(corpus, max_examples=MORE or 40)
@given(policies())
@pytest.mark.timeout(0 if MORE else 600)
def test_nobody_refuses_a_policy(judges: Judges, written: list[dict[str, Any]]) -> None:
    assert refusals(judges, world(written)) == {}, [repaired(document)[0] for document in written]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_nobody_refuses_an_example(judges: Judges, path: Path) -> None:
    resources, problems = parse(path.read_text(), path.name)
    assert not [problem for problem in problems if problem.level is Level.ERROR]
    assert resources
    assert refusals(judges, World({resource.key: resource for resource in resources})) == {}


def reviews(**http: Any) -> dict[str, Any]:
    route = {"route": [{"destination": {"host": "reviews"}}], **http}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "reviews"},
        "spec": {"hosts": ["reviews"], "http": [route]},
    }


def test_every_command_operator_is_one_of_envoys(judges: Judges) -> None:
    values = {f"x-{index}": value for index, value in enumerate(examples())}
    document = reviews(headers={"request": {"set": values}, "response": {"add": values}})
    assert repaired(document)[0] == document
    assert refusals(judges, world([document])) == {}


def test_a_sidecar_takes_long_regexes(judges: Judges) -> None:
    """Envoy's own limit, a program size of 100, would refuse all routes for this one."""
    document = reviews(match=[{"uri": {"regex": "/[a-f0-9]{200,300}"}}])
    assert repaired(document)[0] == document
    assert refusals(judges, world([document])) == {}


def test_balancing_by_load(judges: Judges) -> None:
    locality = {"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "*", "to": {"*": 100}}]}}}
    for policy in ({}, {"trafficPolicy": {**locality, "outlierDetection": {}}}):
        document = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {
                "name": "reviews",
                "annotations": {"proxyless.io/load-balancing": "client_side_weighted_round_robin"},
            },
            "spec": {"host": "reviews", **policy},
        }
        assert repaired(document)[0] == document
        assert refusals(judges, world([document])) == {}


def test_a_refusal_would_be_seen(judges: Judges, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus proves something only if its judges refuse what is wrong."""
    monkeypatch.setattr("proxyless.control_plane.resources.validation.checks.format_fault", lambda value: "")
    document = reviews(headers={"request": {"set": {"x-a": "%UNKNOWN%"}}})
    found = judges.publish(world([document]))
    assert set(found) == {"envoy-delta", "envoy-sotw"}
    assert "UNKNOWN" in found["envoy-sotw"][0]
    assert judges.publish(world([reviews()])) == {}
    monkeypatch.setattr("proxyless.control_plane.resources.validation.destination_rule._is_prime", lambda number: True)
    balancer = {"consistentHash": {"useSourceIp": True, "maglev": {"tableSize": 4}}}
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "reviews"},
        "spec": {"host": "reviews", "trafficPolicy": {"loadBalancer": balancer}},
    }
    found = judges.publish(world([document]))
    assert set(found) == {"envoy-delta", "envoy-sotw"}
    assert "prime" in found["envoy-delta"][0]
    assert judges.publish(world([])) == {}
