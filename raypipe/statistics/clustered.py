"""Intervals and a paired test that account for posts of the same user.

Posts of one user are alike: the same face, the same camera, the same audience. A classifier that is right on one of
them is probably right on the next. So they contain less information than the same number of posts of different users.
Each interval here is that of `raypipe.statistics.intervals` at an effective number of posts: the size of a simple
random sample with the same variance (Kish 1965; Rao & Scott 1992, Biometrics 48:577). If no user has two posts, it is
exactly the plain interval.

`users` is an int64 [n] array from `number_users`: equal numbers are posts of one user.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from raypipe.statistics.intervals import auc_interval, spearman_interval, wilson_interval
from raypipe.statistics.ranks import Floats, average_ranks, roc_auc, roc_components

Ints = NDArray[np.int64]

_ROUNDING = 1e-12  # deviations below this share of the largest value count as 0


def number_users(users: Iterable[Any]) -> Ints:
    """The number of each post's user: users are numbered from 0 in the order of their first post.

    `users` has one item per post. If it is not a string, the user is unknown and the post counts as its own user.
    """
    numbers: dict[Any, int] = {}
    # The index of a post is not a string, so it cannot equal the name of a user.
    keys = (user if isinstance(user, str) else place for place, user in enumerate(users))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def effective_size(values: NDArray[Any], users: Ints, confidence: float = 0.95) -> float:
    """The number of independent posts that would give as much information on the mean of `values` [n]. At most n.

    It is n / d · (t(n − 1) / t(K − 1))² for K users. The design effect d is the variance of the mean by the ratio
    estimator over users, divided by that over posts. The ratio of t quantiles corrects for few users (Korn & Graubard
    1998, Survey Methodology 24:193; Dean & Pagano 2015, J. of Survey Statistics and Methodology 3:484). A design effect
    below 1 is set to 1, because posts of a user are known to be alike and a lower value is chance. If all values are
    equal, the likeness cannot be estimated, and posts of a user count as copies of each other.
    """
    rest = _deviations(np.asarray(values, np.float64))
    return _size_from_variances(
        len(rest),
        users,
        _between_user_variance(rest, users),
        _between_user_variance(rest, np.arange(len(rest))),
        confidence,
    )


def _deviations(values: Floats) -> Floats:
    """Deviations from the mean. All are 0 if the values are equal except for rounding."""
    rest = values - values.mean()
    scale = np.abs(values).max(initial=0.0)
    return rest if np.abs(rest).max(initial=0.0) > _ROUNDING * scale else np.zeros_like(rest)


def _between_user_variance(rest: Floats, users: Ints) -> float:
    """K/(K − 1) Σ over users of (Σ of the user's deviations)², or 0 for one user."""
    sums = np.bincount(users, rest)
    k = len(np.unique(users))
    return float(k / (k - 1) * (sums @ sums)) if k > 1 else 0.0


def _size_from_variances(
    n: int, users: Ints, variance_by_user: float, variance_by_post: float, confidence: float
) -> float:
    """n divided by the design effect `variance_by_user` / `variance_by_post`, with the correction for few users."""
    sizes = np.bincount(users)
    sizes = sizes[sizes > 0]
    k = len(sizes)
    if k == n:
        return float(n)
    if k < 2 or variance_by_post == 0:
        return float(n * n / (sizes @ sizes))
    t_quantiles = stats.t.ppf(0.5 + confidence / 2, [n - 1, k - 1])
    return float(n / max(1.0, variance_by_user / variance_by_post) * (t_quantiles[0] / t_quantiles[1]) ** 2)


def clustered_share_interval(
    share: float, right: NDArray[Any], users: Ints, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's interval of the `share` of posts on which a classifier is right, at the effective number of posts.

    `right` [n] is 0 or 1 per post. For several classifiers, it is the mean per post and `share` is the mean of their
    shares. They use the same posts, so more classifiers do not narrow the interval. Raises ValueError if n is 0.
    """
    n = len(right)
    if n == 0:
        raise ValueError("a share of 0 posts has no interval")
    hits = round(share * n)
    size = effective_size(right, users, confidence)
    return wilson_interval(hits if size == n else hits / n * size, size, confidence)


def clustered_auc_error(scores: NDArray[Any], labels: NDArray[Any], users: Ints) -> float:
    """Standard error of `roc_auc` if posts of a user may be alike (Obuchowski 1997, Biometrics 53:567, section 3).

    If each user has one post, it is the error of DeLong, DeLong & Clarke-Pearson (1988). NaN unless each label occurs
    for two or more users.
    """
    positive = np.asarray(labels) > 0.5
    if not positive.any() or positive.all():
        return math.nan
    return math.sqrt(_auc_variance(roc_components(scores, labels), positive, users))


def _auc_variance(components: Floats, positive: NDArray[np.bool_], users: Ints) -> float:
    k1, k0, k = (len(np.unique(part)) for part in (users[positive], users[~positive], users))
    if k1 < 2 or k0 < 2:
        return math.nan
    many = int(users.max()) + 1
    # Sums of each user's deviations, divided by the number of posts of the label.
    ones, zeros = (
        np.bincount(users[own], _deviations(components[own]), many) / own.sum() for own in (positive, ~positive)
    )
    own_parts = k1 / (k1 - 1) * (ones @ ones) + k0 / (k0 - 1) * (zeros @ zeros)
    return max(0.0, float(own_parts + 2 * k / (k - 1) * (ones @ zeros)))


def clustered_auc_interval(
    scores: Sequence[NDArray[Any]], labels: NDArray[Any], users: Ints, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Newcombe's interval of the area under the ROC curve at the effective numbers of posts. None if a label is absent.

    `scores` are those of one or more classifiers, each [n]. The area is the mean of their areas. The design effect is
    Obuchowski's variance divided by that of DeLong et al.
    """
    positive = np.asarray(labels) > 0.5
    areas = [roc_auc(own, positive) for own in scores]
    known = [area for area in areas if area is not None]
    if not known:
        return None
    components = np.mean([roc_components(own, positive) for own in scores], axis=0)
    n = len(positive)
    variance_by_user, variance_by_post = (_auc_variance(components, positive, of) for of in (users, np.arange(n)))
    variance_by_user, variance_by_post = (
        0.0 if math.isnan(value) else value for value in (variance_by_user, variance_by_post)
    )
    shrunk = _size_from_variances(n, users, variance_by_user, variance_by_post, confidence) / n
    n_positive = int(positive.sum())
    return auc_interval(float(np.mean(known)), n_positive * shrunk, (n - n_positive) * shrunk, confidence)


def clustered_spearman_interval(
    rho: float, predicted: Sequence[NDArray[Any]], truth: NDArray[Any], users: Ints, confidence: float = 0.95
) -> tuple[float, float]:
    """Bonett & Wright's interval of Spearman's `rho` at the effective number of posts.

    `predicted` are those of one or more models, each [n]. `rho` is the mean of their correlations with `truth` [n].
    """
    parts = np.mean([_spearman_parts(own, truth) for own in predicted], axis=0)
    return spearman_interval(rho, effective_size(parts, users, confidence), confidence)


def _spearman_parts(one: NDArray[Any], other: NDArray[Any]) -> Floats:
    """Each post's influence on Spearman's correlation, up to a factor: Croux & Dehon (2010), Statistical Methods and
    Applications 19:497, proposition 1, with ranks in place of the distributions and half weight for ties."""
    f, g = ((average_ranks(values) - 0.5) / len(values) for values in (one, other))
    return f * g + _mean_above(f, other) + _mean_above(g, one)


def _mean_above(weights: Floats, values: NDArray[Any]) -> Floats:
    """For each of `values`: the sum of the weights of greater values plus half of those of equal values, over n."""
    _, place = np.unique(values, return_inverse=True)
    sums = np.bincount(place.reshape(-1), weights)
    above = np.cumsum(sums[::-1])[::-1] - sums / 2
    return np.asarray(above[place.reshape(-1)] / len(weights), np.float64)


def paired_p(first: NDArray[np.bool_], second: NDArray[np.bool_], users: Ints) -> float:
    """Two-sided p-value for two classifiers that were right or wrong on the same posts (bool [n] each; True is right).

    dₖ is the number of posts of user k on which the second is right, minus that of the first. If the two are equally
    good, dₖ and −dₖ are equally likely. p is the share of all choices of signs per user that give a sum at least as far
    from 0 as Σ dₖ. If no user has two posts on which only one is right, this is McNemar's exact test. The variance of
    the sum, Σ dₖ², is that of Obuchowski (1998), Statistics in Medicine 17:1495, and of Durkalski et al. (2003), ibid.
    22:2417, with equal weights of posts. Their tests are the normal approximation of this one, for many users.
    """
    d = np.bincount(users, second.astype(np.int64) - first.astype(np.int64)).astype(np.int64)
    sizes, counts = np.unique(np.abs(d[d != 0]), return_counts=True)
    # The distribution of the sum over users with sign +: each of `sizes` times a binomial number.
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    lower = (len(chances) - 1 - abs(int(d.sum()))) // 2
    return min(1.0, 2 * float(chances[: lower + 1].sum()))
