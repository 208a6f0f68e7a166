import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from raypipe.train.configurations import B
from raypipe.train.metrics import binary_accuracy, peak_flops, training_flops, wilson_interval
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
