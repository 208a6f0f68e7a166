"""McNemar's test between configurations, compared with the binomial distribution, from the rows of `predictions/`."""

from __future__ import annotations

import csv
import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.train.data.images import image_set
from raypipe.train.results.comparisons import (
    TrialAnswers,
    compare_configurations,
    comparisons_csv,
    comparisons_from_csv,
    pair_summaries,
    pairs_to_show,
    trial_answers,
)
from raypipe.train.results.trial_result import prediction_rows
from raypipe.train.trial_plan import Trial
from tests.train.small import TARGETS


def trial(configuration: str, right: list[bool], seed: int = 0) -> TrialAnswers:
    return TrialAnswers(configuration, seed, "val", tuple(f"p{i}" for i in range(len(right))), np.array(right))


@settings(max_examples=25)
@given(rows=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_p_equals_exact_mcnemar_test(rows: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in rows], [b for _, b in rows]
    (found,) = compare_configurations([trial("A", first), trial("B", second)], {})
    b, c = sum(x and not y for x, y in rows), sum(y and not x for x, y in rows)
    assert (found.only_first, found.only_second, found.n) == (b, c, len(rows))
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
    (other,) = compare_configurations([trial("B", first), trial("A", second)], {})
    assert other.p == pytest.approx(found.p)


def test_many_comparisons_use_holm_correction() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.6
    found = compare_configurations(
        [trial(name, list(easy ^ (rng.random(400) < noise))) for name, noise in (("A", 0.3), ("B", 0.3), ("C", 0.05))],
        {},
    )
    ordered = sorted(found, key=lambda item: item.p)
    # Holm's correction: the smallest p times 3, the next times 2, and never below the previous one.
    expected, least = [], 0.0
    for i, item in enumerate(ordered):
        least = max(least, min(1.0, (3 - i) * item.p))
        expected.append(least)
    assert [item.p_holm for item in ordered] == pytest.approx(expected)


def test_pairs_share_seed_and_pictures() -> None:
    right = [True, False, True, True]
    found = compare_configurations(
        [trial("A", right), trial("A", right, 1), trial("C", right, 1), trial("D", right, 2)], {}
    )
    assert [(item.first, item.second, item.seed, item.p) for item in found] == [("A", "C", 1, 1.0)]
    with pytest.raises(ValueError, match="different pictures"):
        compare_configurations([trial("A", right), trial("B", right[:3])], {})
    assert compare_configurations([trial("A", right)], {}) == []


def test_comparison_groups_pictures_by_user() -> None:
    worse, better = [False] * 12 + [True] * 8, [True] * 20
    alone, users = {}, {f"p{i}": f"u{i // 6}" for i in range(20)}
    (apart,) = compare_configurations([trial("A", worse), trial("C", better)], alone)
    (together,) = compare_configurations([trial("A", worse), trial("C", better)], users)
    # There are twelve pictures but two users. C is better on both by chance with probability 1/2.
    assert (apart.p, together.p) == (pytest.approx(2 / 2**12), pytest.approx(0.5))
    assert (apart.only_second, together.only_second) == (12, 12)


def test_comparison_as_text_and_csv() -> None:
    worse, better = [False] * 30 + [True] * 30, [True] * 60
    found = compare_configurations(
        [trial("A", worse), trial("C", better), trial("A", better, 1), trial("C", better, 1)], {}
    )
    assert pair_summaries(found) == {("A", "C"): "C is better in 1 of 2 seeds"}
    assert pair_summaries(found[1:]) == {("A", "C"): "no difference beyond noise in 1 seed"}
    assert comparisons_from_csv(comparisons_csv(found)) == found
    first, second = csv.DictReader(io.StringIO(comparisons_csv(found).decode()))
    assert (first["first"], first["second"], first["only_first"], first["only_second"]) == ("A", "C", "0", "30")
    assert float(first["difference"]) == 0.5
    assert float(first["p"]) == pytest.approx(2 / 2**30)
    assert float(second["p_holm"]) == 1


def test_many_pairs_are_limited_to_best_configuration() -> None:
    few = list(itertools.combinations("ABCD", 2))
    assert pairs_to_show(few, "D") == few
    many = list(itertools.combinations("ABCDE", 2))
    assert pairs_to_show(many, "C") == [("A", "C"), ("B", "C"), ("C", "D"), ("C", "E")]
    assert pairs_to_show(many, None) == many


@pytest.mark.parametrize("kind", ["binary", "classes", "tags", "score"])
def test_answers_are_read_from_predictions(kind: str) -> None:
    labels = {
        "binary": np.array([1, 0, 1], np.float32),
        "classes": np.array([2, 0, 1]),
        "tags": np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1]], np.float32),
        "score": np.array([0.25, -3.0, 1.0]),
    }[kind]
    said = {
        "binary": [0.75, 0.5, 0.5],
        "classes": [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.6, 0.3]],
        "tags": [[0.5] * 3] * 3,
        "score": [0.0, 0.0, 0.0],
    }[kind]
    pictures = image_set(np.zeros((3, 3, 8, 8), np.uint8), labels, ["x", "z", "y"], labels.dtype.type)
    rows = prediction_rows(Trial("B", 4), 3, "val", pictures, TARGETS[kind], np.array(said, np.float32))
    found = trial_answers(rows.to_pandas(), TARGETS[kind], "val")
    if kind in ("tags", "score"):
        assert found == []
        return
    (only,) = found
    assert (only.configuration, only.seed, only.split, only.post_ids) == ("B", 4, "val", ("x", "y", "z"))
    assert only.right.tolist() == ([True, False, True] if kind == "binary" else [False, True, True])
