import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from raypipe.train.configurations import B
from raypipe.train.metrics import (
    auc_interval,
    average_precision,
    average_ranks,
    binary_accuracy,
    figure_of_merit,
    peak_flops,
    r_squared,
    rmse,
    roc_auc,
    spearman,
    spearman_interval,
    training_flops,
    wilson_interval,
)
from raypipe.train.model import build_model
from raypipe.train.weights import load_weights


def test_accuracy_counts_a_probability_above_a_half_as_label_one() -> None:
    assert binary_accuracy(np.array([0.9, 0.5, 0.2, 0.51]), np.array([1.0, 1.0, 0.0, 0.0])) == 0.5


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 2)])
def test_accuracy_of_nothing_or_of_unequal_lengths_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="probabilities for"):
        binary_accuracy(np.zeros(n), np.zeros(m))


@given(n=st.integers(1, 20_000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_statsmodels(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    expected = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    low, high = wilson_interval(successes, n, confidence)
    assert (low, high) == pytest.approx(expected, abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(successes, n, confidence)


# Few distinct values, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=40)


@given(PAIRS)
def test_area_and_precision_by_counting(pairs: list[tuple[int, int]]) -> None:
    values, labels = np.array([v / 7 for v, _ in pairs]), np.array([y for _, y in pairs])
    positive, negative = values[labels == 1], values[labels == 0]
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert roc_auc(values, labels) == (pytest.approx(np.mean(wins)) if wins else None)
    area, recall = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        called = values >= threshold
        now = (called & (labels == 1)).sum() / max(len(positive), 1)
        area += (now - recall) * (called & (labels == 1)).sum() / called.sum()
        recall = now
    assert average_precision(values, labels) == (pytest.approx(area) if len(positive) else None)


@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-3, 3).map(lambda x: round(x, 1))), min_size=2, max_size=40))
def test_ranks_and_their_correlation_equal_scipy_s(pairs: list[tuple[int, float]]) -> None:
    one, other = (np.array(column, float) for column in zip(*pairs, strict=True))
    np.testing.assert_array_equal(average_ranks(one), stats.rankdata(one))
    found = spearman(one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic)


def test_r_squared_and_rmse_equal_the_regression_s() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 2 * x + rng.normal(size=50)
    line = stats.linregress(x, y)
    fitted = line.intercept + line.slope * x
    assert r_squared(fitted, y) == pytest.approx(line.rvalue**2)
    assert r_squared(np.full(50, y.mean()), y) == pytest.approx(0)
    assert rmse(fitted, y) == pytest.approx(math.sqrt(((y - fitted) ** 2).sum() / 50))
    assert r_squared(fitted, np.ones(50)) is None


@given(auc=st.floats(0, 1), m=st.integers(1, 300), n=st.integers(1, 300))
def test_the_ends_of_an_area_s_interval_are_z_standard_errors_away(auc: float, m: int, n: int) -> None:
    low, high = auc_interval(auc, m, n)
    assert 0 <= low <= auc <= high <= 1
    for end in (low, high):
        star = (m + n) / 2 - 1
        q1, q2 = end / (2 - end) - end**2, 2 * end**2 / (1 + end) - end**2
        error = math.sqrt(max((end * (1 - end) + star * q1 + star * q2) / (m * n), 0))
        if 1e-6 < end < 1 - 1e-6:
            assert abs(auc - end) == pytest.approx(1.959964 * error, abs=1e-5)


def test_few_pictures_prove_little() -> None:
    assert auc_interval(1.0, 2, 2)[0] < 0.5 < auc_interval(1.0, 40, 40)[0]
    with pytest.raises(ValueError, match="0 positive"):
        auc_interval(0.5, 0, 3)
    assert spearman_interval(0.9, 3) == (-1.0, 1.0)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_rank_correlation_s_interval_holds_it_19_times_in_20(rho: float) -> None:
    rng = np.random.default_rng(1)
    truth = 6 / math.pi * math.asin(rho / 2)  # of a bivariate normal
    held = 0
    for _ in range(400):
        x = rng.normal(size=60)
        y = rho * x + math.sqrt(1 - rho * rho) * rng.normal(size=60)
        low, high = spearman_interval(stats.spearmanr(x, y).statistic, 60)
        held += low <= truth <= high
    assert 0.91 < held / 400 < 0.985


def test_the_best_is_of_the_highest_accuracy_or_of_the_lowest_loss() -> None:
    assert figure_of_merit(0.7, 9.0) == 0.7
    assert figure_of_merit(None, 0.4) > figure_of_merit(None, 0.5) > figure_of_merit(None, math.nan)
    assert figure_of_merit(None, None) == -math.inf


def test_flops_of_full_training_are_three_times_the_forward_pass() -> None:
    model = build_model(B, image_size=64, weights=load_weights("random"), seed=0)
    channels, sides = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6], [64, 64, 32, 32, *[16] * 3, *[8] * 3, *[4] * 3]
    layers = [2 * 9 * a * b * side**2 for a, b, side in zip(channels, channels[1:], sides, strict=False)]
    # The first layer needs no gradient of its input.
    expected = 3 * sum(layers) - layers[0] + 3 * 2 * 2048
    assert training_flops(model, torch.randn(2, 3, 64, 64)) == pytest.approx(expected, rel=1e-6)
    # At 224 pixels, with C's FC layers, this is the 92.6 GFLOP that VGG-16 is known for.
    assert (224 / 64) ** 2 * expected + 6 * (25088 + 4096) * 4096 == pytest.approx(92.6e9, rel=0.002)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_peak_is_claimed_for_a_cpu() -> None:
    assert peak_flops(torch.device("cpu"), "bfloat16") is None
    assert peak_flops(torch.device("cpu"), "float32") is None


def test_counting_leaves_running_means_as_they_were() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(0)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # One picture of three pixels has one value a channel, which training could not normalise.
    assert training_flops(model, torch.ones(1, 3, 3, 3)) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L40", 181e12), ("NVIDIA L4", 121e12), ("Tesla T4", None)],
)
def test_a_device_is_known_by_its_name(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda", 0), "bfloat16") == peak
