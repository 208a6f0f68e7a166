"""Table 1 with intervals and ceiling, compared with counts of the same predictions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config.load import load_config
from raypipe.report.ceiling import PerfectClassifier
from raypipe.report.pipeline import run
from raypipe.report.training_results import MetricResult, Table1Row, TrainingResults, build
from raypipe.statistics import paper
from raypipe.statistics.intervals import wilson_interval
from raypipe.tables.root_tables import RootTables
from tests.report.root import Built, build_root, commit, table_1, train, write_training


@pytest.fixture(scope="module")
def training(shared: Built) -> TrainingResults:
    found = build(RootTables.open(shared.storage))
    assert found is not None
    return found


def test_rows_hold_table_1_values_and_intervals(training: TrainingResults, shared: Built) -> None:
    assert [row.key for row in training.rows] == ["A", "B", "C", "D"]
    for row, line in zip(training.rows, shared.table1, strict=True):
        tests = shared.predictions.query("configuration == @row.key and split == 'test'")
        right = int(((tests["probability"] > 0.5) == (tests["label"] == "top")).sum())
        assert row.measured is not None
        assert row.measured.n == len(tests)
        assert row.measured.value == line["test_accuracy"]
        assert (row.measured.low, row.measured.high) == wilson_interval(right, len(tests))
        assert row.paper == paper.TABLE_1[row.key]
        assert row.images_per_s == 77.0


def test_intervals_group_pictures_by_user(built: Built) -> None:
    alone = build(RootTables.open(built.storage))
    # Users for whom B is right, or wrong, on all pictures.
    tests = built.predictions.query("configuration == 'B' and split == 'test'").set_index("post_id")
    right = (tests["probability"] > 0.5) == (tests["label"] == "top")
    order = right.sort_values(kind="stable").index
    users = {post_id: f"u{place // 5}" for place, post_id in enumerate(order)}
    rows = tables.read_table(built.storage, "labels")
    named = pa.array([users.get(post_id) for post_id in rows["post_id"].to_pylist()], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", named)
    commit(built.storage, "labels", rows, files={"_model.json": json.dumps(built.model).encode()})
    together = build(RootTables.open(built.storage))
    assert alone is not None
    assert together is not None
    one, five = (next(row.measured for row in found.rows if row.key == "B") for found in (alone, together))
    assert one is not None
    assert five is not None
    assert (one.n, one.value) == (five.n, five.value)
    assert (five.high - five.low) / (one.high - one.low) == pytest.approx(5**0.5, rel=0.15)


def test_differences_use_test_pictures(training: TrainingResults, shared: Built) -> None:
    assert training.differences is not None
    pairs = training.differences.pairs
    assert (training.differences.split, training.differences.left_out) == ("test", 0)
    assert [(pair.first, pair.second) for pair in pairs] == [(a, b) for a, b in itertools.combinations("ABCD", 2)]
    tests = shared.predictions.query("split == 'test'")
    right = (tests["probability"] > 0.5) == (tests["label"] == "top")
    share = right.groupby(tests["configuration"]).mean()
    for pair in pairs:
        assert pair.mean == pytest.approx(share[pair.second] - share[pair.first])
        assert pair.n == len(tests) / 4
    # A has no skill and D the most.
    (far,) = (pair for pair in pairs if (pair.first, pair.second) == ("A", "D"))
    assert far.verdict == "D is better in 1 of 1 seed"


def test_many_configurations_are_compared_with_best_and_caveat(built: Built) -> None:
    looks = built.posts.set_index("post_id")["look"]
    letters = {"A": 0.0, "B": 1.2, "C": 1.6, "D": 1.8, "D batch_size=16": 0.5}
    results, _, predictions = train(built.labels, looks, letters, 1)
    predictions = predictions[predictions["split"] == "val"]
    write_training(built.storage, "sweep", results, table_1(results, predictions, list(letters), 1), predictions)
    found = build(RootTables.open(built.storage))
    assert found is not None
    assert found.best is not None
    assert found.differences is not None
    assert (len(found.differences.pairs), found.differences.left_out, found.differences.split) == (4, 6, "val")
    assert all(found.best.key in (pair.first, pair.second) for pair in found.differences.pairs)
    run(load_config(root=built.storage.root))
    page = (Path(built.storage.root) / "report" / "index.html").read_text()
    assert "validation pictures, which also chose each configuration’s epoch" in page
    assert "6 more are in" in page


def test_ceiling_is_perfect_judge_on_same_pictures(training: TrainingResults, shared: Built) -> None:
    tests = shared.labels[shared.labels["split"] == "test"].merge(shared.posts[["post_id", "look"]], on="post_id")
    right = np.where(tests["look"] > 0, "top", "bottom") == tests["label"]
    for row in training.rows:
        assert row.measured is not None
        assert row.measured.ceiling == pytest.approx(right.mean())


def test_perfect_judge_needs_residual_labels(built: Built) -> None:
    model = json.dumps({**built.model, "scheme": "karpathy"}).encode()
    commit(built.storage, "labels", tables.read_table(built.storage, "labels"), files={"_model.json": model})
    assert PerfectClassifier.from_root(RootTables.open(built.storage)) is None


def test_judge_gives_none_for_unlabelled_pictures(shared: Built) -> None:
    judge = PerfectClassifier.from_root(RootTables.open(shared.storage))
    assert judge is not None
    middle = shared.labels.loc[shared.labels["label"].isna(), "post_id"]
    assert judge.accuracy(middle) is None
    assert judge.accuracy(["no such post"]) is None


def test_validation_results_get_a_caveat(built: Built) -> None:
    predictions = built.predictions[built.predictions["split"] == "val"]
    rows = table_1(built.results, predictions, ["A", "B", "C", "D"], 1)
    write_training(built.storage, "sweep", built.results, rows, predictions)
    found = build(RootTables.open(built.storage))
    assert found is not None
    for row in found.rows:
        assert row.measured is not None
        assert row.measured.split == "val"
        assert row.measured.value == row.max_val_accuracy
        assert "chosen on these pictures" in row.sentence


def test_more_seeds_do_not_narrow_interval(tmp_path: Path) -> None:
    many = build_root(tmp_path / "many", seeds=3)
    found = build(RootTables.open(many.storage))
    assert found is not None
    n_test = int((many.labels["split"] == "test").sum())
    for row in found.rows:
        assert row.seeds == 3
        assert row.measured is not None
        assert row.measured.n == n_test
        assert len(found.trials[row.key]) == 3
        best = [max(value or 0.0 for value in trial.val) for trial in found.trials[row.key]]
        assert row.val_sd == pytest.approx(np.std(best, ddof=1))


def test_best_is_chosen_on_validation_not_test(training: TrainingResults) -> None:
    best = training.best
    assert best is not None
    assert best.max_val_accuracy == max(row.max_val_accuracy or 0 for row in training.rows)


def test_row_of_another_table_names_its_table(built: Built) -> None:
    own = built.predictions[built.predictions["configuration"] == "B"]
    results = [row for row in built.results if row["configuration"] == "B"]
    write_training(built.storage, "train/again", results, built.table1[1:2], own)
    found = build(RootTables.open(built.storage))
    assert found is not None
    assert [row.key for row in found.rows] == ["A", "B", "C", "D", "B (train/again)"]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.55, 0.7, "beats chance"), (0.45, 0.6, "not clearly better than chance"), (0.2, 0.4, "worse than chance")],
)
def test_sentence_follows_interval(low: float, high: float, words: str) -> None:
    measured = MetricResult("test", (low + high) / 2, 100, low, high, None, 0.5)
    row = Table1Row("A", "sweep", "A", 1, 4, 0.6, 0.6, measured, None, None)
    assert words in row.sentence
    assert measured.excludes_chance == (not low <= 0.5 <= high)


def test_training_part_is_none_without_training(built: Built) -> None:
    for name in ("sweep/_run.json",):
        built.storage.delete(name)
    assert build(RootTables.open(built.storage)) is None
