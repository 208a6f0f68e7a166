"""Each scheme on small tables, against a plain re-implementation or by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config import LabelOptions
from raypipe.errors import ConfigError, InputError
from raypipe.label.schemes import SCHEMES, Scored, check_options, thresholds


def label(scored: Scored, scheme: str, **options: Any) -> pa.Array:
    return SCHEMES[scheme].label(scored, LabelOptions(scheme=scheme, **options))  # type: ignore[arg-type]


def scored(values: list[float], **columns: Any) -> Scored:
    numbers = np.array(values, dtype=float)
    posts = pa.table({"post_id": [f"p{i:03d}" for i in range(len(values))], **columns})
    return Scored(posts, y=numbers, score=numbers)


@given(st.lists(st.integers(-5, 5), min_size=10, max_size=120), st.integers(10, 50))
def test_residual_is_the_rule_of_ranks(values: list[int], percent: int) -> None:
    labels = label(scored(values), "residual", quantile=percent / 100).to_pylist()  # type: ignore[arg-type]
    n = len(values)
    in_order = [i for _, i in sorted((value, i) for i, value in enumerate(values))]
    expected: list[str | None] = [None] * n
    for rank, i in enumerate(in_order, start=1):
        if rank <= percent * n // 100:
            expected[i] = "bottom"
        elif rank > (100 - percent) * n // 100:
            expected[i] = "top"
    assert labels == expected


def test_residual_at_the_papers_size() -> None:
    n = 200_545
    values = np.random.default_rng(0).normal(size=n).round(2)
    posts = pa.table({"post_id": [f"p{i}" for i in range(n)]})
    labels = label(Scored(posts, score=values), "residual")
    assert Counter(labels.to_pylist()) == {"bottom": 20_054, "top": 20_055, None: 160_436}


def test_a_quantile_that_leaves_a_class_empty() -> None:
    with pytest.raises(InputError, match=r"label.quantile 0.1: leaves a class empty, as 0.1 of 9 posts"):
        label(scored([1.0] * 9), "residual")


@pytest.mark.parametrize(("n", "k"), [(10, 3), (7, 7), (100, 12), (2, 2)])
def test_quantiles(n: int, k: int) -> None:
    values = np.random.default_rng(1).permutation(n).astype(float)
    labels = label(scored(values.tolist()), "quantiles", classes=k).to_pylist()
    in_order = [labels[i] for i in np.argsort(values)]
    assert in_order == sorted(in_order)
    sizes = Counter(labels).values()
    assert len(sizes) == k
    assert max(sizes) - min(sizes) <= 1


def test_quantiles_need_a_post_a_class() -> None:
    with pytest.raises(InputError, match="only 3 posts take part"):
        label(scored([1, 2, 3]), "quantiles", classes=4)


@given(
    posts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=2, max_size=70),
    size=st.integers(2, 15),
)
def test_karpathy(posts: list[tuple[int, int]], size: int) -> None:
    followers, likes = [f for f, _ in posts], [n for _, n in posts]
    found = label(scored([0.0] * len(posts), followers=followers, likes=likes), "karpathy", group=size).to_pylist()
    by_reach = sorted(range(len(posts)), key=lambda i: (followers[i], i))
    for start in range(0, len(posts), size):
        group = sorted(by_reach[start : start + size], key=lambda i: (likes[i], i))
        half = len(group) // 2
        expected = ["bottom"] * half + ["top"] * (len(group) - half) if len(group) > 1 else [None]
        assert [found[i] for i in group] == expected


def test_karpathy_needs_two_posts() -> None:
    with pytest.raises(InputError, match="1 usable posts"):
        label(scored([0.0], followers=[1], likes=[1]), "karpathy")


def test_continuous_is_the_score() -> None:
    labels = label(scored([0.5, -1.25]), "continuous")
    assert labels.to_pylist() == [0.5, -1.25]
    assert labels.type == SCHEMES["continuous"].label_type


def test_column_gives_strings_and_keeps_nulls() -> None:
    posts = Scored(pa.table({"post_id": list("abc"), "kind": [1, None, 2], "same": ["x", "x", None]}))
    assert label(posts, "column", column="kind").to_pylist() == ["1", None, "2"]
    with pytest.raises(InputError, match="all 3 eligible posts have the label 'x'"):
        label(posts, "column", column="same")
    empty = Scored(pa.table({"post_id": ["a"], "kind": pa.array([None], pa.string())}))
    with pytest.raises(InputError, match="all 1 eligible posts have no label"):
        label(empty, "column", column="kind")


def test_hashtags() -> None:
    captions = ["sun #Beach #selfie", "#beaches", None, "#CAT＃beach", "none"]
    posts = Scored(pa.table({"post_id": list("abcde"), "caption": captions}))
    labels = label(posts, "hashtags", hashtags=["beach", "#cat"])
    assert labels.to_pylist() == [["beach"], [], None, ["beach", "cat"], []]
    assert labels.type == SCHEMES["hashtags"].label_type
    with pytest.raises(InputError, match=r"label.hashtags dog: none of 4 eligible posts with a caption"):
        label(posts, "hashtags", hashtags=["dog"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "column"}, "label.column: is needed"),
        ({"scheme": "hashtags"}, "label.hashtags: is needed"),
        ({"val": 0.6, "test": 0.4}, "leave nothing to train on"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(LabelOptions(**options))


def test_thresholds_are_the_bounds_of_each_class() -> None:
    labels = pa.array(["bottom", None, "top", "bottom", "top"])
    values = np.array([-2.0, 0.0, 1.5, -3.0, 4.0])
    assert thresholds(labels, values) == {"bottom": [-3.0, -2.0], "top": [1.5, 4.0]}
    assert thresholds(labels, None) == {}
    assert thresholds(pa.array(values), values) == {}
