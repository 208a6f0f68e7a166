"""The pictures of a plan, streamed from the files of images/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.export.export_plan import ExportPlan, make_plan
from raypipe.export.samples import ExportSample, read_samples
from tests.export.conftest import Made, image_row, write_images


def read(config: Config, plan: ExportPlan, rows: np.ndarray | None = None) -> list[ExportSample]:
    return list(read_samples(config.open_storage(), plan, plan.is_exported if rows is None else rows))


@pytest.mark.parametrize("kind", ["class", "continuous", "hashtags", None])
def test_samples_contain_picture_and_its_facts(make: Callable[..., Made], kind: str | None) -> None:
    made = make(kind, n=200)
    plan = make_plan(made.config.open_storage(), labelled=kind is not None, shard_bytes=10**6)
    samples = read(made.config, plan)
    assert len(samples) == len(made.rows)
    for sample in samples:
        row = made.rows[sample.post_id]
        assert sample.image == row.image
        assert sample.metadata_dict() == row.metadata_dict()
        assert sample.file_name == f"{sample.key}.{row.extension}"
        assert sample.code == (plan.classes.index(row.label) if kind == "class" else None)
    order = tables.read_table(made.config.open_storage(), "images", ["post_id"])["post_id"].to_pylist()
    assert [s.post_id for s in samples] == [post_id for post_id in order if post_id in made.rows]


def test_files_without_wanted_pictures_are_not_opened(make: Callable[..., Made]) -> None:
    made = make()
    storage = made.config.open_storage()
    plan = make_plan(storage, labelled=True, shard_bytes=10**6)
    first, second, third = tables.data_paths(storage, "images")
    n = pq.read_metadata(first).num_rows
    wanted = plan.is_exported & (np.arange(len(plan.split_index)) < n)
    whole = Path(second).read_bytes()
    for path in (second, third):
        data = Path(path).read_bytes()
        # The footer, which holds the row count, stays valid.
        Path(path).write_bytes(b"\0" * (len(data) // 2) + data[len(data) // 2 :])
    assert len(read(made.config, plan, wanted)) == wanted.sum() > 0
    with pytest.raises(StageError, match="cannot be read"):
        read(made.config, plan)
    Path(second).write_bytes(whole)
    Path(third).write_bytes(b"PAR1")
    with pytest.raises(StageError, match=r"part-.*-00002\.parquet: cannot be read: "):
        read(made.config, plan)


def test_changed_picture_bytes_stop_export(config: Config) -> None:
    for image, held in ((None, "none found"), (b"xyz", "3 found")):
        write_images(config, [image_row("a", b"x"), image_row("b", b"xy") | {"image": image}])
        plan = make_plan(config.open_storage(), labelled=False, shard_bytes=10**6)
        with pytest.raises(StageError, match=f"images: post 'b': 2 bytes were stored, {held}"):
            read(config, plan)
