"""The truth: the ceiling compared with simulation and generated labels, and the identities of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raypipe.config import Config
from raypipe.config.data_options import WorldOptions
from raypipe.errors import InputError, StageError
from raypipe.storage import Storage
from raypipe.world.posts import GeneratedPosts, generate_posts
from raypipe.world.truth import TRUTH, describe_truth, expected_judge_accuracy, judge_accuracy, read_truth, truth_table


def extremes(score: np.ndarray, quantile: float) -> list[str | None]:
    low, high = np.quantile(score, [quantile, 1 - quantile])
    return ["top" if value > high else "bottom" if value <= low else None for value in score.tolist()]


@pytest.mark.parametrize("effect", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("quantile", [0.1, 0.3, 0.5])
def test_ceiling_agrees_with_simulation(effect: float, quantile: float) -> None:
    rng = np.random.default_rng(7)
    look = rng.standard_normal(400_000)
    labels = extremes(effect * look + 0.3 * rng.standard_normal(400_000), quantile)
    error = 5 * np.sqrt(0.25 / (2 * quantile * 400_000))
    assert judge_accuracy(look, labels) == pytest.approx(expected_judge_accuracy(effect, 0.3, quantile), abs=error)


@given(st.floats(0.01, 3), st.floats(0.01, 3), st.sampled_from([0.01, 0.1, 0.25, 0.5]))
def test_ceiling_is_the_bivariate_normal_probability(effect: float, noise: float, quantile: float) -> None:
    rho = effect / np.hypot(effect, noise)
    z = stats.norm.isf(quantile)
    joint = stats.multivariate_normal([0, 0], [[1, -rho], [-rho, 1]], allow_singular=True)
    # P(L > 0, S > z) = P(L > 0) − P(L > 0, S ≤ z). L is negated, since SciPy gives the lower corner.
    expected = (0.5 - joint.cdf([0, z])) / quantile
    assert expected_judge_accuracy(effect, noise, quantile) == pytest.approx(expected, abs=2e-3)


def test_median_split_has_a_closed_form() -> None:
    for effect in (0.1, 0.3, 0.7):
        rho = effect / np.hypot(effect, 0.3)
        assert expected_judge_accuracy(effect, 0.3, 0.5) == pytest.approx(0.5 + np.arcsin(rho) / np.pi, abs=1e-9)


def test_ceiling_at_extreme_values() -> None:
    assert expected_judge_accuracy(0.0, 0.3, 0.1) == 0.5
    assert expected_judge_accuracy(0.3, 0.0, 0.1) == 1.0
    assert (
        expected_judge_accuracy(0.3, 0.3, 0.05)
        > expected_judge_accuracy(0.3, 0.3, 0.1)
        > expected_judge_accuracy(0.3, 0.3, 0.5)
        > 0.5
    )
    for wrong in ((0.3, 0.3, 0.0), (0.3, 0.3, 0.6), (-0.1, 0.3, 0.1)):
        with pytest.raises(ValueError, match="out of range"):
            expected_judge_accuracy(*wrong)


def test_perfect_judge_reaches_ceiling_on_generated_residuals() -> None:
    posts = generate_posts(WorldOptions(posts=60_000), 2)
    terms = np.column_stack([np.ones(60_000), np.log10(1 + posts.followers), posts.n_hashtags])
    y = np.log10(1 + posts.likes)
    score = y - terms @ np.linalg.lstsq(terms, y, rcond=None)[0]
    reached = judge_accuracy(posts.look, extremes(score, 0.1))
    assert reached == pytest.approx(expected_judge_accuracy(0.3, 0.3, 0.1), abs=0.01)


def test_judge_uses_only_top_and_bottom() -> None:
    assert judge_accuracy([1.0, -1.0, 2.0, -2.0], ["top", "bottom", "bottom", None]) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="nothing to judge"):
        judge_accuracy([1.0], [None])
    with pytest.raises(ValueError, match="each picture needs both"):
        judge_accuracy([1.0, 2.0], ["top"])


def test_truth_table_holds_planted_values() -> None:
    posts: GeneratedPosts = generate_posts(WorldOptions(posts=500), 1)
    table = truth_table(posts, 0.4, 0, 500)
    table.validate(full=True)
    assert table.schema == TRUTH
    assert np.allclose(table["effect"].to_numpy(), WorldOptions().effect * table["look"].to_numpy())
    faces, behaviour = table["n_faces"].to_pylist(), table["behaviour"].to_pylist()
    assert [n is None for n in faces] == posts.deleted.tolist() == [kind is None for kind in behaviour]
    assert {n for n in faces if n is not None} <= {0, 1, 2, 3, 4}
    assert len(set(behaviour)) > 8


def test_description_uses_regression_term_names(world: Config, tmp_path: Path) -> None:
    truth = read_truth(world.open_storage())
    assert truth == describe_truth(world.world, world.seed, generate_posts(world.world, world.seed).counts)
    assert truth.params == {"Intercept": 0.4, "log10(1 + followers)": 0.5, "n_hashtags": 0.012}
    assert truth.ceiling["0.1"] == truth.ceiling_at(0.1) == expected_judge_accuracy(0.3, 0.3, 0.1)
    with pytest.raises(StageError, match="raypipe world"):
        read_truth(Storage(str(tmp_path)))
