import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raypipe.train.metrics import (
    average_precision,
    binary_accuracy,
    figure_of_merit,
    peak_flops,
    r_squared,
    rmse,
    spearman,
    training_flops,
)
from raypipe.train.networks.configurations import B
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights


def test_accuracy_threshold_is_above_one_half() -> None:
    assert binary_accuracy(np.array([0.9, 0.5, 0.2, 0.51]), np.array([1.0, 1.0, 0.0, 0.0])) == 0.5


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 2)])
def test_accuracy_refuses_empty_or_unequal_inputs(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="probabilities for"):
        binary_accuracy(np.zeros(n), np.zeros(m))


# Few distinct values, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=40)


@given(PAIRS)
def test_precision_equals_counting(pairs: list[tuple[int, int]]) -> None:
    values, labels = np.array([v / 7 for v, _ in pairs]), np.array([y for _, y in pairs])
    area, recall, n_positive = 0.0, 0.0, int(labels.sum())
    for threshold in sorted(set(values), reverse=True):
        called = values >= threshold
        now = (called & (labels == 1)).sum() / max(n_positive, 1)
        area += (now - recall) * (called & (labels == 1)).sum() / called.sum()
        recall = now
    assert average_precision(values, labels) == (pytest.approx(area) if n_positive else None)


@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-3, 3).map(lambda x: round(x, 1))), min_size=2, max_size=40))
def test_the_rank_correlation_equals_scipy_s(pairs: list[tuple[int, float]]) -> None:
    one, other = (np.array(column, float) for column in zip(*pairs, strict=True))
    found = spearman(one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic)


def test_r_squared_and_rmse_equal_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 2 * x + rng.normal(size=50)
    line = stats.linregress(x, y)
    fitted = line.intercept + line.slope * x
    assert r_squared(fitted, y) == pytest.approx(line.rvalue**2)
    assert r_squared(np.full(50, y.mean()), y) == pytest.approx(0)
    assert rmse(fitted, y) == pytest.approx(math.sqrt(((y - fitted) ** 2).sum() / 50))
    assert r_squared(fitted, np.ones(50)) is None


def test_merit_is_accuracy_or_negative_loss() -> None:
    assert figure_of_merit(0.7, 9.0) == 0.7
    assert figure_of_merit(None, 0.4) > figure_of_merit(None, 0.5) > figure_of_merit(None, math.nan)
    assert figure_of_merit(None, None) == -math.inf


def test_full_training_costs_three_forward_passes() -> None:
    model = build_vgg(B, image_size=64, weights=load_weights("random"), seed=0)
    channels, sides = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6], [64, 64, 32, 32, *[16] * 3, *[8] * 3, *[4] * 3]
    layers = [2 * 9 * a * b * side**2 for a, b, side in zip(channels, channels[1:], sides, strict=False)]
    # The first layer needs no gradient for its input.
    expected = 3 * sum(layers) - layers[0] + 3 * 2 * 2048
    assert training_flops(model, torch.randn(2, 3, 64, 64)) == pytest.approx(expected, rel=1e-6)
    # At 224 pixels and with C's FC layers, these are the known 92.6 GFLOP of VGG-16.
    assert (224 / 64) ** 2 * expected + 6 * (25088 + 4096) * 4096 == pytest.approx(92.6e9, rel=0.002)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cpu_has_no_peak_flops() -> None:
    assert peak_flops(torch.device("cpu"), "bfloat16") is None
    assert peak_flops(torch.device("cpu"), "float32") is None


def test_counting_flops_keeps_running_means() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(0)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # One picture of 3 × 3 pixels gives one value per channel, which batch normalisation refuses in training.
    assert training_flops(model, torch.ones(1, 3, 3, 3)) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L40", 181e12), ("NVIDIA L4", 121e12), ("Tesla T4", None)],
)
def test_device_peak_is_found_by_name(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda", 0), "bfloat16") == peak
