"""Whether an observed share is what the configured weights promise."""

import math

# A right mesh fails one share in 100,000 runs; a share off by five points of a hundred in 600 requests is caught.
SIGNIFICANCE = 1e-5


def binomial_p_value(successes: int, trials: int, share: float) -> float:
    """Two-sided exact binomial test: how likely an outcome at most as probable as this one is, if ``share`` is true.

    0 <= share <= 1; a share of 0 or 1 allows exactly one outcome.
    """
    if share in (0.0, 1.0):
        return 1.0 if successes == round(share * trials) else 0.0

    def log_probability(k: int) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        return ways + k * math.log(share) + (trials - k) * math.log1p(-share)

    # The tolerance keeps outcomes of equal probability together in spite of rounding (as R's binom.test does).
    limit = log_probability(successes) + 1e-7
    return min(1.0, sum(math.exp(p) for k in range(trials + 1) if (p := log_probability(k)) <= limit))


def share_is_right(successes: int, trials: int, share: float) -> bool:
    """True unless the observation refutes ``share`` at ``SIGNIFICANCE``."""
    return trials > 0 and binomial_p_value(successes, trials, share) >= SIGNIFICANCE
