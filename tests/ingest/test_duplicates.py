"""Exact and near duplicates, compared with a comparison of all pairs."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse.csgraph import connected_components

from raypipe.ingest.duplicates import SCHEMA, duplicate_groups, near_components
from raypipe.pictures.examine import perceptual_hash

Post = tuple[str, str | None, int | None]


def table(posts: list[Post], distance: int) -> pa.Table:
    names, files, looks = (list(column) for column in zip(*posts, strict=True)) if posts else ([], [], [])
    return duplicate_groups(
        pa.array(names, pa.string()), pa.array(files, pa.string()), pa.array(looks, pa.uint64()), distance
    )


def found(posts: list[Post], distance: int) -> list[tuple[str, str, str]]:
    result = table(posts, distance)
    assert result.schema == SCHEMA
    return [(row["post_id"], row["group"], row["kind"]) for row in result.to_pylist()]


def by_all_pairs(posts: list[Post], distance: int) -> list[tuple[str, str, str]]:
    def same_file(one: Post, other: Post) -> bool:
        return one[1] is not None and one[1] == other[1]

    def near(one: Post, other: Post) -> bool:
        return one[2] is not None and other[2] is not None and (one[2] ^ other[2]).bit_count() <= distance

    edges = np.array([[same_file(a, b) or near(a, b) for b in posts] for a in posts], dtype=bool)
    component = connected_components(edges, directed=False)[1] if posts else []
    members: dict[int, list[Post]] = {}
    for post, group in zip(posts, component, strict=True):
        members.setdefault(group, []).append(post)
    rows = []
    for group_members in members.values():
        for post in group_members if len(group_members) > 1 else []:
            exact = any(other is not post and same_file(post, other) for other in group_members)
            rows.append((min(m[0] for m in group_members), post[0], "exact" if exact else "near"))
    return [(name, group, kind) for group, name, kind in sorted(rows)]


@st.composite
def posts_of(draw: st.DrawFn) -> list[Post]:
    """Draw posts whose hashes are close to a few centres, so that there are chains, nulls and equal hashes."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=8).map(lambda bits: sum({1 << bit for bit in bits}))
    hashes = st.none() | st.builds(lambda centre, mask: centre ^ mask, st.sampled_from(centres), flips)
    files = st.none() | st.sampled_from(["a", "b", "c", "d", "e", "f"])
    names = draw(st.lists(st.text("abéZ0", min_size=1, max_size=4), max_size=40, unique=True))
    return [(name, draw(files), draw(hashes)) for name in names]


@given(posts_of(), st.integers(0, 8), st.randoms())
def test_groups_match_all_pairs_comparison_in_any_order(posts: list[Post], distance: int, random: object) -> None:
    expected = by_all_pairs(posts, distance)
    assert found(posts, distance) == expected
    random.shuffle(posts)  # type: ignore[attr-defined]
    assert found(posts, distance) == expected


@given(st.integers(0, 2**32), st.integers(1, 1200), st.integers(1, 64), st.integers(0, 12), st.integers(0, 8))
def test_components_match_all_pairs_comparison(seed: int, n: int, width: int, distance: int, flips: int) -> None:
    # Hashes with few random bits up to all 64, and clusters around five hashes.
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**width - 1, n, dtype=np.uint64, endpoint=True)
    if flips:
        hashes = hashes[random.integers(0, min(5, n), n)]
        for _ in range(flips):
            hashes ^= np.uint64(1) << random.integers(0, 64, n, dtype=np.uint64)
    hashes = random.permutation(np.unique(hashes))
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= distance
    expected = connected_components(near, directed=False)[1]
    pairs = set(zip(expected, near_components(hashes, distance), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_exact_and_near_groups_by_example() -> None:
    posts: list[Post] = [
        ("p9", "same", 0b0),
        ("p8", "same", 0b0),
        ("p7", "other", 0b11),
        ("p6", "third", 0b1111),  # only through p7
        ("p5", "fourth", 2**63 + 2**40 + 2**20),
        ("p4", None, None),
        ("p3", None, None),
        ("p2", "fifth", None),
        ("p1", "fifth", None),
    ]
    chain = [("p6", "p6", "near"), ("p7", "p6", "near"), ("p8", "p6", "exact"), ("p9", "p6", "exact")]
    assert found(posts, 2) == [("p1", "p1", "exact"), ("p2", "p1", "exact"), *chain]
    assert found(posts, 1) == [
        ("p1", "p1", "exact"),
        ("p2", "p1", "exact"),
        ("p8", "p8", "exact"),
        ("p9", "p8", "exact"),
    ]


def test_missing_hashes_are_no_duplicates() -> None:
    assert found([], 4) == []
    assert found([("a", None, None)], 4) == found([("a", None, None), ("b", None, None)], 4) == []


def test_100000_equal_pictures_form_one_group() -> None:
    n = 100_000
    names = pa.array([f"{i:06d}" for i in range(n)])
    groups = duplicate_groups(names, names, pa.array(np.full(n, 2**63, dtype=np.uint64)), 4)
    assert groups["group"].unique().to_pylist() == ["000000"]
    assert groups["kind"].value_counts().to_pylist() == [{"values": "near", "counts": n}]


@pytest.mark.parametrize("alike", ["one crowd", "few bits"])
def test_memory_is_bounded_for_many_similar_pictures(alike: str) -> None:
    # All pairs would be 450,000,000. The near pairs of "few bits" alone are 7,000,000, about 110 MB.
    random, n = np.random.default_rng(3), 30_000
    if alike == "few bits":
        hashes = random.permutation(2**18)[:n].astype(np.uint64) << np.uint64(17)
    else:
        order = np.argsort(random.random((n, 64)), axis=1)[:, :12].astype(np.uint64)
        flipped = np.arange(12) < random.integers(4, 13, (n, 1))
        hashes = np.unique(np.where(flipped, np.uint64(1) << order, np.uint64(0)).sum(axis=1, dtype=np.uint64))
    tracemalloc.start()
    component = near_components(hashes, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.bincount(component).max() > 10_000
    assert peak < 60e6


@pytest.mark.parametrize(("lengths", "distance"), [((2, 1, 2), 4), ((2, 2, 1), 4), ((2, 2, 2), -1)])
def test_columns_of_different_lengths_raise_error(lengths: tuple[int, int, int], distance: int) -> None:
    columns = [pa.nulls(n, kind) for n, kind in zip(lengths, (pa.string(), pa.string(), pa.uint64()), strict=True)]
    with pytest.raises(ValueError, match=f"distance {distance}"):
        duplicate_groups(*columns, distance)


def test_resaved_portraits_match_and_different_people_do_not(shared_data: Path, tmp_path: Path) -> None:
    posts: list[Post] = []
    for file in sorted((shared_data / "portraits").glob("*.jpg"))[:120]:
        again = tmp_path / file.name
        with Image.open(file) as image:
            image.save(again, "JPEG", quality=60)
        for copy in (file, again):
            with Image.open(copy) as image:
                digest = hashlib.sha256(copy.read_bytes()).hexdigest()
                posts.append((f"{file.stem} {copy is again}", digest, perceptual_hash(image)))
    groups = found(posts, 4)
    assert all(name.split()[0] == group.split()[0] for name, group, _ in groups)
    assert len(groups) >= 0.95 * len(posts)
    assert {kind for _, _, kind in groups} == {"near"}
