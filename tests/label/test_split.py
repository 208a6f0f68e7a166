"""The split: exact sizes, nobody on two sides, and the same whatever the order of the rows."""

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
from raypipe.label.split import group_units, split, strata


def posts(n: int, **columns: Any) -> pa.Table:
    return pa.table(
        {"post_id": [f"p{i:05d}" for i in range(n)], "user_id": [f"u{i // 3}" for i in range(n)], **columns}
    )


def no_hash(n: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(n, pa.string())])


def run(
    kind: str,
    rows: pa.Table,
    classes: list[str | None] | None = None,
    hashes: list[str | None] | None = None,
    **how: Any,
) -> list[str | None]:
    n = len(rows)
    sha256 = no_hash(n) if hashes is None else pa.chunked_array([hashes], pa.string())
    labels = pa.array(classes if classes is not None else ["a"] * n, pa.string())
    result: list[str | None] = split(
        kind, rows, sha256, labels, **{"val": 0.25, "test": 0.0, "seed": 0, **how}
    ).to_pylist()
    return result


def test_the_papers_quarter() -> None:
    n = 40_109
    classes = ["bottom"] * 20_054 + ["top"] * 20_055
    sides = run("random", posts(n), classes)
    assert Counter(sides) == {"train": 30_082, "val": 10_027}
    by_class = Counter(zip(classes, sides, strict=True))
    assert {by_class["bottom", "val"], by_class["top", "val"]} == {5_013, 5_014}


@settings(max_examples=80, deadline=None)
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


def test_another_seed_another_split() -> None:
    assert run("random", posts(200), seed=1) != run("random", posts(200), seed=2)
    assert run("random", posts(200), seed=1) == run("random", posts(200), seed=1)


@settings(max_examples=60, deadline=None)
@given(
    users=st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=1, max_size=80),
    hashes=st.lists(st.one_of(st.none(), st.integers(0, 40)), min_size=80, max_size=80),
    seed=st.integers(0, 5),
)
def test_no_user_and_no_picture_on_two_sides(users: list[int | None], hashes: list[int | None], seed: int) -> None:
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


def test_by_user_sizes_are_exact_where_users_fit() -> None:
    rng = np.random.default_rng(0)
    n = 2_000
    rows = posts(n).set_column(1, "user_id", pa.array([f"u{u}" for u in rng.integers(0, 900, n)]))
    sides = run("user", rows, ["a" if x else "b" for x in rng.integers(0, 2, n)], test=0.1)
    assert Counter(sides) == {"test": 200, "val": 500, "train": 1_300}


def test_large_users_are_held_out_as_often_as_small_ones() -> None:
    # 300 users of one post and 300 of six: a unit's place must not depend on its size.
    users = [f"s{i}" for i in range(300)] + [f"l{i}" for i in range(300) for _ in range(6)]
    rows = posts(len(users)).set_column(1, "user_id", pa.array(users))
    held = [
        np.mean(
            [side == "val" for side, user in zip(run("user", rows, seed=seed), users, strict=True) if user[0] == "s"]
        )
        for seed in range(12)
    ]
    assert np.mean(held) == pytest.approx(0.25, abs=0.03)


def test_time_trains_on_the_past() -> None:
    rng = np.random.default_rng(1)
    seconds = rng.permutation(100)
    rows = posts(100, created_at=pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC")))
    sides = run("time", rows, test=0.1)
    by_time = [sides[i] for i in np.argsort(seconds)]
    assert by_time == ["train"] * 65 + ["val"] * 25 + ["test"] * 10


def test_time_keeps_duplicates_with_the_latest() -> None:
    rows = posts(4, created_at=pa.array([1, 2, 3, 4], pa.timestamp("us", "UTC")))
    assert run("time", rows, hashes=["h", None, None, "h"], val=0.5) == ["val", "train", "train", "val"]


def test_time_needs_a_time() -> None:
    rows = posts(3, created_at=pa.array([1, None, 3], pa.timestamp("us", "UTC")))
    with pytest.raises(InputError, match=r"label.split time: 1 labelled posts have no created_at"):
        run("time", rows)
    assert run("time", rows, ["a", None, "b"], val=0.5) == ["train", None, "val"]


def test_a_column_says_it() -> None:
    rows = posts(4, fold=["val", "train", "nonsense", "test"])
    assert run("fold", rows, ["a", "b", None, "a"]) == ["val", "train", None, "test"]
    with pytest.raises(
        InputError, match=r"label.split fold: that column of posts/ holds 'nonsense' for labelled posts"
    ):
        run("fold", rows)
    with pytest.raises(InputError, match="holds '1', '2', 'None' for"):
        run("fold", posts(3, fold=[1, 2, None]))


def test_units_join_what_shares_any_key() -> None:
    users = pa.chunked_array([["a", "b"], ["b", "c", None, None]])
    hashes = pa.chunked_array([[None, "x", "y", "x", "z", None]])
    assert group_units(6, [users, hashes]).tolist() == [0, 1, 1, 1, 2, 3]
    assert group_units(3, []).tolist() == [0, 1, 2]


def test_strata() -> None:
    assert strata(pa.array(["a", None])).to_pylist() == ["a", None]
    assert strata(pa.array([1.5, None])).to_pylist() == ["continuous", None]
    assert strata(pa.array([["b", "a"], [], None], pa.list_(pa.string()))).to_pylist() == ["a,b", "", None]
