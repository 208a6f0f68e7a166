"""Each scheme on small tables, compared with a plain implementation or manual results."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config.learning_options import LabelOptions
from raypipe.errors import ConfigError, InputError
from raypipe.label.schemes import LABEL_SCHEMES, ScoredPosts, check_classes, check_options


def label(scored: ScoredPosts, scheme: str, cut: int | None = None, **options: Any) -> pa.Array:
    """The labels of posts in one block, or in two blocks cut at row `cut`."""
    n = len(scored.posts)
    bounds = [0, n] if cut is None else [0, min(cut, n), n]

    def part(values: Any, a: int, b: int) -> Any:
        return None if values is None else values[a:b]

    blocks = [
        ScoredPosts(scored.posts.slice(a, b - a), part(scored.y, a, b), None, part(scored.score, a, b), i)
        for i, (a, b) in enumerate(itertools.pairwise(bounds))
    ]
    chosen = LabelOptions(scheme=scheme, **options)  # type: ignore[arg-type]
    labeller = LABEL_SCHEMES[scheme].learn(lambda function, _: [function(block) for block in blocks], n, chosen)
    return pa.concat_arrays([labeller(block).cast(LABEL_SCHEMES[scheme].label_type) for block in blocks])


def scored(values: list[float], **columns: Any) -> ScoredPosts:
    numbers = np.array(values, dtype=float)
    posts = pa.table({"post_id": [f"p{i:03d}" for i in range(len(values))], **columns})
    return ScoredPosts(posts, y=numbers, score=numbers)


@given(st.lists(st.integers(-5, 5), min_size=10, max_size=120), st.integers(10, 50), st.integers(0, 120))
def test_residual_labels_follow_ranks(values: list[int], percent: int, cut: int) -> None:
    labels = label(scored(values), "residual", cut, quantile=percent / 100).to_pylist()  # type: ignore[arg-type]
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
    labels = label(ScoredPosts(posts, score=values), "residual")
    assert Counter(labels.to_pylist()) == {"bottom": 20_054, "top": 20_055, None: 160_436}


def test_quantile_with_empty_class_raises_error() -> None:
    with pytest.raises(InputError, match=r"label.quantile 0.1: 0.1 of 9 posts is less than one post"):
        label(scored([1.0] * 9), "residual")


@pytest.mark.parametrize(("n", "k"), [(10, 3), (7, 7), (100, 12), (2, 2)])
def test_quantile_classes_are_ordered_and_equally_large(n: int, k: int) -> None:
    values = np.random.default_rng(1).permutation(n).astype(float)
    labels = label(scored(values.tolist()), "quantiles", classes=k).to_pylist()
    in_order = [labels[i] for i in np.argsort(values)]
    assert in_order == sorted(in_order)
    sizes = Counter(labels).values()
    assert len(sizes) == k
    assert max(sizes) - min(sizes) <= 1


def test_quantiles_need_one_post_per_class() -> None:
    with pytest.raises(InputError, match="only 3 posts take part"):
        label(scored([1, 2, 3]), "quantiles", classes=4)


@given(
    posts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=2, max_size=70),
    size=st.integers(2, 15),
    cut=st.integers(0, 70),
)
def test_karpathy_equals_plain_implementation(posts: list[tuple[int, int]], size: int, cut: int) -> None:
    followers, likes = [f for f, _ in posts], [n for _, n in posts]
    rows = scored([0.0] * len(posts), followers=followers, likes=likes)
    if len(set(likes)) == 1:
        with pytest.raises(InputError, match=f"likes are {likes[0]} in all {len(likes)} posts"):
            label(rows, "karpathy", cut, group=size)
        return
    found = label(rows, "karpathy", cut, group=size).to_pylist()
    by_reach = sorted(range(len(posts)), key=lambda i: (followers[i], i))
    for start in range(0, len(posts), size):
        group = sorted(by_reach[start : start + size], key=lambda i: (likes[i], i))
        half = len(group) // 2
        expected = ["bottom"] * half + ["top"] * (len(group) - half) if len(group) > 1 else [None]
        assert [found[i] for i in group] == expected


def test_karpathy_without_outliers() -> None:
    rng = np.random.default_rng(3)
    followers, likes = rng.permutation(1_000), rng.permutation(1_000)
    rows = scored([0.0] * 1_000, followers=followers, likes=likes)
    found = label(rows, "karpathy", 333, group=50, outliers=0.05).to_pylist()
    inside = (followers >= 50) & (followers < 950) & (likes >= 50) & (likes < 950)
    assert [name is not None for name in found] == inside.tolist()
    kept = np.flatnonzero(inside)
    alone = scored([0.0] * len(kept), followers=followers[kept], likes=likes[kept])
    assert label(alone, "karpathy", group=50).to_pylist() == [found[i] for i in kept]


def test_karpathy_needs_two_posts() -> None:
    with pytest.raises(InputError, match="1 usable posts"):
        label(scored([0.0], followers=[1], likes=[1]), "karpathy")


def test_continuous_label_is_the_score() -> None:
    labels = label(scored([0.5, -1.25]), "continuous")
    assert labels.to_pylist() == [0.5, -1.25]
    assert labels.type == LABEL_SCHEMES["continuous"].label_type


def test_column_gives_strings_and_keeps_nulls() -> None:
    posts = ScoredPosts(pa.table({"post_id": list("abc"), "kind": [1, None, 2], "same": ["x", "x", None]}))
    assert label(posts, "column", column="kind").to_pylist() == ["1", None, "2"]
    options = LabelOptions(scheme="column", column="same")
    check_classes(options, Counter(x=2, y=1), 3)
    with pytest.raises(InputError, match="all 3 eligible posts have the label 'x'"):
        check_classes(options, Counter(x=2), 3)
    with pytest.raises(InputError, match="all 1 eligible posts have no label"):
        check_classes(options, Counter(), 1)


def test_hashtag_labels_are_read_from_captions() -> None:
    captions = ["sun #Beach #selfie", "#beaches", None, "#CAT＃beach", "none"]
    posts = ScoredPosts(pa.table({"post_id": list("abcde"), "caption": captions}))
    labels = label(posts, "hashtags", hashtags=["beach", "#cat"])
    assert labels.to_pylist() == [["beach"], [], None, ["beach", "cat"], []]
    assert labels.type == LABEL_SCHEMES["hashtags"].label_type
    found = Counter({"beach": 1, "": 2, "beach,cat": 1})
    check_classes(LabelOptions(scheme="hashtags", hashtags=["beach", "#cat"]), found, 5)
    with pytest.raises(InputError, match=r"label.hashtags dog: none of 4 eligible posts with a caption"):
        check_classes(LabelOptions(scheme="hashtags", hashtags=["beach", "dog"]), found, 5)
    with pytest.raises(InputError, match=r"label.hashtags beach: each of 2 eligible posts with a caption"):
        check_classes(LabelOptions(scheme="hashtags", hashtags=["beach"]), Counter(beach=2), 5)


@pytest.mark.parametrize(
    ("caption", "carried"),
    [
        ("#हिन्दी!", ["हिन्दी"]),
        ("so (#😍), #été", ["😍", "été"]),
        ("#e\u0301te\u0301", ["été"]),
        ("a#sun &#39; #39", ["39"]),
        ("#sun_set #Sun.", ["sun"]),
        ("#sun#39", ["sun", "39"]),
        ("# sun ##", []),
    ],
)
def test_hashtag_matching_handles_unicode(caption: str, carried: list[str]) -> None:
    posts = ScoredPosts(pa.table({"post_id": ["p"], "caption": [caption]}))
    labels = label(posts, "hashtags", hashtags=["sun", "39", "हिन्दी", "😍", "été"])
    assert sorted(labels.to_pylist()[0]) == sorted(carried)


def test_constant_values_raise_error() -> None:
    posts = scored([0.0] * 6, likes=[3] * 6, followers=range(6))
    with pytest.raises(InputError, match=r"label.scheme quantiles: y is 3 in all 6 posts"):
        label(replace(posts, y=np.full(6, 3.0)), "quantiles", classes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "hashtags", "hashtags": ["sun", "#"]}, "label.hashtags '#': is not a hashtag"),
        ({"scheme": "hashtags", "hashtags": ["sun set"]}, "label.hashtags 'sun set': is not a hashtag"),
        ({"scheme": "column"}, "label.column: is missing"),
        ({"scheme": "hashtags"}, "label.hashtags: is missing"),
        ({"val": 0.6, "test": 0.4}, "leave no posts to train on"),
    ],
)
def test_incompatible_options_raise_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(LabelOptions(**options))
