import pytest
from engine_world import binomial_bound, cluster, engine, forward, request, world
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.engine.split import Split
from proxyless.engine.steps import Attempt
from proxyless.model.route import WeightedCluster


def legs(weights: list[int]) -> list[WeightedCluster]:
    return [WeightedCluster(str(index), weight) for index, weight in enumerate(weights)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)), min_size=1, max_size=6))
def test_shares_are_exact_and_zero_gets_nothing(weights: list[int]) -> None:
    """Over n evenly spaced draws each leg's share is off by at most 1/n, and extreme draws are in range."""
    split, n = Split(legs(weights)), 2000
    total = sum(weights)
    if not total:
        assert split.pick(0.0) is None
        return
    counts = [0] * len(weights)
    for step in range(n):
        leg = split.pick((step + 0.5) / n)
        assert leg is not None
        counts[int(leg.cluster)] += 1
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count / n - weight / total) <= 1 / n
        assert weight or not count
    for extreme in (0.0, 1 - 2**-53):
        leg = split.pick(extreme)
        assert leg is not None
        assert leg.weight > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=6))
def test_every_leg_with_a_weight_can_be_drawn(weights: list[int]) -> None:
    split, total = Split(legs(weights)), sum(weights)
    drawn = {leg.cluster for step in range(total) if (leg := split.pick((step + 0.5) / total)) is not None}
    assert drawn == {str(index) for index, weight in enumerate(weights) if weight}


@pytest.mark.parametrize("weights", [[90, 10], [50, 50], [0, 100], [1, 200], [1, 1, 1, 0], [999, 1]])
def test_shares_of_real_calls(weights: list[int]) -> None:
    draws = 4000
    decide = engine(seed=7)
    snapshot = world(forward(*legs(weights)), clusters=[cluster(str(index)) for index in range(len(weights))])
    counts = [0] * len(weights)
    for _ in range(draws):
        step = decide.call(snapshot, request()).next_step()
        assert isinstance(step, Attempt)
        counts[int(step.cluster.name)] += 1
    for weight, count in zip(weights, counts, strict=True):
        share = weight / sum(weights)
        assert abs(count - share * draws) <= (binomial_bound(share, draws) if 0 < share < 1 else 0)


def test_share_is_told_for_each_leg() -> None:
    split = Split(legs([3, 1, 0]))
    assert [split.share(leg) for leg in legs([3, 1, 0])] == [0.75, 0.25, 0.0]
    assert Split(legs([0])).share(legs([0])[0]) == 0.0
