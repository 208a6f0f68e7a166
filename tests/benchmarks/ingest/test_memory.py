"""Memory growth is distinguished from noise."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ingest.memory import fit, flat


def samples(mb_per_10000: float, deviation: float) -> tuple[list[int], list[float]]:
    """Fifty samples between picture 5,000 and 50,000."""
    done = np.linspace(5_000, 50_000, 50).astype(int)
    noise = np.random.default_rng(0).normal(0, deviation, 50)
    return done.tolist(), (800 + mb_per_10000 * done / 10_000 + noise).tolist()


def test_fit_finds_slope_of_samples() -> None:
    found = fit(*samples(12.0, 0.0))
    assert found["mb_per_10000"] == pytest.approx(12.0)
    assert found["growth_mb"] == pytest.approx(54.0)
    assert found["deviation_mb"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("mb_per_10000", "expected"), [(0.0, True), (-5.0, True), (10.0, False)])
def test_growth_within_noise_counts_as_flat(mb_per_10000: float, expected: bool) -> None:
    assert flat(fit(*samples(mb_per_10000, 8.0))) is expected
