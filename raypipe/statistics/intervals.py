"""Intervals of shares, areas and rank correlations over independent pictures.

Stages call `raypipe.statistics.clustered`, which builds on these for posts of one user, which may be alike.
"""

from __future__ import annotations

import math
from statistics import NormalDist


def two_sided_z(confidence: float) -> float:
    """The z for which a share `confidence` of the standard normal distribution is between −z and z."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `successes` in `n` (Wilson, 1927, JASA 22:209).

    `n` need not be whole: it may be an effective number of posts. Raises ValueError unless 0 ≤ successes ≤ n, n > 0 and
    0 < confidence < 1.
    """
    if not (n > 0 and 0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(f"no interval for {successes} of {n} at a confidence of {confidence}")
    z = two_sided_z(confidence)
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # 0 and 1 are exact here. The formula would be off by about 1e-17 because of rounding.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def spearman_interval(rho: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of Spearman's correlation by Fisher's z with variance (1 + ρ²/2)/(n − 3): Bonett & Wright (2000),
    Psychometrika 65:23. It is (−1, 1) for fewer than four pictures."""
    if n < 4:
        return -1.0, 1.0
    inside = min(max(rho, -1 + 1e-12), 1 - 1e-12)
    half = two_sided_z(confidence) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return math.tanh(math.atanh(inside) - half), math.tanh(math.atanh(inside) + half)


def auc_interval(auc: float, n_positive: float, n_negative: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of an area under the ROC curve: Newcombe (2006), Statistics in Medicine 25:559, method 5.

    At the ends θ, |auc − θ| is z standard errors by Hanley & McNeil's variance at θ. As with Wilson's interval, an area
    of 1 on few pictures has a wide interval. Raises ValueError if either label is absent.
    """
    if not (n_positive > 0 and n_negative > 0):
        raise ValueError(f"no area under the curve for {n_positive} positive and {n_negative} negative labels")
    z = two_sided_z(confidence)
    spare = max((n_positive + n_negative) / 2 - 1, 0.0)

    def too_far(theta: float) -> bool:
        spread = theta * (1 - theta) * (1 + spare * (1 - theta) / (2 - theta) + spare * theta / (1 + theta))
        return abs(auc - theta) > z * math.sqrt(spread / (n_positive * n_negative))

    def end(outer: float) -> float:
        near, far = auc, outer
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if too_far(middle) else (middle, far)
        return near

    return end(0.0), end(1.0)
