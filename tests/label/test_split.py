"""The split: exact sizes, no user in two splits, and independence of the order of rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import InputError
from raypipe.label.ranking.string_hashes import hash_strings
from raypipe.label.split import (
    SIDES,
    LabelledPosts,
    check_sides,
    count_leaks,
    linked_groups,
    sides_from_column,
    split,
    strata,
)


def posts(n: int, **columns: Any) -> pa.Table:
    return pa.table(
        {"post_id": [f"p{i:05d}" for i in range(n)], "user_id": [f"u{i // 3}" for i in range(n)], **columns}
    )


def run(
    kind: str,
    rows: pa.Table,
    classes: list[str | None] | None = None,
    hashes: list[str | None] | None = None,
    *,
    val: float = 0.25,
    test: float = 0.0,
    seed: int = 0,
) -> list[str | None]:
    """The split of each post in the order of `rows`; None if `classes` has None."""
    labels = pa.array(classes if classes is not None else ["a"] * len(rows), pa.string())
    known = np.flatnonzero(labels.is_valid())
    chosen = rows.take(pa.array(known))
    pictures = None
    if hashes is not None:
        named = pa.array(hashes, pa.string()).take(pa.array(known)).dictionary_encode().indices
        pictures = np.asarray(named.fill_null(-1)).astype(np.int64)
    given = kind not in ("random", "user", "time")
    posts = LabelledPosts(
        keys=hash_strings(chosen["post_id"], seed + 1),
        classes=np.unique(labels.drop_null().to_pylist(), return_inverse=True)[1],
        users=hash_strings(chosen["user_id"].cast(pa.string())),
        pictures=pictures,
        times=np.asarray(chosen["created_at"].cast(pa.int64())) if kind == "time" else None,
        given=sides_from_column(kind, chosen[kind]) if given else None,
    )
    sides = split(kind, posts, val=val, test=test)
    found: list[str | None] = [None] * len(rows)
    for row, side in zip(known.tolist(), sides.tolist(), strict=True):
        found[row] = SIDES[side]
    return found


def test_default_split_holds_out_a_quarter() -> None:
    n = 40_109
    classes = ["bottom"] * 20_054 + ["top"] * 20_055
    sides = run("random", posts(n), classes)
    assert Counter(sides) == {"train": 30_082, "val": 10_027}
    by_class = Counter(zip(classes, sides, strict=True))
    assert {by_class["bottom", "val"], by_class["top", "val"]} == {5_013, 5_014}


@settings(max_examples=80)
@given(
    classes=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=150),
    val=st.integers(0, 50),
    test=st.integers(0, 49),
    seed=st.integers(0, 10),
)
def test_random_is_exact_stratified_and_independent_of_order(
    classes: list[str | None], val: int, test: int, seed: int
) -> None:
    how = {"val": val / 100, "test": test / 100, "seed": seed}
    sides = run("random", posts(len(classes)), classes, **how)
    n = sum(label is not None for label in classes)
    counts = Counter(sides)
    assert counts["test"] == test * n // 100
    assert counts["val"] == val * n // 100
    assert [side is None for side in sides] == [label is None for label in classes]
    for label, size in Counter(label for label in classes if label).items():
        held = sum(s == "test" for s, c in zip(sides, classes, strict=True) if c == label)
        assert abs(held - counts["test"] * size / n) < 1
    order = np.random.default_rng(seed).permutation(len(classes))
    shuffled = run("random", posts(len(classes)).take(pa.array(order)), [classes[i] for i in order], **how)
    assert shuffled == [sides[i] for i in order]


def test_different_seed_gives_different_split() -> None:
    assert run("random", posts(200), seed=1) != run("random", posts(200), seed=2)
    assert run("random", posts(200), seed=1) == run("random", posts(200), seed=1)


@settings(max_examples=60)
@given(
    users=st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=1, max_size=80),
    hashes=st.lists(st.one_of(st.none(), st.integers(0, 40)), min_size=80, max_size=80),
    seed=st.integers(0, 5),
)
def test_users_and_pictures_stay_in_one_split(users: list[int | None], hashes: list[int | None], seed: int) -> None:
    n = len(users)
    rows = posts(n).set_column(1, "user_id", pa.array([None if u is None else f"u{u}" for u in users], pa.string()))
    pictures = [None if h is None else f"h{h}" for h in hashes[:n]]
    classes = ["a" if i % 3 else "b" for i in range(n)]
    for kind in ("random", "user"):
        sides = run(kind, rows, classes, pictures, val=0.3, test=0.2, seed=seed)
        counts = Counter(sides)
        assert counts["test"] <= math.floor(0.2 * n)
        assert counts["val"] <= math.floor(0.3 * n)
        keys = [pictures] + ([[*users]] if kind == "user" else [])
        for key in keys:
            on: dict[Any, set[str | None]] = {}
            for value, side in zip(key, sides, strict=True):
                if value is not None:
                    on.setdefault(value, set()).add(side)
            assert all(len(found) == 1 for found in on.values())


def test_user_split_sizes_are_exact_if_possible() -> None:
    rng = np.random.default_rng(0)
    n = 2_000
    rows = posts(n).set_column(1, "user_id", pa.array([f"u{u}" for u in rng.integers(0, 900, n)]))
    sides = run("user", rows, ["a" if x else "b" for x in rng.integers(0, 2, n)], test=0.1)
    assert Counter(sides) == {"test": 200, "val": 500, "train": 1_300}


def test_user_size_does_not_affect_holdout_rate() -> None:
    # 300 users have one post and 300 have six. A unit's split must not depend on its size.
    users = [f"s{i}" for i in range(300)] + [f"l{i}" for i in range(300) for _ in range(6)]
    rows = posts(len(users)).set_column(1, "user_id", pa.array(users))
    held = [
        np.mean(
            [side == "val" for side, user in zip(run("user", rows, seed=seed), users, strict=True) if user[0] == "s"]
        )
        for seed in range(12)
    ]
    assert np.mean(held) == pytest.approx(0.25, abs=0.03)


def test_time_split_trains_on_oldest_posts() -> None:
    rng = np.random.default_rng(1)
    seconds = rng.permutation(100)
    rows = posts(100, created_at=pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC")))
    sides = run("time", rows, test=0.1)
    by_time = [sides[i] for i in np.argsort(seconds)]
    assert by_time == ["train"] * 65 + ["val"] * 25 + ["test"] * 10


def test_equal_times_are_split_independently_of_row_order() -> None:
    rows = posts(40, created_at=pa.array([7] * 20 + [9] * 20, pa.timestamp("us", "UTC")))
    sides = run("time", rows, val=0.3, test=0.1)
    order = np.random.default_rng(2).permutation(40)
    assert run("time", rows.take(pa.array(order)), val=0.3, test=0.1) == [sides[i] for i in order]
    assert Counter(sides[20:]) == {"test": 4, "val": 12, "train": 4}


def test_empty_sides_raise_error() -> None:
    def check(kind: str, sides: list[int], users: list[int] | None = None, **given: Any) -> None:
        n = len(sides)
        who = None if users is None else np.array(users, np.uint64)
        posts = LabelledPosts(np.arange(n).astype(np.uint64), np.zeros(n, np.int64), who, **given)
        check_sides(kind, posts, np.array(sides, np.int8), val=0.25, test=0.0)

    check("random", [0, 0, 1])
    with pytest.raises(InputError, match=r"label.split random: 2 labelled posts leave no post for val"):
        check("random", [0, 0])
    with pytest.raises(InputError, match=r"label.split user: 3 labelled posts of 1 users leave no post for val"):
        check("user", [0, 0, 0], [5, 5, 5])
    with pytest.raises(InputError, match=r"label.split user: none of 2 labelled posts has a user_id"):
        check("user", [0, 1], [0, 0])
    with pytest.raises(InputError, match=r"label.split fold: 2 labelled posts leave no post for train"):
        check("fold", [1, 1], given=np.array([1, 1], np.int8))
    check("fold", [0, 0], given=np.array([0, 0], np.int8))


def test_time_split_keeps_duplicates_with_latest() -> None:
    rows = posts(4, created_at=pa.array([1, 2, 3, 4], pa.timestamp("us", "UTC")))
    assert run("time", rows, hashes=["h", None, None, "h"], val=0.5) == ["val", "train", "train", "val"]


def test_split_can_come_from_a_column() -> None:
    rows = posts(4, fold=["val", "train", "nonsense", "test"])
    assert run("fold", rows, ["a", "b", None, "a"]) == ["val", "train", None, "test"]
    with pytest.raises(InputError, match=r"label.split fold: this column of posts/ has 'nonsense' for labelled posts"):
        run("fold", rows)
    with pytest.raises(InputError, match="has '1', '2', 'None' for"):
        run("fold", posts(3, fold=[1, 2, None]))


def test_units_join_posts_sharing_any_key() -> None:
    users = np.array([7, 9, 9, 4, 0, 0], np.uint64)
    pictures = np.array([-1, 0, 1, 0, 2, -1])
    units = linked_groups(6, pictures, users)
    assert len({int(units[i]) for i in (1, 2, 3)}) == 1
    assert len(set(units.tolist())) == 4
    assert linked_groups(3, None, None).tolist() == [0, 1, 2]
    assert len(set(linked_groups(4, np.array([-1, 5, 5, -1]), None).tolist())) == 3


def test_leaks_count_users_in_two_splits() -> None:
    sides = np.array([0, 1, 0, 0, 2, 1, 0, 1], np.int8)
    users = np.array([3, 3, 4, 4, 5, 0, 0, 5], np.uint64)
    assert count_leaks(sides, users) == 2
    assert count_leaks(sides, None) == 0


def test_million_posts_are_split_quickly_and_exactly() -> None:
    rng = np.random.default_rng(4)
    n = 1_000_000
    pictures = np.where(rng.random(n) < 0.02, rng.integers(0, 5_000, n), -1)
    users = rng.integers(1, 300_000, n).astype(np.uint64)
    posts = LabelledPosts(rng.permutation(n).astype(np.uint64), rng.integers(0, 2, n), users, pictures)
    for kind in ("random", "user"):
        sides = split(kind, posts, val=0.25, test=0.1)
        assert np.bincount(sides).tolist() == [650_000, 250_000, 100_000]
        for c in (0, 1):
            assert np.mean(sides[posts.classes == c] == 1) == pytest.approx(0.25, abs=0.002)
        same = np.unique(np.column_stack([pictures, sides])[pictures >= 0], axis=0)
        assert len(same) == len(np.unique(pictures)) - 1
        assert (count_leaks(sides, users) == 0) == (kind == "user")


def test_strata_are_classes_or_one_for_scores() -> None:
    assert strata(pa.array(["a", None])).to_pylist() == ["a", None]
    assert strata(pa.array([1.5, None])).to_pylist() == ["continuous", None]
    assert strata(pa.array([["b", "a"], [], None], pa.list_(pa.string()))).to_pylist() == ["a,b", "", None]
