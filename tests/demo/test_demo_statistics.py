"""The demo's verdicts: a right share passes, a wrong one does not."""

import math

import pytest

from proxyless.cli.demo.report import Row, table
from proxyless.cli.demo.statistics import SIGNIFICANCE, binomial_p_value, share_is_right


@pytest.mark.parametrize(
    ("successes", "trials", "share", "expected"),
    [
        # R: binom.test(x, n, p)$p.value
        (5, 10, 0.5, 1.0),
        (0, 10, 0.5, 0.001953125),
        (2, 10, 0.5, 0.109375),
        (9, 10, 0.5, 0.021484375),
        (0, 400, 0.0, 1.0),
        (1, 400, 0.0, 0.0),
        (400, 400, 1.0, 1.0),
        (399, 400, 1.0, 0.0),
    ],
)
def test_p_values_are_those_of_the_exact_test(successes: int, trials: int, share: float, expected: float) -> None:
    assert math.isclose(binomial_p_value(successes, trials, share), expected, rel_tol=1e-6, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("successes", "share", "right"),
    [(40, 0.1, True), (28, 0.1, True), (15, 0.1, False), (70, 0.1, False), (200, 0.5, True), (150, 0.5, False)],
)
def test_shares_of_400(successes: int, share: float, right: bool) -> None:
    assert share_is_right(successes, 400, share) is right


def test_a_true_share_is_refused_no_more_often_than_stated() -> None:
    refused = sum(math.comb(400, k) * 0.1**k * 0.9 ** (400 - k) for k in range(401) if not share_is_right(k, 400, 0.1))
    assert 0 < refused <= SIGNIFICANCE


def test_no_requests_prove_nothing() -> None:
    assert not share_is_right(0, 0, 0.5)


def test_table_marks_what_is_wrong() -> None:
    text = table([Row("a", "1", "1", True), Row("bb", "2", "3", False)])
    assert text.splitlines() == [
        "step  expected  observed",
        "----  --------  --------",
        "a     1         1         ok",
        "bb    2         3         WRONG",
    ]
