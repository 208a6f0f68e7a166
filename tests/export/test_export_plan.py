"""Which posts are exported, and how pictures are distributed over files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError, StageError
from raypipe.export.export_plan import ExportPlan, _shards, make_plan
from raypipe.tables.schemas import labels_schema
from tests.export.conftest import LABELS, Made, image_row, write_images, write_labels


def plan_of(config: Config, *, labelled: bool = True, shard_bytes: int = 10**6) -> ExportPlan:
    return make_plan(config.open_storage(), labelled=labelled, shard_bytes=shard_bytes)


def exported(plan: ExportPlan, config: Config) -> dict[str, str]:
    """The split of each exported post, by post_id."""
    ids = tables.read_table(config.open_storage(), "images", ["post_id"])["post_id"].to_pylist()
    return {
        post_id: plan.splits[split_index]
        for post_id, split_index in zip(ids, plan.split_index, strict=True)
        if split_index >= 0
    }


@pytest.mark.parametrize("kind", ["class", "continuous", "hashtags", None])
def test_each_row_is_exported_or_counted(make: Callable[..., Made], kind: str | None) -> None:
    made = make(kind)
    plan = plan_of(made.config, labelled=kind is not None)
    assert exported(plan, made.config) == {row.post_id: row.split for row in made.rows.values()}
    assert dict(plan.dropped) == made.dropped
    assert plan.rows_in == made.rows_in
    assert plan.kind == kind
    assert plan.classes == (tuple(sorted(LABELS)) if kind == "class" else ())
    assert sum(plan.n_bytes.values()) == sum(len(row.image) for row in made.rows.values())
    assert plan.n_bytes["train"] == sum(len(row.image) for row in made.split("train").values())


def test_empty_splits_are_left_out(config: Config) -> None:
    write_images(config, [image_row("a", b"x"), image_row("b", b"xy"), image_row("c", None, status="gone")])
    rows = [{"post_id": p, "label": "l", "split": s} for p, s in (("a", "test"), ("b", "train"), ("c", "val"))]
    write_labels(config, rows)
    plan = plan_of(config)
    assert plan.splits == ("train", "test")
    assert plan.counts() == {"train": 1, "test": 1}
    assert exported(plan, config) == {"a": "test", "b": "train"}


def test_non_finite_scores_count_as_no_label(config: Config) -> None:
    write_images(config, [image_row(name, b"x") for name in "abc"])
    values = zip("abc", (1.0, float("nan"), float("inf")), strict=True)
    write_labels(config, [{"post_id": p, "label": v, "split": "train"} for p, v in values], "continuous")
    assert dict(plan_of(config).dropped) == {"no_label": 2}


def test_unexportable_tables_raise_one_line_error(config: Config) -> None:
    write_images(config, [image_row("a", None, status="gone"), image_row("b", None)])
    with pytest.raises(InputError, match="no picture to export: 1 gone, 1 no_bytes"):
        plan_of(config, labelled=False)
    write_images(config, [image_row("a", b"x"), image_row("a", b"y"), image_row("b", b"z")])
    with pytest.raises(StageError, match="images: 1 posts occur twice"):
        plan_of(config, labelled=False)
    write_images(config, [image_row("a", b"x")])
    write_labels(config, [])
    with pytest.raises(InputError, match="no picture to export: 1 not_in_labels"):
        plan_of(config)
    write_labels(config, [{"post_id": "a", "label": "l", "split": "fold1"}])
    with pytest.raises(InputError, match="split 'fold1' cannot be exported; allowed are train, val, test"):
        plan_of(config)
    write_labels(config, [{"post_id": "a", "label": "l", "split": "train"}] * 2)
    with pytest.raises(StageError, match="labels: 1 posts occur twice"):
        plan_of(config)
    with tables.begin(config.open_storage(), "labels", command="label", config={}, inputs={}, overwrite=True) as labels:
        labels.writer.write("0", pa.Table.from_pylist([{"post_id": "a"}], schema=labels_schema(pa.int64())))
        labels.commit(rows_in=1)
    with pytest.raises(StageError, match="labels of type int64 cannot be exported"):
        plan_of(config)


@given(
    rows=st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 300)), min_size=1, max_size=60),
    shard_bytes=st.integers(1, 500),
)
def test_shards_are_consecutive_and_near_requested_size(rows: list[tuple[int, int]], shard_bytes: int) -> None:
    split_index, sizes = np.array([r[0] for r in rows], np.int8), np.array([r[1] for r in rows])
    shard = _shards(split_index, sizes, 3, shard_bytes)
    assert (shard[split_index < 0] == -1).all()
    for split in range(3):
        mine = shard[split_index == split]
        if not len(mine):
            continue
        assert mine[0] == 0
        assert set(np.diff(mine)) <= {0, 1}
        totals = np.bincount(mine, weights=sizes[split_index == split])
        assert (totals < shard_bytes + sizes[split_index == split].max()).all()
        assert len(totals) <= totals.sum() // shard_bytes + 1
