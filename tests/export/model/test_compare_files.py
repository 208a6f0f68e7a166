"""How graphs are compared with the model, and on which pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.export.model.compare_files import MAX_DIFFERENCE, compare_outputs, validation_sample
from raypipe.export.model.graph import GraphError
from raypipe.tables.root_tables import RootTables
from raypipe.train.networks.heads import ScoreHead, make_head
from tests.deadly import deadly  # noqa: F401
from tests.train.small import TARGETS
from tests.training_root import SPLITS, jpeg, training, write_images  # noqa: F401

BINARY = make_head(TARGETS["binary"], torch.zeros(1))


def test_differing_decisions_are_counted() -> None:
    ours = np.array([0.2, 0.4999999, 0.9], np.float32)
    found = compare_outputs("x", "r", BINARY, ours, ours + np.array([0, 2e-7, 0], np.float32))
    assert found.changed_decisions == 1
    assert 0 < found.largest_difference < 1e-6
    assert found.result_text.endswith(", 1 decision changed")
    three = np.array([[0.4, 0.39995, 0.2], [0.1, 0.1, 0.8]], np.float32)
    other = three + np.array([[0, 1e-4, 0], [0, 0, 0]], np.float32)
    assert compare_outputs("x", "r", make_head(TARGETS["classes"], torch.zeros(1)), three, other).changed_decisions == 1
    tags = np.array([[0.49999, 0.50001, 0.2]], np.float32)
    assert (
        compare_outputs("x", "r", make_head(TARGETS["tags"], torch.zeros(1)), tags, tags + 2e-5).changed_decisions == 1
    )


def test_score_tolerance_is_relative_to_spread() -> None:
    head = ScoreHead(TARGETS["score"], 0.0, 100.0)
    ours = np.array([120.0, -30.0], np.float32)
    found = compare_outputs("x", "r", head, ours, ours + np.float32(50 * MAX_DIFFERENCE))
    assert found.changed_decisions is None
    with pytest.raises(GraphError, match=r"x: r differs from the model by 0\.2"):
        compare_outputs("x", "r", head, ours, ours + np.float32(200 * MAX_DIFFERENCE))


@pytest.mark.parametrize("wrong", [np.full(3, np.nan), np.full(3, 0.5 + 2 * MAX_DIFFERENCE)])
def test_different_or_non_finite_outputs_raise_error(wrong: np.ndarray) -> None:
    with pytest.raises(GraphError, match="x: r differs from the model by "):
        compare_outputs("x", "r", BINARY, np.full(3, 0.5, np.float32), wrong.astype(np.float32))
    with pytest.raises(GraphError, match=r"x: r gives the shape \[3, 1\], the model \[3\]"):
        compare_outputs("x", "r", BINARY, np.full(3, 0.5, np.float32), np.full((3, 1), 0.5, np.float32))


def test_sample_contains_validation_pictures(training: Config) -> None:  # noqa: F811
    root_tables = RootTables.open(training.open_storage())
    whole, part = validation_sample(root_tables, 32, 100), validation_sample(root_tables, 32, 3)
    assert (len(whole.pictures), whole.dropped) == (8, {})
    assert whole.pictures.shape == (8, 3, 32, 32)
    assert (len(part.pictures), part.dropped, part.rows_in) == (3, {"not_sampled": 5}, 8)
    # The sample has the first picture, the last, and one between.
    np.testing.assert_array_equal(part.pictures[[0, 2]], whole.pictures[[0, 7]])


def test_validation_sample_without_pictures_raises_error(trained: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    root_tables = RootTables.open(trained.open_storage())
    sample = validation_sample(root_tables, 32, 100)
    assert sample.dropped == {"undecodable": 1}
    monkeypatch.setattr(RootTables, "pictures", lambda *_: {})
    with pytest.raises(InputError, match="images: no readable picture in the split val"):
        validation_sample(root_tables, 32, 100)


def test_undecodable_pictures_are_left_out(training: Config, deadly: bytes) -> None:  # noqa: F811
    rng, storage = np.random.default_rng(0), training.open_storage()
    for name in storage.files("images"):
        storage.delete(f"images/{name}")
    images = {f"p{i:03d}": jpeg(rng, 128) for i in range(len(SPLITS))}
    write_images(training, {**images, "p025": b"no picture", "p026": deadly})
    found = validation_sample(RootTables.open(storage), 32, 100)
    assert (len(found.pictures), found.dropped, found.rows_in) == (6, {"undecodable": 2}, 8)
